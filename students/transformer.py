"""Our accelerometer student: a transformer over the rhythm of a learned filter bank.

The wrist's beat-locked movement is smaller than the sensor noise and lies at 4-15 Hz; the stem
(`distill.nn.stems.FilterbankStem`) sees that band at full rate before anything is pooled.
Gravity is removed and the unit kept, so the motion level, which carries heart rate when people
move, is not normalised away.
"""

import dataclasses

from flax import nnx

from distill.errors import DistillError
from distill.nn.encoder import PatchTransformer
from distill.nn.stems import FilterbankStem
from distill.spec import SignalSpec

SPEC = SignalSpec(
  modality="acc",
  rate_hz=50.0,
  window_s=60.0,
  channels=("x", "y", "z"),
  unit="g",
  normalisation="gravity",
)
# Each axis by its own SD, which takes away how much the wrist moves; the floor is the noise of a
# coarse wrist sensor.
ZSCORED = dataclasses.replace(SPEC, normalisation="zscore", sd_floor=0.005)
_SPECS = {spec.normalisation: spec for spec in (SPEC, ZSCORED)}


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
  fill: int = 5,
  rhythm: int = 32,
  pool: str = "mean_sd",
  skip: bool = True,
  profile: bool = False,
  normalisation: str = "gravity",
) -> PatchTransformer:
  """A freshly initialised student.

  Args:
    seed: of the initial weights.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; divides `width`.
    filters: learned band-pass filters.
    taps: samples a filter spans (25 at 50 Hz: 0.5 s).
    frame: samples an envelope value spans (5 at 50 Hz: 10 values a second).
    stretch: envelope values a token spans (100: 10 s).
    hop: envelope values between tokens.
    mixes: mixtures of the log envelopes whose rhythm is measured.
    waves: modulation frequencies, 0.5 to 4.5 Hz.
    fill: longest gap that is bridged, samples (5 at 50 Hz: 0.1 s).
    rhythm: width of what reads when the beats came; 0 for a student that only knows their rate.
    pool: "mean" or "mean_sd" (embedding twice as long).
    skip: also the mean of the tokens before the blocks (embedding longer by `width`).
    profile: also how fast and how evenly the beats came by what was read of them
      (`distill.nn.pulse.pulse_profile`); needs `rhythm`.
    normalisation: "gravity" keeps the unit, "zscore" does not.

  Returns:
    The encoder; `dim` is `width`, or twice that with "mean_sd", one more with `skip`, and 101
    numbers more with `profile`.

  Raises:
    DistillError: sizes that do not fit each other or the window, or another normalisation.
  """
  if normalisation not in _SPECS:
    raise DistillError(
      f"student.normalisation is {normalisation!r}; expected {' or '.join(_SPECS)}"
    )
  spec, rngs = _SPECS[normalisation], nnx.Rngs(seed)
  stem = FilterbankStem(
    SPEC.samples,
    width,
    rate_hz=SPEC.rate_hz,
    filters=filters,
    taps=taps,
    frame=frame,
    stretch=stretch,
    hop=hop,
    mixes=mixes,
    waves=waves,
    fill=fill,
    rhythm=rhythm,
    rngs=rngs,
  )
  sizes = {"width": width, "depth": depth, "heads": heads}
  return PatchTransformer(spec, stem, **sizes, pool=pool, skip=skip, profile=profile, rngs=rngs)
