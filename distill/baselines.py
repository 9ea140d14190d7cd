"""What a reader would try first: motion statistics, the clock, and plain signal processing.

Every neural result stands beside these. All functions take many windows at once, accept NaN where
samples are missing, use no labels of the people they are applied to, and always give a finite
answer, so that no rival gains by declining the hard windows.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import fft, signal

from distill import signals
from distill.errors import DistillError

# Rates that count as a human pulse, beats per minute.
HR_BAND_BPM = (40.0, 180.0)
MOTION_BANDS_HZ = (0.1, 0.3, 0.7, 1.5, 3.0, 5.0, 8.0, 12.0, 20.0)
CADENCE_BAND_HZ = (1.0, 3.5)
# Beat-locked vibration of the wrist as BioWatch isolates it (Hernandez, McDuff, Picard 2015).
VIBRATION_BAND_HZ = (4.0, 11.0)
PULSE_BAND_HZ = (0.6, 5.0)
_SEGMENTS = 6
_SEGMENT_S = 15.0
# Of the traced curve, ours: rate of the envelope, stretches, farthest move and its price a bpm.
_CURVE_HZ, _CURVE_S, _CURVE_HOP_S = 12.5, 10.0, 2.0
_CURVE_REACH_BPM, _CURVE_PENALTY = 6, 0.3
_BATCH = 128  # windows processed at once, which bounds the memory
_FLOOR_G = 1e-5


def motion_features(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Motion context of each window: how much, how fast, in which direction, when.

  The columns: log SD in eight bands; log SD in six consecutive parts of the window (heart rate
  follows motion with a lag); per axis the mean, log SD and log SD of the jerk; size and direction
  of gravity; 10th, 50th and 90th percentile of the vector magnitude; cadence in Hz and its share
  of the 1-3.5 Hz power; share of samples observed.

  Args:
    acc: [n, time, 3] g, gravity included; NaN where missing.
    rate_hz: samples per second.

  Returns:
    [n, 33] float32, finite.

  Raises:
    DistillError: not [n, time, 3], or rate_hz not positive.
  """
  _check(acc, rate_hz, channels=3)
  return np.concatenate([_motion(part, rate_hz) for part in _batches(acc)]).astype(np.float32)


def _motion(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  observed = np.isfinite(acc).mean(axis=(1, 2))[:, None]
  acc = _filled(acc)
  mean = acc.mean(axis=1)
  gravity = np.linalg.norm(mean, axis=1, keepdims=True)
  moving = acc - mean[:, None, :]
  power, frequency = _spectrum(moving, rate_hz)
  magnitude = np.linalg.norm(acc, axis=2)
  parts = np.array_split(moving, _SEGMENTS, axis=1)
  columns = [
    *(_band_log_sd(power, frequency, band) for band in itertools.pairwise(MOTION_BANDS_HZ)),
    *(_log(np.sqrt(part.var(axis=1).sum(axis=1, keepdims=True))) for part in parts),
    mean,
    _log(moving.std(axis=1)),
    _log(np.diff(acc, axis=1).std(axis=1) * rate_hz),
    gravity,
    mean / np.maximum(gravity, _FLOOR_G),
    np.percentile(magnitude, [10, 50, 90], axis=1).T,
    *_cadence(power, frequency),
    observed,
  ]
  return np.concatenate(columns, axis=1)


def cadence_hz(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Strongest step frequency within CADENCE_BAND_HZ; arguments as in `motion_features`, [n] Hz."""
  _check(acc, rate_hz, channels=3)
  found = []
  for part in _batches(acc):
    filled = _filled(part)
    moving = filled - filled.mean(axis=1, keepdims=True)
    found.append(_cadence(*_spectrum(moving, rate_hz))[0][:, 0])
  return np.concatenate(found).astype(np.float32)


def _spectrum(moving: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
  """([n, frequency] power summed over axes, in g^2 per bin, [frequency] Hz)."""
  time = moving.shape[1]
  taper = signal.windows.hann(time, sym=False)
  transform = np.fft.rfft(moving * taper[None, :, None], axis=1)
  scale = 2 / (time * np.sum(taper**2))
  return scale * np.sum(np.abs(transform) ** 2, axis=2), np.fft.rfftfreq(time, 1 / rate_hz)


def _band_log_sd(power: np.ndarray, frequency: np.ndarray, band: tuple[float, float]) -> np.ndarray:
  """[n, 1]; the floor where the band lies above half of the sampling rate."""
  inside = (frequency >= band[0]) & (frequency < band[1])
  return _log(np.sqrt(power[:, inside].sum(axis=1, keepdims=True)))


def _cadence(power: np.ndarray, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """([n, 1] Hz of the strongest step frequency, [n, 1] its share of the band's power)."""
  inside = (frequency >= CADENCE_BAND_HZ[0]) & (frequency < CADENCE_BAND_HZ[1])
  band = power[:, inside]
  best = band.argmax(axis=1)[:, None]
  share = (
    np.take_along_axis(band, best, axis=1) / np.maximum(band.sum(axis=1), _FLOOR_G**2)[:, None]
  )
  return frequency[inside][best], share


def _log(amplitude_g: np.ndarray) -> np.ndarray:
  return np.log(np.maximum(amplitude_g, _FLOOR_G))


def session_clock(
  train_since_s: np.ndarray, train_values: np.ndarray, since_s: np.ndarray
) -> np.ndarray:
  """Mean of the target at that minute of the recording over the training people.

  A protocol that everybody follows tells the heart rate without any sensor.

  Args:
    train_since_s: [train] starts of the training windows, seconds since the start of their
      recording.
    train_values: [train] labels; NaN is left out.
    since_s: [n] starts of the windows to predict, likewise.

  Returns:
    [n] float64; the mean of all training labels in minutes that no training window has.

  Raises:
    DistillError: no training label.
  """
  known = np.isfinite(train_values)
  if not known.any():
    raise DistillError("the session clock has no labelled training window to read the time from")
  train_minute = np.floor(np.asarray(train_since_s)[known] / 60).astype(int)
  values = np.asarray(train_values, np.float64)[known]
  minutes, code = np.unique(train_minute, return_inverse=True)
  means = np.bincount(code, weights=values) / np.bincount(code)
  minute = np.floor(np.asarray(since_s) / 60).astype(int)
  at = np.clip(np.searchsorted(minutes, minute), 0, len(minutes) - 1)
  return np.where(minutes[at] == minute, means[at], values.mean())


def acc_heart_rate(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Heart rate from the envelope of the 4-11 Hz wrist vibration, no learning.

  Each axis is band-passed to 4-11 Hz, the axes are joined to a vector magnitude, and the strongest
  pulse-rate component of that envelope is the estimate.

  Args:
    acc: [n, time, 3] g; NaN where missing.
    rate_hz: samples per second; the band needs more than 22 Hz.

  Returns:
    [n] float64 bpm, finite, within HR_BAND_BPM.

  Raises:
    DistillError: wrong shape, or a rate too low for the band.

  Reference: Hernandez, McDuff, Picard, "BioWatch: estimation of heart and breathing rates from
  wrist motions", PervasiveHealth 2015. The search up to 180 bpm, for treadmills, is ours.
  """
  return np.concatenate([pulse_rate(part, rate_hz) for part in _envelopes(acc, rate_hz)])


def _envelopes(acc: np.ndarray, rate_hz: float) -> Iterator[np.ndarray]:
  """[some, time] magnitude of the 4-11 Hz vibration, a few windows at a time."""
  _check(acc, rate_hz, channels=3)
  if rate_hz <= 2 * VIBRATION_BAND_HZ[1]:
    raise DistillError(
      f"the 4-11 Hz envelope needs more than {2 * VIBRATION_BAND_HZ[1]:g} Hz, got {rate_hz:g} Hz"
    )
  for part in _batches(acc):
    yield np.linalg.norm(_band_pass(_filled(part), rate_hz, VIBRATION_BAND_HZ), axis=2)


def acc_jerk_heart_rate(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Heart rate from the size of the jerk, no learning and no filter.

  Args:
    acc: [n, time, 3] g; NaN where missing.
    rate_hz: samples per second.

  Returns:
    [n] float64 bpm, finite, within HR_BAND_BPM.

  Raises:
    DistillError: wrong shape or rate.
  """
  _check(acc, rate_hz, channels=3)
  sizes = (np.linalg.norm(np.diff(_filled(part), axis=1), axis=2) for part in _batches(acc))
  return np.concatenate([pulse_rate(size, rate_hz) for size in sizes])


def acc_curve_heart_rate(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """Mean of the heart-rate curve traced through the spectrogram of the vibration's envelope.

  A weak pulse loses many single stretches to noise, but noise does not follow a curve. Among all
  curves that move by at most `_CURVE_REACH_BPM` from one stretch of 10 s to the next, 2 s later,
  dynamic programming takes the one with the largest sum of log power less a penalty on its moves.

  Args:
    acc: [n, time, 3] g; NaN where missing.
    rate_hz: samples per second; the band needs more than 22 Hz.

  Returns:
    [n] float64 bpm, finite, within HR_BAND_BPM. Without any vibration the middle of the band.

  Raises:
    DistillError: wrong shape, or a rate too low for the band.

  Reference: the tracing is that of Nightbeat (arXiv 2411.00731) in kind; envelope, stretches, reach
  and penalty are ours, and fixed before any result was seen.
  """
  return np.concatenate([_traced(part, rate_hz) for part in _envelopes(acc, rate_hz)])


def _traced(envelope: np.ndarray, rate_hz: float) -> np.ndarray:
  """[n, time] envelopes -> [n] bpm, the mean of each one's curve."""
  # Twice the highest pulse rate is 6 Hz: means over a few samples keep all that is looked at.
  few = max(1, int(rate_hz / _CURVE_HZ))
  count = envelope.shape[1] // few
  slow, slow_hz = envelope[:, : count * few].reshape(-1, count, few).mean(axis=2), rate_hz / few
  segment = min(count, round(_CURVE_S * slow_hz))
  starts = range(0, count - segment + 1, max(1, round(_CURVE_HOP_S * slow_hz)))
  pieces = np.stack([slow[:, start : start + segment] for start in starts], axis=1)
  pieces = pieces - pieces.mean(axis=2, keepdims=True)
  size = round(60 * slow_hz)  # padded to a minute, one bin is one beat per minute
  taper = signal.windows.hann(segment, sym=False)
  power = np.abs(np.fft.rfft(pieces * taper[None, None, :], size, axis=2)) ** 2
  bpm = np.arange(round(HR_BAND_BPM[0]), round(HR_BAND_BPM[1]) + 1)
  index = np.round(bpm * size / (60 * slow_hz)).astype(int)
  combined = power[:, :, index] + 0.5 * power[:, :, 2 * index]
  total = combined.sum(axis=2, keepdims=True)
  share = np.divide(combined, total, out=np.full_like(combined, 1 / len(bpm)), where=total > 1e-30)
  curve = bpm[_best_path(np.log(share + 1e-6))].mean(axis=1)
  return np.where(np.any(total > 1e-30, axis=(1, 2)), curve, np.mean(HR_BAND_BPM))


def _best_path(score: np.ndarray) -> np.ndarray:
  """[n, steps, places] -> [n, steps] places of the path with the best sum, less its moves' penalty.

  Viterbi's algorithm for all rows at once; a path moves by at most the reach in one step.
  """
  n, steps, places = score.shape
  moves = np.arange(-_CURVE_REACH_BPM, _CURVE_REACH_BPM + 1)
  penalty = _CURVE_PENALTY * np.abs(moves)
  best, came = score[:, 0], np.zeros((n, steps, places), np.int64)
  for step in range(1, steps):
    padded = np.pad(best, ((0, 0), (_CURVE_REACH_BPM,) * 2), constant_values=-np.inf)
    options = np.stack([padded[:, k : k + places] for k in range(len(moves))], axis=2) - penalty
    pick = options.argmax(axis=2)
    came[:, step] = np.arange(places) + moves[pick]
    best = np.take_along_axis(options, pick[:, :, None], axis=2)[:, :, 0] + score[:, step]
  path = np.zeros((n, steps), np.int64)
  path[:, -1] = best.argmax(axis=1)
  for step in range(steps - 1, 0, -1):
    path[:, step - 1] = came[np.arange(n), step, path[:, step]]
  return path


def ppg_heart_rate(ppg: np.ndarray, rate_hz: float) -> np.ndarray:
  """Heart rate from the strongest pulse-rate component of the PPG, no learning.

  Nothing compensates motion: on a treadmill the arm's swing often wins, which is what this row of a
  table is there to show.

  Args:
    ppg: [n, time, 1] any unit and polarity; NaN where missing.
    rate_hz: samples per second.

  Returns:
    [n] float64 bpm, finite, within HR_BAND_BPM.

  Raises:
    DistillError: wrong shape or rate.
  """
  _check(ppg, rate_hz, channels=1)
  parts = (_band_pass(_filled(part), rate_hz, PULSE_BAND_HZ)[:, :, 0] for part in _batches(ppg))
  return np.concatenate([pulse_rate(part, rate_hz) for part in parts])


def pulse_rate(wave: np.ndarray, rate_hz: float) -> np.ndarray:
  """Strongest rate within HR_BAND_BPM: peak of the Welch spectrum, refined by a parabola.

  Segments of 15 s (half overlapping, Hann) follow a rate that drifts within the minute better than
  one transform of all of it; each segment is scaled to equal power, so that one burst of motion
  does not outvote the rest. The power at twice the rate counts for half, because a pulse has
  harmonics and hardly any power at half its rate.

  Args:
    wave: [n, time] finite.
    rate_hz: samples per second.

  Returns:
    [n] float64 bpm. A constant wave gives the middle of the band.
  """
  segment = min(wave.shape[1], round(_SEGMENT_S * rate_hz))
  starts = range(0, wave.shape[1] - segment + 1, max(segment // 2, 1))
  pieces = np.stack([wave[:, start : start + segment] for start in starts], axis=1)
  pieces = pieces - pieces.mean(axis=2, keepdims=True)
  sd = pieces.std(axis=2, keepdims=True)
  pieces = np.divide(pieces, sd, out=np.zeros_like(pieces), where=sd > 1e-12)
  size = fft.next_fast_len(4 * segment, real=True)
  taper = signal.windows.hann(segment, sym=False)
  power = np.mean(np.abs(np.fft.rfft(pieces * taper[None, None, :], size, axis=2)) ** 2, axis=1)
  step_bpm = 60 * rate_hz / size
  index = np.arange(int(np.ceil(HR_BAND_BPM[0] / step_bpm)), int(HR_BAND_BPM[1] / step_bpm) + 1)
  index = index[2 * index < power.shape[1]]
  combined = power[:, index] + 0.5 * power[:, 2 * index]
  flat = combined.max(axis=1) <= 0
  best = combined.argmax(axis=1)
  rate = step_bpm * (index[best] + _vertex(combined, best))
  return np.where(flat, np.mean(HR_BAND_BPM), np.clip(rate, *HR_BAND_BPM))


def _vertex(values: np.ndarray, best: np.ndarray) -> np.ndarray:
  """[n] offset in (-0.5, 0.5) of the parabola's top from the best column; 0 at the edges."""
  rows = np.arange(len(values))
  inner = np.clip(best, 1, values.shape[1] - 2)
  left, top, right = (values[rows, inner + k] for k in (-1, 0, 1))
  bend = left - 2 * top + right
  offset = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend < 0)
  return np.where(inner == best, np.clip(offset, -0.5, 0.5), 0.0)


def _filled(windows: np.ndarray) -> np.ndarray:
  """Finite float64 copy of [n, time, channels] windows in which NaN is missing."""
  return signals.fill_gaps(windows.astype(np.float64), np.isfinite(windows))


def _band_pass(wave: np.ndarray, rate_hz: float, band_hz: tuple[float, float]) -> np.ndarray:
  high = min(band_hz[1], 0.45 * rate_hz)
  sections = signal.butter(2, (band_hz[0], high), "bandpass", fs=rate_hz, output="sos")
  # The mean is taken out first, so that gravity leaves no transient at the edges.
  return signal.sosfiltfilt(sections, wave - wave.mean(axis=1, keepdims=True), axis=1)


def _batches(windows: np.ndarray) -> Iterator[np.ndarray]:
  return (windows[start : start + _BATCH] for start in range(0, len(windows), _BATCH))


def _check(windows: np.ndarray, rate_hz: float, channels: int) -> None:
  if np.ndim(windows) != 3 or windows.shape[2] != channels or not len(windows):
    raise DistillError(
      f"expected windows [n, time, {channels}] with n > 0, got shape {np.shape(windows)}"
    )
  if not rate_hz > 0:
    raise DistillError(f"rate_hz must be positive, got {rate_hz}")
