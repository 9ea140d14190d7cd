"""wav2vec 2.0 and HuBERT: seven strided convolutions and a transformer over their frames.

The two share one architecture (Baevski et al. 2020, arXiv 2006.11477; Hsu et al. 2021, arXiv
2106.07447); only their training differed. Modules are named as in the published checkpoints. What a
layer's output is, is fixed here and does not follow any library's version:

    conv<i>     convolution i from 0 on, after its norm and GELU       [batch, frames_i, conv_dim]
    projected   the last convolution's frames, normed and projected    [batch, frames, width]
    hidden0     input of the first block: positions added (and normed, without `pre_norm`)
    hidden<i>   output of block i, counted from 1; with `pre_norm` the residual stream, not normed
    last        the encoder's result: hidden<depth>, with `pre_norm` after the final norm

Samples that were not observed reach no observed frame: they are outside the statistics of the norm
over time, the positional convolution reads zeros there, and attention does not look at them. An
utterance padded at its end therefore gives the frames that it gives alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError, nearest
from distill.nn import layers

Frames = tuple[jax.Array, jax.Array]  # values [batch, frames, width], observed [batch, frames]


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Sizes and switches; the defaults are those of the base models.

  Attributes:
    conv_dim, conv_kernel, conv_stride: of each convolution.
    conv_bias: the convolutions have a bias.
    conv_norm: "group": one norm over time, per channel, after the first convolution; "layer": a
      norm over channels after every convolution.
    projection_norm: the frames are normed before they are projected.
    width, depth, heads, mlp_width: of the transformer.
    position_kernel, position_groups: of the positional convolution.
    pre_norm: norms before attention and MLP and one at the end (`do_stable_layer_norm`), not after.
    epsilon: of the norms outside the convolutions, which use 1e-5.
  """

  conv_dim: tuple[int, ...] = (512,) * 7
  conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  conv_bias: bool = False
  conv_norm: str = "group"
  projection_norm: bool = True
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_width: int = 3072
  position_kernel: int = 128
  position_groups: int = 16
  pre_norm: bool = False
  epsilon: float = 1e-5

  def __post_init__(self):
    if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
      raise DistillError(
        "conv_dim, conv_kernel and conv_stride need one entry for each convolution, got"
        f" {self.conv_dim}, {self.conv_kernel} and {self.conv_stride}"
      )
    if self.conv_norm not in ("group", "layer"):
      raise DistillError(f"conv_norm is {self.conv_norm!r}; expected 'group' or 'layer'")
    if self.width % self.heads or self.width % self.position_groups:
      raise DistillError(
        f"width {self.width} is not a multiple of heads {self.heads} and position_groups"
        f" {self.position_groups}"
      )

  def to_json(self) -> dict[str, Any]:
    """Plain dictionary; `from_json` reads it back."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> "Architecture":
    """Architecture from `to_json`'s dictionary (lists become tuples).

    Raises:
      DistillError: a field that there is not, or sizes that do not fit each other.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    for name in fields:
      if name not in known:
        raise DistillError(f"a speech architecture has no field {name!r}{nearest(name, known)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return cls(**values)

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Every layer that can be taken, from the signal upwards."""
    convolutions = tuple(f"conv{i}" for i in range(len(self.conv_dim)))
    return (*convolutions, "projected", *(f"hidden{i}" for i in range(self.depth + 1)), "last")

  def layer_width(self, name: str) -> int:
    """Channels of the layer `name`."""
    return self.conv_dim[int(name[4:])] if name.startswith("conv") else self.width

  def reach(self, convolution: int) -> tuple[int, int]:
    """(receptive field, hop) of a frame after that convolution, in samples of the input.

    400 and 320 after the seventh of the base model: 25 ms every 20 ms at 16 kHz.
    """
    field, hop = 1, 1
    sizes = zip(self.conv_kernel[: convolution + 1], self.conv_stride, strict=False)
    for kernel, stride in sizes:
      field, hop = field + (kernel - 1) * hop, hop * stride
    return field, hop


ARCHITECTURES = {
  "base": Architecture(),
  "large": Architecture(
    conv_bias=True,
    conv_norm="layer",
    width=1024,
    depth=24,
    heads=16,
    mlp_width=4096,
    pre_norm=True,
  ),
  # Of no published model (ours): for controls at random, which a laptop can run.
  "small": Architecture(
    conv_dim=(64,) * 7,
    width=96,
    depth=3,
    heads=4,
    mlp_width=192,
    position_kernel=32,
    position_groups=4,
  ),
}


def frames_observed(
  observed: jax.Array, field: int, hop: int, min_coverage: float = 1.0
) -> jax.Array:
  """Frames of whose receptive field at least a share was observed.

  Args:
    observed: [batch, time] bool.
    field: samples a frame sees.
    hop: samples from one frame to the next; frame i sees [i * hop, i * hop + field).
    min_coverage: the share; 1 = every sample.

  Returns:
    [batch, 1 + (time - field) // hop] bool.
  """
  counts = jnp.cumsum(observed.astype(jnp.int32), axis=1)
  counts = jnp.pad(counts, ((0, 0), (1, 0)))
  starts = np.arange(1 + (observed.shape[1] - field) // hop) * hop
  share = (counts[:, starts + field] - counts[:, starts]).astype(jnp.float32) / field
  return share >= min_coverage


def _layer_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
  # The two-pass variance: the fast one loses the last digits on frames far from zero.
  return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class TimeNorm(nnx.Module):
  """Normalises each channel over the observed frames of its own row (GroupNorm, groups of one)."""

  def __init__(self, width: int, epsilon: float):
    self.scale = nnx.Param(jnp.ones((width,)))
    self.bias = nnx.Param(jnp.zeros((width,)))
    self.epsilon = epsilon

  def __call__(self, frames: jax.Array, observed: jax.Array) -> jax.Array:
    centred = frames - layers.masked_mean(frames, observed)[:, None]
    variance = layers.masked_mean(jnp.square(centred), observed)[:, None]
    scale, bias = self.scale[...][None, None], self.bias[...][None, None]
    return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


class ConvLayer(nnx.Module):
  """One strided convolution without padding, its norm if it has one, and GELU."""

  EPSILON = 1e-5  # of these norms in every published model, whatever their configs say

  def __init__(self, index: int, arch: Architecture, *, rngs: nnx.Rngs):
    self.field, self.hop = arch.reach(index)
    self.conv = nnx.Conv(
      arch.conv_dim[index - 1] if index else 1,
      arch.conv_dim[index],
      (arch.conv_kernel[index],),
      arch.conv_stride[index],
      padding="VALID",
      use_bias=arch.conv_bias,
      kernel_init=nnx.initializers.he_normal(),
      rngs=rngs,
    )
    self.layer_norm = self._norm(index, arch, rngs)

  def _norm(
    self, index: int, arch: Architecture, rngs: nnx.Rngs
  ) -> nnx.LayerNorm | TimeNorm | None:
    if arch.conv_norm == "layer":
      return _layer_norm(arch.conv_dim[index], self.EPSILON, rngs)
    return TimeNorm(arch.conv_dim[index], self.EPSILON) if index == 0 else None

  def __call__(self, frames: jax.Array, observed: jax.Array) -> jax.Array:
    """[batch, frames', width'], [batch, frames] bool (of the result) -> [batch, frames, width]."""
    frames = self.conv(frames)
    if isinstance(self.layer_norm, TimeNorm):
      frames = self.layer_norm(frames, observed)
    elif self.layer_norm is not None:
      frames = self.layer_norm(frames)
    return jax.nn.gelu(frames, approximate=False)


class FeatureExtractor(nnx.Module):
  """The convolutions."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    convolutions = [ConvLayer(i, arch, rngs=rngs) for i in range(len(arch.conv_dim))]
    self.conv_layers = nnx.List(convolutions)

  def __call__(
    self, signal: jax.Array, observed: jax.Array, *, count: int, min_coverage: float
  ) -> list[Frames]:
    """Values and observed frames of the first `count` convolutions."""
    frames, result = signal[:, :, None], []
    for layer in self.conv_layers[:count]:
      seen = frames_observed(observed, layer.field, layer.hop, min_coverage)
      frames = layer(frames, seen)
      result.append((frames, seen))
    return result


class FeatureProjection(nnx.Module):
  """Norm, then a linear map to the transformer's width."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    width = arch.conv_dim[-1]
    self.layer_norm = _layer_norm(width, arch.epsilon, rngs) if arch.projection_norm else None
    self.projection = nnx.Linear(width, arch.width, rngs=rngs)

  def __call__(self, frames: jax.Array) -> jax.Array:
    return self.projection(frames if self.layer_norm is None else self.layer_norm(frames))


class PositionalConv(nnx.Module):
  """Relative positions: a grouped convolution over time, and GELU."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    # Half a kernel on either side; an even kernel then gives one frame too many, the last.
    half = arch.position_kernel // 2
    self.conv = nnx.Conv(
      arch.width,
      arch.width,
      (arch.position_kernel,),
      padding=((half, half - 1 + arch.position_kernel % 2),),
      feature_group_count=arch.position_groups,
      rngs=rngs,
    )

  def __call__(self, frames: jax.Array) -> jax.Array:
    return jax.nn.gelu(self.conv(frames), approximate=False)


class Attention(nnx.Module):
  """Multi-head self-attention with separate maps, as in the checkpoints."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    self.heads = arch.heads
    self.q_proj = nnx.Linear(arch.width, arch.width, rngs=rngs)
    self.k_proj = nnx.Linear(arch.width, arch.width, rngs=rngs)
    self.v_proj = nnx.Linear(arch.width, arch.width, rngs=rngs)
    self.out_proj = nnx.Linear(arch.width, arch.width, rngs=rngs)

  def __call__(self, frames: jax.Array, keys: jax.Array) -> jax.Array:
    split = (*frames.shape[:2], self.heads, -1)
    query, key, value = (
      project(frames).reshape(split) for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    mixed = jax.nn.dot_product_attention(query, key, value, mask=keys[:, None, None, :])
    return self.out_proj(mixed.reshape(frames.shape))


class FeedForward(nnx.Module):
  """Two linear maps with GELU between them."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    self.intermediate_dense = nnx.Linear(arch.width, arch.mlp_width, rngs=rngs)
    self.output_dense = nnx.Linear(arch.mlp_width, arch.width, rngs=rngs)

  def __call__(self, frames: jax.Array) -> jax.Array:
    return self.output_dense(jax.nn.gelu(self.intermediate_dense(frames), approximate=False))


class EncoderBlock(nnx.Module):
  """Attention and MLP, each with a residual path and a norm before or after."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    self.pre_norm = arch.pre_norm
    self.attention = Attention(arch, rngs=rngs)
    self.layer_norm = _layer_norm(arch.width, arch.epsilon, rngs)
    self.feed_forward = FeedForward(arch, rngs=rngs)
    self.final_layer_norm = _layer_norm(arch.width, arch.epsilon, rngs)

  def __call__(self, frames: jax.Array, keys: jax.Array) -> jax.Array:
    if self.pre_norm:
      frames = frames + self.attention(self.layer_norm(frames), keys)
      return frames + self.feed_forward(self.final_layer_norm(frames))
    frames = self.layer_norm(frames + self.attention(frames, keys))
    return self.final_layer_norm(frames + self.feed_forward(frames))


class TransformerEncoder(nnx.Module):
  """Positions and the blocks."""

  def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
    self.pre_norm = arch.pre_norm
    self.pos_conv_embed = PositionalConv(arch, rngs=rngs)
    self.layer_norm = _layer_norm(arch.width, arch.epsilon, rngs)
    self.layers = nnx.List([EncoderBlock(arch, rngs=rngs) for _ in range(arch.depth)])

  def __call__(self, frames: jax.Array, observed: jax.Array) -> list[jax.Array]:
    """hidden0 ... hidden<depth> and last."""
    frames = jnp.where(observed[:, :, None], frames, 0.0)
    frames = frames + self.pos_conv_embed(frames)
    hidden = [frames if self.pre_norm else self.layer_norm(frames)]
    keys = layers.attendable(observed)
    for block in self.layers:
      hidden.append(block(hidden[-1], keys))
    return [*hidden, self.layer_norm(hidden[-1]) if self.pre_norm else hidden[-1]]


class SpeechNetwork(nnx.Module):
  """wav2vec 2.0 or HuBERT on one channel of samples; see the module's docstring for its layers."""

  def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs):
    self.architecture = architecture
    self.feature_extractor = FeatureExtractor(architecture, rngs=rngs)
    self.feature_projection = FeatureProjection(architecture, rngs=rngs)
    self.encoder = TransformerEncoder(architecture, rngs=rngs)

  def convolve(
    self,
    signal: jax.Array,
    observed: jax.Array,
    *,
    count: int | None = None,
    min_coverage: float = 1.0,
  ) -> list[Frames]:
    """The first `count` convolutions' outputs (all if None) and which frames were observed.

    Args:
      signal: [batch, time] float32, zero mean and unit variance over observed samples.
      observed: [batch, time] bool.
      count: how many; later ones are not computed.
      min_coverage: share of a frame's receptive field that must be observed.
    """
    count = len(self.architecture.conv_dim) if count is None else count
    signal = jnp.where(observed, signal, 0.0)
    with jax.default_matmul_precision("highest"):  # accelerators round products otherwise
      return self.feature_extractor(signal, observed, count=count, min_coverage=min_coverage)

  def contextualise(self, frames: jax.Array, observed: jax.Array) -> list[jax.Array]:
    """projected, hidden0 ... hidden<depth> and last, each [batch, frames, width].

    Args:
      frames: [batch, frames, conv_dim] of the last convolution.
      observed: [batch, frames] bool; values of frames not observed mean nothing in the result.
    """
    with jax.default_matmul_precision("highest"):
      projected = self.feature_projection(frames)
      return [projected, *self.encoder(projected, observed)]

  def take(
    self,
    signal: jax.Array,
    observed: jax.Array,
    names: tuple[str, ...],
    *,
    min_coverage: float = 1.0,
  ) -> dict[str, Frames]:
    """The layers asked for, by name; nothing above the highest of them is computed.

    Args:
      signal: [batch, time] float32, zero mean and unit variance over observed samples.
      observed: [batch, time] bool.
      names: of `architecture.layer_names`.
      min_coverage: share of a frame's receptive field that must be observed.

    Raises:
      DistillError: a name that there is not.
    """
    check_layers(self.architecture, names)
    order = self.architecture.layer_names
    highest = max(map(order.index, names))
    convolutions = len(self.architecture.conv_dim)
    count = min(highest + 1, convolutions)
    found = self.convolve(signal, observed, count=count, min_coverage=min_coverage)
    if highest >= convolutions:
      frames, seen = found[-1]
      found += [(values, seen) for values in self.contextualise(frames, seen)]
    return {name: found[order.index(name)] for name in names}


def check_layers(architecture: Architecture, names: tuple[str, ...]) -> None:
  """Refuses layer names that the architecture does not have.

  Raises:
    DistillError: none named, one named twice, or one that there is not.
  """
  if not names or len(set(names)) != len(names):
    raise DistillError(f"layers is {list(names)}; name at least one layer, and each once")
  for name in names:
    if name not in architecture.layer_names:
      raise DistillError(f"there is no layer {name!r}{nearest(name, architecture.layer_names)}")
