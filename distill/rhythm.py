"""The pulse rhythm of a window as one vector, without learning: what every retrieval must beat.

A minute of PPG is nearly fingerprinted by its beat times, so the rhythm alone is ranked like an
embedding: of the envelope of the acceleration (a rival that has learnt nothing), and of the true
beats (an oracle). With Fourier coefficients a_k and b_k of two windows at the frequencies f_k
within BAND_HZ, the circular cross-correlation at a lag is

    sum_k Re(a_k conj(b_k) exp(-2 pi i f_k lag))

that is, the inner product of the real vectors (Re, Im) after the first was delayed. Lags are views
of the query (`distill.ranking.ranks`), and the best one counts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distill import signals
from distill.baselines import VIBRATION_BAND_HZ
from distill.errors import DistillError

BAND_HZ = (0.7, 4.0)  # pulse and its first harmonics
LATEST_S = 0.8  # by which the pulse at the wrist may follow the movement or the beat; ours
LAG_STEP_S = 0.05
BEAT_SD_S = 0.05  # of the Gaussian that a beat is smoothed with; ours
_FLOOR_G2 = 1e-9
_BATCH = 128  # windows processed at once, which bounds the memory


def of_acc(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Rhythm of the envelope of the 4-11 Hz vibration, all axes together.

  Args:
    acc: [n, time, 3] g; NaN where missing.
    rate_hz: samples per second; the vibration needs more than 22 Hz.

  Returns:
    [n, dim] float32 unit vectors; zeros for a window without any envelope.

  Raises:
    DistillError: wrong shape, or a rate too low for the band.
  """
  if rate_hz <= 2 * VIBRATION_BAND_HZ[1]:
    raise DistillError(
      f"the 4-11 Hz envelope needs more than {2 * VIBRATION_BAND_HZ[1]:g} Hz, got {rate_hz:g} Hz"
    )

  def envelope(part: np.ndarray) -> np.ndarray:
    observed = np.isfinite(part)
    vibration = signals.band_pass(
      signals.fill_gaps(part.astype(np.float64), observed),
      rate_hz,
      VIBRATION_BAND_HZ,
      "butterworth3",
    )
    power = np.log(np.sum(vibration**2, axis=2, keepdims=True) + _FLOOR_G2)
    return signals.fill_gaps(power, observed.all(axis=2, keepdims=True))

  return _rhythm(acc, rate_hz, 3, envelope)


def of_ppg(ppg: np.ndarray, rate_hz: float) -> np.ndarray:
  """Rhythm of the PPG, [n, time, 1] in any unit, NaN where missing; as `of_acc`."""

  def pulse(part: np.ndarray) -> np.ndarray:
    return signals.fill_gaps(part.astype(np.float64), np.isfinite(part))

  return _rhythm(ppg, rate_hz, 1, pulse)


def _rhythm(
  windows: np.ndarray, rate_hz: float, channels: int, wave: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  if np.ndim(windows) != 3 or windows.shape[2] != channels or not len(windows):
    raise DistillError(
      f"expected windows [n, time, {channels}] with n > 0, got shape {np.shape(windows)}"
    )
  index = _bins(windows.shape[1] / rate_hz)
  found = []
  for start in range(0, len(windows), _BATCH):
    passed = signals.band_pass(
      wave(windows[start : start + _BATCH]), rate_hz, BAND_HZ, "butterworth3"
    )
    found.append(_joined(np.fft.rfft(passed[:, :, 0], axis=1)[:, index]))
  return np.concatenate(found)


def of_beats(times_s: Sequence[np.ndarray], window_s: float) -> np.ndarray:
  """Rhythm of beats, each smoothed by a Gaussian of BEAT_SD_S.

  The cosine of two such vectors is the correlation of the smoothed trains, and the distance of van
  Rossum (2001, Neural Computation 13:751) between trains of unit energy, with another kernel.

  Args:
    times_s: of each window its beats, seconds after its start.
    window_s: length of a window, seconds.

  Returns:
    [n, dim] float32 unit vectors; zeros for a window without a beat.
  """
  frequency = _bins(window_s) / window_s
  smoothed = np.exp(-2 * (np.pi * BEAT_SD_S * frequency) ** 2)
  waves = [np.exp(-2j * np.pi * np.outer(t, frequency)).sum(axis=0) for t in times_s]
  return _joined(np.stack(waves) * smoothed)


def delayed(rhythm: np.ndarray, window_s: float, *, later: bool = True) -> np.ndarray:
  """Views of query vectors, delayed by 0 to LATEST_S.

  Args:
    rhythm: [n, dim] of `of_acc`, `of_ppg` or `of_beats`.
    window_s: length of a window, seconds.
    later: False where the queries are PPG, which then comes earlier.

  Returns:
    [views, n, dim] float32.
  """
  lags_s = np.arange(0.0, LATEST_S + LAG_STEP_S / 2, LAG_STEP_S)
  frequency = _bins(window_s) / window_s
  turn = np.exp((-2j if later else 2j) * np.pi * np.outer(lags_s, frequency))
  real, imaginary = np.split(rhythm, 2, axis=1)
  spectrum = (real + 1j * imaginary)[None] * turn[:, None]
  return np.concatenate([spectrum.real, spectrum.imag], axis=2).astype(np.float32)


def _bins(window_s: float) -> np.ndarray:
  """Whole cycles per window within the band."""
  return np.arange(int(np.ceil(BAND_HZ[0] * window_s)), int(BAND_HZ[1] * window_s) + 1)


def _joined(spectrum: np.ndarray) -> np.ndarray:
  """Complex [n, k] as real unit vectors [n, 2 k]."""
  vectors = np.concatenate([spectrum.real, spectrum.imag], axis=1)
  norm = np.linalg.norm(vectors, axis=1, keepdims=True)
  return np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-12).astype(np.float32)
