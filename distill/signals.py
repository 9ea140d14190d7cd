"""Resampling, windowing and the one preprocessing of windows.

Prepared sets, training, `Encoder.embed`, live use and export all go through this file, so that a
window means the same everywhere. It knows arrays and specs only: no files, no labels, no models.
Missing samples are NaN in raw signals and zero beside a False mask in preprocessed windows.
"""

import fractions
import functools
from typing import cast

import numpy as np
from scipy import ndimage
from scipy import signal as scipy_signal

from distill.errors import DistillError
from distill.spec import SignalSpec

BUTTERWORTH_ORDER = {"butterworth2": 2, "butterworth3": 3}  # run both ways: doubled
_MAX_FACTOR = 4096  # of the rational resampling; rates of real devices need far less
_ROUGH_FACTOR = 512  # of the fraction that stands for two rates that have none
_RESAMPLING_REACH = 20  # samples of the slower rate to either side
_ROUNDING = 1e-6  # of a sample or a hop: absorbs the rounding of times written as decimals


def check_rate(rate_hz: float | None, what: str = "signal") -> float:
  """The rate as a float.

  Raises:
    DistillError: it is missing, not a number, or not positive.
  """
  if not isinstance(rate_hz, int | float | np.integer | np.floating) or isinstance(rate_hz, bool):
    raise DistillError(
      f"the {what} needs its sampling rate as a number, got {rate_hz!r}; pass rate_hz=<samples per"
      " second>"
    )
  if not np.isfinite(rate_hz) or rate_hz <= 0:
    raise DistillError(f"the {what} has rate_hz={rate_hz}; expected a positive number")
  return float(rate_hz)


def check_samples(samples: np.ndarray, what: str = "signal") -> np.ndarray:
  """The samples as a [time, channels] float array.

  Raises:
    DistillError: another number of axes, no samples, or not numbers.
  """
  samples = np.asarray(samples)
  if samples.ndim != 2 or 0 in samples.shape:
    raise DistillError(
      f"the {what} has shape {samples.shape}; expected [time, channels] with at least one sample"
    )
  if not np.issubdtype(samples.dtype, np.number):
    raise DistillError(f"the {what} holds {samples.dtype}; expected numbers")
  return samples.astype(np.float32, copy=False)


def fill_gaps(samples: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Finite copy: gaps bridged linearly from neighbour to neighbour, ends held, nothing known = 0.

  A straight bridge meets both neighbours, so that a filter sees no step at either end of a gap.

  Args:
    samples: [..., time, channels] float.
    observed: bool of the same shape; where False the value is not looked at.

  Returns:
    [..., time, channels], the dtype of `samples`.
  """
  filled = np.where(observed, samples, 0).astype(samples.dtype, copy=False)
  lanes, seen = np.moveaxis(filled, -2, -1), np.moveaxis(observed, -2, -1)  # views
  time = np.arange(samples.shape[-2])
  count = _count(observed)
  for lane in zip(*np.nonzero((count > 0) & (count < len(time))), strict=True):
    known, missing = time[seen[lane]], time[~seen[lane]]
    lanes[lane][missing] = np.interp(missing, known, lanes[lane][known])
  return filled


def _count(observed: np.ndarray) -> np.ndarray:
  """[..., channels] observed samples of [..., time, channels].

  Windows with nothing missing, the most, are not counted: NumPy is slow along time where few
  channels lie beside each other.
  """
  count = np.full((*observed.shape[:-2], observed.shape[-1]), observed.shape[-2])
  broken = ~observed.all(axis=(-2, -1))
  count[broken] = observed[broken].sum(-2)
  return count


def resample(samples: np.ndarray, rate_hz: float, to_hz: float) -> np.ndarray:
  """Anti-aliased resampling with zero delay, polyphase where the ratio of the rates is rational.

  Sample i of the result lies at time i / to_hz on the clock of the input. Gaps keep their place: a
  result is NaN where the nearest input sample is missing; values beside a gap come from a copy with
  the gap bridged linearly. The filter reaches 20 samples of the slower rate to either side.

  Rates whose ratio is no fraction of whole numbers, as those of a clock that drifts, take the
  nearest such fraction first; the rest, less than a thousandth, is a spline of order 5 on a copy at
  twice the rate.

  Args:
    samples: [time, channels], NaN where missing.
    rate_hz: samples per second of the input.
    to_hz: samples per second of the result.

  Returns:
    [ceil(time * to_hz / rate_hz), channels] float32.

  Raises:
    DistillError: a rate is missing or not positive, or one is over 4096 times the other.
  """
  samples = check_samples(samples)
  rate_hz, to_hz = check_rate(rate_hz), check_rate(to_hz, "resampled signal")
  factor = to_hz / rate_hz
  if not 1 / _MAX_FACTOR <= factor <= _MAX_FACTOR:
    raise DistillError(
      f"cannot resample {rate_hz} Hz to {to_hz} Hz: one rate is over {_MAX_FACTOR} times the other;"
      " is it in Hz?"
    )
  ratio = fractions.Fraction(factor).limit_denominator(_MAX_FACTOR)
  rational = abs(float(ratio) / factor - 1) <= 1e-9 and ratio.numerator <= _MAX_FACTOR
  if rational and ratio == 1:
    return np.where(np.isfinite(samples), samples, np.float32(np.nan))
  observed = np.isfinite(samples)
  filled = fill_gaps(samples, observed).astype(np.float64)
  if rational:
    result = _polyphase(filled, ratio)
  else:
    rough = fractions.Fraction(factor).limit_denominator(_ROUGH_FACTOR)
    count = int(np.ceil(len(samples) * factor * (1 - 1e-12)))
    result = _read_between(_polyphase(filled, rough), np.arange(count) * (float(rough) / factor))
  nearest = np.floor(np.arange(len(result)) / factor + 0.5 + _ROUNDING).astype(int)
  result[~observed[nearest.clip(max=len(samples) - 1)]] = np.nan
  return result.astype(np.float32)


def _polyphase(values: np.ndarray, ratio: fractions.Fraction) -> np.ndarray:
  """[time, channels] at `ratio` times the rate."""
  if ratio == 1:
    return values
  # Outside the data the filter reads zeros: a line from end to end is taken out, and put back.
  count = -(-len(values) * ratio.numerator // ratio.denominator)
  slope = (values[-1] - values[0]) / max(len(values) - 1, 1)
  line, result_line = (
    values[0] + slope * (np.arange(n) / step)[:, None]
    for n, step in ((len(values), 1), (count, float(ratio)))
  )
  passed = scipy_signal.resample_poly(
    values - line, ratio.numerator, ratio.denominator, axis=0, window=_resampling_filter(ratio)
  )
  return cast(np.ndarray, result_line + passed)


def _read_between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
  """[time, channels] read at the positions `at` [n], counted in samples; the ends are held."""
  fine = _polyphase(values, fractions.Fraction(2))
  columns = [
    ndimage.map_coordinates(column, [2 * at], order=5, mode="nearest") for column in fine.T
  ]
  return np.stack(columns, axis=1)


@functools.lru_cache
def _resampling_filter(ratio: fractions.Fraction) -> np.ndarray:
  """Low-pass at the lower of the two Nyquist rates.

  SciPy's default leaves a ripple of 0.3 thousandths of a constant at the images of 0 Hz: of gravity
  that is 0.3 mg, as much as a heart beat moves a wrist. This one leaves 0.002 mg.
  """
  slower = max(ratio.numerator, ratio.denominator)
  taps = 2 * _RESAMPLING_REACH * slower + 1
  return cast(np.ndarray, scipy_signal.firwin(taps, 1 / slower, window=("kaiser", 10.0)))


def window_starts(start_s: float, stop_s: float, window_s: float, hop_s: float) -> np.ndarray:
  """Start times of every complete window in [start_s, stop_s).

  n = 1 + floor((stop - start - window) / hop), none when the stretch is shorter than a window.

  Returns:
    [n] float64 seconds.

  Raises:
    DistillError: window or hop is not positive.
  """
  if not window_s > 0 or not hop_s > 0:
    raise DistillError(f"window_s and hop_s must be positive, got {window_s} and {hop_s}")
  n = 1 + int(np.floor((stop_s - start_s - window_s) / hop_s + _ROUNDING))
  return start_s + hop_s * np.arange(max(n, 0), dtype=np.float64)


def cut(samples: np.ndarray, rate_hz: float, t0_s: float, window_s: float) -> np.ndarray:
  """One window of a signal at its working rate, read at the nearest sample.

  The window starts at most half a sample from `t0_s`. What lies outside the data is NaN.

  Args:
    samples: [time, channels]; sample 0 lies at second 0.
    rate_hz: samples per second.
    t0_s: start of the window, seconds after sample 0 (may be negative).
    window_s: length, seconds.

  Returns:
    [round(rate_hz * window_s), channels], a copy.
  """
  first = int(np.floor(t0_s * rate_hz + 0.5 + _ROUNDING))
  count = round(rate_hz * window_s)
  window = np.full((count, samples.shape[1]), np.nan, samples.dtype)
  start, stop = max(first, 0), min(first + count, len(samples))
  if start < stop:
    window[start - first : stop - first] = samples[start:stop]
  return window


def band_pass(
  samples: np.ndarray,
  rate_hz: float,
  band_hz: tuple[float, float],
  band_filter: str = "butterworth2",
) -> np.ndarray:
  """Zero-phase band-pass in second-order sections, along time of finite [..., time, channels].

  "butterworth2" falls by 24 dB per octave on either side, "butterworth3" by 36. "pyppg" is what
  the pyPPG toolbox does to PPG (1.0.41, `preproc.Preprocess`): Chebyshev type II, order 4, 20 dB,
  then, from 75 Hz on, a moving average over 50 ms, both forwards and backwards. pyPPG writes the
  filter as one fraction of polynomials, which is numerically unstable from 500 Hz on.

  The signal is mirrored (odd) at both ends by one period of the lower edge, as far as it is long
  enough, so that the slow edge of the band settles outside the data. The result is float64.
  """
  sos = band_sections(rate_hz, tuple(band_hz), band_filter)
  padding = min(samples.shape[-2] - 1, round(rate_hz / band_hz[0]))
  samples = samples.astype(np.float64)
  passed = cast(np.ndarray, scipy_signal.sosfiltfilt(sos, samples, axis=-2, padlen=padding))
  taps = average_taps(rate_hz, band_filter)
  if not taps:
    return passed
  average = np.full(taps, 1 / taps)
  padding = min(samples.shape[-2] - 1, 3 * taps)
  return cast(np.ndarray, scipy_signal.filtfilt(average, 1.0, passed, axis=-2, padlen=padding))


def average_taps(rate_hz: float, band_filter: str) -> int:
  """Samples of the moving average that follows the band; 0 for none."""
  return round(0.05 * rate_hz) if band_filter == "pyppg" and rate_hz >= 75 else 0


@functools.lru_cache
def band_sections(rate_hz: float, band_hz: tuple[float, float], band_filter: str) -> np.ndarray:
  """[sections, 6]; kept, because designing a filter takes longer than passing a window through."""
  if band_filter == "pyppg":
    sections = scipy_signal.cheby2(4, 20, band_hz, "bandpass", fs=rate_hz, output="sos")
  else:
    order = BUTTERWORTH_ORDER[band_filter]
    sections = scipy_signal.butter(order, band_hz, "bandpass", fs=rate_hz, output="sos")
  return cast(np.ndarray, sections)


def preprocess(window: np.ndarray, mask: np.ndarray, spec: SignalSpec) -> np.ndarray:
  """The one per-window preprocessing: bridge gaps, band-pass, normalise, zero what is missing.

  The result depends on this window alone, never on its neighbours, so that offline, live and
  exported use agree.

  Args:
    window: [..., time, channels] at `spec.rate_hz` and in `spec.unit`.
    mask: bool, same shape; True = observed. Samples that are not finite count as missing as well.
    spec: `band_hz`, `normalisation` and `sd_floor` are used here.

  Returns:
    [..., time, channels] float32, finite; zero wherever a sample is missing.

  Raises:
    DistillError: the shapes differ from each other or from the spec's (time, channels).
  """
  window, mask = np.asarray(window), np.asarray(mask)
  if window.shape[-2:] != spec.shape or mask.shape != window.shape:
    raise DistillError(
      f"{spec.modality} window has shape {window.shape} and mask {mask.shape}; expected"
      f" [..., {spec.shape[0]}, {spec.shape[1]}] for {spec.window_s:g} s at {spec.rate_hz:g} Hz"
    )
  observed = mask.astype(bool, copy=False) & np.isfinite(window)
  values = window.astype(np.float64)
  if spec.band_hz is not None:  # nothing else looks at missing samples
    values = fill_gaps(values, observed)
    values = band_pass(values, spec.rate_hz, spec.band_hz, spec.band_filter)
  values = _normalise(values, observed, spec)
  return np.where(observed, values, 0.0).astype(np.float32)


def _normalise(values: np.ndarray, observed: np.ndarray, spec: SignalSpec) -> np.ndarray:
  if spec.normalisation == "none":
    return values
  count = np.maximum(_count(observed)[..., None, :], 1)
  centred = values - np.where(observed, values, 0.0).sum(-2, keepdims=True) / count
  if spec.normalisation == "gravity":
    return centred
  variance = np.where(observed, centred**2, 0.0).sum(-2, keepdims=True) / count
  return cast(np.ndarray, centred / np.maximum(np.sqrt(variance), spec.sd_floor))


def to_windows(
  samples: np.ndarray, rate_hz: float, spec: SignalSpec, hop_s: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A raw recording to the windows an encoder takes: resample, cut, preprocess.

  Args:
    samples: [time, channels] in `spec.unit`, NaN where missing, any length from one window on.
    rate_hz: its samples per second.
    spec: of the encoder.
    hop_s: seconds from one window to the next; None = `spec.window_s` (no overlap).

  Returns:
    windows [n, time, channels] float32, mask [n, time, channels] bool (True = observed), and start
    times t0_s [n] float64 after the first sample.

  Raises:
    DistillError: no rate, channels that differ from the spec's, or less than one window of data.
  """
  rate_hz = check_rate(rate_hz, f"{spec.modality} recording")
  samples = check_samples(samples, f"{spec.modality} recording")
  if samples.shape[1] != len(spec.channels):
    raise DistillError(
      f"the {spec.modality} recording has {samples.shape[1]} channels; expected"
      f" {len(spec.channels)}: {', '.join(spec.channels)}"
    )
  length_s = len(samples) / rate_hz
  t0_s = window_starts(0.0, length_s, spec.window_s, spec.window_s if hop_s is None else hop_s)
  if not len(t0_s):
    raise DistillError(
      f"the {spec.modality} recording is {length_s:g} s long ({len(samples)} samples at {rate_hz:g}"
      f" Hz), shorter than one window of {spec.window_s:g} s; is rate_hz right?"
    )
  even = resample(samples, rate_hz, spec.rate_hz)
  windows = np.stack([cut(even, spec.rate_hz, t0, spec.window_s) for t0 in t0_s])
  mask = np.isfinite(windows)
  return preprocess(windows, mask, spec), mask, t0_s
