"""How noisy a wrist at rest is, and how much of the heart plain signal processing finds there.

Simulated and real sets go through the same function, so that a report can print them side by side:
the simulated E4 must look like an E4 (4-7 mg per axis in 4-15 Hz on still stretches), the simulated
fine device standing like BAMI (3-4 mg), before a result on the cohort says anything.
"""

import dataclasses

import numpy as np
from scipy import signal

from distill import baselines
from distill.errors import DistillError

BAND_HZ = (4.0, 15.0)  # where the beat-locked movement lies
STRETCH_S = 8.0
STILL_G = 0.015  # largest SD on any axis over a stretch that counts as still; ours
CLOSE_BPM = 5.0


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Figures of one set at rest; NaN where nothing was still.

  Attributes:
    stretches: number of still stretches of STRETCH_S seconds.
    in_band_mg: 10th, 50th and 90th percentile over stretches and axes of the RMS in BAND_HZ, mg.
    windows: number of still windows (at least half of their stretches still) with a heart rate.
    hr_mae_bpm: error of the accelerometer's envelope method on them.
    hr_close: share of them within CLOSE_BPM.
    hr_mean_mae_bpm: error of their mean heart rate, the predictor that knows nothing.
  """

  stretches: int
  in_band_mg: tuple[float, float, float]
  windows: int
  hr_mae_bpm: float
  hr_close: float
  hr_mean_mae_bpm: float


def in_band_rms_g(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """RMS per axis in BAND_HZ, from the power spectrum under a Hann window.

  Args:
    acc: [..., time, 3] g without missing samples.
    rate_hz: samples per second; more than twice the band's upper end.

  Returns:
    [..., 3] float64 g.

  Raises:
    DistillError: rate_hz too low for the band.
  """
  _check_rate(rate_hz)
  frequency, density = signal.periodogram(acc, rate_hz, window="hann", axis=-2)
  inside = (frequency >= BAND_HZ[0]) & (frequency <= BAND_HZ[1])
  return np.sqrt(density[..., inside, :].sum(axis=-2) * (frequency[1] - frequency[0]))


def _check_rate(rate_hz: float) -> None:
  low, high = BAND_HZ
  if rate_hz <= 2 * high:
    raise DistillError(
      f"the {low:g}-{high:g} Hz band needs more than {2 * high:g} Hz, got rate_hz {rate_hz:g}"
    )


def calibrate(acc: np.ndarray, rate_hz: float, hr_bpm: np.ndarray) -> Calibration:
  """Noise and heart-rate accuracy of a set's windows at rest.

  Args:
    acc: [n, time, 3] g, gravity included; NaN where missing.
    rate_hz: samples per second.
    hr_bpm: [n] reference; NaN where there is none.

  Raises:
    DistillError: wrong shapes, windows shorter than one stretch, or rate_hz too low.
  """
  samples = round(STRETCH_S * rate_hz)
  _check_rate(rate_hz)
  if acc.ndim != 3 or acc.shape[2] != 3 or acc.shape[:1] != np.shape(hr_bpm):
    raise DistillError(
      f"calibration needs acc [n, time, 3] and hr_bpm [n], got {acc.shape} and {np.shape(hr_bpm)}"
    )
  if acc.shape[1] < samples:
    raise DistillError(
      f"calibration needs windows of {STRETCH_S:g} s or more, got {acc.shape[1] / rate_hz:g} s"
    )
  each = acc.shape[1] // samples
  stretches = acc[:, : each * samples].reshape(len(acc), each, samples, 3)
  still = stretches.std(axis=2).max(axis=2) < STILL_G  # False where a sample is missing
  rest = (still.mean(axis=1) >= 0.5) & np.isfinite(hr_bpm)
  in_band_mg, mae, close, mean_mae = np.full(3, np.nan), np.nan, np.nan, np.nan
  if still.any():
    in_band_mg = np.percentile(1e3 * in_band_rms_g(stretches[still], rate_hz), [10, 50, 90])
  if rest.any():
    error = np.abs(baselines.acc_heart_rate(acc[rest], rate_hz) - hr_bpm[rest])
    mae, close = error.mean(), (error < CLOSE_BPM).mean()
    mean_mae = np.abs(hr_bpm[rest] - hr_bpm[rest].mean()).mean()
  low, middle, high = (float(value) for value in in_band_mg)
  return Calibration(
    stretches=int(still.sum()),
    in_band_mg=(low, middle, high),
    windows=int(rest.sum()),
    hr_mae_bpm=float(mae),
    hr_close=float(close),
    hr_mean_mae_bpm=float(mean_mae),
  )
