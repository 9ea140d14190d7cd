"""Beats -> RR intervals -> heart rate and its variability, each value with its validity.

R peaks are neurokit2's and pulses are found by its rule; what is ours is finding peaks between
samples, throwing out beats that cannot be trusted, and saying when a window gives no label.
Intervals are normal-to-normal, and differences never bridge a removed beat. From PPG the
variability is that of pulses, and its origin is written down as "ppg".
"""

import dataclasses
import warnings

import numpy as np
from scipy import ndimage
from scipy import signal as scipy_signal

from distill import signals
from distill.data.recording import Beats, HeartRateTrack
from distill.errors import DistillError

RR_RANGE_MS = (250.0, 2500.0)
MEDIAN_INTERVALS = 11  # an interval is compared with the median of this many around it
MAX_DEVIATION = 0.2  # share of that median; the 20 % rule for normal-to-normal intervals
MIN_PULSE_R = 0.7  # of a pulse with the average of its neighbours, below which it is no beat
PULSE_BAND_HZ = (0.5, 8.0)  # Elgendi et al. 2013, PLoS ONE 8(10): e76585
PULSE_HALF_S = 0.3  # half-width of the stretch around a peak that is called its pulse
PULSE_NEIGHBOURS = 21
ALIGN_S = 0.06  # farthest that a pulse is moved to fit its neighbours
LEVEL_S = 8.0  # stretch over which the PPG is brought to one level before detection
MIN_HR_COVERAGE, MIN_HR_INTERVALS = 0.5, 3
MIN_HRV_COVERAGE, MIN_HRV_INTERVALS = 0.8, 10
STATIONARY_S, STATIONARY_BPM = 15.0, 8.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One number read from beats.

  Attributes:
    value: in the unit that its name says; NaN where it could not be computed.
    valid: whether there were enough beats for it to be a label.
    n_beats: normal-to-normal intervals (or short reference windows) it rests on.
    coverage: share of the window that these cover.
  """

  value: float
  valid: bool
  n_beats: int
  coverage: float


@dataclasses.dataclass(frozen=True)
class Labels:
  """What one window's beats say: heart rate in bpm, variability in ms, pnn50 in percent."""

  hr_bpm: Estimate
  sdnn_ms: Estimate
  rmssd_ms: Estimate
  sdnn_detrended_ms: Estimate
  pnn50: Estimate


# --- intervals ------------------------------------------------------------------------------------


def check_rr_ms(rr_ms: np.ndarray) -> np.ndarray:
  """The intervals as float64.

  Raises:
    DistillError: not one-dimensional, or a median outside 250-2500 ms.
  """
  rr_ms = np.asarray(rr_ms, np.float64)
  if rr_ms.ndim != 1:
    raise DistillError(f"rr_ms has shape {rr_ms.shape}; expected [intervals]")
  finite = rr_ms[np.isfinite(rr_ms)]
  outside = (finite < RR_RANGE_MS[0]) | (finite > RR_RANGE_MS[1])
  # The median is looked at where it can matter: it costs more than all the rest of a label.
  if outside.any() and not RR_RANGE_MS[0] <= np.median(finite) <= RR_RANGE_MS[1]:
    raise DistillError(
      f"the median of rr_ms is {np.median(finite):.4g}; expected {RR_RANGE_MS[0]:g} to"
      f" {RR_RANGE_MS[1]:g} ms between beats; were seconds, sample counts or a waveform passed?"
    )
  return rr_ms


def _normal(rr_ms: np.ndarray, normal: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """(rr_ms float64, bool mask of the intervals that count)."""
  rr_ms = check_rr_ms(rr_ms)
  inside = (rr_ms >= RR_RANGE_MS[0]) & (rr_ms <= RR_RANGE_MS[1])
  if normal is None:
    return rr_ms, inside
  normal = np.asarray(normal, bool)
  if normal.shape != rr_ms.shape:
    raise DistillError(f"normal has shape {normal.shape}; expected that of rr_ms, {rr_ms.shape}")
  return rr_ms, inside & normal


def _differences(rr_ms: np.ndarray, normal: np.ndarray | None) -> np.ndarray:
  """Differences of intervals that follow each other directly and are both normal."""
  rr_ms, keep = _normal(rr_ms, normal)
  return np.diff(rr_ms)[keep[1:] & keep[:-1]]


def hr_bpm(rr_ms: np.ndarray, normal: np.ndarray | None = None) -> float:
  """Heart rate, 60000 / mean interval.

  Args:
    rr_ms: [intervals] in their order, none left out; milliseconds.
    normal: [intervals] bool, False for intervals that do not count. Intervals outside 250-2500 ms
      never count.

  Returns:
    Beats per minute; NaN without a normal interval.

  Raises:
    DistillError: see `check_rr_ms`.
  """
  rr_ms, keep = _normal(rr_ms, normal)
  return float(60000.0 / rr_ms[keep].mean()) if keep.any() else float("nan")


def sdnn_ms(rr_ms: np.ndarray, normal: np.ndarray | None = None) -> float:
  """Standard deviation (ddof 1) of normal intervals, ms; arguments as in `hr_bpm`."""
  rr_ms, keep = _normal(rr_ms, normal)
  return float(rr_ms[keep].std(ddof=1)) if keep.sum() > 1 else float("nan")


def sdnn_detrended_ms(
  rr_ms: np.ndarray, normal: np.ndarray | None = None, end_ms: np.ndarray | None = None
) -> float:
  """`sdnn_ms` after a straight line over time is taken out: a ramp of heart rate has none.

  Args:
    rr_ms: as in `hr_bpm`.
    normal: as in `hr_bpm`.
    end_ms: [intervals] when each ends, on any clock; None = `rr_ms` says how long each of them
      took, those that do not count as well.
  """
  rr_ms, keep = _normal(rr_ms, normal)
  if keep.sum() < 3:
    return float("nan")
  time = (np.cumsum(rr_ms) if end_ms is None else end_ms)[keep]
  if not np.isfinite(time).all():
    raise DistillError("rr_ms holds NaN before an interval that counts; give end_ms beside it")
  time, kept = time - time.mean(), rr_ms[keep] - rr_ms[keep].mean()
  return float((kept - time * (time @ kept) / (time @ time)).std(ddof=1))


def rmssd_ms(rr_ms: np.ndarray, normal: np.ndarray | None = None) -> float:
  """Root mean square of successive differences, ms; none bridges an interval left out."""
  differences = _differences(rr_ms, normal)
  return float(np.sqrt(np.mean(differences**2))) if len(differences) else float("nan")


def pnn50(rr_ms: np.ndarray, normal: np.ndarray | None = None) -> float:
  """Percentage of successive differences above 50 ms; same rules as `rmssd_ms`."""
  differences = _differences(rr_ms, normal)
  return float(100 * np.mean(np.abs(differences) > 50)) if len(differences) else float("nan")


# --- labels of a window ---------------------------------------------------------------------------


def intervals(beats: Beats, start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray]:
  """Intervals between the beats inside [start_s, stop_s): (rr_ms, normal), both [intervals].

  An interval is normal when both of its beats are and it lies within 250-2500 ms.
  """
  first, last = np.searchsorted(beats.times_s, (start_s, stop_s))
  rr_ms = 1000.0 * np.diff(beats.times_s[first:last])
  good = np.asarray(beats.normal[first:last], bool)
  inside = (rr_ms >= RR_RANGE_MS[0]) & (rr_ms <= RR_RANGE_MS[1])
  return rr_ms, good[1:] & good[:-1] & inside


def labels(beats: Beats, t0_s: float, window_s: float) -> Labels:
  """Labels of one window.

  Heart rate needs normal intervals over half of the window; variability needs 80 % of it.

  Args:
    beats: of the whole recording.
    t0_s: start of the window on the clock of the beats, seconds.
    window_s: length, seconds.
  """
  rr_ms, normal = intervals(beats, t0_s, t0_s + window_s)
  end_ms = np.cumsum(rr_ms)
  # Intervals that do not count may be anything; only their place is needed from here on.
  rr_ms = np.where(normal, rr_ms, np.nan)
  heart_rate = _heart_rate(rr_ms, normal, window_s)
  n, coverage = heart_rate.n_beats, heart_rate.coverage
  enough = coverage >= MIN_HRV_COVERAGE and n >= MIN_HRV_INTERVALS

  def estimate(function, *more: np.ndarray) -> Estimate:
    value = function(rr_ms, normal, *more) if n else float("nan")
    return Estimate(value, bool(enough and np.isfinite(value)), n, coverage)

  return Labels(
    hr_bpm=heart_rate,
    sdnn_ms=estimate(sdnn_ms),
    rmssd_ms=estimate(rmssd_ms),
    sdnn_detrended_ms=estimate(sdnn_detrended_ms, end_ms),
    pnn50=estimate(pnn50),
  )


def _heart_rate(rr_ms: np.ndarray, normal: np.ndarray, window_s: float) -> Estimate:
  kept = rr_ms[normal]
  coverage = float(kept.sum() / (1000.0 * window_s))
  valid = coverage >= MIN_HR_COVERAGE and len(kept) >= MIN_HR_INTERVALS
  value = float(60000.0 / kept.mean()) if len(kept) else float("nan")
  return Estimate(value, valid, len(kept), coverage)


def track_hr(track: HeartRateTrack, t0_s: float, window_s: float) -> Estimate:
  """Heart rate of a window from reference values in short windows.

  The mean of the short windows that lie wholly inside: 27 of 8 s / 2 s for one of 60 s. Valid when
  80 % of those that fit are there and finite.
  """
  inside = track.t0_s >= t0_s - 1e-6
  inside &= track.t0_s + track.window_s <= t0_s + window_s + 1e-6
  values = track.hr_bpm[inside]
  values = values[np.isfinite(values)].astype(np.float64)
  step_s = float(np.median(np.diff(track.t0_s))) if len(track.t0_s) > 1 else track.window_s
  expected = 1 + np.floor((window_s - track.window_s) / step_s + 1e-6)
  coverage = float(min(len(values) / expected, 1.0)) if expected >= 1 else 0.0
  value = float(values.mean()) if len(values) else float("nan")
  return Estimate(value, coverage >= MIN_HRV_COVERAGE, len(values), coverage)


def is_stationary(reference: Beats | HeartRateTrack, t0_s: float, window_s: float) -> bool:
  """Whether the heart rate of the last 15 s lies within 8 bpm of that of the first 15 s.

  False as well where either end has no valid heart rate, or the window is shorter than 30 s.
  """
  if window_s < 2 * STATIONARY_S:
    return False
  starts = (t0_s, t0_s + window_s - STATIONARY_S)
  if isinstance(reference, HeartRateTrack):
    ends = [track_hr(reference, start, STATIONARY_S) for start in starts]
  else:
    spans = [intervals(reference, start, start + STATIONARY_S) for start in starts]
    ends = [_heart_rate(rr_ms, normal, STATIONARY_S) for rr_ms, normal in spans]
  return all(end.valid for end in ends) and abs(ends[1].value - ends[0].value) <= STATIONARY_BPM


# --- detection ------------------------------------------------------------------------------------


def refine_peaks(signal: np.ndarray, peaks: np.ndarray) -> np.ndarray:
  """Peak positions between samples, by the parabola through three neighbours.

  Args:
    signal: [..., time].
    peaks: [..., peaks] int positions of local maxima.

  Returns:
    [..., peaks] float64 positions in samples, each within half a sample of the given one.
  """
  peaks = np.asarray(peaks, int)
  middle = peaks.clip(1, signal.shape[-1] - 2)
  left, top, right = (
    np.take_along_axis(signal, middle + step, axis=-1).astype(np.float64) for step in (-1, 0, 1)
  )
  curvature = left - 2 * top + right
  shift = np.where(curvature < 0, 0.5 * (left - right) / np.where(curvature < 0, curvature, 1), 0.0)
  return np.where(peaks == middle, peaks + shift.clip(-0.5, 0.5), peaks)


def regular(times_s: np.ndarray) -> np.ndarray:
  """[beats] bool: beats whose intervals on both sides agree with the local median.

  An interval off by more than 20 % of the median of the 11 around it, or outside 250-2500 ms,
  spoils both of its beats.
  """
  if len(times_s) < 3:
    return np.zeros(len(times_s), bool)
  rr_ms = 1000.0 * np.diff(times_s)
  median = ndimage.median_filter(rr_ms, size=MEDIAN_INTERVALS, mode="nearest")
  good = np.abs(rr_ms - median) <= MAX_DEVIATION * median
  good &= (rr_ms >= RR_RANGE_MS[0]) & (rr_ms <= RR_RANGE_MS[1])
  return np.r_[True, good] & np.r_[good, True]


def pulses(ppg: np.ndarray, rate_hz: float, times_s: np.ndarray) -> np.ndarray:
  """[beats, points] unit-norm, zero-mean pulse shapes around each peak of a band-passed [time]."""
  offsets = np.arange(-round(PULSE_HALF_S * rate_hz), round(PULSE_HALF_S * rate_hz) + 1)
  at = (times_s[:, None] * rate_hz + offsets).clip(0, len(ppg) - 1)
  left = np.minimum(at.astype(int), len(ppg) - 2)
  low = ppg[left]
  shapes = low + (at - left) * (ppg[left + 1] - low)
  shapes -= shapes.mean(1, keepdims=True)
  return shapes / np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-12)


def pulse_correlation(ppg: np.ndarray, rate_hz: float, times_s: np.ndarray) -> np.ndarray:
  """[beats] correlation of each pulse with the average shape of the 21 around it.

  Args:
    ppg: [time] band-passed.
    rate_hz: its samples per second.
    times_s: [beats] peaks, seconds after sample 0.
  """
  if not len(times_s):
    return np.zeros(0)
  shapes = pulses(ppg, rate_hz, times_s)
  template = ndimage.uniform_filter1d(shapes, PULSE_NEIGHBOURS, axis=0, mode="nearest")
  norm = np.linalg.norm(template, axis=1)
  return (shapes * template).sum(1) / np.maximum(norm, 1e-12)


def clean_ppg(ppg: np.ndarray, rate_hz: float) -> np.ndarray:
  """Band-passed (0.5-8 Hz) [time] float64 of one PPG channel, gaps bridged."""
  column = np.asarray(ppg, np.float64).reshape(-1, 1)
  filled = signals.fill_gaps(column, np.isfinite(column))
  return signals.band_pass(filled, rate_hz, PULSE_BAND_HZ)[:, 0]


def detect_ppg(ppg: np.ndarray, rate_hz: float, clean: np.ndarray | None = None) -> Beats:
  """Pulse beats of a PPG recording of either polarity.

  Elgendi's detector (`systolic_peaks`) on the band-passed signal, brought to one level over 8 s
  first: its threshold is a mean over the whole recording, which one burst of motion would lift
  above every beat at rest. Devices differ in polarity; the systolic side is the narrow one, so it
  is the side away from the median. Beats that are irregular, shaped unlike their neighbours or next
  to a gap are kept with `normal` False.

  Args:
    ppg: [time] at `rate_hz`, NaN where missing.
    rate_hz: samples per second.
    clean: [time] `clean_ppg` of it, where the caller has it already.

  Returns:
    Beats in seconds after the first sample; none in a constant or missing signal.
  """
  clean = clean_ppg(ppg, rate_hz) if clean is None else clean
  level = np.sqrt(ndimage.uniform_filter1d(clean**2, max(round(LEVEL_S * rate_hz), 1)).clip(min=0))
  if len(clean) < LEVEL_S * rate_hz or not level.max() > 1e-9:
    return _beats(np.zeros(0), np.zeros(0, bool), "ppg")
  even = clean / np.maximum(level, 1e-3 * level.max())
  upright = even if np.median(even) <= 0 else -even
  peaks = systolic_peaks(upright, rate_hz)
  times_s = refine_peaks(upright, peaks) / rate_hz
  alike = pulse_correlation(clean, rate_hz, times_s) >= MIN_PULSE_R
  seen = _observed_around(ppg, rate_hz, times_s)
  return _beats(times_s, regular(times_s) & alike & seen, "ppg")


def aligned(pulse: Beats, clean: np.ndarray, rate_hz: float) -> Beats:
  """The same pulses read a second time: where each fits the average of its neighbours best.

  A peak is three samples, this is the whole wave: noise moves the two differently, so what two
  labels differ by tells the error of either.

  Args:
    pulse: of `detect_ppg`, seconds after the first sample.
    clean: [time] `clean_ppg` of the same signal.
    rate_hz: its samples per second.

  Returns:
    One beat for each of `pulse`, at most `ALIGN_S` from it; not `normal` where that one is not, or
    where the interval to a neighbour is out of line.
  """
  if not len(pulse.times_s):
    return pulse
  shapes = pulses(clean, rate_hz, pulse.times_s)
  template = ndimage.uniform_filter1d(shapes, PULSE_NEIGHBOURS, axis=0, mode="nearest")
  lags = np.arange(-round(ALIGN_S * rate_hz), round(ALIGN_S * rate_hz) + 1)
  moved = [pulses(clean, rate_hz, pulse.times_s + lag / rate_hz) for lag in lags]
  fit = np.stack([(shape * template).sum(1) for shape in moved], axis=1)
  best = refine_peaks(fit, fit.argmax(1, keepdims=True))[:, 0]
  times_s = pulse.times_s + (best + lags[0]) / rate_hz
  return _beats(times_s, pulse.normal & regular(times_s), pulse.origin)


def systolic_peaks(clean: np.ndarray, rate_hz: float) -> np.ndarray:
  """Systolic peaks of an upright band-passed PPG [time], as [peaks] int positions.

  The method of Elgendi et al. 2013 (PLoS ONE 8(10): e76585), sample for sample what neurokit2's
  `ppg_findpeaks(method="elgendi")` returns. That one measures the prominence of every wave of a
  recording, which took half of the time of preparing it; here only waves of several maxima are.
  """
  power = np.square(clean.clip(min=0))
  peak_length, beat_length = (round(seconds * rate_hz) for seconds in (0.111, 0.667))
  threshold = _average(power, beat_length) + 0.02 * power.mean()
  wave = _average(power, peak_length) > threshold
  begins, ends = (np.flatnonzero(edge) for edge in (~wave[:-1] & wave[1:], wave[:-1] & ~wave[1:]))
  if not len(begins):
    return np.zeros(0, int)
  ends = ends[ends > begins[0]]
  begins = begins[: len(ends)]
  long = ends - begins >= peak_length
  rising, flat = np.diff(clean) > 0, np.diff(clean) == 0
  maxima = np.flatnonzero(rising[:-1] & ~rising[1:]) + 1
  plateaus = np.r_[0, np.cumsum(flat)]
  found, last = [], 0
  first, stop = np.searchsorted(maxima, (begins[long] + 1, ends[long] - 1))
  for begin, end, i, j in zip(begins[long], ends[long], first, stop, strict=True):
    if plateaus[end - 1] != plateaus[begin] or j - i > 1:
      inside, shape = scipy_signal.find_peaks(clean[begin:end], prominence=(None, None))
      if not len(inside):
        continue
      peak = int(begin + inside[np.argmax(shape["prominences"])])
    elif j > i:
      peak = int(maxima[i])
    else:
      continue
    if peak - last > round(0.3 * rate_hz):
      found.append(peak)
      last = peak
  return np.array(found, int)


def _average(values: np.ndarray, length: int) -> np.ndarray:
  mean: np.ndarray = ndimage.uniform_filter1d(values, max(length, 1), mode="nearest")
  return mean


def _observed_around(signal: np.ndarray, rate_hz: float, times_s: np.ndarray) -> np.ndarray:
  """[beats] bool: no sample is missing within a pulse of the peak."""
  missing = np.r_[0, np.cumsum(~np.isfinite(np.asarray(signal).reshape(-1)))]
  first = np.floor((times_s - PULSE_HALF_S) * rate_hz).astype(int).clip(0, len(missing) - 1)
  last = np.ceil((times_s + PULSE_HALF_S) * rate_hz).astype(int).clip(0, len(missing) - 1)
  return missing[last] == missing[first]


def detect_ecg(ecg: np.ndarray, rate_hz: float) -> Beats:
  """R peaks of a single-lead ECG [time] (neurokit2's own detector).

  Irregular ones are not `normal`, nor are those beside missing samples: where a gap hides the R
  peak, the P wave before it is found in its place, at nearly the right time.

  Returns:
    Beats in seconds after the first sample; none in a constant signal.
  """
  import neurokit2  # slow to import

  column = np.asarray(ecg, np.float64).reshape(-1, 1)
  filled = signals.fill_gaps(column, np.isfinite(column))[:, 0]
  if np.ptp(filled) < 1e-12:
    return _beats(np.zeros(0), np.zeros(0, bool), "ecg")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about stretches without peaks: they become missing labels
    clean = neurokit2.ecg_clean(filled, sampling_rate=rate_hz, method="neurokit")
    found = neurokit2.ecg_findpeaks(clean, sampling_rate=rate_hz, method="neurokit")
  times_s = refine_peaks(clean, found["ECG_R_Peaks"]) / rate_hz
  return _beats(times_s, regular(times_s) & _observed_around(ecg, rate_hz, times_s), "ecg")


def _beats(times_s: np.ndarray, normal: np.ndarray, origin: str) -> Beats:
  return Beats(np.asarray(times_s, np.float64), np.asarray(normal, bool), origin)


def shifted(beats: Beats, by_s: float) -> Beats:
  """The same beats on a clock that reads `by_s` more."""
  return dataclasses.replace(beats, times_s=beats.times_s + by_s)
