"""Signal-processing baselines recover what was put in; gaps, silence and wrong shapes."""

import itertools

import numpy as np
import pytest

from distill import baselines
from distill.errors import DistillError

RATES_BPM = np.array([45.0, 52.3, 66.0, 71.8, 90.0, 118.5, 150.2, 174.0])


def _ppg(rate_hz=64.0, seed=0):
  """Pulses with a second harmonic at any phase, drift and noise: [8, 60 s, 1]."""
  rng = np.random.default_rng(seed)
  time_s = np.arange(round(60 * rate_hz))[None, :] / rate_hz
  phase = 2 * np.pi * (RATES_BPM[:, None] / 60 * time_s + rng.uniform(size=(8, 1)))
  wave = np.sin(phase) + 0.6 * np.sin(2 * phase + 1) + 3 * np.sin(0.8 * time_s)
  return (wave + rng.normal(0, 0.5, wave.shape))[:, :, None]


def _acc(rate_hz=50.0, seed=0, amplitude_g=0.02):
  """Gravity, noise, and short 7 Hz bursts at the heart rate: [8, 60 s, 3]."""
  rng = np.random.default_rng(seed)
  time_s = np.arange(round(60 * rate_hz))[None, :] / rate_hz
  cycle = (RATES_BPM[:, None] / 60 * time_s + rng.uniform(size=(8, 1))) % 1
  since_s = cycle * 60 / RATES_BPM[:, None]
  burst = amplitude_g * np.exp(-since_s / 0.1) * np.sin(2 * np.pi * 7 * since_s)
  noise = rng.normal(0, 0.001, (8, time_s.size, 3))
  return burst[:, :, None] * np.array([0.7, 0.6, 0.3]) + np.array([0.1, -0.2, 0.97]) + noise


@pytest.mark.parametrize("rate_hz", [25.0, 64.0, 125.0])
def test_heart_rate_is_recovered_from_pulses(rate_hz):
  np.testing.assert_allclose(baselines.ppg_heart_rate(_ppg(rate_hz), rate_hz), RATES_BPM, atol=0.5)


def test_polarity_and_scale_do_not_matter():
  ppg = _ppg()
  expected = baselines.ppg_heart_rate(ppg, 64.0)
  np.testing.assert_allclose(baselines.ppg_heart_rate(-1e4 * ppg + 2e6, 64.0), expected, rtol=1e-6)


def test_heart_rate_is_recovered_from_wrist_vibration():
  np.testing.assert_allclose(baselines.acc_heart_rate(_acc(), 50.0), RATES_BPM, atol=1.0)


def test_heart_rate_is_recovered_from_jerk_and_by_tracing():
  np.testing.assert_allclose(baselines.acc_jerk_heart_rate(_acc(), 50.0), RATES_BPM, atol=1.0)
  np.testing.assert_allclose(baselines.acc_curve_heart_rate(_acc(), 50.0), RATES_BPM, atol=1.5)
  np.testing.assert_allclose(baselines.acc_curve_heart_rate(_acc(32.0), 32.0), RATES_BPM, atol=1.5)


def test_a_curve_follows_a_rate_that_drifts():
  rate_hz, time_s = 50.0, np.arange(3000) / 50.0
  hr_bpm = np.interp(time_s, [0, 60], [62, 92])
  cycle = np.cumsum(hr_bpm / 60 / rate_hz) % 1
  since_s = cycle * 60 / hr_bpm
  burst = 0.02 * np.exp(-since_s / 0.1) * np.sin(2 * np.pi * 7 * since_s)
  noise = np.random.default_rng(3).normal(0, 0.002, (1, 3000, 3))
  acc = noise + burst[None, :, None] * np.array([0.7, 0.6, 0.3]) + np.array([0.1, -0.2, 0.97])
  assert baselines.acc_curve_heart_rate(acc, rate_hz)[0] == pytest.approx(77, abs=2)


def test_a_curve_outlives_noise_that_wins_single_stretches():
  rng = np.random.default_rng(4)
  acc = _acc(amplitude_g=0.008) + rng.normal(0, 0.003, (8, 3000, 3))
  lost = np.abs(baselines.acc_curve_heart_rate(acc, 50.0) - RATES_BPM)
  assert np.median(lost) < 3


def test_the_best_path_is_that_of_trying_all():
  score = np.random.default_rng(5).normal(size=(3, 4, 9))
  found = baselines._best_path(score)
  for row, path in zip(score, found, strict=True):

    def value(places, row=row):
      moves = np.abs(np.diff(places))
      if moves.max() > baselines._CURVE_REACH_BPM:
        return -np.inf
      return row[np.arange(4), list(places)].sum() - baselines._CURVE_PENALTY * moves.sum()

    best = max(itertools.product(range(9), repeat=4), key=value)
    assert tuple(path) == best


def test_gaps_leave_heart_rate_readable():
  ppg, acc = _ppg(), _acc()
  ppg[:, 700:1300], acc[:, 500:800] = np.nan, np.nan
  np.testing.assert_allclose(baselines.ppg_heart_rate(ppg, 64.0), RATES_BPM, atol=1.0)
  np.testing.assert_allclose(baselines.acc_heart_rate(acc, 50.0), RATES_BPM, atol=1.5)


def test_every_answer_is_finite_whatever_comes_in():
  rng = np.random.default_rng(1)
  acc = np.stack([np.full((1500, 3), np.nan), np.ones((1500, 3)), rng.normal(size=(1500, 3))])
  acc[2, :, 1] = np.nan
  for answer in (
    baselines.acc_heart_rate(acc, 25.0),
    baselines.acc_jerk_heart_rate(acc, 25.0),
    baselines.acc_curve_heart_rate(acc, 25.0),
    baselines.ppg_heart_rate(acc[:, :, :1], 25.0),
    baselines.motion_features(acc, 25.0),
  ):
    assert np.isfinite(answer).all()
  for rate in (
    baselines.acc_heart_rate,
    baselines.acc_jerk_heart_rate,
    baselines.acc_curve_heart_rate,
  ):
    np.testing.assert_array_equal(rate(acc, 25.0)[:2], [110.0, 110.0])


def test_windows_are_independent_of_their_batch():
  rng = np.random.default_rng(2)
  acc = rng.normal(size=(131, 500, 3))
  acc[rng.uniform(size=acc.shape) < 0.05] = np.nan
  together = baselines.motion_features(acc, 50.0)
  alone = np.concatenate([baselines.motion_features(acc[i : i + 1], 50.0) for i in (0, 127, 130)])
  np.testing.assert_allclose(together[[0, 127, 130]], alone, rtol=1e-6)
  for read in (
    baselines.acc_heart_rate,
    baselines.acc_jerk_heart_rate,
    baselines.acc_curve_heart_rate,
  ):
    np.testing.assert_allclose(read(acc, 50.0)[128:], read(acc[128:], 50.0), rtol=1e-9)


def test_motion_features_read_band_cadence_and_gravity():
  rate_hz = 50.0
  time_s = np.arange(3000) / rate_hz
  step = 0.3 * np.sin(2 * np.pi * 1.9 * time_s)
  acc = np.stack([np.zeros(3000), step, np.full(3000, 0.98)], axis=1)[None]
  features = baselines.motion_features(acc, rate_hz)[0]
  assert features.shape == (33,)
  assert features[3] == pytest.approx(
    np.log(0.3 / np.sqrt(2)), abs=0.01
  )  # 1.5-3 Hz holds the steps
  assert features[:8].argmax() == 3
  np.testing.assert_allclose(features[14:17], [0, 0, 0.98], atol=1e-3)
  np.testing.assert_allclose(features[23:27], [0.98, 0, 0, 1], atol=1e-3)
  assert features[28] == pytest.approx(0.98 + 0.023, abs=0.01)  # median magnitude
  assert features[-1] == 1.0


def test_cadence_is_among_the_features():
  time_s = np.arange(3000) / 50.0
  acc = np.zeros((2, 3000, 3)) + np.array([0, 0, 1.0])
  acc[0, :, 0] += 0.2 * np.sin(2 * np.pi * 1.8 * time_s)
  acc[1, :, 2] += 0.2 * np.sin(2 * np.pi * 2.7 * time_s)
  np.testing.assert_allclose(baselines.motion_features(acc, 50.0)[:, -3], [1.8, 2.7], atol=0.02)


def test_session_clock_reads_the_minute_and_falls_back_to_the_mean():
  train_s = np.array([0.0, 30, 60, 60, 120, 0])
  values = np.array([60.0, 70, 90, 100, np.nan, 65])
  got = baselines.session_clock(train_s, values, np.array([59.9, 60, 125, 9999]))
  np.testing.assert_allclose(got, [65, 95, 77, 77])
  with pytest.raises(DistillError, match="no labelled training window"):
    baselines.session_clock(train_s, values * np.nan, train_s)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: baselines.motion_features(np.zeros((4, 100)), 50.0), r"\[n, time, 3\].*\(4, 100\)"),
    (lambda: baselines.ppg_heart_rate(np.zeros((4, 100, 3)), 50.0), r"\[n, time, 1\]"),
    (lambda: baselines.acc_heart_rate(np.zeros((0, 100, 3)), 50.0), "n > 0"),
    (lambda: baselines.acc_heart_rate(np.zeros((1, 100, 3)), 20.0), "more than 22 Hz, got 20"),
    (lambda: baselines.acc_curve_heart_rate(np.zeros((1, 100, 3)), 20.0), "more than 22 Hz"),
    (lambda: baselines.acc_jerk_heart_rate(np.zeros((1, 100, 1)), 50.0), r"\[n, time, 3\]"),
    (lambda: baselines.motion_features(np.zeros((1, 100, 3)), -1.0), "rate_hz must be positive"),
  ],
)
def test_wrong_shapes_and_rates_are_refused(call, message):
  with pytest.raises(DistillError, match=message):
    call()
