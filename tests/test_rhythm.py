"""Rhythm vectors against a plain cross-correlation, and against beats that were put in."""

import numpy as np
import pytest
from scipy import signal as scipy_signal

from distill import ranking, rhythm
from distill.errors import DistillError

RATE_HZ = 50.0


def _beats(rng, windows: int) -> list[np.ndarray]:
  """Beats of minutes, each at a rate of its own, with variability."""
  found = []
  for _ in range(windows):
    rr_s = rng.uniform(0.6, 1.1) + rng.normal(0, 0.05, 140)
    times_s = np.cumsum(rr_s)
    found.append(times_s[times_s < 60])
  return found


def _pulses(beats: list[np.ndarray], delay_s: float, width_s: float) -> np.ndarray:
  time = np.arange(3000) / RATE_HZ
  waves = [np.exp(-(((time[:, None] - t - delay_s) / width_s) ** 2) / 2).sum(axis=1) for t in beats]
  return np.stack(waves)


def test_the_best_view_is_the_peak_of_the_cross_correlation():
  rng = np.random.default_rng(0)
  ppg = rng.normal(size=(6, 3000, 1))
  band = scipy_signal.butter(3, rhythm.BAND_HZ, "bandpass", fs=RATE_HZ, output="sos")
  passed = scipy_signal.sosfiltfilt(band, ppg[:, :, 0], axis=1, padlen=round(RATE_HZ / 0.7))
  spectrum = np.fft.rfft(passed, axis=1)
  frequency = np.arange(spectrum.shape[1]) / 60.0
  spectrum[:, (frequency < rhythm.BAND_HZ[0]) | (frequency > rhythm.BAND_HZ[1])] = 0
  whole = np.fft.irfft(spectrum, axis=1)
  whole /= np.linalg.norm(whole, axis=1, keepdims=True)
  vectors = rhythm.of_ppg(ppg, RATE_HZ)
  got = np.einsum("vnd,md->vnm", rhythm.delayed(vectors, 60.0), vectors)
  back = np.einsum("vnd,md->vnm", rhythm.delayed(vectors, 60.0, later=False), vectors)
  # Lags in whole samples: every second view, of 0.05 s, stands between two samples of 0.02 s.
  for view, lag_s in list(enumerate(np.arange(17) * rhythm.LAG_STEP_S))[::2]:
    moved = np.roll(whole, round(lag_s * RATE_HZ), axis=1)
    np.testing.assert_allclose(got[view], moved @ whole.T, atol=2e-5)
    np.testing.assert_allclose(back[view], whole @ moved.T, atol=2e-5)


def test_beats_are_the_spectrum_of_a_smoothed_train():
  beats = _beats(np.random.default_rng(1), 4)
  train = _pulses(beats, 0.0, rhythm.BEAT_SD_S)
  bins = np.arange(42, 241)
  spectrum = np.fft.rfft(train, axis=1)[:, bins]
  expected = np.concatenate([spectrum.real, spectrum.imag], axis=1)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(rhythm.of_beats(beats, 60.0), expected, atol=0.01)
  assert not rhythm.of_beats([np.zeros(0)], 60.0).any()


def test_minutes_are_found_by_beats_in_the_vibration_whatever_the_delay_and_the_gaps():
  rng = np.random.default_rng(2)
  beats = _beats(rng, 40)
  time = np.arange(3000) / RATE_HZ
  ring = _pulses(beats, 0.1, 0.06) * np.sin(2 * np.pi * 7 * time)
  acc = 0.001 * ring[:, :, None] + rng.normal(0, 0.0002, (40, 3000, 3)) + np.array([0, 0, 1.0])
  ppg = _pulses(beats, 0.35, 0.12)[:, :, None] + rng.normal(0, 0.1, (40, 3000, 1))
  acc[::3, 700:1000], ppg[::4, 2000:2400] = np.nan, np.nan
  vectors = rhythm.of_acc(acc, RATE_HZ), rhythm.of_ppg(ppg, RATE_HZ)
  assert all(v.shape == (40, 398) and v.dtype == np.float32 for v in vectors)
  rank, _ = ranking.ranks(rhythm.delayed(vectors[0], 60.0), vectors[1])
  assert np.mean(rank == 1) > 0.9
  back, _ = ranking.ranks(rhythm.delayed(vectors[1], 60.0, later=False), vectors[0])
  assert np.mean(back == 1) > 0.9
  told, _ = ranking.ranks(rhythm.delayed(rhythm.of_beats(beats, 60.0), 60.0), vectors[1])
  assert np.mean(told == 1) > 0.95
  other, _ = ranking.ranks(rhythm.delayed(vectors[0], 60.0), np.roll(vectors[1], 1, axis=0))
  assert np.mean(other == 1) < 0.15


def test_what_has_no_rhythm_is_zero_and_what_does_not_fit_is_refused():
  assert not rhythm.of_ppg(np.full((1, 3000, 1), np.nan), RATE_HZ).any()
  with pytest.raises(DistillError, match=r"expected windows \[n, time, 3\]"):
    rhythm.of_acc(np.zeros((2, 3000, 1)), RATE_HZ)
  with pytest.raises(DistillError, match="needs more than 22 Hz"):
    rhythm.of_acc(np.zeros((2, 3000, 3)), 20.0)
