"""Ridge probes on frozen embeddings, and the one way in which any prediction is scored.

A probe is fitted on the training people, its penalty is chosen on the validation people, and it is
scored on people it never saw. Direct predictions (a supervised head, signal processing) and the
mean go through the same `score`, so that every row of a table means the same thing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import statistics
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError

ALPHAS = tuple(float(alpha) for alpha in 10.0 ** np.arange(-2, 6.5, 0.5))
# Column that says where the labels of a target come from.
ORIGIN = {"hr_bpm": "hr_origin"}
HRV_ORIGIN = "hrv_origin"
# A heart rate this near to half or double the true one is an octave error (ours).
OCTAVE_WITHIN = 0.1
# A target whose labels err by more than this share of their spread is not measurable.
MEASURABLE_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Ridge:
  """Linear model on standardised features: ((x - mean) / scale) @ weights + intercept.

  Attributes:
    mean: [dim] float64 of the training rows.
    scale: [dim] float64 population SD of the training rows, 1 where a feature is constant.
    weights: [dim] float64.
    intercept: mean of the training labels.
    alpha: the penalty that was used.
  """

  mean: np.ndarray
  scale: np.ndarray
  weights: np.ndarray
  intercept: float
  alpha: float

  def predict(self, embedding: np.ndarray) -> np.ndarray:
    """[n, dim] -> [n] float64 in the unit of the labels."""
    return (
      np.asarray(embedding, np.float64) - self.mean
    ) / self.scale @ self.weights + self.intercept


def ridge_path(x: np.ndarray, y: np.ndarray, alphas: Sequence[float]) -> list[Ridge]:
  """Ridge regressions for several penalties from one eigendecomposition.

  Minimises ||y - Xw - b||^2 + alpha ||w||^2 over w and b on standardised X, as scikit-learn's
  StandardScaler followed by Ridge does; the intercept is not penalised.

  Args:
    x: [n, dim] finite features.
    y: [n] finite labels.
    alphas: positive penalties.

  Returns:
    One model for each alpha, in order.

  Raises:
    DistillError: shapes that do not fit, NaN, or a penalty that is not positive.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 2 or y.shape != (len(x),) or not len(x):
    raise DistillError(
      f"a probe needs x [n, dim] and y [n] with n > 0, got {x.shape} and {y.shape}"
    )
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise DistillError(
      "a probe was given NaN or infinite embeddings or labels; leave those rows out"
    )
  if min(alphas) <= 0:
    raise DistillError(f"every alpha must be positive, got {min(alphas)}")
  mean, scale, intercept = x.mean(axis=0), x.std(axis=0), float(y.mean())
  # A constant column has an SD of rounding size, not of zero; its scaled values would be noise.
  scale[scale <= 10 * np.finfo(np.float64).eps * np.abs(mean) + np.finfo(np.float64).tiny] = 1.0
  centred = (x - mean) / scale
  values, vectors = np.linalg.eigh(centred.T @ centred)
  target = vectors.T @ (centred.T @ (y - intercept))
  return [
    Ridge(mean, scale, vectors @ (target / (np.maximum(values, 0) + alpha)), intercept, alpha)
    for alpha in alphas
  ]


def fit(
  train: EmbeddingTable,
  validation: EmbeddingTable,
  target: str,
  alphas: Sequence[float] = ALPHAS,
) -> Ridge:
  """Ridge on the labelled training rows, with the penalty that is best on validation people.

  Args:
    train: embeddings with the column `target`; rows without a label (NaN) are left out.
    validation: the same for other people.
    target: label column.
    alphas: penalties to choose from, by the mean over participants of their MAE.

  Returns:
    The chosen model, fitted on the training rows alone.

  Raises:
    DistillError: a part has no labelled row.
  """
  train, validation = (
    _labelled(train, target, "training"),
    _labelled(validation, target, "validation"),
  )
  models = ridge_path(train.embedding, train[target], alphas)
  errors = [
    _mae(validation[target], model.predict(validation.embedding), validation["participant"])
    for model in models
  ]
  return models[int(np.argmin(errors))]


def probe(
  train: EmbeddingTable,
  validation: EmbeddingTable,
  test: EmbeddingTable,
  target: str,
  *,
  alphas: Sequence[float] = ALPHAS,
  label_error_sd: float | None = None,
) -> dict[str, Any]:
  """Fits on training people, tunes on validation people, scores on test people.

  Args:
    train: embeddings with `participant` and `target` columns.
    validation: the same for other people.
    test: the same for yet other people.
    target: label column, such as "hr_bpm".
    alphas: penalties to choose from.
    label_error_sd: SD of the labels' own error in the target's unit, if known.

  Returns:
    `score` of the test rows, and the chosen `alpha`.

  Raises:
    DistillError: one participant only, a participant in two parts, or a part without labels.
  """
  check_people({"train": train, "validation": validation, "test": test})
  test = _labelled(test, target, "test")
  model = fit(train, validation, target, alphas)
  scores = score(
    test[target],
    model.predict(test.embedding),
    test["participant"],
    target=target,
    label_origin=origin_of(test.columns, target),
    label_error_sd=label_error_sd,
  )
  return scores | {"alpha": model.alpha}


def check_people(parts: Mapping[str, EmbeddingTable]) -> None:
  """Refuses parts that share a participant, and a set with a single one.

  Raises:
    DistillError: see above.
  """
  people = {name: set(np.unique(table["participant"]).tolist()) for name, table in parts.items()}
  everyone = set().union(*people.values())
  if len(everyone) == 1:
    raise DistillError(
      f"the tables hold one participant only ({min(everyone)!r}); a probe needs other people to"
      " train on than to test on, at least one each for train, validation and test"
    )
  names = list(people)
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      both = people[first] & people[second]
      if both:
        raise DistillError(
          f"participant {min(both)!r} stands in both {first} and {second} ({len(both)} shared in"
          " all); split by participant before windowing"
        )


def origin_of(columns: Mapping[str, np.ndarray], target: str) -> str:
  """Origins of the labels of `target`, joined by "+"; "" where unknown."""
  column = columns.get(ORIGIN.get(target, HRV_ORIGIN))
  if column is None:
    return ""
  return "+".join(sorted(set(np.unique(column).tolist()) - {""}))


def score(
  true: np.ndarray,
  predicted: np.ndarray,
  participant: np.ndarray,
  *,
  target: str,
  label_origin: str = "",
  label_error_sd: float | None = None,
) -> dict[str, Any]:
  """Everything that a table says about one model's predictions of one target.

  Args:
    true: [n] labels, finite.
    predicted: [n] predictions, finite, in the same unit.
    participant: [n] names.
    target: name of the target; "hr_bpm" adds octave errors.
    label_origin: "ecg", "simulated", "ppg", ...
    label_error_sd: SD of the labels' own error, if known.

  Returns:
    mae {value, lo, hi}: mean over participants of their MAE with its t interval; mae_pooled over
    windows; r, r2 over windows; r_within: r after each participant's own means are removed; bias,
    sd_error; sd_predicted, sd_true; n_windows, n_participants, label_origin; half_rate, double_rate
    (shares, heart rate only); measurable (None where the labels' error is not known). What cannot
    be computed, such as r of a constant, is NaN.

  Raises:
    DistillError: nothing to score, lengths that differ, or NaN.
  """
  true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
  if true.shape != predicted.shape or true.ndim != 1 or not len(true):
    raise DistillError(
      f"{target}: cannot score {predicted.shape} predictions of {true.shape} labels"
    )
  if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
    raise DistillError(f"{target}: labels or predictions hold NaN; leave those windows out first")
  error = predicted - true
  mae = statistics.over_participants(np.abs(error), participant)
  scores = {
    "mae": mae.to_json(),
    "mae_pooled": float(np.abs(error).mean()),
    "r": correlation(true, predicted),
    "r_within": correlation(_centred(true, participant), _centred(predicted, participant)),
    "r2": _r2(true, error),
    "bias": float(error.mean()),
    "sd_error": float(error.std()),
    "sd_predicted": float(predicted.std()),
    "sd_true": float(true.std()),
    "n_windows": len(true),
    "n_participants": mae.n,
    "label_origin": label_origin,
    "measurable": measurable(true, label_error_sd),
  }
  if target == "hr_bpm":
    scores["half_rate"] = _share_near(predicted, true / 2)
    scores["double_rate"] = _share_near(predicted, true * 2)
  return scores


def measurable(true: np.ndarray, label_error_sd: float | None) -> bool | None:
  """False when labels err by more than half of their spread between windows; None if unknown."""
  if label_error_sd is None:
    return None
  return bool(label_error_sd <= MEASURABLE_SHARE * np.std(true))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson r of [n] and [n]; NaN where one of them is constant (up to rounding)."""
  a, b = a - a.mean(), b - b.mean()
  spread = np.sqrt(np.sum(a**2) * np.sum(b**2))
  return float(np.sum(a * b) / spread) if spread > 1e-9 * len(a) else np.nan


def _centred(values: np.ndarray, participant: np.ndarray) -> np.ndarray:
  code = np.unique(participant, return_inverse=True)[1]
  return values - (np.bincount(code, weights=values) / np.bincount(code))[code]


def _r2(true: np.ndarray, error: np.ndarray) -> float:
  spread = np.sum((true - true.mean()) ** 2)
  return float(1 - np.sum(error**2) / spread) if spread > 0 else np.nan


def _share_near(predicted: np.ndarray, wrong: np.ndarray) -> float:
  return float(np.mean(np.abs(predicted - wrong) <= OCTAVE_WITHIN * wrong))


def _mae(true: np.ndarray, predicted: np.ndarray, participant: np.ndarray) -> float:
  return statistics.over_participants(np.abs(predicted - true), participant).value


def _labelled(table: EmbeddingTable, target: str, part: str) -> EmbeddingTable:
  kept = table.where(np.isfinite(table[target]))
  if not len(kept):
    raise DistillError(
      f"none of the {len(table)} {part} windows has a label {target!r}; choose another target or"
      " check how the set was prepared"
    )
  return kept
