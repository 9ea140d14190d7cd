"""Encoder of whole days: summaries a minute of many channels, each channel with tokens of its own.

26 channels of 1440 minutes in patches of 10 give 3744 tokens with positions in time and channel, as
in LSM-2 (arXiv 2506.05321). Days of any device are embedded as long as its summaries are brought to
the channels of `distill.spec.DAY_SPEC`; what a device lacks is missing.
"""

from flax import nnx

from distill.nn.encoder import PatchTransformer
from distill.nn.lane_stems import LanePatchStem
from distill.spec import DAY_SPEC


def build(
  *,
  seed: int,
  width: int = 384,
  depth: int = 12,
  heads: int = 6,
  patch: int = 10,
  fill: int = 2,
  pool: str = "mean",
) -> PatchTransformer:
  """A freshly initialised encoder of days.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    patch: minutes a token; divides the day.
    fill: longest gap that is bridged, minutes.
    pool: "mean" or "mean_sd" (embedding twice as long).

  Returns:
    The encoder.

  Raises:
    DistillError: sizes that do not fit each other or the day.
  """
  rngs, spec = nnx.Rngs(seed), DAY_SPEC
  stem = LanePatchStem(spec.samples, len(spec.channels), width, patch, fill=fill, rngs=rngs)
  return PatchTransformer(spec, stem, width=width, depth=depth, heads=heads, pool=pool, rngs=rngs)
