"""Inference layers that hold weights in PyTorch's layout and under its names.

Public encoders become modules whose parameters are called what their checkpoint calls them, so
that importing one is a comparison of names and shapes and no translation. Signals are [batch, time,
channels] here as everywhere; only the weights are [out, in, taps]. Every layer starts at zero and
is worth nothing until `distill.models.assign` has filled it. Products run at full float32 precision
on accelerators too: a teacher embeds every window once, and its parity is tested.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.nn.layers import Constant

EXACT = jax.lax.Precision.HIGHEST


def _zeros(*shape: int) -> jax.Array:
  return jnp.asarray(np.zeros(shape, np.float32))  # made by NumPy: nothing to compile


def along_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
  """[channels] with leading axes of one, to meet x [..., channels]."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


class Linear(nnx.Module):
  """x @ weight.T + bias over the last axis; weight [out, in]."""

  def __init__(self, in_width: int, width: int, *, bias: bool = True):
    self.weight = nnx.Param(_zeros(width, in_width))
    self.bias = nnx.Param(_zeros(width)) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    out = jnp.matmul(x, self.weight[...].T, precision=EXACT)
    return out if self.bias is None else out + along_channels(self.bias[...], out)


class Conv(nnx.Module):
  """Convolution over time; weight [out, in / groups, taps].

  Padded to ceil(time / stride) values with zeros, the odd one at the end (XLA's SAME, and the
  "MyConv1dPadSame" of the public ResNets), or in a circle by taps // 2.
  """

  def __init__(
    self,
    in_width: int,
    width: int,
    taps: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    circular: bool = False,
  ):
    self.stride, self.groups, self.circular = stride, groups, circular
    self.weight = nnx.Param(_zeros(width, in_width // groups, taps))
    self.bias = nnx.Param(_zeros(width)) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.circular:
      reach = self.weight.shape[2] // 2
      x = jnp.concatenate([x[:, x.shape[1] - reach :], x, x[:, :reach]], axis=1)
    out = jax.lax.conv_general_dilated(
      x,
      self.weight[...],
      (self.stride,),
      "VALID" if self.circular else "SAME",
      dimension_numbers=("NWC", "OIW", "NWC"),
      feature_group_count=self.groups,
      precision=EXACT,
    )
    return out if self.bias is None else out + along_channels(self.bias[...], out)


class BatchNorm(nnx.Module):
  """Batch normalisation with the stored statistics, which are constants that no training moves.

  While `learns` is set, the statistics of the batch at hand are used instead and stored.
  """

  learns = False

  def __init__(self, width: int):
    self.weight = nnx.Param(_zeros(width))
    self.bias = nnx.Param(_zeros(width))
    self.running_mean = Constant(_zeros(width))
    self.running_var = Constant(_zeros(width))

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.learns:
      return self._learn(x)
    scale = self.weight[...] * jax.lax.rsqrt(self.running_var[...] + 1e-5)
    centred = x - along_channels(self.running_mean[...], x)
    return centred * along_channels(scale, x) + along_channels(self.bias[...], x)

  def _learn(self, x: jax.Array) -> jax.Array:
    """Stores the batch's mean and unbiased variance; the result uses the biased one."""
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean, variance = jnp.mean(x, axis=axes), jnp.var(x, axis=axes)
    self.running_mean[...] = mean
    self.running_var[...] = variance * (count / max(count - 1, 1))
    scale = self.weight[...] * jax.lax.rsqrt(variance + 1e-5)
    normal = (x - along_channels(mean, x)) * along_channels(scale, x)
    return normal + along_channels(self.bias[...], x)


class LayerNorm(nnx.Module):
  """Layer normalisation over the last axis."""

  def __init__(self, width: int):
    self.weight = nnx.Param(_zeros(width))
    self.bias = nnx.Param(_zeros(width))

  def __call__(self, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + 1e-5)
    return normal * along_channels(self.weight[...], x) + along_channels(self.bias[...], x)
