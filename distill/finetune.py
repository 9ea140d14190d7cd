"""Fine-tuning on one labelled task, so that what was learnt before can be kept; `distill finetune`.

A linear task head stands on the embedding of any model folder. The front end stays as it is, the
first tenth of the steps trains the head alone, then everything but the front end moves, at a rate
of three stages: the stable fine-tuning of Speech-FT (arXiv 2502.12672). Its second half, stepping
back towards the start, is `distill.merge`. The switches in `config.finetune` also give the rivals
that it is compared with (`distill.retention`).
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from distill import config as configs
from distill import fold_training, losses, merge, models, stages, workdir
from distill.config import ConfigDict
from distill.data import pipeline
from distill.data.store import open_set
from distill.errors import DistillError
from distill.nn.encoder import Encoder, Forward
from distill.nn.layers import Constant
from distill.objectives import Batch, Objective, Standardise
from distill.spec import ACC, PPG
from distill.train import fit
from distill.workdir import Fold, clock

Path = pathlib.Path
PARTS = ("train", "validation")
WARMUP, HOLD = 0.1, 0.4  # shares of the steps, as in the paper; the rest decays
BATCH = 128


# --- what is trained ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
  """What is predicted.

  Attributes:
    target: label column of the prepared sets.
    classes: names of the classes, sorted; empty for a number.
    mean: of a number's training labels.
    sd: likewise.
  """

  target: str
  classes: tuple[str, ...] = ()
  mean: float = 0.0
  sd: float = 1.0

  @classmethod
  def of(cls, target: str, labels: np.ndarray) -> "Task":
    """The task that the training labels describe.

    Raises:
      DistillError: a single class or value, which leaves nothing to learn.
    """
    if not len(labels):
      raise DistillError(f"no training window has a label {target!r}; choose another target")
    values = np.unique(labels)
    if len(values) < 2:
      raise DistillError(f"all training labels of {target!r} are {values[0]}: nothing to learn")
    if np.issubdtype(labels.dtype, np.number):
      return cls(target, mean=float(labels.mean()), sd=float(labels.std()))
    return cls(target, classes=tuple(values.tolist()))

  def known(self, labels: np.ndarray) -> np.ndarray:
    """[n] bool: labels that can be scored; a class that training people lack cannot."""
    return np.isin(labels, self.classes) if self.classes else labelled(labels)

  def encode(self, labels: np.ndarray) -> np.ndarray:
    """[n] int32 class numbers, or [n] float32 numbers of mean 0 and SD 1 in training."""
    if self.classes:
      return np.searchsorted(np.array(self.classes), labels).astype(np.int32)
    return ((labels - self.mean) / self.sd).astype(np.float32)


class TaskReader(nnx.Module):
  """What a fine-tuned folder says of its task: embeddings to the label's own unit, or logits."""

  def __init__(self, task: Task, dim: int):
    self.task = task
    self.standardise = Standardise(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    self.head = nnx.Linear(dim, max(1, len(task.classes)), rngs=nnx.Rngs(0))

  def __call__(self, embedding: jax.Array) -> jax.Array:
    """[batch, dim] -> [batch], or [batch, classes]; NaN for the zero vector of an unseen window."""
    found = self.head(self.standardise(embedding))
    if not self.task.classes:
      found = found * self.task.sd + self.task.mean
    known = jnp.max(jnp.abs(embedding), axis=1, keepdims=True) > 0.0
    found = jnp.where(known, found, jnp.nan)
    return found if self.task.classes else found[:, 0]


def load_task(stored: models.ModelFolder) -> TaskReader | None:
  """The task of a fine-tuned folder; None if it has none.

  Raises:
    DistillError: a head that does not fit the task or the encoder.
  """
  if "task" not in stored.fields:
    return None
  fields = stored.fields["task"]
  reader = TaskReader(Task(**fields | {"classes": tuple(fields["classes"])}), stored.fields["dim"])
  parts = ("head", "standardise")
  tensors = {f"{p}.{name}": array for p in parts for name, array in stored.part(p).items()}
  models.assign(reader, tensors, where=f"{stored.folder}, head of the task")
  return reader


def labelled(labels: np.ndarray) -> np.ndarray:
  """[n] bool: a finite number, or a text that is not empty."""
  return np.isfinite(labels) if np.issubdtype(labels.dtype, np.number) else labels != ""


class Anchor(nnx.Variable):
  """A weight of the start, kept to measure how far training went; not stored with the model."""


class FineTuning(Objective):
  """An encoder and a linear head on its standardised embedding.

  Huber's loss for a number, cross entropy for classes. `l2_to_start` adds half the squared distance
  of the encoder's weights from the start (L2-SP; Li et al. 2018, arXiv 1802.01483).
  """

  def __init__(
    self,
    encoder: Encoder,
    task: Task,
    *,
    mean: np.ndarray,
    sd: np.ndarray,
    l2_to_start: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.encoder = encoder
    self.standardise = Standardise(mean, sd)
    self.head = nnx.Linear(encoder.dim, max(1, len(task.classes)), rngs=rngs)
    self.classes = len(task.classes)
    self.weights = {"task": 1.0, "l2_to_start": l2_to_start}
    if l2_to_start:
      state = nnx.to_flat_state(nnx.state(encoder, nnx.Param))
      self.start = nnx.List([Anchor(leaf[...]) for _, leaf in state])

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    del key  # nothing is drawn here
    output = self._output(batch)
    if self.classes:
      task = optax.softmax_cross_entropy_with_integer_labels(output, batch["target"])
    else:
      task = losses.masked_huber(output, batch["target"][:, None])
    if not self.weights["l2_to_start"]:
      return {"task": task}
    return {"task": task, "l2_to_start": jnp.broadcast_to(self._distance(), task.shape)}

  def measures(self, batch: Batch) -> dict[str, jax.Array]:
    """Share of windows whose class is right, or the error in SDs of the training labels."""
    output = self._output(batch)
    if self.classes:
      hit = jnp.argmax(output, axis=1).astype(jnp.int32) == batch["target"]
      return {"accuracy": jnp.mean(hit.astype(jnp.float32))}
    return {"mae_sd": jnp.mean(jnp.abs(output[:, 0] - batch["target"]))}

  def _output(self, batch: Batch) -> jax.Array:
    modality = self.encoder.spec.modality
    embedding = self.encoder(batch[modality], batch[modality + "_mask"])
    return self.head(self.standardise(embedding))

  def _distance(self) -> jax.Array:
    """Half the squared distance of the weights from the start."""
    now = [leaf[...] for _, leaf in nnx.to_flat_state(nnx.state(self.encoder, nnx.Param))]
    pairs = zip(now, self.start, strict=True)
    return 0.5 * sum((jnp.sum(jnp.square(a - b[...])) for a, b in pairs), start=jnp.float32(0.0))


def freeze(module: nnx.Module) -> None:
  """Turns every parameter into a constant: stored as before, but nothing trains it."""
  for _, one in nnx.iter_modules(module):
    for name, value in list(vars(one).items()):
      if isinstance(value, nnx.Param):
        setattr(one, name, Constant(value[...]))


def freeze_front_end(encoder: Encoder) -> None:
  """Freezes what turns samples into tokens or frames.

  Raises:
    DistillError: the encoder names no front end.
  """
  if not encoder.FRONT_END:
    raise DistillError(
      f"{type(encoder).__name__} does not say which part is its front end; fine-tune all of it with"
      " --config.finetune.freeze_front_end=False"
    )
  module: Any = encoder
  for name in encoder.FRONT_END.split("."):
    module = getattr(module, name)
  freeze(module)


# --- low-rank adapters ----------------------------------------------------------------------------


def adapt(encoder: Encoder, rank: int, *, rngs: nnx.Rngs) -> None:
  """Freezes the encoder and puts a low-rank adapter beside each linear map outside its front end.

  LoRA (Hu et al. 2021, arXiv 2106.09685): x W + x A B with B = 0 at first.
  """
  freeze(encoder)
  front = encoder.FRONT_END.split(".") if encoder.FRONT_END else [None]
  for path, one in list(nnx.iter_modules(encoder)):
    for name, value in list(vars(one).items()):
      if [str(part) for part in (*path, name)][: len(front)] == front:
        continue
      if isinstance(value, nnx.Linear):
        sizes = value.in_features, rank, value.out_features
        setattr(one, name, nnx.LoRA(*sizes, base_module=value, rngs=rngs))


def fold_adapters(encoder: Encoder) -> None:
  """Adds every adapter to the map it stands beside, so that the encoder is what it was built as."""
  for _, one in list(nnx.iter_modules(encoder)):
    for name, value in list(vars(one).items()):
      if isinstance(value, nnx.LoRA):
        linear: Any = value.base_module
        kernel = linear.kernel[...] + value.lora_a[...] @ value.lora_b[...]
        linear.kernel = Constant(kernel)
        setattr(one, name, linear)


# --- how ------------------------------------------------------------------------------------------


def tri_stage(peak: float, steps: int) -> optax.Schedule:
  """Linear warm-up over a tenth of the steps, constant for four tenths, linear to 0 at the end."""
  warmup, hold = max(1, round(WARMUP * steps)), round(HOLD * steps)
  decay = max(1, steps - warmup - hold)
  parts = [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)]
  parts.append(optax.linear_schedule(peak, 0.0, decay))
  return optax.join_schedules(parts, [warmup, warmup + hold])


def head_steps(settings: Any) -> int:
  """Steps that train the head alone."""
  return round(settings.head_share * settings.steps)


def optimiser(settings: Any) -> optax.GradientTransformation:
  """Adam at the three-stage rate; the encoder waits for `head_steps`, its moments with it."""
  rate, wait = tri_stage(settings.optim.learning_rate, settings.steps), head_steps(settings)

  def adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(settings.optim.clip_norm), optax.adam(schedule))

  # The encoder's own count starts when it is let go; its rate is that of the run.
  parts = {"head": adam(rate), "encoder": _after(wait, adam(lambda count: rate(count + wait)))}
  return optax.partition(parts, {"head": "head", "encoder": "encoder"})


def _after(steps: int, inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """`inner` from that step on; before it nothing moves, `inner`'s own state included."""
  if not steps:
    return inner

  def init(params):
    return jnp.int32(0), inner.init(params)

  def update(updates, state, params=None):
    count, before = state
    moved, after = inner.update(updates, before, params)
    still = jax.tree.map(jnp.zeros_like, moved)
    pick = jax.tree.map(
      lambda a, b: jnp.where(count >= steps, a, b), (moved, after), (still, before)
    )
    return pick[0], (count + 1, pick[1])

  return optax.GradientTransformation(init, update)


# --- the stage ------------------------------------------------------------------------------------


def finetune(config: ConfigDict, folder: str | Path) -> list[Path]:
  """Fine-tunes a model folder on a task, for every held-out fold of the config.

  Args:
    config: of the run; `finetune.start` names the model folder, "{fold}" in it the fold's number.
    folder: work folder; claimed for this config, or resumed.

  Returns:
    The new model folders, <fold>/finetuned/model; `distill merge` takes them with their start.

  Raises:
    DistillError: no start, one that has seen held-out people or reads other windows, a task without
      labels, or an encoder without a front end to freeze.
  """
  with workdir.claimed(config, folder) as folder:
    if not config.finetune.start:
      raise DistillError(
        "fine-tuning needs a model to start from: --config.finetune.start=FOLDER, such as"
        " runs/demo/fold{fold}/student"
      )
    return [_finetune(config, folder, fold) for fold in workdir.open_folds(config, folder)]


def check(config: ConfigDict, fold: Fold) -> None:
  """Refuses a start that is not there and a task that cannot be learnt, before anything is trained.

  Raises:
    DistillError: see `finetune`.
  """
  modality = ACC
  if config.finetune.start:
    stored = models.read(models.find(fold.named(config.finetune.start), side="students"))
    modality = stored.fields["signal"]["modality"]
  rows = _rows(config, fold, "train", modality, config.finetune)
  Task.of(config.finetune.target, _labels(rows, config.finetune.target))


def _finetune(config: ConfigDict, folder: Path, fold: Fold) -> Path:
  start = models.find(fold.named(config.finetune.start), side="students")
  with clock(folder, "finetune"):
    return tune(config, fold, start, fold.folder / "finetuned", config.finetune)


def tune(config: ConfigDict, fold: Fold, start: Path, place: Path, settings: Any) -> Path:
  """Fine-tunes one model on one fold's training people, or goes on with it, or finds it done.

  Args:
    config: of the run.
    fold: whose training people teach and whose validation people choose the step.
    start: model folder.
    place: gets metrics.jsonl, checkpoints/ and model/.
    settings: like `config.finetune`.

  Returns:
    The model folder.
  """
  if (place / "model").is_dir():
    return place / "model"
  stored = models.read(start)
  stages.check_unseen(fold, stored, "model")
  encoder = models.load_encoder(start)
  for prepared, _ in fold.sets.values():
    pipeline.check_spec(prepared, encoder.spec, who="model")
  rows = {part: _rows(config, fold, part, encoder.spec.modality, settings) for part in PARTS}
  task = Task.of(settings.target, _labels(rows["train"], settings.target))
  sources = {part: _source(rows[part], task, encoder, part) for part in PARTS}
  objective = _objective(encoder, task, sources["train"], settings, config.seed)
  trained = fit(
    objective,
    lambda k: fold_training.reading(config, sources["train"], settings.batch_size, k),
    fold_training.validation(fold_training.spread(sources["validation"])),
    workdir=place,
    settings=settings,
    seed=config.seed,
    identity={
      "config": configs.identity(config),
      "start": merge.fingerprint(stored),
      "fold": fold.k,
      "devices": jax.device_count(),
    },
    label=f"{place.name} (fold {fold.k})",
    tx=optimiser(settings),
    keep=settings.keep,
  )
  fold_adapters(trained.encoder)
  _save(config, fold, stored, trained, task, place)
  return place / "model"


def _rows(
  config: ConfigDict, fold: Fold, part: str, modality: str, settings: Any
) -> list[pipeline.Rows]:
  """Labelled rows of one part; PPG encoders learn from usable PPG."""
  kept = []
  for rows in fold.rows(config, part, overlapping=part == "train").values():
    if settings.target not in rows.prepared.index:
      known = ", ".join(sorted(rows.prepared.index))
      raise DistillError(f"prepared sets have no column {settings.target!r}; there are: {known}")
    mask = labelled(rows.column(settings.target))
    kept.append(rows.where(mask & rows.column("ppg_usable") if modality == PPG else mask))
  return kept


def _labels(rows: Sequence[pipeline.Rows], target: str) -> np.ndarray:
  return np.concatenate([some.column(target) for some in rows])


def _source(
  rows: Sequence[pipeline.Rows], task: Task, encoder: Encoder, part: str
) -> pipeline.TrainingSource:
  kept = [some.where(task.known(some.column(task.target))) for some in rows]
  if not sum(map(len, kept)):
    raise DistillError(f"no {part} window has a label {task.target!r} that training people know")
  labels = task.encode(_labels(kept, task.target))
  return pipeline.TrainingSource(kept, [encoder.spec], {"target": labels})


def _objective(
  encoder: Encoder, task: Task, source: pipeline.TrainingSource, settings: Any, seed: int
) -> FineTuning:
  some, modality = fold_training.spread(source), encoder.spec.modality
  before = Forward(encoder, batch_size=min(BATCH, len(source)))
  vectors = before(some[modality], some[modality + "_mask"])
  rngs = nnx.Rngs(seed + 1)
  if settings.freeze_front_end:
    freeze_front_end(encoder)
  if settings.lora_rank:
    adapt(encoder, settings.lora_rank, rngs=rngs)
  return FineTuning(
    encoder,
    task,
    mean=vectors.mean(axis=0),
    sd=np.maximum(vectors.std(axis=0), 1e-6),
    l2_to_start=settings.l2_to_start,
    rngs=rngs,
  )


def _save(
  config: ConfigDict,
  fold: Fold,
  stored: models.ModelFolder,
  trained: Objective,
  task: Task,
  place: Path,
) -> None:
  """Leaves a model folder, whole or not at all."""
  partial = place / "model.partial"
  shutil.rmtree(partial, ignore_errors=True)
  models.save(
    partial,
    trained,
    build=stored.fields["build"],
    arguments=stored.fields["arguments"],
    fields={
      "role": "finetuned",
      "config": config.name,
      **models.learnt_from(stored.fields, fold_training.learnt_here(fold)),
      "task": dataclasses.asdict(task),
      merge.LINEAGE: merge.lineage(stored),
    },
    card=(
      f"# Fine-tuned on {task.target}, config {config.name}, fold {fold.k}\n\n"
      f"Grown out of the encoder {merge.fingerprint(stored)[:16]}. Sets: {', '.join(fold.sets)}."
      " Test people were never seen.\n"
      "Not a medical device. Licence of the weights: that of the data they were trained on.\n"
    ),
  )
  partial.rename(place / "model")


# --- after a merge --------------------------------------------------------------------------------


def renormalise(folder: str | Path, prepared: str | Path) -> int:
  """Recomputes the batch-norm statistics of a model folder on windows of people it has seen.

  Args:
    folder: model folder, as `distill.merge.merge` writes it; rewritten if it has batch norms.
    prepared: folder of a prepared set.

  Returns:
    How many batch norms it has; with 0 nothing was read or written.

  Raises:
    DistillError: windows that the encoder was not made for, or no window of people it has seen.
  """
  stored, encoder = models.read(folder), models.load_encoder(folder)
  count = len(merge.batch_norms(encoder))
  if not count:
    return 0
  found, modality = open_set(prepared), encoder.spec.modality
  pipeline.check_spec(found, encoder.spec, who="model")
  seen = set(stored.fields.get("people_seen", []))
  people = [w for w in np.unique(found.index["participant"]) if _seen(found.name, w) in seen]
  rows = np.flatnonzero(np.isin(found.index["participant"], people))
  if not len(rows):
    raise DistillError(
      f"{prepared} holds nobody whom {folder} was trained on; statistics of held-out people would"
      " leak into it"
    )
  rows = rows[
    np.unique(np.linspace(0, len(rows) - 1, fold_training.VALIDATION_WINDOWS).astype(int))
  ]
  raw = np.stack([found[int(row)][modality] for row in rows])
  merge.renormalise(encoder, *pipeline.prepare_windows(raw, encoder.spec))
  tensors = {f"encoder.{name}": array for name, array in models.parameters(encoder).items()}
  card = (Path(folder) / models.CARD).read_text()
  fields = {n: value for n, value in stored.fields.items() if n not in ("sha256", "pair")}
  models.write(Path(folder), {**stored.tensors, **tensors}, fields, card)
  return count


def _seen(name: str, participant: str) -> str:
  return models.person_hash(f"{name}/{participant}")
