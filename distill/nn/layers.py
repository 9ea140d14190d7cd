"""Transformer block, projection head, positions, masked pooling and token dropping."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError


class Constant(nnx.Variable):
  """A stored array that belongs to the model and is not trained."""


def check_sizes(**sizes: int) -> None:
  """Refuses sizes of layers that are not at least 1.

  Raises:
    DistillError: naming the first of them.
  """
  for name, size in sizes.items():
    if size < 1:
      raise DistillError(f"{name} is {size}; expected 1 or more")


def sinusoidal_positions(tokens: int, width: int) -> np.ndarray:
  """[tokens, width] float32 fixed positions (Vaswani et al. 2017, section 3.5)."""
  rate = 10000.0 ** (-np.arange(0, width, 2) / width)
  angle = np.arange(tokens)[:, None] * rate
  table = np.zeros((tokens, width), np.float32)
  table[:, 0::2] = np.sin(angle)
  table[:, 1::2] = np.cos(angle[:, : width // 2])
  return table


def grid_positions(lanes: int, times: int, width: int) -> np.ndarray:
  """[lanes * times, width] float32: half of the width says the time, the other half the lane.

  With one lane it is `sinusoidal_positions(times, width)`.
  """
  if lanes == 1:
    return sinusoidal_positions(times, width)
  when = np.tile(sinusoidal_positions(times, width - width // 2), (lanes, 1))
  which = np.repeat(sinusoidal_positions(lanes, width // 2), times, axis=0)
  return np.concatenate([when, which], axis=1)


def rotate(heads: jax.Array, positions: jax.Array) -> jax.Array:
  """Rotary positions (Su et al. 2021, arXiv 2104.09864): attention sees offsets, not places.

  Args:
    heads: [batch, tokens, heads, dim] queries or keys, dim even.
    positions: [batch, tokens] float32, in tokens.

  Returns:
    The same shape; pairs of dimensions are turned by position times 1 ... 1/1000 radians a token.
  """
  half = heads.shape[3] // 2
  rate = jnp.asarray(np.geomspace(np.pi / 2, 1e-3, half), jnp.float32)
  angle = positions[:, :, None, None] * rate[None, None, None, :]
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  first, second = heads[..., :half], heads[..., half:]
  return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=3)


def attendable(observed: jax.Array) -> jax.Array:
  """[batch, tokens] keys that attention may look at: the observed ones.

  A row with nothing observed would make the softmax NaN; it may look everywhere instead, and the
  pooling afterwards gives it a zero vector.
  """
  return observed | ~jnp.any(observed, axis=1, keepdims=True)


def masked_mean(tokens: jax.Array, observed: jax.Array) -> jax.Array:
  """Mean over observed tokens: [batch, tokens, width], [batch, tokens] -> [batch, width].

  Rows with nothing observed give zeros.
  """
  kept = jnp.where(observed[:, :, None], tokens, 0.0)
  count = jnp.sum(observed.astype(tokens.dtype), axis=1)
  return jnp.sum(kept, axis=1) / jnp.maximum(count, 1.0)[:, None]


def masked_mean_sd(tokens: jax.Array, observed: jax.Array) -> jax.Array:
  """Mean and standard deviation over observed tokens, [batch, 2 * width].

  Statistics pooling: variability over the minute reaches the embedding beside its mean
  (Snyder et al. 2018, x-vectors, section 3). The floor keeps the gradient of the root finite.
  """
  mean = masked_mean(tokens, observed)
  variance = masked_mean(jnp.square(tokens - mean[:, None, :]), observed)
  floor = jnp.float32(1e-4)
  some = jnp.any(observed, axis=1)[:, None]
  sd = jnp.where(some, jnp.sqrt(variance + floor), 0.0)
  return jnp.concatenate([mean, sd], axis=1)


class Attention(nnx.Module):
  """Multi-head self-attention with a key mask."""

  def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
    self.heads = heads
    self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
    self.out = nnx.Linear(width, width, rngs=rngs)

  def __call__(self, tokens: jax.Array, keys: jax.Array, positions: jax.Array) -> jax.Array:
    batch, count, width = tokens.shape
    split = (batch, count, 3, self.heads, width // self.heads)
    query, key, value = jnp.moveaxis(self.qkv(tokens).reshape(split), 2, 0)
    query, key = rotate(query, positions), rotate(key, positions)
    mixed = jax.nn.dot_product_attention(query, key, value, mask=keys[:, None, None, :])
    return self.out(mixed.reshape(batch, count, width))


class Block(nnx.Module):
  """Pre-norm transformer block."""

  def __init__(self, width: int, heads: int, mlp_width: int, *, rngs: nnx.Rngs):
    self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
    self.attention = Attention(width, heads, rngs=rngs)
    self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
    self.mlp_in = nnx.Linear(width, mlp_width, rngs=rngs)
    self.mlp_out = nnx.Linear(mlp_width, width, rngs=rngs)

  def __call__(self, tokens: jax.Array, keys: jax.Array, positions: jax.Array) -> jax.Array:
    tokens = tokens + self.attention(self.attention_norm(tokens), keys, positions)
    return tokens + self.mlp_out(jax.nn.gelu(self.mlp_in(self.mlp_norm(tokens))))


class Transformer(nnx.Module):
  """A stack of blocks and a final norm: [batch, tokens, width], [batch, tokens] -> same shape."""

  def __init__(self, width: int, depth: int, heads: int, *, rngs: nnx.Rngs):
    check_sizes(width=width, heads=heads)
    if depth < 0:
      raise DistillError(f"depth is {depth}; expected 0 or more")
    if width % (2 * heads):
      raise DistillError(
        f"width {width} and heads {heads}: each head needs an even share of the width, so choose a"
        f" multiple of {2 * heads}"
      )
    self.depth = depth
    for i in range(depth):
      setattr(self, f"block_{i}", Block(width, heads, 4 * width, rngs=rngs))
    self.norm = nnx.LayerNorm(width, rngs=rngs)

  def __call__(
    self, tokens: jax.Array, observed: jax.Array, positions: jax.Array | None = None
  ) -> jax.Array:
    keys = attendable(observed)
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), observed.shape)
    positions = positions.astype(jnp.float32)
    for i in range(self.depth):
      tokens = getattr(self, f"block_{i}")(tokens, keys, positions)
    return self.norm(tokens)


class ProjectionHead(nnx.Module):
  """Two-layer head: [batch, in_dim] -> [batch, out_dim]. Discarded by probes, used by retrieval.

  With `rhythm`, what follows the embedding is not mixed: it keeps its order in time. The cosine of
  two such projections is the weighted mean of the cosine of what is projected and that of the
  rhythms, with a learned share.
  """

  def __init__(
    self, in_dim: int, hidden: int, out_dim: int, *, rhythm: bool = False, rngs: nnx.Rngs
  ):
    self.in_dim, self.rhythm = in_dim, rhythm
    self.norm = nnx.LayerNorm(in_dim, rngs=rngs)
    self.hidden = nnx.Linear(in_dim, hidden, rngs=rngs)
    self.out = nnx.Linear(hidden, out_dim, rngs=rngs)
    self.balance = nnx.Param(jnp.zeros((1, 1))) if rhythm else None

  def __call__(self, vectors: jax.Array) -> jax.Array:
    """[batch, in_dim (+ frames)] -> [batch, out_dim (+ frames)]."""
    if self.balance is None:
      return self._project(vectors)
    embedding, rhythm = jnp.split(vectors, [self.in_dim], axis=1)
    share = jax.nn.sigmoid(self.balance[...])
    parts = (
      jnp.sqrt(share) * _unit(self._project(embedding)),
      jnp.sqrt(1.0 - share) * _unit(rhythm),
    )
    return jnp.concatenate(parts, axis=1)

  def _project(self, embedding: jax.Array) -> jax.Array:
    return self.out(jax.nn.gelu(self.hidden(self.norm(embedding))))


def _unit(vectors: jax.Array) -> jax.Array:
  """Of length 1; zeros stay zeros, with a finite gradient."""
  return vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=1, keepdims=True) + 1e-12)


def choose_kept(key: jax.Array, observed: jax.Array, kept: int) -> tuple[jax.Array, jax.Array]:
  """Random tokens to keep, observed ones first, a fixed number so that batches stay rectangular.

  Args:
    key: random key.
    observed: [batch, tokens] bool.
    kept: how many tokens to keep in each row.

  Returns:
    (index [batch, kept] int32 of the kept tokens, hidden [batch, tokens] bool: True where a token
    is not kept).
  """
  order = jax.random.uniform(key, observed.shape) + jnp.where(observed, 0.0, 1.0)
  index = jnp.argsort(order, axis=1)[:, :kept]
  rows = jnp.arange(len(observed))[:, None]
  hidden = jnp.ones(observed.shape, bool).at[rows, index].set(False)
  return index, hidden
