"""One training of a fold: the windows it reads, the loop it runs, the model folder it leaves.

Whatever is trained in a run goes through here, the distilled student, its teacher and its rivals
alike, so that all of them read the same windows and are validated and kept in the same way.
"""

import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from distill import config as configs
from distill import models, processes, registry
from distill.augment import Prepare
from distill.config import ConfigDict
from distill.data import pipeline
from distill.errors import DistillError
from distill.frozen import Teacher
from distill.nn.encoder import Encoder
from distill.objectives import Objective
from distill.spec import PPG, SignalSpec
from distill.train import fit
from distill.workdir import Fold

Path = pathlib.Path
Trained = TypeVar("Trained", bound=Objective)
VALIDATION_WINDOWS = 512  # of each fold: a steady loss, and seconds to compute


def build(config: ConfigDict, section: str) -> Any:
  """A freshly initialised "teacher" or "student" of the config."""
  make = registry.resolve(config[section].build, key=f"{section}.build")
  return make(seed=config.seed, **configs.build_arguments(config[section]))


def outline(config: ConfigDict, section: str) -> Any:
  """The same without weights: what can be asked of it before anything is trained."""
  return nnx.eval_shape(lambda: build(config, section))


def read_in_training(config: ConfigDict) -> list[SignalSpec]:
  """What the encoders that a run trains read, for which its sets are made ready."""
  teaches_itself = not config.teacher.load and config.method != "rivals"
  sides = ("teacher", "student") if teaches_itself else ("student",)
  return [outline(config, side).spec for side in sides]


def check_fits(fold: Fold, encoder: Encoder, who: str) -> None:
  """Refuses an encoder of the wrong side, or one that was not made for a set of the fold.

  Raises:
    DistillError: naming what differs.
  """
  wanted = PPG if who == "teacher" else "acc"
  if encoder.spec.modality != wanted:
    raise DistillError(
      f"config.{who} is an encoder of {encoder.spec.modality} signals; a {who} reads {wanted}"
    )
  for prepared, _ in fold.sets.values():
    pipeline.check_spec(prepared, encoder.spec, who=who)


def usable(fold: Fold, config: ConfigDict, part: str) -> list[pipeline.Rows]:
  """Rows with usable PPG; overlapping ones for training, which draws from them."""
  found = fold.rows(config, part, overlapping=part == "train")
  rows_of = [rows.where(rows.column("ppg_usable")) for rows in found.values()]
  if not sum(map(len, rows_of)):
    raise DistillError(
      f"no {part} window of {', '.join(found)} has usable PPG; look at the quality thresholds"
      " data.min_template_r and data.min_spectral_purity"
    )
  return rows_of


def observed_enough(parts: list[pipeline.Rows], share: float) -> list[pipeline.Rows]:
  """The rows of pairs that count: `share` of both sides was observed."""
  found = []
  for rows in parts:
    sides = [rows.column(f"{name}_coverage") >= share for name in rows.prepared.specs]
    found.append(rows.where(np.logical_and.reduce(sides)))
  if not sum(map(len, found)):
    raise DistillError(f"no pair is observed enough on both sides; lower pair_coverage={share:g}")
  return found


def train(
  config: ConfigDict,
  fold: Fold,
  place: Path,
  objective: Objective,
  sources: dict[str, pipeline.Source],
  settings: ConfigDict,
  section: ConfigDict,
  teachers: Sequence[Teacher] = (),
  prepare: Prepare | None = None,
  start: models.ModelFolder | None = None,
) -> None:
  """Runs the one training loop and leaves a model folder, whole or not at all.

  Args:
    config: of the run.
    fold: whose people are trained on.
    place: gets metrics.jsonl, checkpoints/ and model/; its name is the model's role.
    objective: freshly initialised.
    sources: "train" and "validation" examples.
    settings: steps, batch_size and optim of this training.
    section: of the config, that builds the objective's encoder.
    teachers: whose vectors are learned from.
    prepare: changes each training batch on the device, inside the step.
    start: whose weights the objective's encoder has in place of random ones.
  """

  def batches(k: int) -> Iterator[dict[str, np.ndarray]]:
    return reading(config, sources["train"], settings.batch_size, k)

  batches(0)  # a set smaller than a batch is refused before anything is written
  trained = fit(
    objective,
    batches,
    validation(spread(sources["validation"])),
    workdir=place,
    settings=settings,
    seed=config.seed,
    identity={
      "config": configs.identity(config),
      "fold": fold.k,
      "teachers": [teacher.identity for teacher in teachers],
      "devices": jax.device_count(),
    },
    label=f"{place.name} (fold {fold.k})",
    prepare=prepare,
  )
  if processes.writes():
    _save(config, fold, place, trained, section, teachers, start)
  processes.wait(f"saved {place.name}")


def _save(
  config: ConfigDict,
  fold: Fold,
  place: Path,
  trained: Objective,
  section: ConfigDict,
  teachers: Sequence[Teacher],
  start: models.ModelFolder | None,
) -> None:
  partial = place / "model.partial"
  shutil.rmtree(partial, ignore_errors=True)
  models.save(
    partial,
    trained,
    build=section.build,
    arguments={"seed": config.seed, **configs.build_arguments(section)},
    fields={
      "role": place.name,
      "config": config.name,
      "teachers": [teacher.identity for teacher in teachers],
      **models.learnt_from(learnt_here(fold), *([start.fields] if start else [])),
    },
    card=card(place.name, config, fold),
  )
  partial.rename(place / "model")


def learnt_here(fold: Fold) -> dict[str, Any]:
  """What `models.learnt_from` takes of a training on a fold's people."""
  seen = fold.people("train") + fold.people("validation")
  return {
    "sets": list(fold.sets),
    "simulated": fold.simulated,
    "people_seen": [models.person_hash(who) for who in seen],
  }


def reading(
  config: ConfigDict, source: pipeline.Source, batch_size: int, start: int
) -> Iterator[dict[str, np.ndarray]]:
  """This process's share of the training batches from `start` on."""
  return pipeline.training_batches(
    source,
    seed=config.seed,
    batch_size=batch_size,
    start=start,
    shard=jax.process_index(),
    shards=jax.process_count(),
    workers=config.data.readers,
  )


def spread(source: pipeline.Source) -> dict[str, np.ndarray]:
  """Up to VALIDATION_WINDOWS examples, evenly spread over the source, as one batch."""
  picks = np.unique(np.linspace(0, len(source) - 1, VALIDATION_WINDOWS).astype(int))
  return source.batch(picks)


def validation(batch: dict[str, np.ndarray]) -> Callable[[Objective], dict[str, float]]:
  """Loss and measures on one fixed batch of unseen people, with a fixed key."""

  def measure(objective: Objective, batch: Any) -> dict[str, jax.Array]:
    batch = {**batch, **objective.targets(batch)}  # the module is its own moving average here
    total, terms = objective.loss(batch, jax.random.key(0))
    return {"loss": total, **terms, **objective.measures(batch)}

  compiled = nnx.jit(measure)

  def validate(objective: Objective) -> dict[str, float]:
    values = {f"val/{name}": float(value) for name, value in compiled(objective, batch).items()}
    if not math.isfinite(values["val/loss"]):
      raise DistillError("the validation loss is not finite; look at the validation windows")
    return values

  return validate


def stored_in(place: Path, objective: Trained) -> Trained:
  """The objective with the weights of a finished training."""
  stored = models.read(place / "model")
  models.assign(objective, stored.tensors, where=str(stored.folder / models.WEIGHTS))
  return objective


def card(role: str, config: ConfigDict, fold: Fold) -> str:
  """Text of the model card."""
  seen = ", ".join(
    f"{name} ({len(split.train)} training people{', simulated' if prepared.simulated else ''})"
    for name, (prepared, split) in fold.sets.items()
  )
  return (
    f"# {role}, config {config.name}, fold {fold.k}\n\n"
    f"Trained on: {seen}. The best step was chosen on validation people; test people were never"
    " seen.\n"
    "Not a medical device. Licence of the weights: that of the data they were trained on.\n"
  )
