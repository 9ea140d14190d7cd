"""Judges every model of a set on people it never saw: retrieval with controls, probes, differences.

Input are tables of embeddings and direct predictions, one `FoldTables` for each held-out fold;
output is the `sets` part of report.json. Folds are pooled over windows of people each model has not
seen, sets are never pooled: the device would give the person away. Nothing here trains, embeds or
draws.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import agreement, baselines, probes, retrieval, similarity, statistics, traits
from distill.data import splits
from distill.embeddings import PARTS, VALID, EmbeddingTable
from distill.errors import DistillError
from distill.spec import ERRORS, TARGETS

STUDENT, MEAN, OWN_MEAN, CLOCK = "student", "mean", "own_mean", "session_clock"
SUPERVISED = "supervised"
# Column: smallest share of the training people that a row's participant is one of.
LABELLED_SHARE = "labelled_share"


@dataclasses.dataclass(frozen=True)
class FoldTables:
  """What is judged of one held-out fold of one set.

  All tables and predictions have the same rows in the same order, test rows in the order of the
  projections.

  Attributes:
    embeddings: model -> table of space "embedding" over the rows of all three parts. Columns:
      `split` ("train", "validation" or "test"), participant, recording, t0_s (seconds on the
      recording's own clock), the targets, and as far as known motion_g, complete, ppg_usable,
      hr_origin, hrv_origin, labelled_share. Rows that one of the models could not embed (NaN) are
      scored for none.
    projections: "student" and "teacher" -> table of space "projection", the test rows alone; empty
      if there is nothing to retrieve.
    predictions: (model, target) -> [n] direct predictions in the target's unit, over the rows of
      `embeddings`. NaN where the model declines a window; it then gets the mean of the training
      labels, so that declining hard windows gains nothing. A model that stands in `embeddings` as
      well is scored by its own head and by ridge; what is better on validation people counts.
    shifted: "ppg" and "acc" -> projections of test windows that start `shift_s` later, as
      `distill.retrieval.shift_curve` takes them.
    rhythms: "acc", "ppg" and, where true beats are known, "beats" -> `distill.rhythm` vectors of
      some test windows, row by row the same.
    window_s: length of a window, seconds.
    simulated: the recordings are simulated.
    rest: what some test windows say of wrists at rest, as `distill.controls.rest` returns it.
  """

  embeddings: Mapping[str, EmbeddingTable]
  projections: Mapping[str, EmbeddingTable] = dataclasses.field(default_factory=dict)
  predictions: Mapping[tuple[str, str], np.ndarray] = dataclasses.field(default_factory=dict)
  shifted: Mapping[str, EmbeddingTable] = dataclasses.field(default_factory=dict)
  rhythms: Mapping[str, EmbeddingTable] = dataclasses.field(default_factory=dict)
  window_s: float = 60.0
  simulated: bool = False
  rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def columns(self) -> Mapping[str, np.ndarray]:
    """Columns of the rows, the same in every table."""
    return next(iter(self.embeddings.values())).columns


@dataclasses.dataclass(frozen=True)
class Settings(retrieval.Settings):
  """What is asked of an evaluation; the fields of retrieval and these.

  Attributes:
    targets: label columns to probe.
    also: further label columns of numbers to probe where a set has them.
    classes: columns of class names of windows to probe where a set has them.
    traits: columns of numbers or names to probe person by person, likewise.
    groups: columns by whose values the errors of the targets are shown, likewise.
    alphas: ridge penalties to choose from on validation people.
    shares: shares of the training people, below 1, with whose labels alone probes are fitted too.
    reads_ppg: models that see the PPG; labels made of that PPG are circular for them.
    scatter: most windows per set and target that a report keeps for its scatter plots.
  """

  targets: tuple[str, ...] = TARGETS
  also: tuple[str, ...] = ("pnn50", "sdnn_detrended_ms")
  classes: tuple[str, ...] = ("activity", "stress", "mood", "arrhythmia")
  traits: tuple[str, ...] = ("age", "sex", "bmi")
  groups: tuple[str, ...] = ("age", "sex", "skin_tone", "label_origin")
  alphas: tuple[float, ...] = probes.ALPHAS
  shares: tuple[float, ...] = ()
  reads_ppg: tuple[str, ...] = ("teacher", "ppg_signal_processing")
  scatter: int = 2000


@dataclasses.dataclass(frozen=True)
class _Scored:
  """Test windows of one target, pooled over folds, with every model's predictions.

  Attributes:
    true: [n] labels.
    columns: the index columns of the windows.
    predicted: model -> [n].
    notes: model -> further fields of its row.
    widths: model -> [n] half-widths of its conformal intervals; of models with validation people.
  """

  true: np.ndarray
  columns: Mapping[str, np.ndarray]
  predicted: Mapping[str, np.ndarray]
  notes: Mapping[str, Mapping[str, Any]]
  widths: Mapping[str, np.ndarray]

  def where(self, rows: np.ndarray) -> "_Scored":
    """The windows picked by a mask or by indices."""
    return _Scored(
      self.true[rows],
      {name: column[rows] for name, column in self.columns.items()},
      {model: values[rows] for model, values in self.predicted.items()},
      self.notes,
      {model: values[rows] for model, values in self.widths.items()},
    )


@dataclasses.dataclass(frozen=True)
class _Head:
  """Predictions of one model's head for the labelled validation and test windows of a fold."""

  validation: np.ndarray
  test: np.ndarray
  notes: Mapping[str, Any]


def evaluate(
  sets: Mapping[str, Sequence[FoldTables]], settings: Settings | None = None
) -> dict[str, Any]:
  """The `sets` part of a report.

  Args:
    sets: set name -> its held-out folds.
    settings: what is asked.

  Returns:
    set name -> {simulated, folds, windows, rest, retrieval, controls, by_motion, oracles,
    shift_curve, probes, differences, people, scatter, skipped, by_share}; report.schema.json lays
    down each of them.
    Numbers that do not exist are NaN (null in the file).

  Raises:
    DistillError: no set or fold, tables whose rows differ, a participant in two parts, or a
      participant held out twice.
  """
  settings = settings or Settings()
  if not sets:
    raise DistillError("evaluate was given no set; name at least one in config.data.sets")
  return {name: _evaluate_set(name, folds, settings) for name, folds in sets.items()}


def transferred(home: Mapping[str, FoldTables], away: FoldTables) -> FoldTables:
  """A fold whose probes are fitted at home and judged on another set, whom nothing was fitted to.

  Args:
    home: set name -> tables of a fold; their training and validation rows are taken.
    away: tables of the other set, by the same models; all of its rows are test rows.

  Returns:
    One fold. Participants of `home` carry the name of their set, so that they stay apart.

  Raises:
    DistillError: `away` has rows that are no test rows.
  """
  if np.any(away.columns["split"] != "test"):
    raise DistillError("an external set has training or validation rows; expected test rows alone")
  at_home = [(name, one, one.columns["split"] != "test") for name, one in home.items()]
  everyone = [*home.values(), away]
  keys = set.intersection(*(set(one.columns) for one in everyone))
  columns = {}
  for key in sorted(keys):
    parts = [one.columns[key][rows] for _, one, rows in at_home]
    if key == "participant":
      parts = [np.char.add(f"{name}/", part) for (name, *_), part in zip(at_home, parts)]
    columns[key] = np.concatenate([*parts, away.columns[key]])
  embeddings = {}
  for model in away.embeddings:
    if not all(model in one.embeddings for one in home.values()):
      continue
    vectors = [one.embeddings[model].embedding[rows] for _, one, rows in at_home]
    vectors.append(away.embeddings[model].embedding)
    valid = [one.embeddings[model].valid[rows] for _, one, rows in at_home]
    valid.append(away.embeddings[model].valid)
    told = columns | {VALID: np.concatenate(valid)}
    embeddings[model] = EmbeddingTable(np.concatenate(vectors), told, "embedding")
  predictions = {
    key: np.concatenate([*(one.predictions[key][rows] for _, one, rows in at_home), values])
    for key, values in away.predictions.items()
    if all(key in one.predictions for one in home.values())
  }
  return dataclasses.replace(away, embeddings=embeddings, predictions=predictions)


def probe_table(
  table: EmbeddingTable, target: str, *, folds: int = 5, settings: Settings | None = None
) -> dict[str, Any]:
  """Probes one table of embeddings from anywhere, beside the mean, the clock and the own mean.

  Args:
    table: with `participant` and `target` columns. A `split` column ("train", "validation",
      "test") is obeyed; without one, every participant is held out once in `folds` folds.
    target: label column.
    folds: used when there is no `split`.
    settings: what is asked; its targets are replaced.

  Returns:
    {"probes": {target: {model: scores}}, "differences": {}}; the table's own row is "embedding".
    Of a column of names, or one of `settings.traits`, {"classes": ...} or {"traits": ...} instead.

  Raises:
    DistillError: no such column, too few participants, or no labels.
  """
  settings = dataclasses.replace(
    settings or Settings(), targets=(target,), also=(), classes=(), groups=()
  )
  names = not np.issubdtype(table[target].dtype, np.number)
  columns, n = dict(table.columns), len(table)
  participant = table["participant"]
  columns.setdefault("recording", np.full(n, ""))
  columns.setdefault("t0_s", np.zeros(n))
  if "split" in columns:
    parts = [columns["split"]]
    if unknown := sorted(set(parts[0].tolist()) - set(PARTS)):
      raise DistillError(f"column 'split' holds {unknown[0]!r}; expected {', '.join(PARTS)}")
  else:
    assigned = splits.assign(sorted(set(participant.tolist())), folds)
    parts = [assigned.split(k).part_of(participant) for k in range(folds)]
  tables = [
    FoldTables({"embedding": dataclasses.replace(table, columns={**columns, "split": part})})
    for part in parts
  ]
  if names or target in settings.traits:
    for fold in tables:
      _check("embeddings", fold)
    folds_of = [_embedded("embeddings", fold).embeddings for fold in tables]
    if target in settings.traits:
      return {"traits": {target: traits.people(folds_of, target)}}
    return {"classes": {target: traits.classes(folds_of, target, seed=settings.seed)}}
  settings = dataclasses.replace(settings, traits=())
  judged = _evaluate_set("embeddings", tables, settings)
  if target in judged["skipped"]:
    raise DistillError(f"no probe of {target!r}: {judged['skipped'][target]}")
  if "t0_s" not in table.columns:
    del judged["probes"][target][CLOCK]
  return {"probes": judged["probes"], "differences": {target: {}}}


def _evaluate_set(name: str, folds: Sequence[FoldTables], settings: Settings) -> dict[str, Any]:
  if not folds:
    raise DistillError(f"set {name} has no held-out fold; name one in config.folds")
  for fold in folds:
    _check(name, fold)
  _check_held_out_once(name, folds)
  folds = [_embedded(name, fold) for fold in folds]
  judged: dict[str, Any] = {
    "simulated": any(fold.simulated for fold in folds),
    "folds": len(folds),
    "windows": _windows(folds, settings),
    "rest": _rest(folds),
    **_retrieval(folds, settings),
    "effective_rank": _effective_ranks(folds),
    **{part: {} for part in ("probes", "differences", "scatter", "skipped")},
    "probes_by_motion": {},
    "by_share": _by_share(folds, settings),
  }
  of_people: dict[str, _Scored] = {}
  folds = [_at_share(fold, 1.0) for fold in folds]
  judged["probes_by_group"] = {}
  for target in (*settings.targets, *settings.also):
    scored = _pooled(folds, target, settings)
    if scored is None:
      judged["skipped"][target] = "no fold has labelled training, validation and test windows"
      continue
    of_people[target] = scored
    judged["probes"][target] = _scores(scored, target, settings)
    judged["differences"][target] = _differences(scored)
    judged["scatter"][target] = _scatter(scored, settings)
    for level, some in _levels(scored, settings).items():
      judged["probes_by_motion"].setdefault(level, {})[target] = _scores(some, target, settings)
    for group, values in _groups(scored, target, settings).items():
      for value, some in values.items():
        place = judged["probes_by_group"].setdefault(group, {}).setdefault(value, {})
        place[target] = _scores(some, target, settings)
  judged["classes"] = _traits(folds, settings.classes, judged["skipped"], settings, windows=True)
  judged["traits"] = _traits(folds, settings.traits, judged["skipped"], settings, windows=False)
  for share in sorted(one for one in settings.shares if one < 1):
    if f"{100 * share:g}" not in judged["by_share"]:
      label = f"{100 * share:g} % of the training people"
      judged["skipped"][label] = "in some fold that is less than one participant"
  judged["people"] = _people(folds, of_people)
  if pairs := _pairs(folds):
    told = retrieval.participant_top1(pairs, settings, window_s=folds[0].window_s)
    judged["people"]["top1"] = _placed(judged["people"]["participant"], *told)
  return judged


# --- checks ---------------------------------------------------------------------------------------


def _check(name: str, fold: FoldTables) -> None:
  """Refuses tables whose rows do not belong together, and people in two parts."""
  if not fold.embeddings:
    raise DistillError(f"set {name}: a fold without a table of embeddings cannot be judged")
  first, columns = next(iter(fold.embeddings)), fold.columns
  missing = {"split", "participant", "recording", "t0_s"} - set(columns)
  if missing:
    raise DistillError(f"set {name}: the embedding tables lack the columns {sorted(missing)}")
  for model, table in fold.embeddings.items():
    for key in ("split", "participant", "recording", "t0_s"):
      if not np.array_equal(table[key], columns[key]):
        raise DistillError(f"set {name}: the rows of {model!r} and {first!r} differ in {key!r}")
  for (model, target), values in fold.predictions.items():
    if np.shape(values) != columns["split"].shape:
      raise DistillError(
        f"set {name}: {np.shape(values)} predictions of {target} by {model!r} for"
        f" {len(columns['split'])} rows"
      )
  table = fold.embeddings[first]
  probes.check_people({part: table.where(columns["split"] == part) for part in PARTS})
  test = int(np.sum(columns["split"] == "test"))
  for side, projection in fold.projections.items():
    if len(projection) != test:
      raise DistillError(
        f"set {name}: projection {side!r} has {len(projection)} rows, the fold {test} test windows"
      )


def _check_held_out_once(name: str, folds: Sequence[FoldTables]) -> None:
  seen: set[str] = set()
  for fold in folds:
    people = set(fold.columns["participant"][fold.columns["split"] == "test"].tolist())
    if seen & people:
      raise DistillError(
        f"set {name}: participant {min(seen & people)!r} is held out in two folds and would count"
        " twice"
      )
    seen |= people


def _embedded(name: str, fold: FoldTables) -> FoldTables:
  """The fold without the rows that one of its models could not embed."""
  rows = np.logical_and.reduce([table.valid for table in fold.embeddings.values()])
  test = fold.columns["split"] == "test"
  for projection in fold.projections.values():
    rows[test] &= projection.valid
  if not np.any(rows & test):
    raise DistillError(f"set {name}: no test window could be embedded by every model")
  return dataclasses.replace(
    fold,
    embeddings={model: table.where(rows) for model, table in fold.embeddings.items()},
    projections={side: table.where(rows[test]) for side, table in fold.projections.items()},
    predictions={key: np.asarray(values)[rows] for key, values in fold.predictions.items()},
  )


def _effective_ranks(folds: Sequence[FoldTables]) -> dict[str, dict[str, float]]:
  """Model -> effective rank of its embeddings of held-out windows, mean over folds, and their size.

  Every fold has models of its own, so folds are not pooled.
  """
  ranks = {}
  for model, first in folds[0].embeddings.items():
    tables = [fold.embeddings[model] for fold in folds if model in fold.embeddings]
    held = [one.embedding[one["split"] == "test"] for one in tables]
    rank = float(np.mean([similarity.effective_rank(vectors) for vectors in held]))
    ranks[model] = {"rank": rank, "dim": first.embedding.shape[1]}
  return ranks


# --- what there is --------------------------------------------------------------------------------


def _windows(folds: Sequence[FoldTables], settings: Settings) -> dict[str, Any]:
  """Counts of the held-out windows, and what the quality gates left of them, by motion level."""
  columns = _joined([_part(fold, "test") for fold in folds])
  n = len(columns["participant"])
  level = np.full(n, "")
  if "motion_g" in columns:
    level = retrieval.motion_level(columns["motion_g"], settings)
  groups = {"all": np.ones(n, bool)} | {name: level == name for name in retrieval.MOTION_LEVELS}
  return {name: _counts(columns, rows, settings) for name, rows in groups.items()}


def _counts(columns: Mapping[str, np.ndarray], rows: np.ndarray, settings: Settings) -> dict:
  n = int(rows.sum())
  counts: dict[str, Any] = {
    "n_windows": n,
    "n_participants": len(np.unique(columns["participant"][rows])),
    "labelled": {
      target: float(np.isfinite(columns[target][rows]).mean()) if n else np.nan
      for target in settings.targets
      if target in columns
    },
  }
  if "ppg_usable" in columns:
    counts["ppg_usable"] = float(columns["ppg_usable"][rows].mean()) if n else np.nan
  return counts


def _rest(folds: Sequence[FoldTables]) -> dict[str, Any]:
  """Counts summed over folds, the other figures averaged by what they were counted on."""
  found = [fold.rest for fold in folds if fold.rest]
  if not found:
    return {}
  counts = {name: [one[name] for one in found] for name in ("stretches", "windows")}

  def mean(name: str, count: str) -> Any:
    known = [(one[name], n) for one, n in zip(found, counts[count], strict=True) if n]
    values, weights = zip(*known, strict=True) if known else ([np.nan], [1])
    return np.average(values, axis=0, weights=weights)

  rates = ("hr_mae_bpm", "hr_close", "hr_mean_mae_bpm")
  return {
    **{name: sum(some) for name, some in counts.items()},
    "in_band_mg": mean("in_band_mg", "stretches"),
    **{name: mean(name, "windows") for name in rates},
  }


def _part(fold: FoldTables, part: str) -> dict[str, np.ndarray]:
  rows = fold.columns["split"] == part
  return {name: column[rows] for name, column in fold.columns.items()}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  shared = set.intersection(*(set(part) for part in parts))
  return {name: np.concatenate([part[name] for part in parts]) for name in sorted(shared)}


def _retrieval(folds: Sequence[FoldTables], settings: Settings) -> dict[str, Any]:
  pairs = _pairs(folds)
  if not pairs:
    return {part: {} for part in retrieval.PARTS}
  return retrieval.retrieve(
    pairs,
    settings,
    window_s=folds[0].window_s,
    shifted=[fold.shifted for fold in folds if fold.projections],
    rhythms=[fold.rhythms for fold in folds if fold.rhythms],
  )


def _pairs(folds: Sequence[FoldTables]) -> list[retrieval.Pair]:
  return [_pair(fold) for fold in folds if {"student", "teacher"} <= set(fold.projections)]


def _pair(fold: FoldTables) -> retrieval.Pair:
  columns = _part(fold, "test")
  student, teacher = fold.projections["student"], fold.projections["teacher"]
  return dataclasses.replace(student, columns=columns), dataclasses.replace(
    teacher, columns=columns
  )


# --- shares of the training people ----------------------------------------------------------------


def supervised_row(share: float) -> str:
  """Name of the student that was supervised by a share of the training people."""
  return SUPERVISED if share == 1 else f"{SUPERVISED}_{100 * share:g}"


def _at_share(fold: FoldTables, share: float) -> FoldTables:
  """The fold as if the training people of a share were all there are, for probes and supervision.

  The student that was supervised by them stands as "supervised".
  """

  def row(model: str) -> str:
    other = model.startswith(SUPERVISED) and model != supervised_row(share)
    return "" if other else SUPERVISED if model == supervised_row(share) else model

  kept = np.ones(len(fold.columns["split"]), bool)
  if share < 1:
    kept = (fold.columns["split"] != "train") | (fold.columns[LABELLED_SHARE] <= share)
  return dataclasses.replace(
    fold,
    embeddings={row(m): table.where(kept) for m, table in fold.embeddings.items() if row(m)},
    predictions={
      (row(m), target): values[kept] for (m, target), values in fold.predictions.items() if row(m)
    },
  )


def _by_share(folds: Sequence[FoldTables], settings: Settings) -> dict[str, Any]:
  """Share of the training people, in percent -> its probes; of shares with people in every fold."""
  found: dict[str, Any] = {}
  for share in sorted(one for one in settings.shares if one < 1):
    if any(not np.any(fold.columns.get(LABELLED_SHARE, np.zeros(0)) <= share) for fold in folds):
      continue
    parts = [_at_share(fold, share) for fold in folds]
    train = [_part(fold, "train")["participant"] for fold in parts]
    scored = {target: _pooled(parts, target, settings) for target in settings.targets}
    known = {target: one for target, one in scored.items() if one is not None}
    found[f"{100 * share:g}"] = {
      "labelled": [len(np.unique(some)) for some in train],
      "probes": {target: _scores(one, target, settings) for target, one in known.items()},
      "differences": {target: _differences(one) for target, one in known.items()},
      "people": _people(parts, known),
    }
  return found


# --- predictions ----------------------------------------------------------------------------------


def _pooled(folds: Sequence[FoldTables], target: str, settings: Settings) -> _Scored | None:
  """Every model's predictions of one target over all folds; None where no fold has labels."""
  parts = [scored for fold in folds if (scored := _predict(fold, target, settings)) is not None]
  return _pool(parts) if parts else None


def _predict(fold: FoldTables, target: str, settings: Settings) -> _Scored | None:
  """Every model's predictions for the labelled test windows of one fold."""
  columns = fold.columns
  if target not in columns:
    return None
  rows = {part: (columns["split"] == part) & np.isfinite(columns[target]) for part in PARTS}
  if not all(np.any(mask) for mask in rows.values()):
    return None
  test = {name: column[rows["test"]] for name, column in columns.items()}
  true = np.asarray(test[target], np.float64)
  predicted, notes = _references(columns, rows, target)
  held, widths = rows["validation"], {}
  direct = {model: values for (model, name), values in fold.predictions.items() if name == target}
  for model in sorted({*fold.embeddings, *direct}):
    heads = {}
    if model in fold.embeddings:
      heads["ridge"] = _ridge(fold.embeddings[model], rows, target, settings)
    if model in direct:
      heads["own_head"] = _own_head(direct[model], columns[target], rows)
    errors = _on_validation(heads, columns, rows["validation"], target)
    head = min(errors, key=errors.__getitem__)
    predicted[model] = heads[head].test
    notes[model] = {"head": head, "validation_mae": errors[head], **heads[head].notes}
    error = np.abs(heads[head].validation - columns[target][held])
    width = agreement.conformal_width(error, columns["participant"][held])
    widths[model] = np.full(len(true), width)
  return _Scored(true, test, predicted, notes, widths)


def _references(columns, rows, target: str) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
  """The mean, the session clock and the person's own mean."""
  train, test = rows["train"], rows["test"]
  labels = np.asarray(columns[target], np.float64)
  participant, since_s = columns["participant"][test], retrieval.since_start(columns)
  names, means = statistics.participant_means(labels[test], participant)
  predicted = {
    MEAN: np.full(int(test.sum()), labels[train].mean()),
    CLOCK: baselines.session_clock(since_s[train], labels[train], since_s[test]),
    OWN_MEAN: means[np.searchsorted(names, participant)],
  }
  return predicted, {MEAN: {}, CLOCK: {}, OWN_MEAN: {"oracle": True}}


def _ridge(table: EmbeddingTable, rows, target: str, settings: Settings) -> _Head:
  train, validation, test = (table.where(rows[part]) for part in PARTS)
  model = probes.fit(train, validation, target, settings.alphas)
  held, predicted = (model.predict(part.embedding) for part in (validation, test))
  return _Head(held, predicted, {"alpha": model.alpha})


def _own_head(values: np.ndarray, labels: np.ndarray, rows) -> _Head:
  given = np.isfinite(values)
  filled = np.where(given, values, np.mean(labels[rows["train"]], dtype=np.float64))
  declined = float(np.mean(~given[rows["test"]]))
  return _Head(filled[rows["validation"]], filled[rows["test"]], {"declined": declined})


def _on_validation(heads: Mapping[str, _Head], columns, rows, target: str) -> dict[str, float]:
  """Head -> mean over validation people of their MAE."""
  return {
    name: statistics.over_participants(
      np.abs(head.validation - columns[target][rows]), columns["participant"][rows]
    ).value
    for name, head in heads.items()
  }


def _pool(parts: Sequence[_Scored]) -> _Scored:
  """All folds; models that are not in every fold are left out."""
  models = [model for model in parts[0].predicted if all(model in p.predicted for p in parts)]
  notes: dict[str, dict[str, Any]] = {}
  for model in models:
    keys = parts[0].notes[model]
    notes[model] = {key: _joined_note([p.notes[model].get(key) for p in parts]) for key in keys}
  return _Scored(
    np.concatenate([part.true for part in parts]),
    _joined([part.columns for part in parts]),
    {model: np.concatenate([part.predicted[model] for part in parts]) for model in models},
    notes,
    {m: np.concatenate([p.widths[m] for p in parts]) for m in models if m in parts[0].widths},
  )


def _joined_note(values: list[Any]) -> Any:
  """The value that all folds agree on, else the list of them."""
  return values[0] if all(value == values[0] for value in values) else values


# --- scores ---------------------------------------------------------------------------------------


def _scores(scored: _Scored, target: str, settings: Settings) -> dict[str, Any]:
  origin = probes.origin_of(scored.columns, target)
  table = {}
  for model, predicted in scored.predicted.items():
    row = probes.score(
      scored.true,
      predicted,
      scored.columns["participant"],
      target=target,
      label_origin=origin,
      label_error_sd=_label_error_sd(scored.columns, target),
    )
    if model in scored.widths:
      error, people = np.abs(predicted - scored.true), scored.columns["participant"]
      row["conformal"] = agreement.coverage(error, scored.widths[model], people)
    circular = "ppg" in origin.split("+") and model in settings.reads_ppg
    if model == MEAN:
      row["r"] = np.nan  # folds have different means: a correlation over folds would be an artefact
    table[model] = row | {"circular": circular, **scored.notes[model]}
  return table


def _label_error_sd(columns: Mapping[str, np.ndarray], target: str) -> float | None:
  """Root mean square difference of two readings of the labels; None where there is no second."""
  errors = columns.get(ERRORS.get(target, ""), np.zeros(0))
  errors = errors[np.isfinite(errors)]
  return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64)))) if len(errors) else None


def _differences(scored: _Scored) -> dict[str, Any]:
  """Student minus each other model, paired by participant; negative means the student is better."""
  if STUDENT not in scored.predicted:
    return {}
  error = {model: np.abs(values - scored.true) for model, values in scored.predicted.items()}
  participant = scored.columns["participant"]
  table = {}
  for model, other in error.items():
    if model == STUDENT:
      continue
    interval = statistics.paired_difference(error[STUDENT], other, participant)
    base = statistics.over_participants(other, participant).value
    table[model] = {
      "mae": interval.to_json(),
      "relative": interval.value / base if base > 0 else np.nan,
      "n_participants": interval.n,
    }
  return table


def _people(folds: Sequence[FoldTables], scored: Mapping[str, _Scored]) -> dict[str, Any]:
  """What each held-out participant got, so that two runs on the same people can be compared."""
  names = np.unique(_joined([_part(fold, "test") for fold in folds])["participant"])
  found: dict[str, Any] = {"participant": names, "mae": {}}
  for target, one in scored.items():
    found["mae"][target] = {
      model: _placed(
        names,
        *statistics.participant_means(np.abs(values - one.true), one.columns["participant"]),
      )
      for model, values in one.predicted.items()
    }
  return found


def _placed(names: np.ndarray, some: np.ndarray, means: np.ndarray) -> np.ndarray:
  """[names] the means of some of them, NaN for the others."""
  values = np.full(len(names), np.nan)
  values[np.searchsorted(names, some)] = np.round(means, 5)
  return values


def _levels(scored: _Scored, settings: Settings) -> dict[str, _Scored]:
  """still, light, moving -> the windows of that level, where there are any."""
  if "motion_g" not in scored.columns:
    return {}
  level = retrieval.motion_level(scored.columns["motion_g"], settings)
  names = [name for name in retrieval.MOTION_LEVELS if np.any(level == name)]
  return {name: scored.where(level == name) for name in names}


AGE_EDGES = (30.0, 50.0, 65.0)  # years; ours


def _groups(scored: _Scored, target: str, settings: Settings) -> dict[str, dict[str, _Scored]]:
  """Group -> value -> its windows; of groups with at least two values."""
  found: dict[str, dict[str, _Scored]] = {}
  for group in settings.groups:
    name = group if group != "label_origin" else probes.ORIGIN.get(target, probes.HRV_ORIGIN)
    if name not in scored.columns:
      continue
    column = scored.columns[name]
    value = age_group(column) if group == "age" else np.asarray(column).astype(str)
    values = [one for one in np.unique(value).tolist() if one]
    if len(values) > 1:
      found[group] = {one: scored.where(value == one) for one in values}
  return found


def age_group(age: np.ndarray) -> np.ndarray:
  """[n] names of the age groups, which sort by age; "" where unknown."""
  lower, upper = ["0", *(f"{edge:g}" for edge in AGE_EDGES)], [f"{e - 1:g}" for e in AGE_EDGES]
  names = np.array([f"{a}-{b}" for a, b in zip(lower, upper)] + [f"{lower[-1]}+"])
  age = np.asarray(age, np.float64)
  return np.where(np.isfinite(age), names[np.digitize(np.nan_to_num(age), AGE_EDGES)], "")


def _traits(
  folds: Sequence[FoldTables],
  targets: Sequence[str],
  skipped: dict[str, str],
  settings: Settings,
  *,
  windows: bool,
) -> dict[str, Any]:
  """Target -> model -> scores, of classes of windows or of people; why not is told in `skipped`."""
  found = {}
  for target in targets:
    if not all(target in fold.columns for fold in folds):
      continue
    try:
      tables = [fold.embeddings for fold in folds]
      found[target] = (
        traits.classes(tables, target, seed=settings.seed)
        if windows
        else traits.people(tables, target)
      )
    except DistillError as error:
      skipped[target] = str(error)
  return found


def _scatter(scored: _Scored, settings: Settings) -> dict[str, Any]:
  """True and predicted values of the student for plots, thinned with a seed."""
  if STUDENT not in scored.predicted:
    return {}
  n = len(scored.true)
  rows = np.arange(n)
  if n > settings.scatter:
    rows = np.sort(np.random.default_rng(settings.seed).choice(n, settings.scatter, replace=False))
  return {
    "model": STUDENT,
    "true": np.round(scored.true[rows], 3),
    "predicted": np.round(scored.predicted[STUDENT][rows], 3),
    "participant": scored.columns["participant"][rows],
  }
