"""The one-dimensional ResNet trunk that PaPaGei and Pulse-PPG share.

Pre-activation blocks after Hong et al.'s resnet1d (github.com/hsd1503/resnet1d), written from its
description: a block halves the time axis if its number is odd, and widens where its weights do.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill.nn.torch_layout import BatchNorm, Conv
from distill.published import Tensors


def shortcut(x: jax.Array, width: int, *, halve: bool) -> jax.Array:
  """The identity of a block [batch, time, channels], pooled in pairs and widened with zeros.

  An odd end is pooled with a zero, not with minus infinity, as the originals pad before pooling.
  """
  if halve:
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0)))
    x = jnp.max(x.reshape(x.shape[0], -1, 2, x.shape[2]), axis=2)
  more = width - x.shape[2]
  return jnp.pad(x, ((0, 0), (0, 0), (more // 2, more - more // 2))) if more else x


class Block(nnx.Module):
  """Two convolutions beside the shortcut."""

  def __init__(self, in_width: int, width: int, taps: int, *, first: bool, halve: bool):
    self.first, self.halve, self.width = first, halve, width
    if not first:
      self.bn1 = BatchNorm(in_width)
    self.conv1 = Conv(in_width, width, taps, stride=2 if halve else 1)
    self.bn2 = BatchNorm(width)
    self.conv2 = Conv(width, width, taps)

  def __call__(self, x: jax.Array) -> jax.Array:
    out = x if self.first else jax.nn.relu(self.bn1(x))
    out = self.conv2(jax.nn.relu(self.bn2(self.conv1(out))))
    return out + shortcut(x, self.width, halve=self.halve)


class ResNet1D(nnx.Module):
  """[batch, time, 1] -> [batch, time', width]."""

  def __init__(self, widths: Sequence[int], taps: int):
    self.first_block_conv = Conv(1, widths[0], taps)
    self.first_block_bn = BatchNorm(widths[0])
    ins = [widths[0], *widths]
    self.basicblock_list = nnx.List(
      [Block(ins[i], width, taps, first=i == 0, halve=i % 2 == 1) for i, width in enumerate(widths)]
    )

  def features(self, x: jax.Array) -> jax.Array:
    """Output of the last block."""
    x = jax.nn.relu(self.first_block_bn(self.first_block_conv(x)))
    for block in self.basicblock_list:
      x = block(x)
    return x


# Block 0 has a bn1 that its forward pass leaves out.
UNUSED = r"basicblock_list\.0\.bn1\..*"


def rename(tensors: Tensors) -> Tensors:
  """The originals wrap every convolution in a module of its own: "conv1.conv.weight"."""
  return {name.replace(".conv.", "."): tensor for name, tensor in tensors.items()}


def convert(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
  """`widths` and `taps` of the trunk from its shapes, and its renamed tensors."""
  tensors = rename(tensors)
  blocks = sum(name.endswith(".conv1.weight") for name in tensors)
  widths = [len(tensors[f"basicblock_list.{i}.conv1.weight"]) for i in range(blocks)]
  return {"widths": widths, "taps": tensors["first_block_conv.weight"].shape[2]}, tensors
