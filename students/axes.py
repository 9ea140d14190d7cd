"""Accelerometer students with tokens for each axis, for devices that lose data or a whole axis.

`build` is `students.transformer` with the rhythm of each axis in tokens of its own; `build_patches`
reads raw patches, which masked pretraining (`distill.aim.AIM`) can reconstruct. Three times the
tokens; sizes are ours.
"""

from flax import nnx

from distill.nn.encoder import PatchTransformer
from distill.nn.lane_stems import LaneFilterbankStem, LanePatchStem
from students.transformer import SPEC, ZSCORED


def build(
  *,
  seed: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  filters: int = 16,
  taps: int = 25,
  frame: int = 5,
  stretch: int = 100,
  hop: int = 50,
  mixes: int = 8,
  waves: int = 48,
  fill: int = 10,
  min_coverage: float = 0.3,
  pool: str = "mean_sd",
  skip: bool = True,
) -> PatchTransformer:
  """A freshly initialised student on the rhythm of each axis.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    filters: learned band-pass filters.
    taps: samples a filter spans.
    frame: samples an envelope value spans.
    stretch: envelope values a token spans.
    hop: envelope values between tokens.
    mixes: mixtures of the log envelopes whose rhythm is measured.
    waves: modulation frequencies, 0.5 to 4.5 Hz.
    fill: longest gap that is bridged, samples.
    min_coverage: share of a token that must be seen.
    pool: "mean" or "mean_sd" (embedding twice as long).
    skip: whether the mean of the stem's tokens stands beside that.

  Returns:
    The encoder.

  Raises:
    DistillError: sizes that do not fit each other or the window.
  """
  rngs = nnx.Rngs(seed)
  stem = LaneFilterbankStem(
    SPEC.samples,
    len(SPEC.channels),
    width,
    fill=fill,
    min_coverage=min_coverage,
    rate_hz=SPEC.rate_hz,
    filters=filters,
    taps=taps,
    frame=frame,
    stretch=stretch,
    hop=hop,
    mixes=mixes,
    waves=waves,
    rngs=rngs,
  )
  return PatchTransformer(
    SPEC, stem, width=width, depth=depth, heads=heads, pool=pool, skip=skip, rngs=rngs
  )


def build_patches(
  *,
  seed: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  patch: int = 50,
  fill: int = 10,
  pool: str = "mean_sd",
) -> PatchTransformer:
  """A freshly initialised student on raw patches of each axis.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    patch: samples a token; divides the window.
    fill: longest gap that is bridged, samples.
    pool: "mean" or "mean_sd" (embedding twice as long).

  Returns:
    The encoder.

  Raises:
    DistillError: sizes that do not fit each other or the window.
  """
  rngs, spec = nnx.Rngs(seed), ZSCORED  # raw patches need values near unit scale
  stem = LanePatchStem(spec.samples, len(spec.channels), width, patch, fill=fill, rngs=rngs)
  return PatchTransformer(spec, stem, width=width, depth=depth, heads=heads, pool=pool, rngs=rngs)
