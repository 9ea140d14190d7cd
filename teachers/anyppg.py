"""AnyPPG (arXiv 2511.01747, 2025): 10 s of PPG at 125 Hz, aligned with ECG -> 512.

Preprocessing as in the public code: Butterworth band-pass of order 3, 0.5-8 Hz, both ways, then a
z-score of each 10 s segment. The network is a bottleneck ResNet with grouped convolutions and
squeeze-and-excitation (Hong's net1d); all widths come from the checkpoint.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill.nn.pieces import PieceEncoder, PieceNet
from distill.nn.torch_layout import BatchNorm, Conv, Linear
from distill.published import Family, Tensors, count
from distill.spec import SignalSpec
from teachers.resnet1d import rename, shortcut

SPEC = SignalSpec(
  modality="ppg",
  rate_hz=125.0,
  window_s=10.0,
  channels=("green",),
  unit="au",
  band_hz=(0.5, 8.0),
  normalisation="zscore",
  band_filter="butterworth3",
)


class Block(nnx.Module):
  """Narrow, convolve in groups, widen, weigh the channels; the first of a stage halves the time."""

  def __init__(
    self, in_width: int, width: int, middle: int, group: int, squeeze: int, taps: int,
    *, first: bool, halve: bool,
  ):  # fmt: skip
    self.first, self.halve, self.width = first, halve, width
    if not first:
      self.bn1 = BatchNorm(in_width)
    self.conv1 = Conv(in_width, middle, 1)
    self.bn2 = BatchNorm(middle)
    self.conv2 = Conv(middle, middle, taps, stride=2 if halve else 1, groups=middle // group)
    self.bn3 = BatchNorm(middle)
    self.conv3 = Conv(middle, width, 1)
    self.se_fc1 = Linear(width, squeeze)
    self.se_fc2 = Linear(squeeze, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    out = self.conv1(x if self.first else jax.nn.silu(self.bn1(x)))
    out = self.conv2(jax.nn.silu(self.bn2(out)))
    out = self.conv3(jax.nn.silu(self.bn3(out)))
    weight = self.se_fc2(jax.nn.silu(self.se_fc1(jnp.mean(out, axis=1))))
    return out * jax.nn.sigmoid(weight)[:, None, :] + shortcut(x, self.width, halve=self.halve)


class Stage(nnx.Module):
  """Blocks of one width."""

  def __init__(self, blocks: Sequence[Block]):
    self.block_list = nnx.List(blocks)


class AnyPPG(PieceNet):
  """Stages of blocks, and the mean over time."""

  def __init__(self, first: int, taps: int, stages: Sequence[Sequence[Sequence[int]]]):
    self.first_conv = Conv(1, first, taps, stride=2)
    self.first_bn = BatchNorm(first)
    made, in_width = [], first
    for s, stage in enumerate(stages):
      blocks = []
      for b, (width, middle, group, squeeze) in enumerate(stage):
        sizes = (in_width, width, middle, group, squeeze, taps)
        blocks.append(Block(*sizes, first=s == b == 0, halve=b == 0))
        in_width = width
      made.append(Stage(blocks))
    self.stage_list = nnx.List(made)
    self.dim = in_width

  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    del mask
    x = jax.nn.silu(self.first_bn(self.first_conv(piece)))
    for stage in self.stage_list:
      for block in stage.block_list:
        x = block(x)
    return jnp.mean(x, axis=1)


def build(
  *,
  first: int,
  taps: int,
  stages: Sequence[Sequence[Sequence[int]]],
  window_s: float | None = None,
  output: str = "mean",
) -> PieceEncoder:
  """An empty encoder, to be filled with weights.

  Args:
    first: channels of the first convolution.
    taps: of the convolutions that look along time.
    stages: for each stage, for each block: its width, the width of its middle, the channels of one
      group, and the width of its squeeze.
    window_s: see `distill.published.load`.
    output: "mean" over time.
  """
  del output
  return PieceEncoder(SPEC, AnyPPG(first, taps, stages), window_s=window_s)


def convert(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Arguments of `build` and renamed tensors."""
  tensors = rename(tensors)
  first, _, taps = tensors["first_conv.weight"].shape
  stages = []
  for s in range(count(tensors, r"stage_list\.(\d+)\.")):
    prefix = f"stage_list.{s}.block_list."
    blocks = [f"{prefix}{b}." for b in range(count(tensors, re.escape(prefix) + r"(\d+)\."))]
    stages.append([_block(tensors, block) for block in blocks])
  return {"first": first, "taps": taps, "stages": stages}, tensors


def _block(tensors: Tensors, prefix: str) -> list[int]:
  middle, group, _ = tensors[prefix + "conv2.weight"].shape
  width, squeeze = tensors[prefix + "se_fc2.weight"].shape
  return [width, middle, group, squeeze]


FAMILIES = (
  Family(
    name="anyppg",
    build="teachers.anyppg:build",
    spec=SPEC,
    convert=convert,
    dropped=(r"stage_list\.0\.block_list\.0\.bn1\..*",),  # the forward pass leaves it out
    outputs=("mean",),
    embedding="512",
    licence="no licence file in the repository: all rights reserved",
    commercial="unclear",
    weights="github.com/Ngk03/AnyPPG, load_anyppg/anyppg_ckpt.pth",
    reference="arXiv 2511.01747; github.com/Ngk03/AnyPPG",
  ),
)
