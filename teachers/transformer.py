"""Our own PPG teacher: a transformer over raw patches, pretrained by masked autoencoding.

The paper's teacher cuts 60 s at 64 Hz into 192 patches of 20 samples (arXiv 2412.11276, section
on teacher pretraining, recalled and not confirmed); sizes here are ours and stand in the configs.
"""

from flax import nnx

from distill.nn.encoder import PatchTransformer
from distill.nn.stems import PatchStem
from distill.spec import SignalSpec

SPEC = SignalSpec(
  modality="ppg",
  rate_hz=64.0,
  window_s=60.0,
  channels=("green",),
  unit="au",
  band_hz=(0.4, 8.0),
  normalisation="zscore",
  sd_floor=1e-6,
)


def build(
  *,
  seed: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  patch: int = 20,
  pool: str = "mean",
  profile: bool = False,
) -> PatchTransformer:
  """A freshly initialised teacher.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    patch: samples a token; divides the window.
    pool: "mean" or "mean_sd" (embedding twice as long).
    profile: also how fast and how evenly the pulse came (`distill.nn.pulse.pulse_profile`).

  Returns:
    The encoder; `dim` is `width`, or twice that with "mean_sd", and 101 more with `profile`.

  Raises:
    DistillError: sizes that do not fit each other or the window.
  """
  rngs = nnx.Rngs(seed)
  stem = PatchStem(SPEC.samples, len(SPEC.channels), width, patch, rngs=rngs)
  return PatchTransformer(
    SPEC, stem, width=width, depth=depth, heads=heads, pool=pool, profile=profile, rngs=rngs
  )
