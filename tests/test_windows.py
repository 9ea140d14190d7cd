"""distill.data.windows: pairing by time, coverage, labels, one preprocessing path."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill import beats, signals
from distill.data import windows
from distill.data.recording import Beats, HeartRateTrack, Recording, Signal, Stretch
from distill.data.windows import WindowSettings, cut_recording
from distill.errors import DistillError
from distill.spec import ERRORS
from tests import pulses

SETTINGS = WindowSettings()


def _replace(recording, name, **fields):
  signal = dataclasses.replace(recording.signals[name], **fields)
  return dataclasses.replace(recording, signals={**recording.signals, name: signal})


def _clocks(seconds, ppg_start_s, acc_start_s, ppg_hz=64.0, acc_hz=32.0):
  """A recording whose samples are their own times."""

  def clock(rate_hz, start_s, channels):
    times = start_s + np.arange(round((seconds - start_s) * rate_hz)) / rate_hz
    return np.repeat(times[:, None], channels, 1).astype(np.float32)

  ppg, acc = clock(ppg_hz, ppg_start_s, 1), clock(acc_hz, acc_start_s, 3)
  found = {
    "ppg": Signal(ppg, ppg_hz, ppg_start_s, "au"),
    "acc": Signal(acc, acc_hz, acc_start_s, "g"),
  }
  return Recording("p", "r", found)


@hypothesis.given(
  seconds=st.integers(62, 90),
  ppg_start_s=st.floats(0, 2),
  acc_start_s=st.floats(0, 2),
  window_s=st.sampled_from([8.0, 10.0, 30.0]),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=25)
def test_pairs_are_aligned_by_time(seconds, ppg_start_s, acc_start_s, window_s):
  recording = _clocks(seconds, ppg_start_s, acc_start_s)
  settings = WindowSettings(window_s=window_s, hop_s=window_s)
  cuts = list(cut_recording(recording, settings))
  start_s = max(ppg_start_s, acc_start_s)
  stop_s = min(signal.stop_s for signal in recording.signals.values())
  assert len(cuts) == 1 + int(np.floor((stop_s - start_s - window_s) / window_s + 1e-6))
  rates = {"ppg": 64.0, "acc": 50.0}
  for number, window in enumerate(cuts):
    t0_s = window.columns["t0_s"]
    assert t0_s == pytest.approx(start_s + number * window_s)
    for name, rate_hz in rates.items():
      values = window.signals[name][:, 0]
      expected = t0_s + np.arange(len(values)) / rate_hz
      assert np.abs(values - expected).max() <= 0.5 / rate_hz + 1e-4


@hypothesis.given(
  rates_hz=st.tuples(st.sampled_from([25.0, 64.0, 100.0]), st.sampled_from([31.7, 32.0, 50.0])),
  starts_s=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
  seconds=st.integers(70, 100),
  gap=st.tuples(st.floats(5, 40), st.floats(0, 30)),
  window_s=st.sampled_from([5.0, 10.0]),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=25)
def test_every_complete_window_is_found_once(rates_hz, starts_s, seconds, gap, window_s):
  """Any rates, starts and gap: alignment within half a sample of the slower clock, none twice."""
  found = {}
  for name, rate_hz, start_s in zip(("ppg", "acc"), rates_hz, starts_s):
    times_s = start_s + np.arange(round(seconds * rate_hz)) / rate_hz
    samples = np.repeat(times_s[:, None], 1 if name == "ppg" else 3, 1).astype(np.float32)
    if name == "acc":
      samples[(times_s >= gap[0]) & (times_s < gap[0] + gap[1])] = np.nan
    found[name] = Signal(samples, rate_hz, start_s, "au" if name == "ppg" else "g")
  recording = Recording("p", "r", found)
  settings = WindowSettings(window_s=window_s, hop_s=window_s, min_coverage=1.0)
  cuts = list(cut_recording(recording, settings))
  start_s = max(starts_s)
  stop_s = min(signal.stop_s for signal in found.values())
  t0s = start_s + window_s * np.arange(int((stop_s - start_s) / window_s + 1e-6))
  half_s = 0.5 / min(*rates_hz, 50.0)
  touched = (t0s < gap[0] + gap[1] + 2 * half_s) & (t0s + window_s > gap[0] - 2 * half_s)
  clear = set(np.round(t0s[~touched], 6)) if gap[1] > 0 else set(np.round(t0s, 6))
  got = [round(one.columns["t0_s"], 6) for one in cuts]
  assert len(set(got)) == len(got)
  assert clear <= set(got) <= set(np.round(t0s, 6))
  for name, working_hz in (("ppg", 64.0), ("acc", 50.0)):
    values = np.concatenate([one.signals[name][:, 0] for one in cuts] or [np.zeros(0)])
    at = np.concatenate([t0 + np.arange(window_s * working_hz) / working_hz for t0 in got] or [[]])
    assert np.all(np.abs(values - at) <= half_s + 1e-4)
    assert np.all(np.diff(values) > 0)  # time only moves on, so no sample is used twice


def test_overlapping_windows_start_every_hop():
  cuts = list(cut_recording(pulses.recording(), WindowSettings(hop_s=7.0)))
  assert np.diff([one.columns["t0_s"] for one in cuts]) == pytest.approx(7.0)
  assert len(cuts) == 1 + (200 - 60) // 7
  np.testing.assert_array_equal(cuts[0].signals["ppg"][64 * 7 :], cuts[1].signals["ppg"][: -64 * 7])


def test_stored_windows_and_raw_recordings_take_one_path():
  recording = _replace(pulses.recording(acc_start_s=0.0), "ppg")
  gaps = recording.signals["acc"].samples.copy()
  gaps[800:1000] = np.nan
  recording = _replace(recording, "acc", samples=gaps)
  for name, band_hz, normalisation in (("ppg", (0.5, 8.0), "zscore"), ("acc", None, "gravity")):
    spec = SETTINGS.specs[name]
    spec = dataclasses.replace(spec, band_hz=band_hz, normalisation=normalisation)
    signal = recording.signals[name]
    live, mask, t0_s = signals.to_windows(signal.samples, signal.rate_hz, spec, hop_s=60.0)
    stored = list(cut_recording(recording, SETTINGS))
    assert [one.columns["t0_s"] for one in stored] == t0_s.tolist()
    for row, one in enumerate(stored):
      raw = one.signals[name]
      np.testing.assert_array_equal(mask[row], np.isfinite(raw))
      np.testing.assert_array_equal(live[row], signals.preprocess(raw, np.isfinite(raw), spec))


def test_coverage_gate_and_complete():
  recording = pulses.recording(seconds=180.0)
  samples = recording.signals["ppg"].samples.copy()
  samples[64 * 50 : 64 * 100] = np.nan  # 10 s of the first window, 40 s of the second
  cuts = list(cut_recording(_replace(recording, "ppg", samples=samples), SETTINGS))
  assert [one.columns["t0_s"] for one in cuts] == [0.0, 120.0]
  assert cuts[0].columns["ppg_coverage"] == pytest.approx(50 / 60, abs=1e-3)
  assert [one.columns["complete"] for one in cuts] == [False, True]
  assert len(list(cut_recording(recording, SETTINGS))) == 3


def test_labels_from_pulses_agree_with_true_beats():
  recording = pulses.recording()
  times = pulses.beat_times(200.0)
  truth = Beats(times, np.ones(len(times), bool), "ecg")
  guessed = list(cut_recording(recording, SETTINGS))
  given = list(cut_recording(dataclasses.replace(recording, beats=truth), SETTINGS))
  for ours, true in zip(guessed, given):
    t0_s = true.columns["t0_s"]
    expected = beats.labels(truth, t0_s, 60.0)
    assert true.columns["rmssd_ms"] == expected.rmssd_ms.value
    assert (true.columns["hr_origin"], true.columns["hrv_origin"]) == ("ecg", "ecg")
    assert (ours.columns["hr_origin"], ours.columns["hrv_origin"]) == ("ppg", "ppg")
    # Clean pulses: the second reading agrees within a few ms, and is not the first one again.
    assert 0 < abs(ours.columns["rmssd_error_ms"]) < 5
    assert 0 < abs(ours.columns["hr_error_bpm"]) < 0.5
    assert np.isnan([true.columns[name] for name in ERRORS.values()]).all()
    assert ours.columns["hr_bpm"] == pytest.approx(expected.hr_bpm.value, abs=0.3)
    assert ours.columns["sdnn_ms"] == pytest.approx(expected.sdnn_ms.value, abs=2)
    assert ours.columns["ppg_usable"]


def test_a_heart_rate_track_gives_the_rate_and_pulses_the_variability():
  track = HeartRateTrack(np.arange(0, 192, 2.0), 8.0, np.full(96, 71.5, np.float32), "ecg")
  recording = dataclasses.replace(pulses.recording(), heart_rate=track)
  columns = next(cut_recording(recording, SETTINGS)).columns
  assert (columns["hr_bpm"], columns["hr_origin"], columns["hrv_origin"]) == (71.5, "ecg", "ppg")


def test_no_label_from_the_pulse_of_a_walking_wrist():
  recording = pulses.recording()
  acc = recording.signals["acc"].samples.copy()
  t = np.arange(len(acc)) / 32
  acc[:, 2] += 0.4 * np.sin(2 * np.pi * 1.8 * t).astype(np.float32)
  columns = next(cut_recording(_replace(recording, "acc", samples=acc), SETTINGS)).columns
  assert columns["motion_g"] > 0.2
  assert np.isnan([columns["hr_bpm"], columns["sdnn_ms"]]).all()
  assert (columns["hr_origin"], columns["hrv_origin"]) == ("", "")
  assert not columns["stationary"]


def test_motion_is_the_sd_of_the_moving_magnitude():
  t = np.arange(3000) / 50
  acc = np.stack([0 * t, 0 * t, 1.1 + 0.2 * np.sin(2 * np.pi * 2 * t)], axis=1)
  assert windows.motion_g(acc, 50.0) == pytest.approx(0.2 / np.sqrt(2), rel=0.02)
  still = np.stack([np.sin(0.1 * t), 0 * t, np.cos(0.1 * t)], axis=1)  # turning is no motion
  assert windows.motion_g(still, 50.0) < 1e-6
  acc[1000:2000] = np.nan
  assert windows.motion_g(acc, 50.0) == pytest.approx(0.2 / np.sqrt(2), rel=0.05)
  assert np.isnan(windows.motion_g(np.full((3000, 3), np.nan), 50.0))


def test_an_activity_names_a_window_that_it_fills():
  stretches = (Stretch(0, 50, "rest"), Stretch(50, 55, "walk"), Stretch(55, 120, "rest"))
  recording = dataclasses.replace(pulses.recording(), activities=stretches)
  assert windows.activity(recording, 0.0, 60.0) == "rest"
  assert windows.activity(recording, 20.0, 40.0) == "rest"  # 35 of 40 s
  assert windows.activity(recording, 100.0, 60.0) == ""
  assert windows.activity(pulses.recording(), 0.0, 60.0) == ""


def _nan(samples):
  return np.full_like(samples, np.nan)


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("ppg", lambda s: {"samples": np.full_like(s.samples, 7.0)}, r"ppg of p0/r0 is constant \(7\)"),
    ("acc", lambda s: {"samples": _nan(s.samples)}, "acc of p0/r0 has no observed sample"),
    ("acc", lambda s: {"unit": "m/s2"}, "acc of p0/r0 is in 'm/s2'; expected 'g'"),
    ("acc", lambda s: {"samples": s.samples[:, :2]}, "2 channels; expected 3"),
    ("acc", lambda s: {"rate_hz": 0.0}, "rate_hz=0.0"),
    ("ppg", lambda s: {"samples": s.samples[:0]}, r"\(0, 1\)"),
    ("ppg", lambda s: {"samples": s.samples[: 64 * 30]}, "30 s in common, shorter than one window"),
    ("acc", lambda s: {"start_s": 5000.0}, "0 s in common"),
  ],
)
def test_a_recording_that_cannot_be_used_says_why(name, change, message):
  recording = pulses.recording()
  broken = _replace(recording, name, **change(recording.signals[name]))
  with pytest.raises(DistillError, match=message):
    list(cut_recording(broken, SETTINGS))


def test_a_recording_without_a_signal():
  recording = pulses.recording()
  broken = dataclasses.replace(recording, signals={"acc": recording.signals["acc"]})
  with pytest.raises(DistillError, match="p0/r0 has no ppg signal; it has: acc"):
    list(cut_recording(broken, SETTINGS))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"window_s": 0.0}, "data.window_s must be positive"),
    ({"hop_s": -1.0}, "data.hop_s must be positive"),
    ({"min_coverage": 1.5}, r"data.min_coverage must lie in \[0, 1\]"),
    ({"window_s": 10.01}, "expected a whole number"),
  ],
)
def test_settings_out_of_range(fields, message):
  with pytest.raises(DistillError, match=message):
    WindowSettings(**fields)
