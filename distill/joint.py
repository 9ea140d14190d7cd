"""Both encoders trained together, without a frozen teacher: the rival of two stages.

Contrastive training of two modalities from scratch. What distillation gains over it is what a
teacher that was pretrained on PPG alone brings along.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from distill import losses
from distill.nn.encoder import Encoder
from distill.objectives import Batch, Distillation


class Joint(Distillation):
  """Two-way InfoNCE between the projections of two encoders that both learn.

  Its PPG encoder stands where the frozen teacher does: the gallery of retrieval. There is no fixed
  embedding to regress on, and nothing is standardised before the PPG side's head.

  Args:
    encoder: of acceleration.
    ppg_encoder: of PPG.
    rngs: of the heads' weights.
    arguments: of `Distillation`, but for the teacher's.
  """

  def __init__(self, encoder: Encoder, ppg_encoder: Encoder, *, rngs: nnx.Rngs, **arguments: Any):
    zeros, ones = np.zeros(ppg_encoder.dim, np.float32), np.ones(ppg_encoder.dim, np.float32)
    super().__init__(
      encoder, teacher_mean=zeros, teacher_sd=ones, rhythms=(True,), rngs=rngs, **arguments
    )
    self.ppg_encoder = ppg_encoder

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    contrastive = losses.info_nce(
      self.project(batch, self._mask(batch, key)),
      self.teacher_head(self._ppg(batch)),
      temperature=self.temperature,
      weight=self.direction,
      recording=batch["recording"],
      t0_s=batch["t0_s"],
      exclude_s=self.encoder.spec.window_s,
    )
    return {"contrastive": contrastive}

  def measures(self, batch: Batch) -> dict[str, jax.Array]:
    return super().measures({**batch, "teacher": self._ppg(batch)})

  def _ppg(self, batch: Batch) -> jax.Array:
    modality = self.ppg_encoder.spec.modality
    signal, mask = batch[modality], batch[modality + "_mask"]
    return (
      self.ppg_encoder.with_rhythm(signal, mask) if self.rhythm else self.ppg_encoder(signal, mask)
    )
