"""Participant-contrastive pretraining: two windows of one person are alike, other people's are not.

After Abbaspourazad et al. 2023 (arXiv 2312.05409, known from a re-implementation): InfoNCE both
ways against a slowly moving average of encoder and head, plus 0.1 KoLeo. Sizes of the head are
ours; views are other windows of the person, augmented as `pretrain.augment` says.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from distill import losses
from distill.data.pairs import OTHER
from distill.errors import DistillError
from distill.nn import layers
from distill.nn.encoder import Encoder
from distill.objectives import Batch, Objective


class ParticipantContrastive(Objective):
  """Queries of the trained encoder against keys of its moving average, both ways.

  Batches are those of `distill.data.pairs`; windows of one person are never each other's negatives.

  Args:
    encoder: to train.
    temperature: of the cosines.
    koleo: weight of the KoLeo term.
    momentum: share of the moving average that a step keeps.
    hidden: width of the projection head.
    dim: of the projection.
    rngs: of the head's weights.

  Raises:
    DistillError: a momentum outside [0, 1) or a temperature that is not positive.
  """

  paired = True

  def __init__(
    self,
    encoder: Encoder,
    *,
    temperature: float = 0.04,
    koleo: float = 0.1,
    momentum: float = 0.99,
    hidden: int = 256,
    dim: int = 128,
    rngs: nnx.Rngs,
  ):
    if not 0 <= momentum < 1:
      raise DistillError(f"pretrain.objective.momentum is {momentum}; expected 0 or more, below 1")
    if not temperature > 0:
      raise DistillError(f"pretrain.objective.temperature is {temperature}; give a positive one")
    self.encoder = encoder
    self.head = layers.ProjectionHead(encoder.dim, hidden, dim, rngs=rngs)
    self.weights = {"contrastive": 1.0, "koleo": koleo}
    self.temperature, self.momentum = temperature, momentum

  def targets(self, batch: Batch) -> dict[str, jax.Array]:
    """Keys: projections of both views, [batch, dim]."""
    return {"keys": self._project(batch, ""), OTHER + "keys": self._project(batch, OTHER)}

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    del key  # nothing is drawn here
    first, second = self._project(batch, ""), self._project(batch, OTHER)
    contrastive = self._info_nce(first, batch[OTHER + "keys"], batch["participant"])
    contrastive += self._info_nce(second, batch["keys"], batch["participant"])
    koleo = losses.koleo(first) + losses.koleo(second)
    return {"contrastive": contrastive / 2.0, "koleo": koleo / 2.0}

  def measures(self, batch: Batch) -> dict[str, jax.Array]:
    """Share of windows to which no other person's key is as near as their own person's."""
    similarity = losses.similarity(self._project(batch, ""), batch[OTHER + "keys"])
    participant = batch["participant"]
    others = participant[:, None] != participant[None, :]
    nearest = jnp.max(jnp.where(others, similarity, -1.0), axis=1)
    return {
      "top1": jnp.mean((nearest < jnp.diagonal(similarity)).astype(jnp.float32)),
      "ln_batch": jnp.log(jnp.float32(len(similarity))),
    }

  def _project(self, batch: Batch, view: str) -> jax.Array:
    name = view + self.encoder.spec.modality
    return self.head(self.encoder(batch[name], batch[name + "_mask"]))

  def _info_nce(self, query: jax.Array, keys: jax.Array, participant: jax.Array) -> jax.Array:
    return losses.info_nce(
      query,
      jax.lax.stop_gradient(keys),
      temperature=self.temperature,
      # All of one person's windows count as if they overlapped.
      recording=participant,
      t0_s=jnp.zeros(len(query), jnp.float32),
      exclude_s=1.0,
    )
