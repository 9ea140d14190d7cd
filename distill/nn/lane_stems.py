"""Stems with tokens for each channel apart, so that losing a channel loses no other.

They give lanes * times tokens, lane by lane: three times the tokens for three axes. Gaps of a few
samples inside a token are bridged, and which samples were missing is fed beside them; with nothing
missing that part adds zero. What lies under the mask never reaches a token.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from distill.nn import masking
from distill.nn.stems import MIN_TOKEN_COVERAGE, FilterbankStem, PatchStem


class LanePatchStem(PatchStem):
  """Patches of one channel each, all projected by the same weights.

  Args:
    samples: of a window.
    channels: each becomes a lane.
    width: of the tokens.
    patch: samples a token; divides `samples`.
    fill: longest gap that is bridged, samples.
  """

  def __init__(
    self, samples: int, channels: int, width: int, patch: int, *, fill: int, rngs: nnx.Rngs
  ):
    super().__init__(samples, 1, width, patch, rngs=rngs)
    self.lanes = channels
    self.tokens *= channels
    self.fill = fill
    self.missing = nnx.Linear(patch, width, use_bias=False, rngs=rngs)

  def patches(self, signal: jax.Array) -> jax.Array:
    """[batch, time, channels] -> [batch, tokens, patch]."""
    return jnp.moveaxis(signal, 2, 1).reshape(signal.shape[0], self.tokens, self.patch)

  def samples(self, tokens: jax.Array) -> jax.Array:
    """[batch, tokens] of each token -> [batch, time, channels] of its samples."""
    by_lane = tokens.reshape(tokens.shape[0], self.lanes, -1)
    return jnp.repeat(jnp.moveaxis(by_lane, 1, 2), self.patch, axis=1)

  def __call__(self, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    filled, _ = masking.bridge(signal, mask, self.fill)
    lost = self.patches(~mask).astype(filled.dtype)
    return self.project(self.patches(filled)) + self.missing(lost), self.observed(mask)


class LaneFilterbankStem(FilterbankStem):
  """The rhythm of each axis by itself: `FilterbankStem` without the sum over axes.

  It pays with the indifference to how the device is turned.

  Args:
    axes: each becomes a lane.
    fill: longest gap that is bridged, samples.
    min_coverage: share of a token's frames that must be seen for it to count as observed.
    sizes: of `FilterbankStem`.
  """

  def __init__(
    self,
    samples: int,
    axes: int,
    width: int,
    *,
    fill: int,
    min_coverage: float = MIN_TOKEN_COVERAGE,
    rngs: nnx.Rngs,
    **sizes,
  ):
    super().__init__(samples, width, fill=fill, rngs=rngs, **sizes)
    self.lanes = axes
    self.tokens *= axes
    self.min_coverage = min_coverage
    self.missing = nnx.Linear(self.stretch, width, use_bias=False, rngs=rngs)

  def __call__(self, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    filled, known = masking.bridge(signal, mask, self.fill)
    filled, known, mask = (self._rows(one) for one in (filled, known, mask))
    tokens, _, _ = self.read_bridged(filled, known)
    seen = self.frames_observed(known)
    observed = jnp.stack([seen[:, i : i + self.stretch] for i in self.starts], axis=1)
    lost = 1.0 - jnp.mean(mask.reshape(mask.shape[0], self.frames, -1).astype(tokens.dtype), axis=2)
    lost = jnp.stack([lost[:, i : i + self.stretch] for i in self.starts], axis=1)
    tokens = tokens + self.missing(lost)
    shape = (signal.shape[0], self.tokens)
    enough = jnp.mean(observed.astype(jnp.float32), axis=2) >= self.min_coverage
    return tokens.reshape(*shape, -1), enough.reshape(shape)

  def _rows(self, values: jax.Array) -> jax.Array:
    """[batch, time, axes] -> [batch * axes, time, 1]."""
    return jnp.moveaxis(values, 2, 1).reshape(-1, values.shape[1], 1)
