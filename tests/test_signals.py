"""distill.signals: resampling, windowing, preprocessing."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import signal as scipy_signal

from distill import signals
from distill.errors import DistillError
from distill.spec import SignalSpec

ACC = SignalSpec("acc", 50.0, 10.0, ("x", "y", "z"), "g")
PPG = SignalSpec("ppg", 64.0, 10.0, ("green",), "au", (0.5, 8.0), "zscore")


def _sine(rate_hz, seconds, hz=1.3, phase=0.4, offset=0.0):
  t = np.arange(round(rate_hz * seconds)) / rate_hz
  return (offset + np.sin(2 * np.pi * hz * t + phase)).astype(np.float32)[:, None]


@pytest.mark.parametrize(("rate_hz", "to_hz"), [(32, 50), (64, 50), (50, 64), (700, 64), (25, 64)])
def test_resample_keeps_time_and_amplitude(rate_hz, to_hz):
  result = signals.resample(_sine(rate_hz, 30, offset=2.0), rate_hz, to_hz)
  expected = _sine(to_hz, 30, offset=2.0)
  assert result.dtype == np.float32
  assert len(result) == int(np.ceil(30 * rate_hz * to_hz / rate_hz))
  inner = slice(to_hz, -to_hz)
  np.testing.assert_allclose(result[inner], expected[inner], atol=1e-4)


def test_resampled_gravity_and_drift_have_no_ripple():
  drift = 1.0 + 0.01 * np.arange(32 * 60)[:, None] / 32
  result = signals.resample(drift, 32, 50)
  expected = 1.0 + 0.01 * np.arange(50 * 60)[:, None] / 50
  np.testing.assert_allclose(result, expected, atol=1e-6)
  turned = np.where(np.arange(32 * 60) < 960, 1.0, -1.0)[:, None]
  settled = signals.resample(turned, 32, 50)[100:1400]
  assert np.ptp(settled) < 2e-5  # 0.02 mg; SciPy's default filter leaves 1.3 mg


def test_resample_removes_what_the_new_rate_cannot_hold():
  result = signals.resample(_sine(256, 20, hz=60.0), 256, 50)
  assert np.abs(result[50:-50]).max() < 0.01


def test_resample_same_rate_is_identity_and_gaps_keep_their_place():
  samples = _sine(64, 10)
  np.testing.assert_array_equal(signals.resample(samples, 64, 64), samples)
  samples[100:140] = np.nan
  result = signals.resample(samples, 64, 50)
  missing = np.isnan(result[:, 0])
  nearest = np.floor(np.arange(500) * 64 / 50 + 0.5).astype(int)
  np.testing.assert_array_equal(missing, (nearest >= 100) & (nearest < 140))
  away = np.r_[30:60, 130:450]
  np.testing.assert_allclose(result[away], _sine(50, 10)[away], atol=1e-3)


def test_resample_one_axis_missing_leaves_the_others():
  samples = np.repeat(_sine(32, 10), 3, axis=1)
  samples[:, 1] = np.nan
  result = signals.resample(samples, 32, 50)
  assert np.isnan(result[:, 1]).all()
  assert np.isfinite(result[:, [0, 2]]).all()


@pytest.mark.parametrize("rate", [None, 0, -64.0, float("nan"), "64", True])
def test_a_missing_or_wrong_rate_raises(rate):
  with pytest.raises(DistillError, match="rate"):
    signals.resample(_sine(64, 10), rate, 50)
  with pytest.raises(DistillError, match="rate"):
    signals.to_windows(_sine(64, 20), rate, PPG)


def test_wrong_shapes_raise():
  with pytest.raises(DistillError, match=r"\[time, channels\]"):
    signals.resample(np.zeros(100), 64, 50)
  with pytest.raises(DistillError, match="3 channels; expected 1"):
    signals.to_windows(np.zeros((1000, 3)), 64, PPG)
  with pytest.raises(DistillError, match="expected numbers"):
    signals.resample(np.array([["a"]]), 64, 50)
  with pytest.raises(DistillError, match="640"):
    signals.preprocess(np.zeros((639, 1)), np.ones((639, 1), bool), PPG)


@pytest.mark.parametrize("to_hz", [0.001, 4.0e6])
def test_rates_that_are_too_far_apart(to_hz):
  with pytest.raises(DistillError, match="over 4096 times the other"):
    signals.resample(_sine(64, 10), 64.0, to_hz)


@pytest.mark.parametrize("to_hz", [64.0, 50.0, 25.0 * np.pi])
@pytest.mark.parametrize("drift", [-300e-6, 1.7e-6, 4e-3])
def test_a_clock_that_drifts_is_brought_to_time(to_hz, drift):
  rate_hz, hz = 64.0 * (1 + drift), 7.0
  samples = _sine(rate_hz, 600, hz=hz, phase=0.0, offset=2.0)
  samples[6400:7040] = np.nan
  result = signals.resample(samples, rate_hz, to_hz)
  assert len(result) == int(np.ceil(len(samples) * to_hz / rate_hz))
  at = np.arange(len(result)) / to_hz
  inside = np.abs(at - 6720 / rate_hz) > 5.5
  inside &= (at > 1) & (at < 599)
  expected = 2.0 + np.sin(2 * np.pi * hz * at)
  np.testing.assert_allclose(result[inside, 0], expected[inside], atol=2e-3)
  missing = np.isnan(result[:, 0])
  np.testing.assert_allclose(at[missing][[0, -1]] * rate_hz, (6400, 7039), atol=1.0)


@pytest.mark.parametrize(("samples", "n"), [(639, 0), (640, 1), (641, 1), (1279, 1), (1280, 2)])
def test_every_complete_window_around_the_exact_length(samples, n):
  if n == 0:
    with pytest.raises(DistillError, match=r"9\.98.* s long .*window of 10 s"):
      signals.to_windows(np.ones((samples, 1)), 64.0, PPG)
    return
  windows, mask, t0_s = signals.to_windows(np.ones((samples, 1)), 64.0, PPG)
  assert windows.shape == mask.shape == (n, 640, 1)
  np.testing.assert_array_equal(t0_s, 10.0 * np.arange(n))


def test_cut_pads_with_nan_outside_the_data():
  samples = np.arange(100, dtype=np.float32)[:, None]
  window = signals.cut(samples, 10.0, -1.0, 12.0)
  assert np.isnan(window[:10]).all()
  assert np.isnan(window[110:]).all()
  np.testing.assert_array_equal(window[10:110], samples)
  assert np.isnan(signals.cut(samples, 10.0, 50.0, 1.0)).all()


def _reference_preprocess(x, observed, spec):
  """Independent: one channel at a time, np.interp, butter + sosfiltfilt, plain mean and SD."""
  result = np.zeros_like(x)
  for c in range(x.shape[1]):
    keep = observed[:, c]
    t = np.arange(len(x))
    filled = np.interp(t, t[keep], x[keep, c])
    if spec.band_hz:
      sos = scipy_signal.butter(2, spec.band_hz, "bandpass", fs=spec.rate_hz, output="sos")
      filled = scipy_signal.sosfiltfilt(sos, filled, padlen=round(spec.rate_hz / spec.band_hz[0]))
    seen = filled[keep]
    if spec.normalisation != "none":
      filled = filled - seen.mean()
    if spec.normalisation == "zscore":
      filled = filled / max(seen.std(), spec.sd_floor)
    result[keep, c] = filled[keep]
  return result


@pytest.mark.parametrize("normalisation", ["none", "gravity", "zscore"])
@pytest.mark.parametrize("band_hz", [None, (0.5, 8.0)])
def test_preprocess_equals_a_plain_second_computation(normalisation, band_hz):
  spec = dataclasses.replace(ACC, band_hz=band_hz, normalisation=normalisation)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 500, 3)) + np.array([0.1, -0.5, 0.9])
  mask = rng.random(x.shape) > 0.1
  mask[:, 100:200] = False
  mask[1, :50] = mask[2, 450:] = False
  x[3, 300:320] = np.nan
  result = signals.preprocess(x, mask, spec)
  assert result.dtype == np.float32
  for row in range(4):
    expected = _reference_preprocess(x[row], mask[row] & np.isfinite(x[row]), spec)
    np.testing.assert_allclose(result[row], expected, atol=2e-5)
    np.testing.assert_array_equal(signals.preprocess(x[row], mask[row], spec), result[row])


@pytest.mark.parametrize("normalisation", ["none", "gravity", "zscore"])
@pytest.mark.parametrize("value", [np.nan, 0.0, 1.0, 32767.0])
def test_preprocess_is_finite_on_missing_and_constant_windows(normalisation, value):
  spec = dataclasses.replace(PPG, normalisation=normalisation)
  x = np.full((640, 1), value)
  result = signals.preprocess(x, np.isfinite(x), spec)
  np.testing.assert_allclose(result, 0.0, atol=1e-3)


def test_a_long_gap_gives_the_filter_no_step():
  spec = dataclasses.replace(PPG, normalisation="none")
  x = np.linspace(0, 100, 640)[:, None]
  x[200:400] = np.nan
  result = signals.preprocess(x, np.isfinite(x), spec)
  assert np.abs(result[64:-64]).max() < 0.5  # a held value would leave a step of 31


def test_one_path_with_long_recordings_and_gaps():
  rng = np.random.default_rng(1)
  samples = rng.normal(size=(32 * 65, 3)).astype(np.float32)
  samples[300:330] = np.nan
  spec = dataclasses.replace(ACC, normalisation="zscore")
  windows, mask, t0_s = signals.to_windows(samples, 32.0, spec, hop_s=5.0)
  even = signals.resample(samples, 32.0, 50.0)
  assert len(t0_s) == 1 + (65 - 10) // 5
  for row, t0 in enumerate(t0_s):
    raw = even[round(t0 * 50) : round(t0 * 50) + 500]
    np.testing.assert_array_equal(mask[row], np.isfinite(raw))
    np.testing.assert_array_equal(windows[row], signals.preprocess(raw, np.isfinite(raw), spec))


@hypothesis.given(
  start_s=st.floats(0, 100),
  length_s=st.integers(0, 4000).map(lambda n: n / 64),
  window_s=st.integers(1, 20),
  hop_s=st.integers(1, 1280).map(lambda n: n / 64),
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_window_starts_finds_every_complete_window(start_s, length_s, window_s, hop_s):
  t0_s = signals.window_starts(start_s, start_s + length_s, window_s, hop_s)
  tolerance = 1e-4
  assert np.all(t0_s + window_s <= start_s + length_s + tolerance)
  following = start_s + len(t0_s) * hop_s
  assert following + window_s > start_s + length_s - tolerance


@hypothesis.given(
  rate_hz=st.sampled_from([25.0, 32.0, 50.0, 64.0]),
  offset_s=st.floats(0, 3),
  window_s=st.integers(1, 8),
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_adjacent_windows_share_no_sample_and_start_within_half_a_sample(
  rate_hz, offset_s, window_s
):
  samples = np.arange(round(rate_hz * 60), dtype=np.float64)[:, None]
  t0_s = signals.window_starts(offset_s, 60.0, window_s, window_s)
  cuts = [signals.cut(samples, rate_hz, t0, window_s) for t0 in t0_s]
  read = np.concatenate(cuts)[:, 0]
  assert np.isfinite(read).all()
  assert len(np.unique(read)) == len(read)
  error = [window[0, 0] - t0 * rate_hz for window, t0 in zip(cuts, t0_s)]
  assert np.abs(error).max() <= 0.5 + 1e-5


@pytest.mark.parametrize(("window_s", "hop_s"), [(0, 1), (1, 0), (-1, 1), (1, float("nan"))])
def test_window_and_hop_must_be_positive(window_s, hop_s):
  with pytest.raises(DistillError, match="positive"):
    signals.window_starts(0.0, 100.0, window_s, hop_s)


def test_gaps_are_filled_by_straight_lines():
  wave = np.array([np.nan, 1, np.nan, np.nan, 4, np.nan])[None, :, None]
  np.testing.assert_allclose(
    signals.fill_gaps(wave, np.isfinite(wave))[0, :, 0], [1, 1, 2, 3, 4, 4]
  )
  both = np.random.default_rng(3).normal(size=(4, 50, 2))
  both[np.random.default_rng(4).uniform(size=both.shape) < 0.4] = np.nan
  filled = signals.fill_gaps(both, np.isfinite(both))
  for i, c in np.ndindex(4, 2):
    known = np.flatnonzero(np.isfinite(both[i, :, c]))
    expected = np.interp(np.arange(50), known, both[i, known, c])
    np.testing.assert_allclose(filled[i, :, c], expected, rtol=1e-12)
  nothing = np.full((1, 5, 1), np.nan)
  assert (signals.fill_gaps(nothing, np.isfinite(nothing)) == 0).all()
