"""PaPaGei-P, -S and -S-sVRI (Pillai et al. 2024, arXiv 2410.20542): 10 s of PPG at 125 Hz -> 512.

Preprocessing as in the public code: pyPPG's filter, 0.5-12 Hz, and a z-score of each 10 s segment,
which is how the networks were pretrained (its example standardises the recording before the filter
instead; both steps are scalings of the same shape). The embedding is output 0 of the original, a
dense layer on the pooled features, or the projector where a checkpoint has one; comparisons by
others have used the pooled features, so the choice is recorded with the teacher.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill.errors import DistillError
from distill.nn.pieces import PieceEncoder, PieceNet
from distill.nn.torch_layout import BatchNorm, Linear
from distill.published import Family, Tensors
from distill.spec import SignalSpec
from teachers import resnet1d

SPEC = SignalSpec(
  modality="ppg",
  rate_hz=125.0,
  window_s=10.0,
  channels=("green",),
  unit="au",
  band_hz=(0.5, 12.0),
  normalisation="zscore",
  band_filter="pyppg",
)
OUTPUTS = ("first", "dense", "pooled", "projector")


class PaPaGei(resnet1d.ResNet1D, PieceNet):
  """The trunk, and the layers after it that an embedding can be taken from."""

  def __init__(
    self, widths: Sequence[int], taps: int, dense: int, projector: Sequence[int] | None, output: str
  ):
    super().__init__(widths, taps)
    self.final_bn = BatchNorm(widths[-1])
    self.dense = Linear(widths[-1], dense)
    if projector:
      hidden, out = projector
      layers = {"0": Linear(widths[-1], hidden), "1": BatchNorm(hidden), "3": Linear(hidden, out)}
      self.projector = nnx.Dict(layers)
    self.output = output
    sizes = {"dense": dense, "pooled": widths[-1]}
    self.dim = projector[-1] if projector and output == "projector" else sizes[output]

  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    del mask
    pooled = jnp.mean(jax.nn.relu(self.final_bn(self.features(piece))), axis=1)
    if self.output == "pooled":
      return pooled
    if self.output == "dense":
      return self.dense(pooled)
    hidden = self.projector["1"](self.projector["0"](pooled))
    return self.projector["3"](jax.nn.relu(hidden))


def build(
  *,
  widths: Sequence[int],
  taps: int,
  dense: int,
  projector: Sequence[int] | None = None,
  window_s: float | None = None,
  output: str = "first",
) -> PieceEncoder:
  """An empty encoder, to be filled with weights.

  Args:
    widths: channels of each block.
    taps: of every convolution.
    dense: width of the dense layer.
    projector: widths of the projector's two layers, if the checkpoint has one.
    window_s: see `distill.published.load`.
    output: "dense", "pooled", "projector", or "first": what the original returns first, the
      projector if there is one and else the dense layer.

  Raises:
    DistillError: output "projector" without one.
  """
  if output == "first":
    output = "projector" if projector else "dense"
  if output == "projector" and not projector:
    raise DistillError(
      "this PaPaGei checkpoint has no projector; choose output 'dense' or 'pooled'"
    )
  net = PaPaGei(widths, taps, dense, projector, output)
  return PieceEncoder(SPEC, net, window_s=window_s)


def convert(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Arguments of `build` and renamed tensors."""
  arguments, tensors = resnet1d.convert(tensors)
  arguments["dense"] = len(tensors["dense.weight"])
  if "projector.0.weight" in tensors:
    arguments["projector"] = [len(tensors[f"projector.{i}.weight"]) for i in (0, 3)]
  return arguments, tensors


def _family(name: str, file: str, dropped: tuple[str, ...]) -> Family:
  return Family(
    name=name,
    build="teachers.papagei:build",
    spec=SPEC,
    convert=convert,
    dropped=(resnet1d.UNUSED, *dropped),
    outputs=OUTPUTS,
    embedding="512",
    licence="code BSD-3-Clause-Clear; see the record's own page for the weights",
    commercial="unclear",
    weights=f"zenodo.org/records/13983110, {file}",
    reference="arXiv 2410.20542; github.com/Nokia-Bell-Labs/papagei-foundation-model",
  )


# Heads that were trained beside the embedding and never feed it.
FAMILIES = (
  _family("papagei-p", "papagei_p.pt", (r"mt_regression\..*",)),
  _family("papagei-s", "papagei_s.pt", (r"expert_layers_\d\..*", r"gating_network_\d\..*")),
  _family("papagei-s-svri", "papagei_s_svri.pt", (r"mt_regression\..*",)),
)
