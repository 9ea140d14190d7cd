"""Masks for missing data: artificial ones drawn in training, and small gaps bridged.

The strategies are those of adaptive and inherited masking (AIM; LSM-2, arXiv 2506.05321): random
tokens, whole slices of time, whole channels. True means hidden in artificial masks and observed in
all others. Tokens lie lane by lane, a lane being one channel; encoders that mix their channels in
every token have one lane.
"""

import jax
import jax.numpy as jnp


def _pick(key: jax.Array, shape: tuple[int, int], count: jax.Array) -> jax.Array:
  """[rows, n] bool: `count` [rows] random places of each row."""
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), axis=1), axis=1)
  return rank < count[:, None]


def artificial(
  key: jax.Array,
  batch: int,
  lanes: int,
  times: int,
  *,
  random: jax.Array,
  slices: jax.Array,
  channels: jax.Array,
) -> jax.Array:
  """One of the strategies for each example, each with the same chance.

  Args:
    key: random key.
    batch: examples.
    lanes: channels that have tokens of their own; with one lane, whole channels are not drawn.
    times: tokens of a lane.
    random: [batch] share of the tokens that the first strategy hides, anywhere.
    slices: [batch] share of the times that the second hides, in all lanes.
    channels: [batch] share of the lanes that the third hides, at least one and never all.

  Returns:
    [batch, lanes, times] bool, True where hidden.
  """
  which, *keys = jax.random.split(key, 4)

  def count(share: jax.Array, n: int) -> jax.Array:
    return jnp.round(share * n).astype(jnp.int32)

  shape = (batch, lanes, times)
  anywhere = _pick(keys[0], (batch, lanes * times), count(random, lanes * times)).reshape(shape)
  when = _pick(keys[1], (batch, times), count(slices, times))[:, None, :]
  few = jnp.clip(count(channels, lanes), 1, max(lanes - 1, 1))
  lane = _pick(keys[2], (batch, lanes), few)[:, :, None]
  strategy = jax.random.randint(which, (batch, 1, 1), 0, 2 if lanes == 1 else 3)
  hidden = jnp.where(strategy == 0, anywhere, jnp.broadcast_to(when, shape))
  return jnp.where(strategy == 2, jnp.broadcast_to(lane, shape), hidden)


def hide_blocks(key: jax.Array, mask: jax.Array, *, share: float, block: int) -> jax.Array:
  """Artificial gaps in the sample masks of a batch, for training on windows that lack something.

  The share that is hidden is drawn evenly from 10 to 90 % for each example; ours. An example of
  which nothing would remain stays as it is.

  Args:
    key: random key.
    mask: [batch, time, channels] bool, True where observed.
    share: of the examples that get a gap.
    block: samples that are hidden or kept together.

  Returns:
    The mask with fewer samples observed, the same shape.
  """
  batch, time, lanes = mask.shape
  who, how, what = jax.random.split(key, 3)
  ratio = jax.random.uniform(how, (batch,), minval=0.1, maxval=0.9)
  blocks = -(-time // block)
  hidden = artificial(what, batch, lanes, blocks, random=ratio, slices=ratio, channels=ratio)
  hidden = jnp.repeat(jnp.moveaxis(hidden, 1, 2), block, axis=1)[:, :time]
  chosen = jax.random.uniform(who, (batch, 1, 1)) < share
  left = mask & ~(hidden & chosen)
  return jnp.where(jnp.any(left, axis=(1, 2), keepdims=True), left, mask)


def bridge(signal: jax.Array, mask: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
  """Small gaps bridged linearly between their neighbours; longer ones and the ends become zero.

  Args:
    signal: [batch, time, channels] float32; under the mask it may hold anything, NaN included.
    mask: bool of the same shape.
    longest: gap that is bridged, samples; 0 bridges none.

  Returns:
    (finite signal, mask that counts what was bridged as known).
  """
  signal = jnp.where(mask, signal, 0.0)
  low, since = _nearest(signal, mask, longest, back=True)
  high, until = _nearest(signal, mask, longest, back=False)
  small = since + until - 1 <= longest
  filled = jnp.where(small, low + (high - low) * since / (since + until), 0.0)
  return jnp.where(mask, signal, filled), mask | small


def _nearest(
  signal: jax.Array, mask: jax.Array, reach: int, *, back: bool
) -> tuple[jax.Array, jax.Array]:
  """Value of the nearest observed sample before (or after) each, and how many samples away it is.

  Beyond `reach` it counts as reach + 1 away. Shifts alone: gathers and running maxima are slower
  here, and not every converter knows them.
  """
  value, away = jnp.zeros_like(signal), jnp.full_like(signal, reach + 1.0)
  for step in range(reach, 0, -1):
    pad = ((0, 0), (step, 0) if back else (0, step), (0, 0))
    cut = slice(None, -step) if back else slice(step, None)
    seen = jnp.pad(mask[:, cut], pad)
    value = jnp.where(seen, jnp.pad(signal[:, cut], pad), value)
    away = jnp.where(seen, float(step), away)
  return value, away
