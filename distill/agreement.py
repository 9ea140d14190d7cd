"""How far single predictions may be off: limits of agreement and split-conformal intervals.

Windows of one person err alike, so both count people: the limits add what differs between people to
what differs within one, and an interval is calibrated so that a window of a new person falls inside
it, which takes many people and not many windows.
"""

from typing import Any

import numpy as np

from distill import statistics

LEVEL = 0.9  # of the conformal intervals; ours


def limits(true: np.ndarray, predicted: np.ndarray, participant: np.ndarray) -> dict[str, Any]:
  """Bland-Altman bias and limits of agreement of repeated measurements.

  With the one-way analysis of variance of the differences by participant, sd^2 is the variance
  between people plus that within them; the limits are bias +- 1.96 sd.

  Args:
    true: [n] labels.
    predicted: [n] predictions in the same unit.
    participant: [n] names.

  Returns:
    bias {value, lo, hi}: mean over participants with its t interval; sd, lower, upper. NaN below
    two participants.

  Reference: Bland and Altman 2007, J. Biopharm. Stat. 17:571, section 3.
  """
  difference = np.asarray(predicted, np.float64) - np.asarray(true, np.float64)
  bias = statistics.over_participants(difference, participant)
  _, code, count = np.unique(participant, return_inverse=True, return_counts=True)
  n, people = len(difference), len(count)
  sd = np.nan
  if people > 1:
    means = np.bincount(code, weights=difference) / count
    between = np.sum(count * (means - difference.mean()) ** 2) / (people - 1)
    within = np.sum((difference - means[code]) ** 2) / (n - people) if n > people else 0.0
    size = (n**2 - np.sum(count**2)) / ((people - 1) * n)
    sd = float(np.sqrt(max((between - within) / size, 0.0) + within))
  centre = bias.value
  return {
    "bias": bias.to_json(),
    "sd": sd,
    "lower": centre - 1.96 * sd,
    "upper": centre + 1.96 * sd,
  }


def conformal_width(error: np.ndarray, participant: np.ndarray, level: float = LEVEL) -> float:
  """Half-width of the interval that holds a window of a new person with probability `level`.

  Every person has the same weight, 1 / (people + 1), shared by their windows; what is left stands
  for the new person, whose error may be any.

  Args:
    error: [n] absolute errors on people whom the model was not fitted to.
    participant: [n] names.
    level: in (0, 1).

  Returns:
    The smallest error with at least `level` of the weight at or below it; NaN where there are too
    few people: `level` 0.9 takes nine.

  Reference: Lee, Barber and Willett 2023, arXiv 2306.06342 (hierarchical conformal prediction).
  """
  error = np.asarray(error, np.float64)
  _, code, count = np.unique(participant, return_inverse=True, return_counts=True)
  order = np.argsort(error)
  weight = np.cumsum(1 / ((len(count) + 1) * count[code[order]]))
  enough = np.flatnonzero(weight >= level - 1e-9)
  return float(error[order[enough[0]]]) if len(enough) else np.nan


def coverage(
  error: np.ndarray, width: np.ndarray, participant: np.ndarray, level: float = LEVEL
) -> dict[str, Any]:
  """What the intervals hold on people who did not calibrate them.

  Args:
    error: [n] absolute errors.
    width: [n] half-widths, NaN where there is none.
    participant: [n] names.
    level: what was asked for.

  Returns:
    level; width (mean); coverage {value, lo, hi}: mean over participants of their share inside;
    below: share of participants of whom less than `level` lies inside; n_participants.
  """
  known = np.isfinite(width)
  inside = (error[known] <= width[known]).astype(np.float64)
  share = statistics.participant_means(inside, participant[known])[1]
  interval = statistics.t_interval(share)
  return {
    "level": level,
    "width": float(width[known].mean()) if known.any() else np.nan,
    "coverage": interval.of_share().to_json(),
    "below": float(np.mean(share < level)) if len(share) else np.nan,
    "n_participants": interval.n,
  }
