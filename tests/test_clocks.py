"""distill.data.clocks and units: stamps of real devices, gravity as witness of the unit."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill.data import clocks, units
from distill.errors import DistillError
from tests import pulses


def _wave(times_s, hz=1.7):
  return np.sin(2 * np.pi * hz * np.asarray(times_s))[:, None].astype(np.float32)


def _even(times_s, samples=None, **fields):
  samples = _wave(times_s) if samples is None else samples
  return clocks.even(times_s, samples, unit="au", where="a.csv", **fields)


def _grid(signal):
  return signal.start_s + np.arange(len(signal.samples)) / signal.rate_hz


@hypothesis.given(
  rate_hz=st.floats(20, 260),
  start_s=st.sampled_from([0.0, -3.25, 1.7e9]),
  rounded_s=st.sampled_from([0.0, 1e-3]),
  breaks=st.lists(st.tuples(st.integers(40, 160), st.floats(1.6, 400)), max_size=3),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=40)
def test_every_sample_comes_to_within_half_a_period_of_its_time(
  rate_hz, start_s, rounded_s, breaks
):
  """Any rate, any gaps, stamps rounded to a millisecond or not."""
  steps = np.full(400, 1 / rate_hz)
  for length, periods in breaks:
    steps[2 * length] = periods / rate_hz
  true_s = np.r_[0.0, np.cumsum(steps)]
  stamps = start_s + true_s
  if rounded_s:
    stamps = np.round(stamps / rounded_s) * rounded_s
  signal, found = _even(stamps, true_s[:, None].astype(np.float32))
  assert found.rate_hz == pytest.approx(rate_hz, rel=2e-3)
  at = _grid(signal) - start_s
  seen = np.isfinite(signal.samples[:, 0])
  error = np.abs(signal.samples[seen, 0] - at[seen])
  assert error.max() <= 0.5 / rate_hz + rounded_s + 1e-4
  missing = np.diff(true_s)[np.diff(true_s) > 1.5 / rate_hz] * rate_hz - 1
  assert abs((~seen).sum() - missing.sum()) <= len(missing) + 1
  assert len(found.gaps_s) == len(missing)


def test_a_clock_that_runs_fast_keeps_its_own_rate():
  times_s = np.arange(64 * 600) / (64 * (1 + 2e-4))
  signal, _ = _even(times_s, rate_hz=64.0)
  assert signal.rate_hz == pytest.approx(64 * (1 + 2e-4), rel=1e-9)
  np.testing.assert_array_equal(signal.samples, _wave(times_s))


def test_after_a_pause_the_device_is_off_the_beat():
  before, after = np.arange(400) / 50, 8.0 + 0.3 / 50 + 3.0 + np.arange(400) / 50
  signal, found = _even(np.r_[before, after])
  assert found.gaps_s == pytest.approx(np.array([[before[-1], after[0]]]))
  seen = np.isfinite(signal.samples[:, 0])
  assert (~seen).sum() == 150
  grid = _grid(signal)[seen]
  inner = (np.abs(grid - after[0]) > 0.1) & (grid < after[-1])
  np.testing.assert_allclose(signal.samples[seen][inner], _wave(grid[inner]), atol=1e-3)


def test_jittery_stamps_are_read_where_they_are():
  rng = np.random.default_rng(0)
  times_s = np.cumsum(rng.uniform(0.4, 1.6, 5000)) / 50
  signal, _ = _even(times_s)
  seen = np.isfinite(signal.samples[:, 0])
  assert seen.mean() > 0.99
  assert np.abs(signal.samples[seen] - _wave(_grid(signal)[seen])).max() < 0.03


@pytest.mark.parametrize("jitter", [0.3, 0.4, 0.49])
def test_the_rate_of_a_jittery_clock_is_that_of_all_its_rows(jitter):
  rng = np.random.default_rng(0)
  times_s = np.arange(30_000) / 50 + 100
  times_s = np.delete(times_s, np.r_[9_000:12_000])  # a gap of a minute, and none within
  stamps_s = np.sort(times_s + rng.uniform(-jitter, jitter, len(times_s)) / 50)
  signal, _ = clocks.even(stamps_s, _wave(times_s), unit="g", where="acc.csv", rate_hz=50.0)
  free, _ = clocks.even(stamps_s, _wave(times_s), unit="g", where="acc.csv")
  assert free.rate_hz == pytest.approx(50.0, rel=3e-6)
  seen = np.isfinite(signal.samples[:, 0])
  assert seen.sum() == pytest.approx(27_000, abs=2)
  error = np.abs(signal.samples[seen] - _wave(_grid(signal)[seen]))
  assert np.quantile(error, 0.99) < 2e-3  # a spline has less to go by near an end


def test_rows_that_come_twice_late_or_not_at_all():
  times_s = np.arange(640) / 64
  order = np.r_[0:100, 110:120, 100:110, 120:300, 290:300, 300:640]
  order = np.delete(order, 400)
  signal, found = _even(times_s[order])
  assert (found.duplicates, found.late) == (10, 19)
  expected = _wave(times_s)
  expected[order[400 - 1] + 1] = np.nan
  np.testing.assert_array_equal(signal.samples, expected)


@pytest.mark.parametrize("shift_s", [0.0, 0.006, 0.5 / 64])
def test_a_device_that_begins_anew_within_seconds_is_no_late_packet(shift_s):
  """8 s, then from 0 again: put in order, two times would stand in one. On one grid or between."""
  times_s = np.r_[np.arange(512), np.arange(64 * 60)] / 64
  times_s[512:] += shift_s
  samples = np.random.default_rng(0).normal(size=(len(times_s), 1)).astype(np.float32)
  with pytest.raises(DistillError, match=r"a\.csv, row 514: time runs back by .* restart.*split"):
    _even(times_s, samples, first_row=2)


def test_packets_that_come_late_by_seconds_are_put_in_order():
  times_s = np.arange(64 * 60) / 64 + np.random.default_rng(1).uniform(0, 0.004, 64 * 60)
  seconds = np.arange(60)
  seconds[10:13], seconds[20:22] = (11, 12, 10), (21, 20)
  order = (64 * seconds[:, None] + np.arange(64)).ravel()
  signal, found = _even(times_s[order])
  assert (found.late, found.duplicates) == (128, 0)
  assert np.abs(signal.samples - _wave(_grid(signal))).max() < 0.06


def test_a_missing_value_stays_missing():
  times_s = np.arange(640) / 64
  samples = _wave(times_s)
  samples[7:9] = np.nan
  late = np.r_[times_s[:320], times_s[320:] + 1.005]
  signal, _ = _even(late, samples)
  assert np.isnan(signal.samples[7:9]).all()
  assert np.isfinite(signal.samples[9:320]).all()


@pytest.mark.parametrize(
  ("times_s", "fields", "message"),
  [
    ([0.0], {}, r"a\.csv has 1 row\(s\) of data; expected two or more"),
    ([0, 1, np.nan, 3], {"first_row": 2}, r"a\.csv, row 4: the time is missing"),
    ([0, 1, np.inf, 3], {}, r"a\.csv, row 3: the time is missing"),
    (np.r_[0:100, 0:100], {"first_row": 2}, r"a\.csv, row 102: time runs back by 99 s.*split"),
    (np.repeat(np.arange(50), 8), {}, "share their time with the row before.*rate_hz and start"),
    (np.ones(10), {}, "share their time|the same time"),
    (np.arange(640) / 60, {"rate_hz": 64.0}, "stamps say 60 Hz, rate_hz says 64 Hz"),
    (np.r_[0:20, 10**6 : 10**6 + 20], {}, "nearly all of it empty; is time_unit right"),
  ],
)
def test_stamps_that_cannot_be_put_right(times_s, fields, message):
  rng = np.random.default_rng(0)
  samples = rng.normal(size=(len(times_s), 1)).astype(np.float32)
  with pytest.raises(DistillError, match=message):
    _even(np.asarray(times_s, float), samples, **fields)


# --- units ---


@pytest.mark.parametrize(
  ("scale", "unit"),
  [(1, "g"), (9.81, "m/s2"), (1000, "mg"), (64, "1/64 g"), (256, "1/256 g"), (16384, "1/16384 g")],
)
def test_gravity_tells_the_unit(scale, unit):
  acc = pulses.acc_still(20.0)
  assert units.guess(scale * acc)[0] == unit
  np.testing.assert_allclose(units.in_g(scale * acc, unit, "acc"), acc, rtol=2e-3)
  if unit != "mg":
    np.testing.assert_allclose(units.in_g(scale * acc, "auto", "acc"), acc, rtol=2e-3)


@pytest.mark.parametrize("written", ["m/s²", "m/s^2", "ms-2", "M/S2", "m/s/s"])
def test_ways_to_write_a_unit(written):
  assert units.per_g(written, "acc") == pytest.approx(9.80665)
  assert units.per_g("1/2048 g", "acc") == 2048


@pytest.mark.parametrize(
  ("scale", "unit", "message"),
  [
    (9.81, "g", r"median magnitude is 9\.7.*no gravity in g.*it looks like m/s2: correct the unit"),
    (1.0, "m/s2", r"no gravity in m/s2 \(expected about 9\.807\); it looks like g"),
    (3.0, "g", r"no gravity in g \(expected about 1\): correct"),
    (3.0, "auto", "gravity settles no unit, the median magnitude is"),
    (1000.0, "auto", "may be mg or 1/1024 g; give the unit"),
    (1.0, "furlong", "acceleration unit 'furlong'; expected g, mg, m/s2, or counts"),
    (1.0, "1/0 g", "acceleration unit '1/0 g'"),
  ],
)
def test_units_that_gravity_contradicts(scale, unit, message):
  with pytest.raises(DistillError, match=message):
    units.in_g(scale * pulses.acc_still(20.0), unit, "acc of p/r")


def test_a_signal_without_any_sample_has_no_unit():
  with pytest.raises(DistillError, match=r"a\.csv has no observed sample: all are NaN"):
    units.in_g(np.full((9, 3), np.nan), "auto", "a.csv")


def test_nothing_observed_has_no_gravity():
  assert np.isnan(units.gravity(np.full((5, 3), np.nan)))
  assert units.guess(np.full((5, 3), np.nan))[0] == ""
