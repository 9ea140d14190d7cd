"""What the distilled student is compared with: the same student, trained in other ways.

Supervised from scratch on the labels of all or some training people, regressed on what the paired
PPG says of heart rate and its variability (label distillation), or trained together with a PPG
encoder that is not frozen. Students pretrained on acceleration alone come from `distill.stages`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from distill import config as configs
from distill import evaluate, fold_training, models
from distill.augment import Augment
from distill.config import ConfigDict
from distill.data import pipeline, splits, windows
from distill.errors import DistillError
from distill.joint import Joint
from distill.objectives import Supervised
from distill.spec import ACC, PPG, TARGETS
from distill.workdir import Fold, clock

Path = pathlib.Path
LABEL_DISTILLATION = "label_distillation"
TOGETHER = 128  # windows read at a time
# Rows of training or validation and their [n, targets] labels, NaN where there is none.
Labelled = list[tuple[pipeline.Rows, np.ndarray]]


def regressed(config: ConfigDict, folder: Path, fold: Fold) -> dict[str, Supervised]:
  """Row -> student, of those that the config asks for; trained here if they are not yet."""
  found = supervised(config, folder, fold)
  if config.supervised.label_distillation:
    found[LABEL_DISTILLATION] = label_distilled(config, folder, fold)
  return found


# --- labels -------------------------------------------------------------------------------------


def supervised(config: ConfigDict, folder: Path, fold: Fold) -> dict[str, Supervised]:
  """From scratch on the labels of some shares of the training people.

  The labels of validation people choose the best step whatever the share, as they choose the
  penalty of the probes. A share of less than one person is left out, aloud.

  Returns:
    Row of the share (`evaluate.supervised_row`) -> student.

  Raises:
    DistillError: no labelled window.
  """
  targets, found = tuple(config.evaluate.targets), {}
  for share in config.supervised.shares:
    people = {
      name: splits.labelled(split.train, share, config.seed)
      for name, (_, split) in fold.sets.items()
    }
    row = evaluate.supervised_row(share)
    for name in (name for name, some in people.items() if not some):
      told = f"{100 * share:g} % of {len(fold.sets[name][1].train)} training people of {name}"
      tqdm.write(f"{row}: {told} are less than one participant; left out", file=sys.stderr)
    if not any(people.values()):
      continue

    def read(part: str, people=people) -> Labelled:
      rows = fold.rows(config, part, overlapping=part == "train")
      if part == "train":
        rows = {
          n: one.where(np.isin(one.column("participant"), people[n])) for n, one in rows.items()
        }
      return [(one, _labels(one, targets)) for one in rows.values()]

    found[row] = _trained(config, folder, fold, row, config.supervised, targets, read)
  return found


def label_distilled(config: ConfigDict, folder: Path, fold: Fold) -> Supervised:
  """Regressed on HR, SDNN and RMSSD of the paired PPG, on the pairs and steps of distillation.

  The labels are read from each window's own pulse, also where ECG or true beats are known: the
  student learns from the PPG what can be said in three numbers, and nothing else.

  Raises:
    DistillError: no pair whose PPG gives a label.
  """

  def read(part: str) -> Labelled:
    parts = fold_training.observed_enough(
      fold_training.usable(fold, config, part), config.pair_coverage
    )
    return [(rows, pulse_labels(rows, f"pulses of {rows.prepared.name}, {part}")) for rows in parts]

  return _trained(config, folder, fold, LABEL_DISTILLATION, config, TARGETS, read)


def pulse_labels(rows: pipeline.Rows, label: str) -> np.ndarray:
  """[n, targets] float32 of what the PPG of each window says, in the order of `spec.TARGETS`.

  Args:
    rows: windows with usable PPG.
    label: name on the progress bar.
  """
  rate_hz, motion_g = rows.prepared.specs[PPG].rate_hz, rows.column("motion_g")
  found = np.full((len(rows), len(TARGETS)), np.nan, np.float32)
  with tqdm(total=len(rows), desc=label, unit="window", mininterval=1.0) as bar:
    for start in range(0, len(rows), TOGETHER):
      some = rows.prepared.windows(rows.rows[start : start + TOGETHER])[PPG]
      for i, ppg in enumerate(some, start):  # a bar that is switched off does not count
        labels = windows.pulse_labels(ppg[:, 0], rate_hz, float(motion_g[i]))
        found[i] = [labels[target] for target in TARGETS]
        bar.update()
  return found


def _trained(
  config: ConfigDict,
  folder: Path,
  fold: Fold,
  row: str,
  settings: ConfigDict,
  targets: tuple[str, ...],
  read: Callable[[str], Labelled],
) -> Supervised:
  place = fold.folder / row
  if not (place / "model").is_dir():
    with clock(folder, "supervise"):
      _train(config, fold, place, settings, targets, read)
  zeros, ones = np.zeros(len(targets), np.float32), np.ones(len(targets), np.float32)
  return fold_training.stored_in(place, _regressor(config, targets, zeros, ones))


def _train(
  config: ConfigDict,
  fold: Fold,
  place: Path,
  settings: ConfigDict,
  targets: tuple[str, ...],
  read: Callable[[str], Labelled],
) -> None:
  parts: dict[str, list[pipeline.Rows]] = {}
  labels: dict[str, np.ndarray] = {}
  for part in ("train", "validation"):
    found = read(part)
    known = [np.any(np.isfinite(values), axis=1) for _, values in found]
    parts[part] = [rows.where(some) for (rows, _), some in zip(found, known, strict=True)]
    labels[part] = np.concatenate([v[some] for (_, v), some in zip(found, known, strict=True)])
    if not len(labels[part]):
      raise DistillError(f"{place.name}: no {part} window has a label of {', '.join(targets)}")
  objective = _regressor(config, targets, *_scale(labels["train"]))
  sources: dict[str, pipeline.Source] = {
    part: pipeline.TrainingSource(parts[part], [objective.encoder.spec], {"targets": labels[part]})
    for part in parts
  }
  settings = _within(settings, len(labels["train"]), place.name)
  # A warp of time would change the rates that the labels say.
  augment = dataclasses.replace(Augment(**config.augment), time_warp=0.0)
  fold_training.train(
    *(config, fold, place, objective, sources, settings, config.student),
    prepare=augment.prepare((ACC,)),
  )


def _within(settings: ConfigDict, windows: int, row: str) -> ConfigDict:
  """With a batch that the labelled windows of few people can fill."""
  devices = jax.device_count()
  fitting = windows // devices * devices
  if not 0 < fitting < settings.batch_size:
    return settings
  tqdm.write(f"{row}: {windows} labelled windows, in batches of {fitting}", file=sys.stderr)
  smaller = settings.copy_and_resolve_references()
  with smaller.unlocked():
    smaller.batch_size = fitting
  return smaller


def _regressor(
  config: ConfigDict, targets: tuple[str, ...], mean: np.ndarray, sd: np.ndarray
) -> Supervised:
  student = fold_training.build(config, "student")
  return Supervised(student, mean=mean, sd=sd, names=targets, rngs=nnx.Rngs(config.seed + 1))


def _labels(rows: pipeline.Rows, targets: tuple[str, ...]) -> np.ndarray:
  return np.stack([rows.column(name) for name in targets], axis=1).astype(np.float32)


def _scale(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and SD of each target over what is labelled; 0 and 1 for a target without labels."""
  known = np.isfinite(labels)
  count = np.maximum(known.sum(axis=0), 1)
  mean = np.where(known, labels, 0.0).sum(axis=0) / count
  spread = np.where(known, labels - mean, 0.0)
  sd = np.sqrt((spread**2).sum(axis=0) / count)
  return mean.astype(np.float32), np.where(sd > 0, sd, 1.0).astype(np.float32)


# --- both encoders together ---------------------------------------------------------------------


def train_jointly(config: ConfigDict, fold: Fold) -> None:
  """Trains both encoders on the pairs, into <fold>/joint, and shares them out.

  <fold>/teacher/model then holds the PPG encoder and <fold>/student/model the student and both
  heads, as distillation leaves them.
  """
  place = fold.folder / "joint"
  if not (place / "model").is_dir():
    objective = Joint(
      fold_training.build(config, "student"),
      fold_training.build(config, "teacher"),
      **config.head,
      **config.loss,
      rngs=nnx.Rngs(config.seed + 1),
    )
    specs = [objective.encoder.spec, objective.ppg_encoder.spec]
    fold_training.check_fits(fold, objective.ppg_encoder, "teacher")
    sources: dict[str, pipeline.Source] = {}
    for part in ("train", "validation"):
      rows = fold_training.usable(fold, config, part)
      rows = fold_training.observed_enough(rows, config.pair_coverage)
      sources[part] = pipeline.TrainingSource(rows, specs, {})
    fold_training.train(
      *(config, fold, place, objective, sources, config, config.student),
      prepare=Augment(**config.augment).prepare((ACC, PPG), together=True),
    )
  _share_out(config, fold, models.read(place / "model"))


def _share_out(config: ConfigDict, fold: Fold, stored: models.ModelFolder) -> None:
  ppg = fold_training.build(config, "teacher")
  arguments = {"seed": config.seed, **configs.build_arguments(config.teacher)}
  fields = {"build": config.teacher.build, "arguments": arguments}
  fields |= {"signal": ppg.spec.to_json(), "dim": ppg.dim, "rhythm": ppg.rhythm}
  encoder = {"encoder." + name: one for name, one in stored.part("ppg_encoder").items()}
  rest = {n: one for n, one in stored.tensors.items() if not n.startswith("ppg_encoder.")}
  for role, tensors, changed in (("teacher", encoder, fields), ("student", rest, {})):
    place = fold.folder / role
    if (place / "model").is_dir():
      continue
    card = fold_training.card(f"{role}, trained jointly", config, fold)
    partial = place / "model.partial"
    models.write(partial, tensors, {**stored.fields, **changed, "role": role}, card)
    partial.rename(place / "model")
