"""The main job, stage by stage: prepare, pretrain, train, embed, judge; `run` does them all.

The command's verbs and the notebooks call these functions with the same words. Each stage first
does what must come before it and has not been done; a stage whose result is there does nothing, and
one that was interrupted goes on from its last checkpoint. `distill.workdir` says what lies where.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from distill import config as configs
from distill import (
  evaluate,
  fold_training,
  frozen,
  models,
  probes,
  processes,
  registry,
  report,
  rivals,
  statistics,
  tables,
  workdir,
)
from distill.augment import Augment, Prepare
from distill.config import ConfigDict
from distill.data import pairs, pipeline
from distill.data.prepare import prepare as prepare_sets
from distill.embeddings import EmbeddingTable, embedded
from distill.errors import DistillError
from distill.frozen import Teacher
from distill.nn.encoder import Encoder
from distill.objectives import Distillation
from distill.spec import ACC, PPG, PPG_MASK, SignalSpec
from distill.workdir import Fold, clock

Path = pathlib.Path
Vectors = Mapping[str, Mapping[str, np.ndarray]]  # teacher -> set -> [rows of the set, dim]


def prepare(config: ConfigDict) -> dict[str, Path]:
  """Prepares every set of the config, or finds it prepared; set name -> folder.

  A set that is built is made ready for the encoders that a run of the config trains.
  """
  return prepare_sets(config.data, lambda: fold_training.read_in_training(config))


def pretrain(config: ConfigDict, folder: str | Path) -> list[Encoder]:
  """Stage A: the PPG teacher by masked autoencoding on training people, or the one given.

  With `config.pretrain.side` "student" it is the student that is pretrained on acceleration alone,
  into <fold>/pretrained; `config.start` of a later run names it.

  Args:
    config: of the run.
    folder: work folder; claimed for this config, or resumed.

  Returns:
    The frozen teacher, or the pretrained student, of every fold.

  Raises:
    DistillError: a work folder of another run, data that cannot be used, or a given teacher that is
      missing, damaged or made for other data.
  """
  with workdir.claimed(config, folder) as folder:
    folds = _open_folds(config, folder)
    if config.pretrain.side == "student":
      return [_pretrained_student(config, folder, fold) for fold in folds]
    return [_encoder(config, folder, fold) for fold in folds]


def train(config: ConfigDict, folder: str | Path) -> list[Distillation]:
  """Stage B: distils the accelerometer student from the frozen teacher's stored embeddings.

  Returns:
    Student and both heads, for every fold.

  Raises:
    DistillError: as `pretrain`; a teacher whose heart-rate probe does not beat the mean.
  """
  with workdir.claimed(config, folder) as folder:
    return [_distilled(config, folder, fold) for fold in _open_folds(config, folder)]


def embed(config: ConfigDict, folder: str | Path) -> list[Path]:
  """Embeds every fold's windows with teacher, student and the students it is compared with.

  Whatever of them is not trained yet is trained first; see `check_trained`.

  Returns:
    Folders of tables, <fold>/embeddings/.
  """
  with workdir.claimed(config, folder) as folder:
    return [_embedded(config, folder, fold) for fold in _open_folds(config, folder)]


def check_trained(config: ConfigDict, folder: str | Path) -> None:
  """Refuses a work folder in which no student of the config's folds was trained.

  Raises:
    DistillError: naming what is missing.
  """
  if config.method == "rivals":
    return
  for k in config.folds:
    place = Path(folder) / f"fold{k}" / "student"
    if not (place / "model").is_dir():
      raise DistillError(
        f"there is no trained student in {place} to embed with; train it with: distill train, or"
        " give --model and --set for another model folder"
      )


def judge(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """Judges the tables of a work folder and writes report.json, report.html and plots/.

  Needs no recordings: a work folder that was moved is judged where it lies.

  Returns:
    The report.
  """
  folder = Path(folder)
  settings = evaluate.Settings(**_plain(config.evaluate))
  others = tuple(f"teacher_{2 + k}" for k in range(len(config.teacher.also)))
  shares = tuple({*config.evaluate.shares, *config.supervised.shares})
  settings = dataclasses.replace(settings, reads_ppg=settings.reads_ppg + others, shares=shares)
  judged: dict[str, Any] = {}
  with clock(folder, "judge"), tqdm(list(config.data.sets), desc="judge", unit="set") as bar:
    for name in bar:
      folds = [tables.read(folder / f"fold{k}" / "embeddings" / name) for k in config.folds]
      judged |= evaluate.evaluate({name: folds}, settings)
    for name in config.data.external:
      place = folder / f"fold{config.folds[0]}" / "embeddings"
      home = {one: tables.read(place / one) for one in config.data.sets}
      away = evaluate.transferred(home, tables.read(place / name))
      judged |= evaluate.evaluate({name: [away]}, settings)
      judged[name]["external"] = True
  for name, kept in report.read_retention(folder).items():
    if name in judged:
      judged[name]["retention"] = kept
  made = report.build(
    judged,
    timing=workdir.read_timing(folder),
    versions=workdir.read_versions(folder),
    config=config.to_dict(),
    seed=config.seed,
  )
  with tqdm(total=1, desc="draw the report", unit="report") as bar:
    report.write(folder, made)
    bar.update()
  return made


def run(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """All stages, from recordings to the report.

  Returns:
    The report.
  """
  embed(config, folder)
  return judge(config, folder)


def _open_folds(config: ConfigDict, folder: Path) -> list[Fold]:
  return workdir.open_folds(config, folder, lambda: fold_training.read_in_training(config))


def _plain(section: ConfigDict) -> dict[str, Any]:
  """A config section as keyword arguments; what came back from JSON as a list is a tuple again."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.to_dict().items()}


# --- stage A: the teacher -----------------------------------------------------------------------


def _teachers(config: ConfigDict, folder: Path, fold: Fold) -> list[Teacher]:
  """The frozen teachers in the order of the config, the first pretrained here if none is given."""
  first = config.teacher.load or _pretrained(config, folder, fold)
  rhythm = bool(fold_training.outline(config, "student").rhythm)
  found: list[Teacher] = []
  for k, place in enumerate((first, *config.teacher.also), start=1):
    name = "teacher" if k == 1 else f"teacher_{k}"
    teacher = frozen.open_teacher(
      fold.named(str(place)), name=name, dtype=config.teacher.stored, rhythm=rhythm
    )
    if isinstance(teacher, frozen.EncoderTeacher):
      check_unseen(fold, teacher.stored, "teacher")
      fold_training.check_fits(fold, teacher.encoder, "teacher")
    found.append(teacher)
  return found


def _encoder(config: ConfigDict, folder: Path, fold: Fold) -> Encoder:
  teacher = _teachers(config, folder, fold)[0]
  if not isinstance(teacher, frozen.EncoderTeacher):
    raise DistillError(
      f"config.teacher.load {config.teacher.load} is a file of embeddings: there is no encoder to"
      " pretrain; go on with distill train or distill run"
    )
  return teacher.encoder


def _pretrained(config: ConfigDict, folder: Path, fold: Fold) -> Path:
  place = fold.folder / "teacher"
  if not (place / "model").is_dir():
    if config.method == "joint":
      with clock(folder, "train"):
        rivals.train_jointly(config, fold)
      return place
    with clock(folder, "pretrain"):
      _pretrain(config, fold, place)
  return place


def _pretrain(config: ConfigDict, fold: Fold, place: Path, who: str = "teacher") -> None:
  encoder = fold_training.build(config, who)
  fold_training.check_fits(fold, encoder, who)
  section = config.pretrain.objective
  objective = registry.resolve(section.build, key="pretrain.objective.build")(
    encoder, rngs=nnx.Rngs(config.seed + 1), **configs.build_arguments(section)
  )
  sources: dict[str, pipeline.Source] = {}
  for part in ("train", "validation"):
    rows = fold_training.usable(fold, config, part)
    if objective.paired:
      draws = pairs.DRAWS if part == "train" else 1
      sources[part] = pairs.PairSource(rows, [encoder.spec], seed=config.seed, draws=draws)
    else:
      sources[part] = pipeline.TrainingSource(rows, [encoder.spec], {})
  modality = encoder.spec.modality
  views = (modality, pairs.OTHER + modality) if objective.paired else (modality,)
  fold_training.train(
    *(config, fold, place, objective, sources, config.pretrain, config[who]),
    prepare=Augment(**config.pretrain.augment).prepare(views),
  )


def _pretrained_student(config: ConfigDict, folder: Path, fold: Fold) -> Encoder:
  place = fold.folder / "pretrained"
  if not (place / "model").is_dir():
    with clock(folder, "pretrain"):
      _pretrain(config, fold, place, "student")
  return models.load_encoder(place)


def _start(config: ConfigDict, fold: Fold, encoder: Encoder) -> models.ModelFolder | None:
  """Gives the student the weights that the config says it starts from; returns their folder."""
  if not config.start:
    return None
  stored = models.read(models.find(fold.named(config.start), side="students"))
  check_unseen(fold, stored, "student")
  models.assign(encoder, stored.part("encoder"), where=str(stored.folder / models.WEIGHTS))
  return stored


def check_unseen(fold: Fold, stored: models.ModelFolder, who: str) -> None:
  """Refuses a given model that has seen people who are held out here, external ones included.

  Raises:
    DistillError: naming one of them.
  """
  seen = set(stored.fields.get("people_seen", []))
  held = [one for one in fold.held_out if models.person_hash(one) in seen]
  if held:
    raise DistillError(
      f"the {who} in {stored.folder} was trained on {len(held)} participants who are held out in"
      f" fold {fold.k}, such as {held[0]}; take another fold or another {who}"
    )


# --- stage B: the student -----------------------------------------------------------------------


def _distilled(config: ConfigDict, folder: Path, fold: Fold) -> Distillation:
  if config.method == "rivals":
    raise DistillError(
      "config.method is 'rivals': no student is distilled; go on with distill run, or give"
      " --config.method=distil"
    )
  for prepared, _ in fold.sets.values():
    pipeline.check_pairs(prepared)
  place = fold.folder / "student"
  if not (place / "model").is_dir():
    _check_before(config, fold)
  teachers = _teachers(config, folder, fold)
  if not (place / "model").is_dir():
    with clock(folder, "embed"), processes.one_first("embedded"):
      vectors = {teacher.name: teacher.vectors(fold) for teacher in teachers}
    with clock(folder, "train"):
      _train(config, fold, teachers, vectors, place)
  blank = [(np.zeros(one.dim, np.float32), np.ones(one.dim, np.float32)) for one in teachers]
  return fold_training.stored_in(place, _distillation(config, teachers, blank))


def _check_before(config: ConfigDict, fold: Fold) -> None:
  """Refuses what would stop the student's training, before a teacher is trained for it."""
  student = fold_training.outline(config, "student")  # its spec alone
  fold_training.check_fits(fold, student, "student")
  rows = fold_training.observed_enough(
    fold_training.usable(fold, config, "train"), config.pair_coverage
  )
  pipeline.check_batch(sum(map(len, rows)), config.batch_size)
  if config.start:
    stored = models.read(models.find(fold.named(config.start), side="students"))
    modality = stored.fields["signal"]["modality"]
    if modality != ACC:
      raise DistillError(
        f"config.start names {stored.folder}, a model of {modality}; a student starts from one of"
        " acceleration"
      )


def _train(
  config: ConfigDict, fold: Fold, teachers: Sequence[Teacher], vectors: Vectors, place: Path
) -> None:
  if config.pretrain.check_probe:
    for teacher in teachers:
      own = {name: one[:, : teacher.dim] for name, one in vectors[teacher.name].items()}
      _check_probe(config, fold, own, teacher.name)
  parts: dict[str, list[pipeline.Rows]] = {}
  targets: dict[str, dict[str, np.ndarray]] = {}
  for part in ("train", "validation"):
    taught = [_partners(config, rows) for rows in _taught(fold, config, part, vectors)]
    parts[part] = [rows for rows, _ in taught]
    targets[part] = {
      name: np.concatenate([found[rows.prepared.name][partner] for rows, partner in taught])
      for name, found in vectors.items()
    }
  embeddings = [targets["train"][teacher.name][:, : teacher.dim] for teacher in teachers]
  scales = [(one.mean(axis=0), np.maximum(one.std(axis=0), 1e-6)) for one in embeddings]
  objective = _distillation(config, teachers, scales)
  fold_training.check_fits(fold, objective.encoder, "student")
  start = _start(config, fold, objective.encoder)
  specs, prepare = _in_step(config, teachers)
  specs = [objective.encoder.spec, *specs]
  sources: dict[str, pipeline.Source] = {
    part: pipeline.TrainingSource(parts[part], specs, targets[part]) for part in parts
  }
  fold_training.train(
    *(config, fold, place, objective, sources, config, config.student, teachers),
    prepare=prepare,
    start=start,
  )


def _in_step(
  config: ConfigDict, teachers: Sequence[Teacher]
) -> tuple[list[SignalSpec], Prepare | None]:
  """What training batches hold beside acceleration, and what the step does to them.

  A teacher that runs in the step sees augmented PPG, warped in time as the acceleration is. It is
  no part of the objective, so that nothing trains it. Validation keeps its stored embeddings.
  """
  augment = Augment(**config.augment)
  if not config.teacher.in_step:
    return [], augment.prepare((ACC,))
  encoders: list[Encoder] = []
  for teacher in teachers:
    if not isinstance(teacher, frozen.EncoderTeacher):
      raise DistillError(
        f"config.teacher.in_step needs encoders; {teacher.name} is a file of embeddings"
      )
    encoders.append(teacher.encoder)
  if len({encoder.spec for encoder in encoders}) > 1:
    raise DistillError("config.teacher.in_step needs teachers that read PPG in the same way")
  change = augment.prepare((ACC, PPG), together=True)

  def prepare(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    changed = dict(change(batch, key) if change else batch)
    for teacher, encoder in zip(teachers, encoders, strict=True):
      see = encoder.with_rhythm if teacher.rhythm else encoder
      changed[teacher.name] = see(changed[PPG], changed[PPG_MASK])
    return changed

  return [encoders[0].spec], prepare


def _taught(fold: Fold, config: ConfigDict, part: str, vectors: Vectors) -> list[pipeline.Rows]:
  """Usable rows that have a vector of every teacher."""
  found = []
  for rows in fold_training.observed_enough(
    fold_training.usable(fold, config, part), config.pair_coverage
  ):
    targets = [one[rows.prepared.name][rows.rows] for one in vectors.values()]
    known = [np.isfinite(target).all(axis=1) & embedded(target) for target in targets]
    found.append(rows.where(np.logical_and.reduce(known)))
  if not sum(map(len, found)):
    raise DistillError(f"no usable {part} window has a vector of every teacher")
  return found


def _partners(config: ConfigDict, rows: pipeline.Rows) -> tuple[pipeline.Rows, np.ndarray]:
  """The windows to train on, and the rows of the PPG windows that are their partners."""
  if not config.shuffled_pairs:
    return rows, rows.rows
  kept, partner = pairs.shuffled(rows, seed=config.seed)
  if not len(kept):
    raise DistillError(
      f"no participant of {rows.prepared.name} has two windows that do not overlap: there is"
      " nothing to shuffle; give config.shuffled_pairs=False"
    )
  return kept, partner


def _distillation(
  config: ConfigDict,
  teachers: Sequence[Teacher],
  scales: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Distillation:
  """With the (mean, sd) of each teacher's embedding."""
  return Distillation(
    fold_training.build(config, "student"),
    teacher_mean=scales[0][0],
    teacher_sd=scales[0][1],
    others=scales[1:],
    teacher_weights=config.teacher.weights,
    rhythms=[bool(one.rhythm) for one in teachers],
    **config.head,
    **config.loss,
    rngs=nnx.Rngs(config.seed + 1),
  )


def _check_probe(
  config: ConfigDict, fold: Fold, vectors: Mapping[str, np.ndarray], teacher: str = "teacher"
) -> None:
  """Stops when the teacher's heart-rate probe does not beat the mean on validation people."""
  parts = {part: fold.rows(config, part, overlapping=False) for part in ("train", "validation")}
  for name in fold.sets:
    sides = {part: _labelled(parts[part][name], vectors[name]) for part in parts}
    if not all(map(len, sides.values())):
      tqdm.write(f"{name}: no labelled heart rate, the teacher is not probed", file=sys.stderr)
      continue
    probe = probes.fit(sides["train"], sides["validation"], "hr_bpm", config.evaluate.alphas)
    true, who = (sides["validation"][column] for column in ("hr_bpm", "participant"))
    guesses = probe.predict(sides["validation"].embedding), sides["train"]["hr_bpm"].mean()
    error, mean = (statistics.over_participants(np.abs(x - true), who).value for x in guesses)
    told = f"{name}: heart-rate probe of the {teacher} {error:.2f} bpm, mean {mean:.2f} bpm"
    tqdm.write(f"{told} (validation people)", file=sys.stderr)
    if error >= mean:
      raise DistillError(
        f"{told}: the teacher knows no heart rate, so there is nothing to distil; pretrain it"
        " longer, or go on all the same in another --workdir with"
        " --config.pretrain.check_probe=False"
      )


def _labelled(rows: pipeline.Rows, vectors: np.ndarray) -> EmbeddingTable:
  finite = np.isfinite(vectors[rows.rows]).all(axis=1)
  known = rows.where(finite & np.isfinite(rows.column("hr_bpm")))
  columns = {name: known.column(name) for name in ("participant", "hr_bpm")}
  return EmbeddingTable(vectors[known.rows], columns)


# --- embedding ----------------------------------------------------------------------------------


def _embedded(config: ConfigDict, folder: Path, fold: Fold) -> Path:
  place = fold.folder / "embeddings"
  if all((place / name / tables.TABLE).is_file() for name in (*fold.sets, *fold.external)):
    return place
  away = dataclasses.replace(fold, sets=fold.external, external={})
  for prepared, _ in away.sets.values():
    pipeline.check_pairs(prepared)
  distilled, teachers = None, []
  encoders = {"untrained": fold_training.build(config, "student")}
  if config.method != "rivals":
    distilled = _distilled(config, folder, fold)
    encoders["student"] = distilled.encoder
    teachers = _teachers(config, folder, fold)
  elif config.pretrain.side == "student":
    encoders[config.pretrain.row] = _pretrained_student(config, folder, fold)
  regressed = rivals.regressed(config, folder, fold)
  encoders |= {row: one.encoder for row, one in regressed.items()}
  for one in filter(lambda one: one.sets, (fold, away)):
    with clock(folder, "embed"):
      tables.write(
        config,
        one,
        teachers=teachers,
        encoders=encoders,
        regressed=regressed,
        distilled=distilled,
        teacher=_first_encoder(teachers),
      )
  return place


def _first_encoder(teachers: Sequence[Teacher]) -> Encoder | None:
  first = teachers[0] if teachers else None
  return first.encoder if isinstance(first, frozen.EncoderTeacher) else None
