"""Our second PPG teacher: a 1-D EfficientNet, as participant-contrastive pretraining uses it.

After Abbaspourazad et al. 2023 (arXiv 2312.05409, known from a re-implementation): a convolution,
inverted bottlenecks with squeeze and excitation, and an average over time. Their batch norm is a
layer norm here, so that a window's embedding depends on no other window and no statistics move;
sizes are ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from distill.errors import DistillError
from distill.nn import layers
from distill.nn.encoder import Encoder
from teachers.transformer import SPEC

__all__ = ["SPEC", "EfficientNet1D", "build"]

STEM_STRIDE = 4  # 64 Hz -> 16 Hz: twice what the 8 Hz band holds
SQUEEZE = 4


class Depthwise(nnx.Module):
  """One filter a channel over time, padded to ceil(time / stride) values."""

  def __init__(self, width: int, taps: int, stride: int, *, rngs: nnx.Rngs):
    self.stride = stride
    self.kernel = nnx.Param(jax.random.normal(rngs.params(), (taps, width)) / taps**0.5)

  def __call__(self, x: jax.Array) -> jax.Array:
    taps = self.kernel.shape[0]
    count = -(-x.shape[1] // self.stride)
    x = jnp.pad(x, ((0, 0), ((taps - 1) // 2, taps), (0, 0)))
    reach = (count - 1) * self.stride + 1
    # A sum of shifted copies: grouped convolutions are slow on a CPU.
    shifted = [x[:, k : k + reach : self.stride] for k in range(taps)]
    return sum(
      (copy * self.kernel[k][None, None] for k, copy in enumerate(shifted[1:], start=1)),
      start=shifted[0] * self.kernel[0][None, None],
    )


class InvertedBottleneck(nnx.Module):
  """Widen, filter each channel over time, weigh the channels by their mean, narrow; residual."""

  def __init__(
    self, in_width: int, width: int, *, taps: int, stride: int, expand: int, rngs: nnx.Rngs
  ):
    wide = expand * in_width
    self.residual = stride == 1 and in_width == width
    self.norm = nnx.LayerNorm(in_width, rngs=rngs)
    self.widen = nnx.Linear(in_width, wide, rngs=rngs)
    self.filter = Depthwise(wide, taps, stride, rngs=rngs)
    self.filter_norm = nnx.LayerNorm(wide, rngs=rngs)
    self.squeeze = nnx.Linear(wide, max(1, in_width // SQUEEZE), rngs=rngs)
    self.excite = nnx.Linear(max(1, in_width // SQUEEZE), wide, rngs=rngs)
    self.narrow = nnx.Linear(wide, width, rngs=rngs)

  def __call__(self, x: jax.Array, observed: jax.Array) -> jax.Array:
    """[batch, time, in_width], [batch, time'] bool after the stride -> [batch, time', width]."""
    out = nnx.swish(self.widen(self.norm(x)))
    out = nnx.swish(self.filter_norm(self.filter(out)))
    level = layers.masked_mean(out, observed)
    out = out * nnx.sigmoid(self.excite(nnx.swish(self.squeeze(level))))[:, None, :]
    out = self.narrow(out)
    return x + out if self.residual else out


class EfficientNet1D(Encoder):
  """Convolution, stages of inverted bottlenecks, each stage at half the rate, mean over time."""

  def __init__(
    self,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    taps: int,
    expand: int,
    dim: int,
    rngs: nnx.Rngs,
  ):
    self.spec, self.dim = SPEC, dim
    self.stem = nnx.Conv(
      len(SPEC.channels), widths[0], 2 * STEM_STRIDE - 1, strides=STEM_STRIDE, rngs=rngs
    )
    blocks, ins = [], widths[0]
    self.strides = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
      for place in range(depth):
        stride = 2 if place == 0 and stage > 0 else 1
        self.strides.append(stride)
        blocks.append(
          InvertedBottleneck(ins, width, taps=taps, stride=stride, expand=expand, rngs=rngs)
        )
        ins = width
    self.blocks = nnx.List(blocks)
    self.norm = nnx.LayerNorm(ins, rngs=rngs)
    self.project = nnx.Linear(ins, dim, rngs=rngs)

  def __call__(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    mask = self.check(signal, mask)
    observed = _halved(jnp.all(mask, axis=2), STEM_STRIDE)
    x = self.stem(jnp.where(mask, signal, 0.0))
    for block, stride in zip(self.blocks, self.strides, strict=True):
      # What lies in a gap is silence for the next filter too.
      x = jnp.where(observed[:, :, None], x, 0.0)
      observed = _halved(observed, stride)
      x = block(x, observed)
    embedding = self.project(layers.masked_mean(self.norm(x), observed))
    return jnp.where(jnp.any(observed, axis=1)[:, None], embedding, 0.0)


def _halved(observed: jax.Array, stride: int) -> jax.Array:
  """[batch, time] bool at a lower rate: observed where all of its samples were."""
  if stride == 1:
    return observed
  padded = jnp.pad(observed, ((0, 0), (0, -observed.shape[1] % stride)))
  return jnp.all(padded.reshape(observed.shape[0], -1, stride), axis=2)


def build(
  *,
  seed: int,
  widths: Sequence[int] = (16, 24, 40, 80),
  depths: Sequence[int] = (1, 2, 2, 2),
  taps: int = 5,
  expand: int = 4,
  dim: int = 128,
) -> EfficientNet1D:
  """A freshly initialised teacher.

  Args:
    seed: of the initial weights.
    widths: of the stages; each stage after the first halves the rate.
    depths: blocks in each stage.
    taps: values that the filters of a block span.
    expand: how much wider a block is inside.
    dim: of the embedding.

  Raises:
    DistillError: no stage, or widths and depths of different lengths.
  """
  if not widths or len(widths) != len(depths):
    raise DistillError(
      f"teacher.widths {tuple(widths)} and teacher.depths {tuple(depths)} must name the same stages"
    )
  return EfficientNet1D(
    widths=widths, depths=depths, taps=taps, expand=expand, dim=dim, rngs=nnx.Rngs(seed)
  )
