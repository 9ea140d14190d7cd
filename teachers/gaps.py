"""Our PPG teacher for recordings with gaps: `teachers.transformer` that is told what is missing.

Gaps of a few samples inside a patch are bridged and the places of missing samples are fed beside
the patch. Pretrained with `distill.aim.AIM` it reads duty-cycled PPG too.
"""

from flax import nnx

from distill.nn.encoder import PatchTransformer
from distill.nn.lane_stems import LanePatchStem
from teachers.transformer import SPEC


def build(
  *,
  seed: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  patch: int = 20,
  fill: int = 6,
  pool: str = "mean_sd",
) -> PatchTransformer:
  """A freshly initialised teacher.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    patch: samples a token; divides the window.
    fill: longest gap that is bridged, samples (6 at 64 Hz: 0.1 s).
    pool: "mean" or "mean_sd" (embedding twice as long).

  Returns:
    The encoder.

  Raises:
    DistillError: sizes that do not fit each other or the window.
  """
  rngs = nnx.Rngs(seed)
  stem = LanePatchStem(SPEC.samples, len(SPEC.channels), width, patch, fill=fill, rngs=rngs)
  return PatchTransformer(SPEC, stem, width=width, depth=depth, heads=heads, pool=pool, rngs=rngs)
