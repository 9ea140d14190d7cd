"""What is trained: a module that holds an encoder and maps a batch to loss terms.

Each objective is an nnx module with `encoder` and `terms(batch, key) -> {name: [batch] values}` and
`weights`; the total is the weighted sum of the means. A batch is a dictionary with the keys of
`distill.spec` and, by objective, "teacher", "recording", "t0_s" or "targets".
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill import losses, models
from distill.errors import DistillError
from distill.nn import layers, masking
from distill.nn.encoder import Encoder, PatchTransformer
from distill.nn.stems import PatchStem

Batch = Mapping[str, jax.Array]
GAP_S = 5.0  # length of the artificial gaps of distillation, seconds; ours


class Objective(nnx.Module):
  """Common to all: the weighted total."""

  encoder: Encoder
  weights: Mapping[str, float]
  paired = False  # batches hold two windows of each participant (`distill.data.pairs`)
  momentum: float | None = None  # share that a step keeps of the moving average, if there is one

  @abc.abstractmethod
  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """Unreduced loss terms, each [batch]."""

  def loss(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(scalar total, each term's mean by its name)."""
    means = {name: jnp.mean(values) for name, values in self.terms(batch, key).items()}
    total = sum((self.weights[name] * means[name] for name in means), start=jnp.float32(0.0))
    return total, means

  def targets(self, batch: Batch) -> dict[str, jax.Array]:
    """What the moving average of this module adds to a batch; no gradient passes through it."""
    del batch
    return {}

  def measures(self, batch: Batch) -> dict[str, jax.Array]:
    """Further scalars to log on validation; nothing is trained on them."""
    del batch
    return {}


class MaskedAutoencoding(Objective):
  """Masked autoencoding of raw patches (He et al. 2021; for PPG: arXiv 2412.11276, stage A).

  `mask_ratio` of the tokens are physically dropped, the encoder sees the rest, a light decoder gets
  one learnable token at every hidden place, and the squared error counts hidden samples that were
  observed.
  """

  encoder: PatchTransformer

  def __init__(
    self,
    encoder: PatchTransformer,
    *,
    mask_ratio: float = 0.8,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    rngs: nnx.Rngs,
  ):
    if not 0 < mask_ratio < 1:
      raise DistillError(f"mask_ratio is {mask_ratio}; expected a share between 0 and 1")
    stem = getattr(encoder, "stem", None)
    if not isinstance(stem, PatchStem):
      raise DistillError("masked autoencoding needs an encoder with a PatchStem (raw patches)")
    self.encoder = encoder
    self.weights = {"reconstruction": 1.0}
    self.kept = max(1, round(stem.tokens * (1.0 - mask_ratio)))
    self.bridge = nnx.Linear(encoder.width, width, rngs=rngs)
    self.hidden_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
    self.decoder = layers.Transformer(width, depth, heads, rngs=rngs)
    samples = encoder.spec.samples * len(encoder.spec.channels)
    self.predict = nnx.Linear(width, samples // stem.tokens, rngs=rngs)

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    modality = self.encoder.spec.modality
    stem, signal, mask = self.encoder.stem, batch[modality], batch[modality + "_mask"]
    observed = stem.observed(mask)
    index, hidden = layers.choose_kept(key, observed, self.kept)
    tokens = self.tokens_without(signal, mask, hidden)
    prediction = self.reconstruct(tokens, observed, index)
    scored = stem.patches(mask) & (hidden & observed)[:, :, None]
    return {
      "reconstruction": losses.masked_reconstruction(prediction, stem.patches(signal), scored)
    }

  def tokens_without(self, signal: jax.Array, mask: jax.Array, hidden: jax.Array) -> jax.Array:
    """[batch, tokens, width] of the stem, which does not see the samples of hidden tokens.

    A stem that bridges small gaps would carry a hidden sample over into the token beside it.
    """
    tokens, _ = self.encoder.tokens(signal, mask & ~self.encoder.stem.samples(hidden))
    return tokens

  def reconstruct(self, tokens: jax.Array, visible: jax.Array, index: jax.Array) -> jax.Array:
    """What the decoder makes of all places from the visible tokens among the kept.

    Args:
      tokens: [batch, tokens, width] of the stem.
      visible: [batch, tokens] bool; the encoder attends to no other token.
      index: [batch, kept] of the tokens that were not dropped.

    Returns:
      [batch, tokens, samples a token].
    """
    kept = jnp.take_along_axis(tokens, index[:, :, None], axis=1)
    kept_visible = jnp.take_along_axis(visible, index, axis=1)
    encoded = self.bridge(self.encoder.encode(kept, kept_visible, index))
    batch_size, count = visible.shape
    full = jnp.broadcast_to(self.hidden_token[...], (batch_size, count, encoded.shape[2]))
    rows = jnp.arange(batch_size)[:, None]
    full = full.at[rows, index].set(jnp.where(kept_visible[:, :, None], encoded, full[rows, index]))
    lanes = self.encoder.stem.lanes
    positions = jnp.asarray(layers.grid_positions(lanes, count // lanes, encoded.shape[2]))
    times = jnp.broadcast_to(jnp.arange(count) % (count // lanes), visible.shape)
    everywhere = jnp.ones(visible.shape, bool)
    return self.predict(self.decoder(full + positions[None], everywhere, times))


class Standardise(nnx.Module):
  """(x - mean) / sd with constants of the training people; travels with the weights."""

  def __init__(self, mean: np.ndarray, sd: np.ndarray):
    self.mean = layers.Constant(jnp.asarray(mean, jnp.float32))
    self.sd = layers.Constant(jnp.asarray(sd, jnp.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    return (x - self.mean[...][None]) / self.sd[...][None]


class TeacherHead(nnx.Module):
  """Standardises the frozen teacher's embedding, then projects it; a rhythm after it stays."""

  def __init__(
    self,
    mean: np.ndarray,
    sd: np.ndarray,
    hidden: int,
    dim: int,
    *,
    rhythm: bool = False,
    rngs: nnx.Rngs,
  ):
    self.dim, self.rhythm = len(mean), rhythm
    self.standardise = Standardise(mean, sd)
    self.project = layers.ProjectionHead(self.dim, hidden, dim, rhythm=rhythm, rngs=rngs)

  def __call__(self, vectors: jax.Array) -> jax.Array:
    embedding, rhythm = jnp.split(vectors, [self.dim], axis=1)
    return self.project(jnp.concatenate([self.standardise(embedding), rhythm], axis=1))


class Pair(nnx.Module):
  """What stands between a student and one teacher: both projection heads and the regression."""

  def __init__(
    self,
    student_dim: int,
    teacher_mean: np.ndarray,
    teacher_sd: np.ndarray,
    *,
    hidden: int,
    dim: int,
    rhythm: bool,
    rngs: nnx.Rngs,
  ):
    self.rhythm = rhythm
    self.student_head = layers.ProjectionHead(student_dim, hidden, dim, rhythm=rhythm, rngs=rngs)
    scale = teacher_mean, teacher_sd
    self.teacher_head = TeacherHead(*scale, hidden, dim, rhythm=rhythm, rngs=rngs)
    self.regressor = nnx.Linear(student_dim, len(teacher_mean), rngs=rngs)


class Distillation(Pair, Objective):
  """A student learns to land on a frozen teacher's embedding of the same seconds.

  contrastive: two-way InfoNCE between the projections; regression: the student's linear prediction
  of the standardised teacher embedding; rhythm: 1 - cosine of what both sides say of the beats'
  places, where the student reads them and the pulse stands beside the teacher's embedding. The
  gradient stops at the teacher embedding, before its trainable head. A share `gaps` of the
  student's windows lose parts of what was observed, by the strategies of `distill.nn.masking`, so
  that the student learns to read windows with gaps.

  Further teachers stand in `others`, each with heads of its own. Their embeddings are the batch's
  "teacher_2", "teacher_3", ..., and so end the names of their terms. Retrieval uses the heads of
  the first.
  """

  def __init__(
    self,
    encoder: Encoder,
    *,
    teacher_mean: np.ndarray,
    teacher_sd: np.ndarray,
    others: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    teacher_weights: Sequence[float] = (),
    rhythms: Sequence[bool] = (),
    hidden: int,
    dim: int,
    contrastive: float,
    temperature: float,
    direction: float,
    regression: float,
    regression_kind: str,
    rhythm: float = 1.0,
    gaps: float = 0.0,
    rngs: nnx.Rngs,
  ):
    known = [bool(encoder.rhythm) and one for one in rhythms or (False,) * (1 + len(others))]
    sizes: dict[str, Any] = {"hidden": hidden, "dim": dim, "rngs": rngs}
    super().__init__(encoder.dim, teacher_mean, teacher_sd, rhythm=known[0], **sizes)
    self.encoder = encoder
    self.others = nnx.List(
      [
        Pair(encoder.dim, mean, sd, rhythm=one, **sizes)
        for (mean, sd), one in zip(others, known[1:], strict=True)
      ]
    )
    shares = tuple(teacher_weights) or (1.0,) * (1 + len(others))
    if len(shares) != 1 + len(others):
      raise DistillError(
        f"teacher.weights names {len(shares)} teachers, there are {1 + len(others)}"
      )
    self.weights = {}
    for ending, share in zip(self._endings(), shares, strict=True):
      self.weights["contrastive" + ending] = share * contrastive
      self.weights["regression" + ending] = share * regression
      self.weights["rhythm" + ending] = share * rhythm
    self.temperature, self.direction = temperature, direction
    self.regression_kind = regression_kind
    self.gaps = gaps
    self.gap_samples = round(GAP_S * encoder.spec.rate_hz)

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    modality = self.encoder.spec.modality
    student = self.encoder.with_rhythm(batch[modality], self._mask(batch, key))
    found: dict[str, jax.Array] = {}
    for ending, pair in zip(self._endings(), (self, *self.others), strict=True):
      terms = self._compare(pair, student, jax.lax.stop_gradient(batch["teacher" + ending]), batch)
      found |= {name + ending: values for name, values in terms.items()}
    return found

  def _endings(self) -> list[str]:
    """Of the names of each teacher's terms: "", "_2", "_3", ..."""
    return ["", *(f"_{2 + k}" for k in range(len(self.others)))]

  def _compare(
    self, pair: Pair, student: jax.Array, teacher: jax.Array, batch: Batch
  ) -> dict[str, jax.Array]:
    dim, teacher_dim = self.encoder.dim, pair.teacher_head.dim
    contrastive = losses.info_nce(
      pair.student_head(student if pair.rhythm else student[:, :dim]),
      pair.teacher_head(teacher),
      temperature=self.temperature,
      weight=self.direction,
      recording=batch["recording"],
      t0_s=batch["t0_s"],
      exclude_s=self.encoder.spec.window_s,
    )
    target = jax.lax.stop_gradient(pair.teacher_head.standardise(teacher[:, :teacher_dim]))
    prediction = pair.regressor(student[:, :dim])
    found = {
      "contrastive": contrastive,
      "regression": losses.regression(prediction, target, kind=self.regression_kind),
    }
    if pair.rhythm:
      beats = student[:, dim:], teacher[:, teacher_dim:]
      found["rhythm"] = losses.regression(*beats, kind="cosine")
    return found

  def project(self, batch: Batch, mask: jax.Array) -> jax.Array:
    """The first pair's projection of the student, [batch, out_dim (+ frames)]."""
    student = self.encoder.with_rhythm(batch[self.encoder.spec.modality], mask)
    return self.student_head(student if self.rhythm else student[:, : self.encoder.dim])

  def _mask(self, batch: Batch, key: jax.Array) -> jax.Array:
    """What the student may see in training."""
    mask = batch[self.encoder.spec.modality + "_mask"]
    if not self.gaps:
      return mask
    return masking.hide_blocks(key, mask, share=self.gaps, block=self.gap_samples)

  def measures(self, batch: Batch) -> dict[str, jax.Array]:
    """Share of the batch whose own teacher is the nearest, and the loss of guessing, ln(batch)."""
    mask = batch[self.encoder.spec.modality + "_mask"]
    similarity = losses.similarity(self.project(batch, mask), self.teacher_head(batch["teacher"]))
    own = jnp.diagonal(similarity)[:, None]
    # Ties count against the model, as in retrieval.
    nearer = jnp.sum(similarity >= own, axis=1) - 1
    return {
      "top1": jnp.mean((nearer == 0).astype(jnp.float32)),
      "ln_batch": jnp.log(jnp.float32(len(similarity))),
    }


def load_head(stored: models.ModelFolder, name: str) -> "TeacherHead | layers.ProjectionHead":
  """One projection head of a distilled student's folder, sized from its tensors.

  Args:
    stored: the folder.
    name: "student_head" or "teacher_head".

  Raises:
    DistillError: the folder holds no such head.
  """
  tensors = stored.part(name)
  if not tensors:
    raise DistillError(
      f"{stored.folder} has no {name}: projections need the model folder of a distilled student"
    )
  prefix = "project." if name == "teacher_head" else ""
  rhythm = prefix + "balance" in tensors
  in_dim, hidden = tensors[prefix + "hidden.kernel"].shape
  out_dim = tensors[prefix + "out.kernel"].shape[1]
  rngs = nnx.Rngs(0)  # every weight is replaced below
  if name == "teacher_head":
    zeros, ones = np.zeros(in_dim, np.float32), np.ones(in_dim, np.float32)
    head: TeacherHead | layers.ProjectionHead = TeacherHead(
      zeros, ones, hidden, out_dim, rhythm=rhythm, rngs=rngs
    )
  else:
    head = layers.ProjectionHead(in_dim, hidden, out_dim, rhythm=rhythm, rngs=rngs)
  models.assign(head, tensors, where=f"{stored.folder}, {name}")
  return head


class Supervised(Objective):
  """The same encoder trained on labels alone; targets are standardised over training windows.

  Args:
    encoder: to train.
    mean: [targets] of the training labels.
    sd: [targets] likewise.
    names: of the targets, in order.
    rngs: of the head's weights.
  """

  def __init__(
    self,
    encoder: Encoder,
    *,
    mean: np.ndarray,
    sd: np.ndarray,
    names: Sequence[str] = (),
    rngs: nnx.Rngs,
  ):
    self.encoder, self.names = encoder, tuple(names)
    self.standardise = Standardise(mean, sd)
    self.head = nnx.Linear(encoder.dim, len(mean), rngs=rngs)
    self.weights = {"targets": 1.0}

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    del key  # nothing is drawn here
    modality = self.encoder.spec.modality
    embedding = self.encoder(batch[modality], batch[modality + "_mask"])
    target = self.standardise(batch["targets"])
    return {"targets": losses.masked_huber(self.head(embedding), target)}

  def predict(self, embedding: jax.Array) -> jax.Array:
    """[batch, dim] -> [batch, targets] in the targets' own units."""
    return self.head(embedding) * self.standardise.sd[...][None] + self.standardise.mean[...][None]
