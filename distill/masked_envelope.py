"""Masked autoencoding for students that read the rhythm of a filter bank instead of raw patches.

What such a student keeps of a second is the energy in each band, so that is what it has to fill in:
masked autoencoding of a spectrogram, as for sound (Huang et al. 2022, arXiv 2207.06405).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill import losses
from distill.errors import DistillError
from distill.nn import layers
from distill.nn.encoder import PatchTransformer
from distill.nn.stems import FilterbankStem
from distill.objectives import Batch, Objective


class MaskedEnvelope(Objective):
  """Reconstructs the log band energies of stretches that the encoder was not shown.

  Stretches of `block_s` are hidden through the sample mask, as if they had been lost. A light
  decoder gets what the encoder makes of the rest and one learnable token for every `patch` frames,
  and predicts their log energies in the bands that the bank had at the start: a target that no
  training moves. The loss counts hidden samples that were observed. Shares and sizes are ours:
  tokens of 10 s leave no room for hiding four fifths of them.

  Args:
    encoder: with a `FilterbankStem`.
    mask_ratio: share of the stretches that is hidden.
    block_s: length of a stretch, seconds; divides the window.
    patch: frames that one token of the decoder predicts; divides those of the window.
    width: of the decoder.
    depth: of the decoder.
    heads: of the decoder.
    rngs: of the decoder's weights.

  Raises:
    DistillError: another stem, or sizes that do not fit.
  """

  encoder: PatchTransformer

  def __init__(
    self,
    encoder: PatchTransformer,
    *,
    mask_ratio: float = 0.5,
    block_s: float = 10.0,
    patch: int = 10,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    rngs: nnx.Rngs,
  ):
    stem, spec = getattr(encoder, "stem", None), encoder.spec
    if not isinstance(stem, FilterbankStem) or stem.lanes != 1:
      raise DistillError("masked envelopes need an encoder with a FilterbankStem of one lane")
    blocks = round(spec.window_s / block_s)
    hidden = round(mask_ratio * blocks)
    if abs(blocks * block_s - spec.window_s) > 1e-6 or not 0 < hidden < blocks:
      raise DistillError(
        f"mask_ratio {mask_ratio:g} of blocks of {block_s:g} s hides {hidden} of {blocks} in a"
        f" window of {spec.window_s:g} s; expected some and not all of a whole number"
      )
    if stem.frames % patch:
      raise DistillError(f"patch {patch} does not divide the {stem.frames} frames of a window")
    self.encoder = encoder
    self.weights = {"reconstruction": 1.0}
    self.blocks, self.hidden, self.patch = blocks, hidden, patch
    self.bank = layers.Constant(jnp.copy(stem.bank[...]))
    self.bridge = nnx.Linear(encoder.width, width, rngs=rngs)
    self.hidden_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
    self.decoder = layers.Transformer(width, depth, heads, rngs=rngs)
    self.predict = nnx.Linear(width, patch * stem.bank.shape[1], rngs=rngs)

  def terms(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    modality, stem = self.encoder.spec.modality, self.encoder.stem
    signal, mask = batch[modality], batch[modality + "_mask"]
    hidden = self.draw(key, len(signal))
    prediction = self.reconstruct(signal, mask & ~hidden[:, :, None])
    away = jnp.all(hidden.reshape(len(signal), stem.frames, -1), axis=2)
    scored = (away & stem.frames_observed(mask))[:, :, None]
    target = self.target(signal, mask)
    scored = jnp.broadcast_to(scored, target.shape)
    shape = prediction.shape
    error = losses.masked_reconstruction(prediction, target.reshape(shape), scored.reshape(shape))
    return {"reconstruction": error}

  def draw(self, key: jax.Array, batch: int) -> jax.Array:
    """[batch, time] bool, True where hidden."""
    order = jnp.argsort(jax.random.uniform(key, (batch, self.blocks)), axis=1)
    rank = jnp.argsort(order, axis=1)
    return jnp.repeat(rank < self.hidden, self.encoder.spec.samples // self.blocks, axis=1)

  def target(self, signal: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch, frames, filters] log energies of the bank as it was at the start, near unit scale."""
    stem = self.encoder.stem
    energy = stem.band_energy(jnp.where(mask, signal, 0.0), self.bank[...])
    return (jnp.log(energy + stem.FLOOR_G2) + 12.0) / 4.0

  def reconstruct(self, signal: jax.Array, visible: jax.Array) -> jax.Array:
    """What the decoder makes of all frames from the samples that the encoder may see.

    Args:
      signal: [batch, time, axes].
      visible: bool of the same shape.

    Returns:
      [batch, frames / patch, patch * filters].
    """
    stem = self.encoder.stem
    tokens, observed = self.encoder.tokens(signal, visible)
    encoded = self.bridge(self.encoder.encode(tokens, observed))
    batch, _, width = encoded.shape
    places = stem.frames // self.patch
    asked = self.hidden_token[...][None] + jnp.asarray(layers.sinusoidal_positions(places, width))
    asked = jnp.broadcast_to(asked[None], (batch, places, width))
    # In patches: the middle of what a token of the encoder read.
    middles = (np.asarray(stem.starts) + (stem.stretch - self.patch) / 2) / self.patch
    times = np.concatenate([middles, np.arange(places)]).astype(np.float32)
    seen = jnp.concatenate([observed, jnp.ones((batch, places), bool)], axis=1)
    decoded = self.decoder(
      jnp.concatenate([encoded, asked], axis=1), seen, jnp.broadcast_to(times[None], seen.shape)
    )
    return self.predict(decoded[:, -places:])
