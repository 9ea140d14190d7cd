"""Ridge and logistic probes on frozen embeddings, and the one way in which predictions are scored.

A probe is fitted on the training people, its penalty is chosen on the validation people, and it is
scored on people it never saw. Direct predictions (a supervised head, signal processing) and the
mean go through the same `score`, so that every row of a table means the same thing.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, optimize, special, stats

from distill import agreement, statistics
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError

ALPHAS = tuple(float(alpha) for alpha in 10.0 ** np.arange(-2, 6.5, 0.5))
# Of logistic probes: inverse strengths of the penalty, as scikit-learn's C. With weaker penalties a
# fit takes minutes where classes can be told apart.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PATIENCE = 2  # of them that are no better end the search
# Training rows above which the products are made on the device, in chunks whose float32 sums stay
# exact to about 1e-7.
LARGE, _CHUNK = 200_000, 8192
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
  (mean, scale), intercept = _scale(x), float(y.mean())
  gram, moment = _normal_equations(x, y - intercept, mean, scale)
  values, vectors = np.linalg.eigh(gram)
  target = vectors.T @ moment
  return [
    Ridge(mean, scale, vectors @ (target / (np.maximum(values, 0) + alpha)), intercept, alpha)
    for alpha in alphas
  ]


def _normal_equations(
  x: np.ndarray, y: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(Z^T Z, Z^T y) in float64, with Z = (x - mean) / scale; of large sets on the device."""
  if len(x) <= LARGE:
    centred = (x - mean) / scale
    return centred.T @ centred, centred.T @ y
  both = np.zeros((x.shape[1], x.shape[1] + 1))
  for start in range(0, len(x), _CHUNK):
    rows = slice(start, start + _CHUNK)
    centred = ((x[rows] - mean) / scale).astype(np.float32)
    beside = np.concatenate([centred, y[rows, None].astype(np.float32)], axis=1)
    both += np.asarray(jnp.matmul(centred.T, beside, precision=jax.lax.Precision.HIGHEST))
  return both[:, :-1], both[:, -1]


def _scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(mean, population SD) of each column; 1 for the SD of a constant one."""
  mean, scale = x.mean(axis=0), x.std(axis=0)
  # A constant column has an SD of rounding size, not of zero; its scaled values would be noise.
  scale[scale <= 10 * np.finfo(np.float64).eps * np.abs(mean) + np.finfo(np.float64).tiny] = 1.0
  return mean, scale


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
    sd_error over windows; agreement (`agreement.limits`); sd_predicted, sd_true; n_windows,
    n_participants, label_origin; half_rate, double_rate (shares, heart rate only); label_error_sd;
    measurable (None where the labels' error is not known). What cannot be computed, such as r of a
    constant, is NaN.

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
  mae = statistics.over_participants(np.abs(error), participant).of_size()
  scores = {
    "mae": mae.to_json(),
    "mae_pooled": float(np.abs(error).mean()),
    "r": correlation(true, predicted),
    "r_within": correlation(_centred(true, participant), _centred(predicted, participant)),
    "r2": _r2(true, error),
    "bias": float(error.mean()),
    "sd_error": float(error.std()),
    "agreement": agreement.limits(true, predicted, participant),
    "sd_predicted": float(predicted.std()),
    "sd_true": float(true.std()),
    "n_windows": len(true),
    "n_participants": mae.n,
    "label_origin": label_origin,
    "label_error_sd": label_error_sd,
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
  constant = np.ptp(true) <= 1e-9 * np.abs(true).max()  # the mean, and so the spread, is rounded
  return np.nan if constant else float(1 - np.sum(error**2) / spread)


def _share_near(predicted: np.ndarray, wrong: np.ndarray) -> float:
  return float(np.mean(np.abs(predicted - wrong) <= OCTAVE_WITHIN * wrong))


def _mae(true: np.ndarray, predicted: np.ndarray, participant: np.ndarray) -> float:
  return statistics.over_participants(np.abs(predicted - true), participant).value


def _labelled(table: EmbeddingTable, target: str, part: str) -> EmbeddingTable:
  label = table[target]
  kept = table.where(np.isfinite(label) if label.dtype.kind in "fiub" else label != "")
  if not len(kept):
    raise DistillError(
      f"none of the {len(table)} {part} windows has a label {target!r}; choose another target or"
      " check how the set was prepared"
    )
  return kept


# --- classes --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Logistic:
  """Multinomial logistic model on standardised features.

  Attributes:
    classes: names, sorted.
    mean: [dim] float64 of the training rows.
    scale: [dim] float64 population SD of the training rows, 1 where a feature is constant.
    weights: [dim, classes] float64.
    intercept: [classes] float64.
    strength: inverse of the penalty, scikit-learn's C.
  """

  classes: tuple[str, ...]
  mean: np.ndarray
  scale: np.ndarray
  weights: np.ndarray
  intercept: np.ndarray
  strength: float

  def probabilities(self, embedding: np.ndarray) -> np.ndarray:
    """[n, dim] -> [n, classes] float64."""
    scaled = (np.asarray(embedding, np.float64) - self.mean) / self.scale
    return np.asarray(special.softmax(scaled @ self.weights + self.intercept, axis=1))


def logistic_path(x: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> Iterator[Logistic]:
  """Logistic regressions for several penalties, each started at the one before, fitted when asked.

  Minimises C * sum_i w_i CE_i + |W|^2 / 2 over W and b on standardised X with class weights
  w = n / (classes * n_class), as scikit-learn's StandardScaler followed by
  LogisticRegression(class_weight="balanced") does; the intercept is not penalised. Two classes get
  a row of weights each here and one there: twice its C gives the same model.

  Args:
    x: [n, dim] finite features.
    y: [n] class names, at least two different ones.
    strengths: positive; the smaller, the stronger the penalty.

  Returns:
    Gives one model for each strength, in order.

  Raises:
    DistillError: shapes that do not fit, NaN, a single class, or a strength that is not positive.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y)
  if x.ndim != 2 or y.shape != (len(x),) or not len(x):
    raise DistillError(
      f"a probe needs x [n, dim] and y [n] with n > 0, got {x.shape} and {y.shape}"
    )
  if not np.isfinite(x).all():
    raise DistillError("a probe was given NaN or infinite embeddings; leave those rows out")
  if min(strengths) <= 0:
    raise DistillError(f"every strength must be positive, got {min(strengths)}")
  classes, code, count = np.unique(y, return_inverse=True, return_counts=True)
  if len(classes) < 2:
    raise DistillError(f"all training labels are {classes[0]!r}; a probe needs two classes")
  mean, scale = _scale(x)
  scaled, weight = (x - mean) / scale, (len(y) / (len(classes) * count))[code]
  chosen, names = np.eye(len(classes))[code], tuple(classes.tolist())

  def walk() -> Iterator[Logistic]:
    found = np.zeros((x.shape[1] + 1, len(classes)))
    for strength in strengths:
      found = _fit_logistic(scaled, chosen, strength * weight, found)
      yield Logistic(names, mean, scale, found[:-1], found[-1], strength)

  return walk()


def _fit_logistic(
  scaled: np.ndarray, chosen: np.ndarray, weight: np.ndarray, start: np.ndarray
) -> np.ndarray:
  """[dim + 1, classes] weights, the intercept last.

  A trust region of the second order, whose steps are solved by conjugate gradients. Coordinates are
  those in which the curvature is the identity where all classes have equal chances: the minimum is
  the same, and features that go together cost no steps. Separable classes with hardly a penalty are
  the reason for the second order; L-BFGS stops there a few per cent from the minimum's chances.
  """
  classes = chosen.shape[1]
  penalty = np.append(np.ones(scaled.shape[1]), 0.0)[:, None]
  design = np.append(scaled, np.ones((len(scaled), 1)), axis=1)
  chances = (1 - 1 / classes) / classes
  curvature = chances * design.T @ (weight[:, None] * design) + np.diag(penalty[:, 0])
  root = np.linalg.cholesky(curvature)
  turn = linalg.solve_triangular(root, np.eye(len(root)), lower=True)
  turned = design @ turn.T

  def weights(flat: np.ndarray) -> np.ndarray:
    return turn.T @ flat.reshape(start.shape)

  @functools.lru_cache(maxsize=1)
  def chances_at(flat: bytes) -> tuple[np.ndarray, np.ndarray]:
    logits = turned @ np.frombuffer(flat).reshape(start.shape)
    log = special.log_softmax(logits, axis=1)
    return log, np.exp(log)

  def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
    held, (log, likely) = penalty * weights(flat), chances_at(flat.tobytes())
    error = weight[:, None] * (likely - chosen)
    gradient = turned.T @ error + turn @ held
    value = 0.5 * np.sum(held**2) - weight @ (log * chosen).sum(axis=1)
    return float(value), gradient.ravel()

  def bend(flat: np.ndarray, along: np.ndarray) -> np.ndarray:
    """The curvature at `flat` times a direction."""
    likely = chances_at(flat.tobytes())[1]
    moved = likely * (turned @ along.reshape(start.shape))
    error = weight[:, None] * (moved - likely * moved.sum(axis=1, keepdims=True))
    return (turned.T @ error + turn @ (penalty * weights(along))).ravel()

  first, options = (root.T @ start).ravel(), {"maxiter": 1000, "gtol": 1e-6}
  done = optimize.minimize(loss, first, method="trust-ncg", jac=True, hessp=bend, options=options)
  return weights(done.x)


def fit_classes(
  train: EmbeddingTable,
  validation: EmbeddingTable,
  target: str,
  strengths: Sequence[float] = STRENGTHS,
) -> Logistic:
  """Logistic model on the labelled training rows, with the penalty that is best on validation.

  Penalties are tried in the order of `strengths` until PATIENCE of them in a row were no better.

  Args:
    train: embeddings with the column `target` of class names; rows without one ("") are left out.
    validation: the same for other people; classes that training people lack are left out.
    target: label column.
    strengths: to choose from, by the mean over participants of the class-weighted log loss.

  Returns:
    The chosen model, fitted on the training rows alone.

  Raises:
    DistillError: a part has no labelled row, or training people have one class only.
  """
  train = _labelled(train, target, "training")
  models = logistic_path(train.embedding, train[target], strengths)
  best = next(models)
  validation = _labelled(validation, target, "validation")
  validation = validation.where(np.isin(validation[target], best.classes))
  if not len(validation):
    raise DistillError(f"validation people share no class of {target!r} with training people")
  code = np.searchsorted(np.array(best.classes), validation[target])
  rarity = 1 / np.maximum(np.bincount(code, minlength=len(best.classes)), 1)[code]

  def error(model: Logistic) -> float:
    own = model.probabilities(validation.embedding)[np.arange(len(code)), code]
    loss = -rarity * np.log(np.maximum(own, 1e-12))
    return statistics.over_participants(loss, validation["participant"]).value

  least, waited = error(best), 0
  for model in models:
    found = error(model)
    if found < least:
      best, least, waited = model, found, 0
    else:
      waited += 1
    if waited == PATIENCE:
      break
  return best


@dataclasses.dataclass(frozen=True)
class ToldClasses:
  """What probes of one column tell of the held-out rows of all folds.

  Attributes:
    true: [n] class names.
    probabilities: [n, classes].
    classes: names in order, of all folds.
    participant: [n] names.
    models: the probe of each fold.
    labelled: training people of each fold.
  """

  true: np.ndarray
  probabilities: np.ndarray
  classes: tuple[str, ...]
  participant: np.ndarray
  models: tuple[Logistic, ...]
  labelled: tuple[int, ...]

  def score(self) -> dict[str, Any]:
    """See `score_classes`."""
    return score_classes(self.true, self.probabilities, self.classes, self.participant)


def tell_classes(
  folds: Sequence[Mapping[str, EmbeddingTable]],
  target: str,
  strengths: Sequence[float] = STRENGTHS,
) -> ToldClasses:
  """Fits a probe in each fold and lets it tell the people held out.

  Args:
    folds: train, validation and test rows of each fold, all of them with a label. Folds without
      validation or test rows, or with one class among the training rows, are left out.
    target: label column of names.
    strengths: see `fit_classes`.

  Raises:
    DistillError: no fold is left, or parts share a participant.
  """
  labels = [np.unique(part[target]) for fold in folds for part in fold.values()]
  classes = np.unique(np.concatenate(labels))
  true, probabilities, who, models, people = [], [], [], [], []
  for fold in folds:
    train, validation, test = (fold[part] for part in PARTS)
    if not (len(validation) and len(test)) or len(np.unique(train[target])) < 2:
      continue
    check_people(fold)
    model = fit_classes(train, validation, target, strengths)
    told = np.zeros((len(test), len(classes)))  # a class that these people lack has no chance
    told[:, np.searchsorted(classes, model.classes)] = model.probabilities(test.embedding)
    true.append(test[target])
    probabilities.append(told)
    who.append(test["participant"])
    models.append(model)
    people.append(len(np.unique(train["participant"])))
  if not models:
    raise DistillError(f"no fold has labels {target!r} of two classes to learn from and to test on")
  names, chances, participant = map(np.concatenate, (true, probabilities, who))
  known = tuple(classes.tolist())
  return ToldClasses(names, chances, known, participant, tuple(models), tuple(people))


def probe_classes(
  train: EmbeddingTable,
  validation: EmbeddingTable,
  test: EmbeddingTable,
  target: str,
  *,
  strengths: Sequence[float] = STRENGTHS,
) -> dict[str, Any]:
  """Fits on training people, tunes on validation people, scores on test people.

  Returns:
    `score_classes` of the test rows, and the chosen `strength`.

  Raises:
    DistillError: one participant only, a participant in two parts, or a part without labels.
  """
  check_people({"train": train, "validation": validation, "test": test})
  model = fit_classes(train, validation, target, strengths)
  test = _labelled(test, target, "test")
  test = test.where(np.isin(test[target], model.classes))
  if not len(test):
    raise DistillError(f"test people share no class of {target!r} with training people")
  probabilities = model.probabilities(test.embedding)
  scores = score_classes(test[target], probabilities, model.classes, test["participant"])
  return scores | {"strength": model.strength}


def score_classes(
  true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], participant: np.ndarray
) -> dict[str, Any]:
  """What a table says about one model's class probabilities.

  Args:
    true: [n] names, each one of `classes`.
    probabilities: [n, classes] finite.
    classes: names, sorted.
    participant: [n] names.

  Returns:
    auc, f1, accuracy, each {value, lo, hi}: mean over participants with its t interval. A
    participant's AUC and F1 are means over the classes (one against the rest) that this participant
    has, for the AUC beside others; auc_pooled and f1_pooled are over all windows. n_windows,
    n_participants and n_auc, the participants of more than one class. NaN where nothing is defined.

  Raises:
    DistillError: nothing to score, lengths that differ, NaN, or an unknown class.
  """
  true, probabilities = np.asarray(true), np.asarray(probabilities, np.float64)
  if probabilities.shape != (len(true), len(classes)) or not len(true):
    raise DistillError(f"cannot score {probabilities.shape} probabilities of {true.shape} labels")
  if not np.isfinite(probabilities).all() or not np.isin(true, classes).all():
    raise DistillError("probabilities hold NaN, or labels a class that the model does not know")
  code = np.searchsorted(np.array(classes), true)
  people = {name: participant == name for name in np.unique(participant).tolist()}
  auc = statistics.t_interval(
    np.array([_auc(code[rows], probabilities[rows]) for rows in people.values()])
  )
  guess = probabilities.argmax(axis=1)
  f1 = statistics.t_interval(np.array([_f1(code[rows], guess[rows]) for rows in people.values()]))
  accuracy = statistics.over_participants((guess == code).astype(np.float64), participant)
  return {
    "auc": auc.of_share().to_json(),
    "f1": f1.of_share().to_json(),
    "accuracy": accuracy.of_share().to_json(),
    "auc_pooled": _auc(code, probabilities),
    "f1_pooled": _f1(code, guess),
    "n_windows": len(true),
    "n_participants": len(people),
    "n_auc": auc.n,
  }


def _auc(code: np.ndarray, probabilities: np.ndarray) -> float:
  """Mean over the classes at hand of the share of pairs in the right order; ties count half."""
  present = np.unique(code)
  if len(present) < 2:
    return np.nan
  areas = []
  for k in present:
    own, rank = code == k, stats.rankdata(probabilities[:, k])
    n = int(own.sum())
    areas.append((rank[own].sum() - n * (n + 1) / 2) / (n * (len(code) - n)))
  return float(np.mean(areas))


def _f1(code: np.ndarray, guess: np.ndarray) -> float:
  """Mean over the classes at hand of 2 * hits / (labels + guesses)."""
  hits = [np.sum((code == k) & (guess == k)) for k in np.unique(code)]
  sizes = [np.sum(code == k) + np.sum(guess == k) for k in np.unique(code)]
  return float(np.mean(2 * np.array(hits) / np.array(sizes)))
