"""Pulse-PPG (Saha, Xu et al. 2025, doi 10.1145/3749494): PPG at 50 Hz, 4 minutes -> 512.

The network standardises its input over time, so scale and offset do not matter, and pools over time
by the maximum, so that windows of any length are taken as they are, up to the four minutes it was
trained on. The filter is the public code's for its evaluation sets.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from distill.nn.pieces import PieceEncoder, PieceNet
from distill.published import Family
from distill.spec import SignalSpec
from teachers import resnet1d

SPEC = SignalSpec(
  modality="ppg",
  rate_hz=50.0,
  window_s=240.0,
  channels=("green",),
  unit="au",
  band_hz=(0.5, 12.0),
  normalisation="none",
  band_filter="pyppg",
)
OUTPUTS = ("max", "mean")


class PulsePPG(resnet1d.ResNet1D, PieceNet):
  """The trunk between an instance normalisation and a pooling over time; no final norm."""

  def __init__(self, widths: Sequence[int], taps: int, output: str):
    super().__init__(widths, taps)
    self.output = output
    self.dim = widths[-1]

  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    del mask
    centred = piece - jnp.mean(piece, axis=1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=1, keepdims=True)
    features = self.features(centred * jax.lax.rsqrt(variance + 1e-5))
    return jnp.max(features, axis=1) if self.output == "max" else jnp.mean(features, axis=1)


def build(
  *, widths: Sequence[int], taps: int, window_s: float | None = None, output: str = "max"
) -> PieceEncoder:
  """An empty encoder, to be filled with weights.

  Args:
    widths: channels of each block.
    taps: of every convolution.
    window_s: see `distill.published.load`.
    output: "max" as published, or "mean", over time.
  """
  return PieceEncoder(SPEC, PulsePPG(widths, taps, output), window_s=window_s)


FAMILIES = (
  Family(
    name="pulseppg",
    build="teachers.pulseppg:build",
    spec=SPEC,
    convert=resnet1d.convert,
    dropped=(resnet1d.UNUSED,),
    outputs=OUTPUTS,
    embedding="512",
    licence="MIT",
    commercial="yes",
    weights="zenodo.org/records/17345536, pulseppg_model_weights.zip, checkpoint_best.pkl",
    reference="doi 10.1145/3749494; github.com/maxxu05/pulseppg",
  ),
)
