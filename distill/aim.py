"""Adaptive and inherited masking: self-supervised pretraining on windows that lack something.

After LSM-2 (arXiv 2506.05321), for encoders of any signal: PPG teachers, accelerometer students,
whole days of many channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from distill import losses
from distill.errors import DistillError
from distill.nn import layers, masking
from distill.nn.encoder import PatchTransformer
from distill.objectives import Batch, MaskedAutoencoding


class AIM(MaskedAutoencoding):
  """Reconstructs what was hidden on purpose, beside what was never there.

  Inherited mask: tokens that were not observed. Artificial mask: drawn for each example as one of
  random tokens, whole slices of time, whole channels (if those have tokens of their own). The
  encoder knows one kind of missing token: a fixed number is dropped, masked ones first, and those
  that remain are blocked as attention keys. If fewer are masked than dropped, observed ones go too.
  The decoder gets one learnable token in every place that the encoder did not see; the loss counts
  samples that were observed in tokens that were hidden on purpose, and no others.

  Args:
    encoder: with a stem of raw patches.
    drop: share of the tokens that is physically dropped.
    random: share of the tokens that the first strategy hides.
    slices: share of the times that the second hides.
    channels: share of the channels that the third hides.
    width: of the decoder.
    depth: of the decoder.
    heads: of the decoder.
  """

  def __init__(
    self,
    encoder: PatchTransformer,
    *,
    drop: float = 0.5,
    random: float = 0.8,
    slices: float = 0.5,
    channels: float = 0.5,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    rngs: nnx.Rngs,
  ):
    shares = {"random": random, "slices": slices, "channels": channels}
    for name, share in shares.items():
      if not 0 < share < 1:
        raise DistillError(f"{name} is {share}; expected a share between 0 and 1")
    if not 0 <= drop < 1:
      raise DistillError(f"drop is {drop}; expected a share from 0 up to but not including 1")
    super().__init__(encoder, mask_ratio=0.5, width=width, depth=depth, heads=heads, rngs=rngs)
    self.kept = max(1, round(encoder.stem.tokens * (1.0 - drop)))
    self.shares = shares

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    modality, stem = self.encoder.spec.modality, self.encoder.stem
    signal, mask = batch[modality], batch[modality + "_mask"]
    draw, drop = jax.random.split(key)
    hidden = self.draw(draw, len(signal))
    observed = stem.observed(mask)
    visible = observed & ~hidden
    index, _ = layers.choose_kept(drop, visible, self.kept)
    tokens = self.tokens_without(signal, mask, hidden)
    prediction = self.reconstruct(tokens, visible, index)
    scored = stem.patches(mask) & (hidden & observed)[:, :, None]
    return {
      "reconstruction": losses.masked_reconstruction(prediction, stem.patches(signal), scored)
    }

  def draw(self, key: jax.Array, batch: int) -> jax.Array:
    """[batch, tokens] bool, the artificial mask: True where hidden."""
    stem = self.encoder.stem
    shares = {name: jnp.full((batch,), share) for name, share in self.shares.items()}
    hidden = masking.artificial(key, batch, stem.lanes, stem.tokens // stem.lanes, **shares)
    return hidden.reshape(batch, stem.tokens)

  def infill(self, signal: jax.Array, mask: jax.Array, hidden: jax.Array) -> jax.Array:
    """Fills tokens in, nothing being dropped.

    Args:
      signal: [batch, time, channels] prepared windows.
      mask: bool of the same shape, True where observed.
      hidden: [batch, tokens] bool, tokens that the encoder may not see beside those not observed.

    Returns:
      [batch, tokens, samples a token] of every token.
    """
    visible = self.encoder.stem.observed(mask) & ~hidden
    index = jnp.broadcast_to(jnp.arange(visible.shape[1]), visible.shape)
    return self.reconstruct(self.tokens_without(signal, mask, hidden), visible, index)
