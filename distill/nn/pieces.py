"""An encoder of short pieces, used on windows of any length."""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec


class PieceNet(nnx.Module):
  """What a public family is made of: pieces and their mask to one embedding each.

  Attributes:
    dim: length of the embedding.
  """

  dim: int

  @abc.abstractmethod
  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch, time, channels], bool of the same shape -> [batch, dim]; missing samples are zero."""


class PieceEncoder(Encoder):
  """Cuts a window into the pieces a family was trained on and averages their embeddings.

  A window that is no multiple of the piece is covered by pieces spaced evenly, which then overlap.
  A piece weighs as much as it was observed, so one with nothing in it does not count and a window
  with nothing in it is the zero vector.

  Args:
    spec: of the family; its window is one piece.
    net: the family's network.
    window_s: length of the windows to embed; None = one piece.
    shorter: whether the network takes windows shorter than one piece, as they are.

  Raises:
    DistillError: a window too short for the network.
  """

  def __init__(
    self, spec: SignalSpec, net: PieceNet, *, window_s: float | None = None, shorter: bool = True
  ):
    self.spec = dataclasses.replace(spec, window_s=spec.window_s if window_s is None else window_s)
    if self.spec.samples < spec.samples and not shorter:
      raise DistillError(
        f"this encoder takes windows of {spec.window_s:g} s and longer, got window_s={window_s:g}"
      )
    self.net = net
    self.dim = net.dim
    self.piece = min(spec.samples, self.spec.samples)
    count = math.ceil(self.spec.samples / self.piece)
    starts = np.linspace(0, self.spec.samples - self.piece, count)
    self.starts = tuple(int(start) for start in np.round(starts))

  def __call__(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    mask = self.check(signal, mask)
    signal = jnp.where(mask, signal, 0.0)
    if len(self.starts) == 1:
      observed = jnp.mean(mask.astype(signal.dtype), axis=(1, 2))
      return jnp.where(observed[:, None] > 0, self.net(signal, mask), 0.0)
    pieces = jnp.stack([signal[:, start : start + self.piece] for start in self.starts])
    masks = jnp.stack([mask[:, start : start + self.piece] for start in self.starts])
    if any(getattr(module, "learns", False) for _, module in nnx.iter_modules(self.net)):
      # Statistics are those of all pieces together, and no loop may store them.
      together = (piece.reshape(-1, *piece.shape[2:]) for piece in (pieces, masks))
      embeddings = self._embed(*together).reshape(len(pieces), len(signal), -1)
    else:
      # One piece after the other: attention over all pieces of a batch at once needs gigabytes.
      embeddings = jax.lax.map(lambda both: self._embed(*both), (pieces, masks))
    weights = jnp.mean(masks.astype(signal.dtype), axis=(2, 3))[:, :, None]
    total = jnp.maximum(jnp.sum(weights, axis=0), jnp.finfo(signal.dtype).tiny)
    return jnp.sum(embeddings * weights, axis=0) / total

  def _embed(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    if self.spec.normalisation == "zscore":  # of the window so far; the family does it to a piece
      piece = _standardise(piece, mask, self.spec.sd_floor)
    return self.net(piece, mask)


def _standardise(piece: jax.Array, mask: jax.Array, sd_floor: float) -> jax.Array:
  count = jnp.maximum(jnp.sum(mask.astype(piece.dtype), axis=1, keepdims=True), 1.0)
  centred = jnp.where(mask, piece - jnp.sum(piece, axis=1, keepdims=True) / count, 0.0)
  sd = jnp.sqrt(jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count)
  return centred / jnp.maximum(sd, sd_floor)
