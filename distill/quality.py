"""How trustworthy a window of PPG is: pulses alike (template correlation) and power in few lines.

Two simple, well-known measures that fail differently: motion at a steady pace is spectrally pure
but its pulses change shape; a slow drift of contact keeps pulses alike but adds power elsewhere.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import signal as scipy_signal

from distill import beats

POWER_BAND_HZ = (0.5, 8.0)
HR_BAND_HZ = (0.5, 3.5)  # 30-210 bpm
SEGMENT_S = 8.0
LINE_HZ = 0.2  # half-width of the pulse line and of its first harmonic
MIN_PULSES = 5


@dataclasses.dataclass(frozen=True)
class Quality:
  """Quality of one window of PPG.

  Attributes:
    quality: geometric mean of the two measures, in [0, 1].
    usable: both measures reach their thresholds.
    template_r: mean correlation of the window's pulses with their average, 0 under 5 pulses.
    spectral_purity: share of the power in 0.5-8 Hz that lies in the pulse line and its harmonic.
  """

  quality: float
  usable: bool
  template_r: float
  spectral_purity: float


def ppg_quality(
  clean: np.ndarray,
  rate_hz: float,
  peaks_s: np.ndarray,
  *,
  min_template_r: float,
  min_spectral_purity: float,
) -> Quality:
  """Quality of a window.

  Args:
    clean: [time] band-passed PPG of the window (`beats.clean_ppg`).
    rate_hz: its samples per second.
    peaks_s: [peaks] its pulse peaks, seconds after the window's first sample.
    min_template_r: threshold, in [0, 1].
    min_spectral_purity: threshold, in [0, 1].

  Returns:
    The measures and the verdict; all zero for a constant or missing window.
  """
  limits = {"min_template_r": min_template_r, "min_spectral_purity": min_spectral_purity}
  return ppg_qualities(clean[None], rate_hz, [peaks_s], **limits)[0]


def ppg_qualities(
  clean: np.ndarray,
  rate_hz: float,
  peaks_s: Sequence[np.ndarray],
  *,
  min_template_r: float,
  min_spectral_purity: float,
) -> list[Quality]:
  """`ppg_quality` of many windows at once: [windows, time] and the peaks of each."""
  found = []
  for window, peaks, purity in zip(clean, peaks_s, spectral_purity(clean, rate_hz), strict=True):
    template_r = _template_r(window, rate_hz, peaks)
    usable = bool(template_r >= min_template_r and purity >= min_spectral_purity)
    quality = float(np.sqrt(template_r * purity))
    found.append(Quality(quality, usable, template_r, float(purity)))
  return found


def _template_r(clean: np.ndarray, rate_hz: float, peaks_s: np.ndarray) -> float:
  """Mean correlation with the average pulse (Orphanidou et al. 2015, IEEE JBHI 19(3):832-838)."""
  length_s = len(clean) / rate_hz
  inside = (peaks_s >= beats.PULSE_HALF_S) & (peaks_s <= length_s - beats.PULSE_HALF_S)
  if inside.sum() < MIN_PULSES:
    return 0.0
  shapes = beats.pulses(clean, rate_hz, peaks_s[inside])
  template = shapes.mean(0)
  norm = np.linalg.norm(template)
  return float(np.clip((shapes @ template).mean() / norm, 0, 1)) if norm > 1e-9 else 0.0


def spectral_purity(clean: np.ndarray, rate_hz: float) -> np.ndarray:
  """Mean over 8 s segments of the share of power within 0.2 Hz of the pulse line and its double.

  Each segment has its own line, so that a changing heart rate is no impurity.

  Args:
    clean: [..., time] band-passed PPG.
    rate_hz: samples per second.

  Returns:
    [...] in [0, 1]; 0 for a constant signal.
  """
  length = min(round(SEGMENT_S * rate_hz), clean.shape[-1])
  frequency, _, power = scipy_signal.spectrogram(
    clean, rate_hz, "hann", nperseg=length, noverlap=length // 2, nfft=4 * length, mode="psd"
  )
  band = (frequency >= POWER_BAND_HZ[0]) & (frequency <= POWER_BAND_HZ[1])
  frequency, power = frequency[band], power[..., band, :]
  heart = (frequency >= HR_BAND_HZ[0]) & (frequency <= HR_BAND_HZ[1])
  line_hz = frequency[heart][power[..., heart, :].argmax(-2)][..., None, :]
  at = frequency[:, None]
  near = (np.abs(at - line_hz) <= LINE_HZ) | (np.abs(at - 2 * line_hz) <= LINE_HZ)
  total = power.sum(-2)
  pure = np.where(near, power, 0.0).sum(-2)
  share: np.ndarray = np.mean(pure / np.where(total > 1e-18, total, np.inf), axis=-1)
  return share
