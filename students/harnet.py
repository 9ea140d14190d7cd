"""harnet5, harnet10, harnet30 (Yuan et al. 2024, arXiv 2206.02909): wrist acceleration at 30 Hz.

Residual networks pretrained on 700 000 person-days of UK Biobank by telling apart transformed
windows; baselines here, and starting points for students. Input in g, gravity left in, nothing
normalised. Convolutions are circular, and between layers a fixed smoothing filter with zeros at the
ends thins the time axis until one value is left: windows have the published length.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError
from distill.nn.layers import Constant
from distill.nn.pieces import PieceEncoder, PieceNet
from distill.nn.torch_layout import BatchNorm, Conv, along_channels
from distill.published import Family, Tensors, count
from distill.spec import SignalSpec

RATE_HZ = 30.0


def spec(window_s: float) -> SignalSpec:
  """The published input; only the length differs between the three."""
  return SignalSpec(
    modality="acc", rate_hz=RATE_HZ, window_s=window_s, channels=("x", "y", "z"), unit="g"
  )


class Residual(nnx.Module):
  """Pre-activation block of two circular convolutions."""

  def __init__(self, width: int, taps: int):
    self.bn1, self.bn2 = BatchNorm(width), BatchNorm(width)
    self.conv1 = Conv(width, width, taps, bias=False, circular=True)
    self.conv2 = Conv(width, width, taps, bias=False, circular=True)

  def __call__(self, x: jax.Array) -> jax.Array:
    out = self.conv1(jax.nn.relu(self.bn1(x)))
    return x + self.conv2(jax.nn.relu(self.bn2(out)))


class Downsample(nnx.Module):
  """The same FIR filter on every channel, every `down`-th value kept.

  Written as a sum of shifted slices: XLA's depthwise convolution is many times slower on a CPU.
  """

  def __init__(self, width: int, down: int, order: int):
    self.down, self.pad = down, order * (down - 1) // 2
    self.kernel = Constant(jnp.zeros((width, 1, (order + 1) * (down - 1) + 1)))

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.kernel[...][:, 0]
    x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (0, 0)))
    count = (x.shape[1] - kernel.shape[1]) // self.down + 1
    reach = (count - 1) * self.down + 1
    out = jnp.zeros_like(x, shape=(x.shape[0], count, x.shape[2]))
    for tap in range(kernel.shape[1]):
      out += x[:, tap : tap + reach : self.down] * along_channels(kernel[:, tap], x)
    return out


class Layer(nnx.Module):
  """A convolution, residual blocks, a norm and the thinning filter."""

  def __init__(self, in_width: int, width: int, taps: int, blocks: int, down: int, order: int):
    self.conv = Conv(in_width, width, taps, bias=False, circular=True)
    self.blocks = nnx.List([Residual(width, taps) for _ in range(blocks)])
    self.norm = BatchNorm(width)
    self.thin = Downsample(width, down, order)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.conv(x)
    for block in self.blocks:
      x = block(x)
    return self.thin(jax.nn.relu(self.norm(x)))


class HarNet(PieceNet):
  """Layers that end with one value in time."""

  def __init__(self, layers: Sequence[Sequence[int]]):
    widths = [3, *(layer[0] for layer in layers)]
    self.layers = nnx.List([Layer(w, *layer) for w, layer in zip(widths, layers, strict=False)])
    self.dim = widths[-1]

  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    del mask
    x = piece
    for layer in self.layers:
      x = layer(x)
    return x[:, 0]


def build(
  *,
  piece_s: float,
  layers: Sequence[Sequence[int]],
  window_s: float | None = None,
  output: str = "features",
) -> PieceEncoder:
  """An empty encoder, to be filled with weights.

  Args:
    piece_s: the published window: 5, 10 or 30 s.
    layers: for each layer: width, taps, residual blocks, and factor and order of its thinning.
    window_s: see `distill.published.load`; not shorter than `piece_s`.
    output: "features", before any classifier.

  Raises:
    DistillError: layers that do not thin such a window to one value, or a shorter window.
  """
  del output
  left = spec(piece_s).samples
  for _, _, _, down, order in layers:
    reach = (order + 1) * (down - 1) + 1 - 2 * (order * (down - 1) // 2)
    left = (left - reach) // down + 1
  if left != 1:
    raise DistillError(
      f"these harnet layers leave {left} values of a window of {piece_s:g} s, expected 1; is it the"
      " checkpoint of another length (harnet5, harnet10, harnet30)?"
    )
  return PieceEncoder(spec(piece_s), HarNet(layers), window_s=window_s, shorter=False)


def _thinning(kernel: np.ndarray) -> tuple[int, int]:
  """(factor, order) of a stored filter: a box of `factor` values, `order` times over itself.

  Length alone does not tell: 4 values are factor 4, order 0, or factor 2, order 2.

  Raises:
    DistillError: it is no such kernel.
  """
  for down in range(2, len(kernel) + 1):
    order = round((len(kernel) - 1) / (down - 1)) - 1
    box = np.full(down, 1.0 / down)
    made = box
    for _ in range(order):
      made = np.convolve(made, box)
    if made.shape == kernel.shape and np.allclose(made, kernel, rtol=1e-4):
      return down, order
  raise DistillError(f"a harnet thinning filter of {len(kernel)} values is no smoothed box")


def _converter(piece_s: float) -> Callable[[Tensors], tuple[dict[str, Any], Tensors]]:
  def convert(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Arguments of `build` from shapes and stored filters; the numbered parts get their names."""
    layers = []
    renamed = {k: v for k, v in tensors.items() if not k.startswith("feature_extractor.layer")}
    for i in range(count(tensors, r"feature_extractor\.layer(\d+)\.")):
      prefix = f"feature_extractor.layer{i + 1}."
      parts = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
      blocks = sum(name.endswith(".conv1.weight") for name in parts)
      width, _, taps = parts["0.weight"].shape
      layers.append([width, taps, blocks, *_thinning(parts[f"{blocks + 3}.kernel"][0, 0])])
      names = {"0": "conv", str(blocks + 1): "norm", str(blocks + 3): "thin"}
      names |= {str(b + 1): f"blocks.{b}" for b in range(blocks)}
      for name, tensor in parts.items():
        head, _, rest = name.partition(".")
        renamed[f"layers.{i}.{names[head]}.{rest}"] = tensor
    if not layers:
      raise KeyError("feature_extractor.layer1.0.weight")
    return {"piece_s": piece_s, "layers": layers}, renamed

  return convert


def _family(piece_s: float, size: int, file: str) -> Family:
  return Family(
    name=f"harnet{piece_s:g}",
    build="students.harnet:build",
    spec=spec(piece_s),
    convert=_converter(piece_s),
    # Heads of pretraining and of a fine-tuned classifier.
    dropped=(r"classifier\..*", r"(aot|scale|permute|time_w)_h\..*"),
    outputs=("features",),
    embedding=str(size),
    licence="Oxford academic-use licence: internal, non-commercial academic use only",
    commercial="no",
    weights=f"github.com/OxWearables/ssl-wearables, model_check_point/{file}",
    reference="arXiv 2206.02909; github.com/OxWearables/ssl-wearables",
  )


FAMILIES = (
  _family(5.0, 512, "mtl_5_best.mdl"),
  _family(10.0, 1024, "mtl_best.mdl"),
  _family(30.0, 1024, "mtl_30_best.mdl"),
)
