"""What fine-tuning gains on its task and what it costs everything else; `distill retention`.

One start (a distilled student), one task, several ways to fine-tune: Speech-FT, that is a frozen
front end and then weights interpolated back towards the start for every alpha, beside plain
fine-tuning, early stopping, linear probe then fine-tuning, L2 to the start and low-rank adapters.
Each result is judged in the same way on people it never saw: probes of the task and of everything
else on its embedding, retrieval with the start's own heads, and how alike each layer is to the
start's. Alpha is picked on validation people, by what it gains and by what it keeps.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from distill import (
  finetune,
  merge,
  models,
  objectives,
  plots,
  probes,
  report,
  stages,
  statistics,
)
from distill import workdir as workdirs
from distill.config import ConfigDict
from distill.data import pipeline
from distill.data.store import PreparedSet
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError
from distill.nn.encoder import Encoder, Forward
from distill.ranking import ranks
from distill.similarity import linear_cka
from distill.spec import PPG
from distill.workdir import Fold, clock

Path = pathlib.Path
FILE = report.RETENTION
START, SPEECH_FT, PLAIN, EARLY = "start", "speech_ft", "plain", "early_stopping"
BATCH = 128
EMBEDDING = "embedding"  # among the layers, what the probes read
WIDE = "with_rhythm"  # beside the layers, what the student's head reads
RETRIEVAL = "retrieval"  # among the measures: 1 - 1 / rank of the partner, over all test windows

Weights = Mapping[str, np.ndarray]
Layers = dict[str, np.ndarray]  # name -> [n, width]


def compare(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """Fine-tunes in every way, judges every result, and writes retention.json.

  Args:
    config: of the run. `finetune` says task, steps and start ("" distils a student first), and
      `retention` the grid of alphas, the other probes and the rivals' strengths.
    folder: work folder; claimed for this config, or resumed.

  Returns:
    set name -> what `judge` returns.

  Raises:
    DistillError: alphas that are none; as `distill.stages.train` and `distill.finetune.finetune`.
  """
  alphas = tuple(config.retention.alphas)
  if not any(alphas) or not all(0 <= alpha <= 1 for alpha in alphas):
    raise DistillError(
      f"retention.alphas is {alphas}; expected numbers from 0 (the start) to 1 (fine-tuned), at"
      " least one above 0"
    )
  with workdirs.claimed(config, folder) as place:
    for fold in workdirs.open_folds(config, place):
      finetune.check(config, fold)
  if not config.finetune.start:
    stages.train(config, folder)
  teachers = stages.pretrain(config, folder)
  with workdirs.claimed(config, folder) as folder:
    folds = workdirs.open_folds(config, folder)
    trained = [_tune_all(config, folder, fold) for fold in folds]
    found: dict[str, Any] = {}
    with clock(folder, "retention"):
      for name in config.data.sets:
        scored = [
          _score(config, fold, name, teacher, *models_of)
          for fold, teacher, models_of in zip(folds, teachers, trained, strict=True)
        ]
        simulated = any(fold.sets[name][0].simulated for fold in folds)
        found[name] = judge(_pool(scored), config.finetune.target, config.retention)
        found[name]["simulated"] = simulated
    partial = folder / (FILE + ".partial")
    partial.write_text(report.to_json(report.plain(found)))
    partial.replace(folder / FILE)
  draw(folder)
  return load(folder)


def draw(folder: str | Path) -> None:
  """retention.md with the tables and plots/<set>_retention.(svg|png), from retention.json alone."""
  folder, tables_of = Path(folder), []
  (folder / "plots").mkdir(exist_ok=True)
  for name, one in load(folder).items():
    tables_of.append(report.retention_markdown(name, one))
    plot = plots.retention(name, one)
    (folder / "plots" / f"{plot.name}.svg").write_text(plot.svg)
    (folder / "plots" / f"{plot.name}.png").write_bytes(plot.png)
  (folder / "retention.md").write_text("\n\n".join(tables_of) + "\n")


# --- fine-tuning in every way ---------------------------------------------------------------------


def rivals(settings: ConfigDict, retention: ConfigDict) -> dict[str, ConfigDict]:
  """Name -> settings of each fine-tuning; all have the task, steps and rate of `settings`."""
  whole = {"head_share": 0.0, "freeze_front_end": False}
  head = {"head_share": settings.head_share or 0.1, "freeze_front_end": False}
  changes: dict[str, dict[str, Any]] = {
    SPEECH_FT: {**head, "freeze_front_end": True},
    PLAIN: {**whole, "keep": "last"},
    EARLY: {**whole, "keep": "best"},
    "probe_then_tune": head,
    "l2_to_start": {**whole, "l2_to_start": retention.l2_to_start},
    "lora": {**whole, "lora_rank": retention.lora_rank},
  }
  found = {}
  for name, change in changes.items():
    found[name] = settings.copy_and_resolve_references()
    with found[name].unlocked():
      found[name].update({"l2_to_start": 0.0, "lora_rank": 0, "keep": "best", **change})
  return found


def _tune_all(
  config: ConfigDict, folder: Path, fold: Fold
) -> tuple[models.ModelFolder, dict[str, Weights]]:
  """The start, and name -> encoder weights of every fine-tuned model."""
  start = fold.named(config.finetune.start) or fold.folder / "student"
  stored = models.read(models.find(start, side="students"))
  tuned: dict[str, Weights] = {}
  with clock(folder, "finetune"):
    for name, settings in rivals(config.finetune, config.retention).items():
      place = fold.folder / name
      if name == EARLY and not place.exists():
        # The run of plain fine-tuning, of which the best validation is kept, not the last step.
        partial = place.with_name(place.name + ".partial")  # a copy that was cut off is no run
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(fold.folder / PLAIN / "checkpoints", partial / "checkpoints")
        partial.rename(place)
      made = finetune.tune(config, fold, stored.folder, place, settings)
      tuned[name] = models.read(made).part("encoder")
  return stored, tuned


def variants(start: Weights, tuned: Mapping[str, Weights], alphas: Sequence[float]) -> Iterator:
  """(name, alpha or NaN, weights) of everything that is judged, the start first."""
  yield START, 0.0, start
  for alpha in alphas:
    if alpha > 0:
      mixed = merge.interpolate(start, [tuned[SPEECH_FT]], alpha)
      yield f"{SPEECH_FT}_{alpha:g}", alpha, mixed
  for name, weights in tuned.items():
    if name != SPEECH_FT:
      yield name, np.nan, weights


# --- judging --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Errors:
  """Errors on the windows of some people by measure, lower is better.

  Attributes:
    values: measure -> [n] errors; NaN where the measure is not defined.
    participant: measure -> [n] names.
  """

  values: dict[str, np.ndarray]
  participant: dict[str, np.ndarray]

  @classmethod
  def pool(cls, parts: Sequence["Errors"]) -> "Errors":
    """The rows of all parts, of the measures that all of them have."""
    shared = [m for m in parts[0].values if all(m in one.values for one in parts)]
    return cls(
      {m: np.concatenate([one.values[m] for one in parts]) for m in shared},
      {m: np.concatenate([one.participant[m] for one in parts]) for m in shared},
    )

  def of(self, measure: str) -> statistics.Interval:
    return statistics.over_participants(self.values[measure], self.participant[measure])

  def change(self, start: "Errors", measure: str) -> dict[str, float]:
    """Interval of the error less the start's, paired by participant, in shares of the start's."""
    own, base = self.values[measure], start.values[measure]
    change = statistics.paired_difference(own, base, self.participant[measure])
    whole = start.of(measure).value
    unit = whole if whole > 0 else np.nan
    return {key: value / unit for key, value in change.to_json().items()}


@dataclasses.dataclass(frozen=True)
class Scored:
  """One variant on one set.

  Attributes:
    alpha: of an interpolated variant, 0 for the start, NaN for the others.
    validation: errors on the people on whom alpha is picked.
    test: errors on people of whom nothing was chosen.
    cka: layer -> likeness to the start's, on test windows.
  """

  alpha: float
  validation: Errors
  test: Errors
  cka: dict[str, float]


def _score(
  config: ConfigDict,
  fold: Fold,
  name: str,
  teacher: Encoder,
  stored: models.ModelFolder,
  tuned: Mapping[str, Weights],
) -> dict[str, Scored]:
  """Every variant on one set of one fold."""
  prepared = fold.sets[name][0]
  picked = {p: fold.rows(config, p, overlapping=False)[name].rows for p in PARTS}
  rows, split = np.concatenate([*picked.values()]), np.repeat(PARTS, [*map(len, picked.values())])
  encoder = models.load_encoder(stored.folder)
  everything = list(variants(stored.part("encoder"), tuned, config.retention.alphas))
  named = [(label, weights) for label, _, weights in everything]
  found = _embed(prepared, rows, encoder, named, name)
  columns = {c: values[rows] for c, values in prepared.index.items()} | {"split": split}
  galleries = {p: _gallery(prepared, picked[p], teacher, stored, encoder) for p in PARTS[1:]}
  targets = [config.finetune.target, *config.retention.probes]
  scored = {}
  for label, alpha, _ in tqdm(everything, desc=f"judge {name}", unit="model"):
    layers = {layer: values for layer, values in found[label].items() if layer != WIDE}
    table = EmbeddingTable(layers[EMBEDDING], columns)
    errors = _probe_all(table, targets, config)
    for part, gallery in galleries.items():
      if gallery is not None:
        head, targets_of = gallery
        queries = found[label][WIDE] if head.rhythm else layers[EMBEDDING]
        place, _ = ranks(np.asarray(head(queries[split == part])), targets_of)
        errors[part].values[RETRIEVAL] = 1.0 - 1.0 / place
        errors[part].participant[RETRIEVAL] = columns["participant"][split == part]
    cka = {
      layer: linear_cka(found[START][layer][split == "test"], values[split == "test"])
      for layer, values in layers.items()
    }
    scored[label] = Scored(alpha, errors["validation"], errors["test"], cka)
  return scored


def _embed(
  prepared: PreparedSet,
  rows: np.ndarray,
  encoder: Encoder,
  named: Sequence[tuple[str, Weights]],
  label: str,
) -> dict[str, Layers]:
  """Every layer of every variant; windows are read once, the forward pass is compiled once."""
  graphdef, _ = nnx.split(encoder)

  @jax.jit
  def forward(state, x, m):
    one = nnx.merge(graphdef, state)
    return one.by_layer(x, m) | {WIDE: one.with_rhythm(x, m)}

  states = {}
  for name, weights in named:
    models.assign(encoder, weights, where=name)
    states[name] = jax.tree.map(lambda x: x.copy(), nnx.state(encoder))
  parts: dict[str, list[Layers]] = {name: [] for name in states}
  modality = encoder.spec.modality
  with tqdm(total=len(rows), desc=f"embed {label}", unit="window", mininterval=1.0) as bar:
    for start in range(0, len(rows), BATCH):
      some = rows[start : start + BATCH]
      x, m = pipeline.prepare_windows(prepared.windows(some)[modality], encoder.spec)
      pad = [(0, BATCH - len(some)), (0, 0), (0, 0)]
      x, m = np.pad(x, pad), np.pad(m, pad)
      for name, one in states.items():
        layers = forward(one, x, m)
        parts[name].append({key: np.asarray(v)[: len(some)] for key, v in layers.items()})
      bar.update(len(some))
  return {
    name: {key: np.concatenate([one[key] for one in some]) for key in (*encoder.layer_names, WIDE)}
    for name, some in parts.items()
  }


def _gallery(
  prepared: PreparedSet,
  rows: np.ndarray,
  teacher: Encoder,
  stored: models.ModelFolder,
  encoder: Encoder,
) -> tuple[Any, np.ndarray] | None:
  """The start's student head and the teacher's projections; None without an aligned pair."""
  if not stored.part("student_head") or encoder.spec.modality == PPG:
    return None
  head: Any = objectives.load_head(stored, "teacher_head")
  forward, parts = Forward(teacher, batch_size=BATCH, rhythm=head.rhythm), []
  for start in range(0, len(rows), BATCH):
    raw = prepared.windows(rows[start : start + BATCH])
    parts.append(forward(*pipeline.prepare_windows(raw[PPG], teacher.spec)))
  projected = np.asarray(head(np.concatenate(parts)))
  return objectives.load_head(stored, "student_head"), projected


def _probe_all(
  table: EmbeddingTable, targets: Sequence[str], config: ConfigDict
) -> dict[str, Errors]:
  """Errors of validation and test windows by target, those without labels left out."""
  found = {part: Errors({}, {}) for part in PARTS[1:]}
  for target in dict.fromkeys(targets):
    known = table.where(finetune.labelled(table[target]))
    parts = [known.where(known["split"] == part) for part in PARTS]
    if not all(map(len, parts)):
      continue
    numeric = np.issubdtype(known[target].dtype, np.number)
    errors = (_numeric if numeric else _classes)(parts, target, config.evaluate.alphas)
    for part, rows, values in zip(PARTS[1:], parts[1:], errors, strict=True):
      found[part].values[target] = values
      found[part].participant[target] = rows["participant"]
  return found


def _numeric(parts, target: str, alphas) -> tuple[np.ndarray, np.ndarray]:
  model = probes.fit(parts[0], parts[1], target, alphas)
  held, test = (np.abs(model.predict(part.embedding) - part[target]) for part in parts[1:])
  return held, test


def _classes(parts, target: str, _) -> tuple[np.ndarray, np.ndarray]:
  """1 where the class is wrong; people are scored by their share of such windows."""
  if len(np.unique(parts[0][target])) < 2:
    return np.full(len(parts[1]), np.nan), np.full(len(parts[2]), np.nan)
  model = probes.fit_classes(parts[0], parts[1], target)
  names = np.array(model.classes)
  held, test = (
    (names[model.probabilities(part.embedding).argmax(axis=1)] != part[target]).astype(np.float64)
    for part in parts[1:]
  )
  return held, test


def _pool(folds: Sequence[Mapping[str, Scored]]) -> dict[str, Scored]:
  """Windows of all folds together; likeness as means over folds."""
  pooled = {}
  for name, first in folds[0].items():
    all_of = [fold[name] for fold in folds]
    pooled[name] = Scored(
      first.alpha,
      Errors.pool([one.validation for one in all_of]),
      Errors.pool([one.test for one in all_of]),
      {k: float(np.mean([one.cka[k] for one in all_of])) for k in first.cka},
    )
  return pooled


def judge(scored: Mapping[str, Scored], task: str, settings: Any) -> dict[str, Any]:
  """The table of one set.

  Args:
    scored: variant -> errors, "start" among them.
    task: target of the fine-tuning.
    settings: `config.retention`.

  Returns:
    {"task", "chosen_alpha", "variants": name -> {"alpha", "validation", "validation_kept", "gain",
    "gain_share", "measures": measure -> {"error": interval, "change": interval, "kept"}, "cka"}}.
    `change` is the error less the start's, paired by participant, as a share of the start's error;
    `kept` says that its interval excludes a loss of `settings.loss`. `gain` is the task's change
    turned round, `gain_share` its share of plain fine-tuning's (NaN where that gains nothing).
    Alpha is picked by `validation`, the task's error on validation people, and `validation_kept`,
    the names of the other measures that are kept there.

  Raises:
    DistillError: the task has no labelled people in this set.
  """
  start = scored[START]
  if task not in start.test.values:
    raise DistillError(f"no labelled training, validation and test windows of {task!r}")
  rows: dict[str, Any] = {}
  for name, one in scored.items():
    measures: dict[str, Any] = {}
    for measure in one.test.values:
      own, change = one.test.of(measure), one.test.change(start.test, measure)
      measures[measure] = {
        "error": own.to_json(),
        "change": change,
        # The start keeps everything, though its interval has no width.
        "kept": bool(name == START or change["hi"] < settings.loss),
        "n_participants": own.n,
      }
    rows[name] = {
      "alpha": one.alpha,
      "validation": one.validation.of(task).value,
      "validation_kept": _kept(one.validation, start.validation, task, settings.loss),
      "gain": 0.0 - measures[task]["change"]["value"],  # never a negative zero
      "measures": measures,
      "cka": one.cka,
    }
  plain = rows[PLAIN]["gain"]
  for row in rows.values():
    row["gain_share"] = row["gain"] / plain if plain > 0 else np.nan
  return {"task": task, "chosen_alpha": choose_alpha(scored, task, settings), "variants": rows}


def _kept(errors: Errors, start: Errors, task: str, loss: float) -> list[str]:
  """Measures beside the task whose interval excludes that loss."""
  others = [measure for measure in errors.values if measure != task]
  return [m for m in others if errors is start or errors.change(start, m)["hi"] < loss]


def choose_alpha(scored: Mapping[str, Scored], task: str, settings: Any) -> float:
  """The alpha that both sides of the aim ask for, on validation people.

  Of the alphas at which most other measures are kept (all of them, where there is such an alpha)
  the smallest with `settings.share` of plain fine-tuning's gain; the one with the least error of
  the task where none gains that much, or plain fine-tuning nothing.
  """
  start, plain = scored[START].validation, scored[PLAIN].validation
  mixed = [one for name, one in scored.items() if name.startswith(SPEECH_FT)]
  kept = {one.alpha: len(_kept(one.validation, start, task, settings.loss)) for one in mixed}
  error = {
    one.alpha: one.validation.of(task).value
    for one in mixed
    if kept[one.alpha] == max(kept.values())
  }
  before, after = start.of(task).value, plain.of(task).value
  wanted = before - settings.share * (before - after)
  good = [alpha for alpha, value in error.items() if value <= wanted]
  return min(good) if good and after < before else min(error, key=error.__getitem__)


def text(folder: str | Path) -> str:
  """The tables of a work folder, for a terminal.

  Raises:
    DistillError: no comparison there.
  """
  return "\n\n".join(report.retention_text(name, one) for name, one in load(folder).items())


def load(folder: str | Path) -> dict[str, Any]:
  """retention.json of a work folder: set name -> what `judge` returns.

  Raises:
    DistillError: no comparison there.
  """
  found = report.read_retention(folder)
  if not found:
    raise DistillError(f"no {FILE} in {folder}; make it with: distill retention")
  return found
