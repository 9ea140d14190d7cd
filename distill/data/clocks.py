"""Rows with time stamps -> one evenly sampled signal with its start, true rate and gaps as NaN.

Devices write rows twice, out of order, in bursts and with pauses, and their clocks run a little
fast or slow. What the stamps alone can tell is put right and counted; the rest is refused.
"""

import dataclasses

import numpy as np
from scipy import interpolate

from distill.data.recording import Signal
from distill.errors import DistillError

# Periods between neighbours from which on samples are missing, for a steady and a jittery clock.
GAP, JITTERY_GAP = 1.5, 2.5
LEAST_FITTED, STRAY = 100, 0.75
JITTER = 0.25  # of a period; a clock is steady when 95 % of the steps err by less
MAX_BACKWARDS_S = 10.0  # rows may arrive late by this; a longer way back is a clock set anew
MAX_BETWEEN = 0.5  # share of late rows that lie between others, where none was missing
MAX_DUPLICATES = 0.2  # share of rows beyond which stamps are those of bursts, not of samples
ON_GRID = 0.02  # share of a period within which a sample counts as being where the grid is
MAX_EMPTY = 20  # times the rows that a grid may be long; beyond it the stamps' unit is wrong
NOMINAL = 2e-3  # share by which the stamps' rate may differ from the declared one


@dataclasses.dataclass(frozen=True)
class Stamps:
  """What was found in the time stamps of a signal.

  Attributes:
    rate_hz: true samples per second between gaps.
    duplicates: rows that repeat an earlier row's time; left out.
    late: rows that stood after a later one; put in their place.
    gaps_s: [gaps, 2] start and stop of each stretch without samples, on the clock of the stamps.
  """

  rate_hz: float
  duplicates: int
  late: int
  gaps_s: np.ndarray


def even(
  times_s: np.ndarray,
  samples: np.ndarray,
  *,
  unit: str,
  where: str,
  rate_hz: float | None = None,
  first_row: int = 1,
) -> tuple[Signal, Stamps]:
  """An evenly sampled signal from stamped rows.

  Between gaps the device is taken to sample evenly, at the rate that the stamps have on average:
  jitter of the stamps up to half a period is noise of the stamps. Each stretch is then read at the
  grid's own times by a cubic spline, so that a device that pauses need not come back on the beat.
  Stretches whose stamps stray further are read at their stamps as they are.

  Args:
    times_s: [rows] seconds, on any clock.
    samples: [rows, channels], NaN where missing.
    unit: of the samples.
    where: what messages call the file.
    rate_hz: declared samples per second, if known; the stamps must agree with it within 0.2 %.
    first_row: number of the first row in the file, for messages.

  Returns:
    The signal (`start_s` = earliest stamp, NaN in gaps), and what was found.

  Raises:
    DistillError: a stamp that is no number, fewer than two rows, stamps that run back by over 10 s
      or over seconds that were there already, stamps of bursts, or a rate that is not the declared
      one.
  """
  times_s, samples = np.asarray(times_s, np.float64), np.asarray(samples, np.float32)
  _check(times_s, where, first_row)
  times_s, samples, late, duplicates = _in_order(times_s, samples, where, first_row)
  found_hz, breaks = _rate(times_s, where)
  if rate_hz is not None and abs(found_hz / rate_hz - 1) > max(NOMINAL, 2 / len(times_s)):
    raise DistillError(
      f"{where}: the time stamps say {found_hz:.5g} Hz, rate_hz says {rate_hz:g} Hz; correct"
      " rate_hz, or leave it out to take that of the stamps"
    )
  count = round((times_s[-1] - times_s[0]) * found_hz) + 1
  if count > MAX_EMPTY * len(times_s) + 1000:
    raise DistillError(
      f"{where}: {len(times_s)} rows spread over {times_s[-1] - times_s[0]:.4g} s at"
      f" {found_hz:.4g} Hz, nearly all of it empty; is time_unit right? if so,"
      " split the file at its pauses"
    )
  result = np.full((count, samples.shape[1]), np.nan, np.float32)
  for a, b in zip(np.r_[0, breaks], np.r_[breaks, len(times_s)], strict=True):
    _place(result, (times_s[a:b] - times_s[0]) * found_hz, samples[a:b])
  gaps_s = np.stack([times_s[breaks - 1], times_s[breaks]], axis=1)
  stamps = Stamps(found_hz, duplicates, late, gaps_s)
  return Signal(result, found_hz, float(times_s[0]), unit), stamps


def _check(times_s: np.ndarray, where: str, first_row: int) -> None:
  if len(times_s) < 2:
    raise DistillError(f"{where} has {len(times_s)} row(s) of data; expected two or more")
  bad = np.flatnonzero(~np.isfinite(times_s))
  if len(bad):
    raise DistillError(f"{where}, row {first_row + bad[0]}: the time is missing or no number")
  back_s = np.maximum.accumulate(times_s) - times_s
  worst = int(back_s.argmax())
  if back_s[worst] > MAX_BACKWARDS_S:
    first = int(np.flatnonzero(back_s > MAX_BACKWARDS_S)[0])
    raise _restart(f"{where}, row {first_row + first}", back_s[first])


def _restart(where: str, back_s: float) -> DistillError:
  return DistillError(
    f"{where}: time runs back by {back_s:.4g} s, as after a restart of the device or where two"
    " files were joined; split the file there, one entry of the manifest for each part"
  )


def _in_order(
  times_s: np.ndarray, samples: np.ndarray, where: str, first_row: int
) -> tuple[np.ndarray, np.ndarray, int, int]:
  """Rows sorted by time, the first of each time kept; how many were late, how many left out."""
  back_s = np.maximum.accumulate(times_s) - times_s
  late = int((back_s > 0).sum())
  steps_s = np.diff(times_s)
  period_s = np.median(steps_s[steps_s > 0]) if np.any(steps_s > 0) else 0.0
  order = np.argsort(times_s, kind="stable")
  stretch = np.r_[0, np.cumsum(steps_s < 0)][order]
  times_s, samples = times_s[order], samples[order]
  first = np.r_[True, np.diff(times_s) > 0]
  repeated = np.r_[False, ~first[1:] & _same(samples[1:], samples[:-1])]
  kept_s, kept_stretch = times_s[~repeated], stretch[~repeated]
  between = (np.diff(kept_s) < 0.6 * period_s) & (np.diff(kept_stretch) != 0)
  # Rows that are late fill holes; those of a device that began anew lie between those of before.
  if late and between.sum() > MAX_BETWEEN * late + 2:
    raise _restart(f"{where}, row {first_row + back_s.argmax()}", back_s.max())
  if (~first & ~repeated).mean() > MAX_DUPLICATES:
    raise DistillError(
      f"{where}: {(~first).mean():.0%} of the rows share their time with the row before, as when"
      " stamps are those of packets; give rate_hz and start instead of the time column"
    )
  return times_s[first], samples[first], late, int((~first).sum())


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[rows] bool: equal in every channel, NaN equal to NaN."""
  same: np.ndarray = ((a == b) | (np.isnan(a) & np.isnan(b))).all(-1)
  return same


def _rate(times_s: np.ndarray, where: str) -> tuple[float, np.ndarray]:
  """Samples per second outside gaps, and the rows [gaps] that stand after one."""
  if len(times_s) < 2:
    raise DistillError(f"{where}: all rows have the same time; expected a time for each sample")
  steps_s = np.diff(times_s)
  # Where stamps are rounded, the median of the steps is too; the mean of what is near it is not.
  period_s = steps_s[steps_s <= JITTERY_GAP * np.median(steps_s)].mean()
  jitter = np.quantile(np.abs(steps_s / period_s - np.round(steps_s / period_s)), 0.95)
  gap = GAP if jitter < JITTER else JITTERY_GAP
  near = steps_s <= JITTERY_GAP * period_s
  # A step of two periods is a sample lost, not a slower clock.
  rate_hz = np.round(steps_s[near] / period_s).sum() / steps_s[near].sum()
  begins = np.flatnonzero(steps_s > gap * period_s) + 1
  if jitter >= JITTER:
    rate_hz = _fitted_rate(times_s, begins) or rate_hz
  return float(rate_hz), begins


def _fitted_rate(times_s: np.ndarray, begins: np.ndarray) -> float:
  """Samples per second by a line through the stamps of each stretch; 0 where samples were lost.

  Steps that jitter by half a period cannot be counted one by one. A stretch counts in which every
  stamp lies within STRAY periods of the line, as none would after samples were lost, and the
  stretches that count must hold most of the rows.
  """
  products, squares, counted = 0.0, 0.0, 0
  for at_s in np.split(times_s, begins):
    index = np.arange(len(at_s)) - (len(at_s) - 1) / 2
    centred_s = at_s - at_s.mean()
    product, square = float(index @ centred_s), float(index @ index)
    if len(at_s) >= LEAST_FITTED and np.all(
      np.abs(centred_s - index * product / square) <= STRAY * product / square
    ):
      products, squares, counted = products + product, squares + square, counted + len(at_s)
  return squares / products if counted > len(times_s) / 2 else 0.0


def _place(result: np.ndarray, at: np.ndarray, samples: np.ndarray) -> None:
  """Writes one stretch, whose samples lie at the positions `at`, into the grid."""
  steps = np.arange(len(at))
  evenly = steps + np.median(at - steps)
  if np.abs(at - evenly).max() <= 0.5:
    at = evenly
  first, last = max(round(at[0]), 0), min(round(at[-1]), len(result) - 1)
  grid = np.arange(first, last + 1)
  if len(grid) == len(at) and np.abs(at - grid).max() <= ON_GRID:
    result[grid] = samples
    return
  nearest = np.abs(at[:, None] - grid).argmin(0) if len(at) < 4 else _nearest(at, grid)
  if len(at) < 4 or not np.isfinite(samples).all():
    result[grid] = samples[nearest]  # a spline would spread a missing value over its neighbours
    return
  result[grid] = interpolate.CubicSpline(at, samples)(grid.clip(at[0], at[-1]))


def _nearest(at: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """Index of the nearest of the ascending `at` for each of `grid`."""
  right = np.searchsorted(at, grid).clip(1, len(at) - 1)
  return right - (grid - at[right - 1] <= at[right] - grid)
