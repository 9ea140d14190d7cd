"""Probes beside the continuous targets: classes of windows, and traits of people.

Classes (activity, stress, arrhythmia, as a set has them) are probed window by window. Traits (age,
sex, BMI) are one label a person, so a person is one row, the mean of their embeddings, and few
people allow no claim.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from distill import probes, statistics
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError

MEAN = "mean"
CLAIM_PEOPLE = 50  # below, a table of traits says that it claims nothing
CLASS_WINDOWS = 3000  # of training windows that a class probe is fitted to; drawn with the seed
STRENGTHS = (1e-3, 1e-2, 1e-1)  # of class probes over windows

Models = Mapping[str, EmbeddingTable]


def classes(folds: Sequence[Models], target: str, *, seed: int = 0) -> dict[str, Any]:
  """Scores of logistic probes of one column of class names, pooled over held-out folds.

  Args:
    folds: model -> embeddings of each fold, with `split`, participant and `target`.
    target: column of names, "" where a window has none.
    seed: of the draw of training windows.

  Returns:
    model -> `probes.score_classes`; of models that every fold has.

  Raises:
    DistillError: no fold has two classes among its training people, or labels in every part.
  """
  found = {}
  for model in _shared(folds):
    parts = [_parts(fold[model].where(fold[model][target] != "")) for fold in folds]
    drawn = [fold | {"train": _drawn(fold["train"], seed)} for fold in parts]
    found[model] = probes.tell_classes(drawn, target, STRENGTHS).score()
  return found


def people(folds: Sequence[Models], target: str) -> dict[str, Any]:
  """Scores of probes of one trait, each person one row, pooled over held-out folds.

  Args:
    folds: model -> embeddings of each fold, with `split`, participant and `target`.
    target: column of numbers (ridge) or names (logistic), one value a person.

  Returns:
    model -> `probes.score` or `probes.score_classes`, with `claim`: False below CLAIM_PEOPLE held
    out; the AUC is over people, with its interval (`auc_interval`). The row "mean" knows the
    labels of the training people alone.

  Raises:
    DistillError: too few people with a label in every part of every fold.
  """
  persons = [{model: _persons(table, target) for model, table in fold.items()} for fold in folds]
  first = next(iter(persons[0].values()))
  names = first[target].dtype.kind not in "fiub"
  found = {}
  for model in [*_shared(persons), MEAN]:
    if model == MEAN:
      tables = [_blank(next(iter(fold.values()))) for fold in persons]
    else:
      tables = [fold[model] for fold in persons]
    if names:
      row = _classes_of_people(tables, target)
    else:
      row = _numbers(tables, target)
      if model == MEAN:
        row["r"] = np.nan  # of the folds' means, an artefact
    found[model] = row | {"claim": row["n_participants"] >= CLAIM_PEOPLE}
  return found


def _shared(folds: Sequence[Models]) -> list[str]:
  return [model for model in folds[0] if all(model in fold for fold in folds)]


def _persons(table: EmbeddingTable, target: str) -> EmbeddingTable:
  """One row for each person with a label: the mean of their embeddings."""
  label = table[target]
  known = table.where(np.isfinite(label) if label.dtype.kind in "fiub" else label != "")
  if not len(known):
    raise DistillError(f"nobody has a label {target!r}")
  names, first, code = np.unique(known["participant"], return_index=True, return_inverse=True)
  total = np.zeros((len(names), known.embedding.shape[1]))
  np.add.at(total, code, known.embedding)
  columns = {name: known[name][first] for name in ("split", "participant", target)}
  mean = total / np.bincount(code)[:, None]
  return EmbeddingTable(mean.astype(np.float32), columns)


def _blank(table: EmbeddingTable) -> EmbeddingTable:
  return EmbeddingTable(np.zeros((len(table), 1), np.float32), table.columns)


def _parts(table: EmbeddingTable) -> dict[str, EmbeddingTable]:
  return {part: table.where(table["split"] == part) for part in PARTS}


def _drawn(train: EmbeddingTable, seed: int) -> EmbeddingTable:
  rows = np.random.default_rng(seed).permutation(len(train))[:CLASS_WINDOWS]
  return train.where(np.sort(rows))


def _numbers(tables: Sequence[EmbeddingTable], target: str) -> dict[str, Any]:
  true, predicted, who = [], [], []
  for table in tables:
    train, validation, test = _parts(table).values()
    if not len(test):
      raise DistillError(f"nobody held out has a label {target!r}")
    model = probes.fit(train, validation, target)
    true.append(test[target])
    predicted.append(model.predict(test.embedding))
    who.append(test["participant"])
  return probes.score(*map(np.concatenate, (true, predicted, who)), target=target)


def _classes_of_people(tables: Sequence[EmbeddingTable], target: str) -> dict[str, Any]:
  """Scores, with the AUC over people and its interval where there are two classes."""
  told = probes.tell_classes([_parts(table) for table in tables], target)
  auc = statistics.Interval(np.nan, np.nan, np.nan, 0)
  if len(told.classes) == 2:
    auc = auc_interval(told.true == told.classes[1], told.probabilities[:, 1])
  return told.score() | {"auc": auc.to_json(), "n_auc": auc.n}


def auc_interval(
  positive: np.ndarray, score: np.ndarray, level: float = 0.95
) -> statistics.Interval:
  """Area under the curve of independent rows with its score interval.

  Every area that would give the one found with no less than 1 - `level` chance. It covers with few
  people and near 1 too, where an interval from the spread of the rows is too narrow or has no
  width.

  Args:
    positive: [n] bool.
    score: [n] numbers, higher for positive.
    level: coverage, in (0, 1).

  Returns:
    The interval, within [0, 1]; NaN ends below two rows of either kind.

  Reference: Newcombe 2006, Statistics in Medicine 25:559, method 5, with the variance of Hanley and
  McNeil 1982, Radiology 143:29.
  """
  above, below = score[positive], score[~positive]
  if not (len(above) and len(below)):
    return statistics.Interval(np.nan, np.nan, np.nan, len(score))
  area = float(np.mean(np.sign(above[:, None] - below[None, :]) / 2 + 0.5))
  if min(len(above), len(below)) < 2:
    return statistics.Interval(area, np.nan, np.nan, len(score))
  true = np.append(np.linspace(0.0, 1.0, 10001), area)
  spread = true * (1 - true)
  others = len(score) / 2 - 1
  factor = 1 + others * (1 - true) / (2 - true) + others * true / (1 + true)
  reach = stats.norm.ppf(0.5 + level / 2) * np.sqrt(spread * factor / (len(above) * len(below)))
  near = true[np.abs(area - true) <= reach + 1e-12]
  return statistics.Interval(area, float(near.min()), float(near.max()), len(score))
