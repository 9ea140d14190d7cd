"""Acceleration in g, whatever unit it came in: a sensor at rest feels gravity, so the unit shows.

The median magnitude of a worn sensor is that of gravity, as people are still most of the time.
"""

import numpy as np

from distill.errors import DistillError

MAGNITUDES = {
  "g": 1.0,
  "m/s2": 9.80665,
  "mg": 1000.0,
  "1/64 g": 64.0,
}
TOLERANCE = 0.2  # of 1 g: calibration errors and movement


def gravity(acc: np.ndarray) -> float:
  """Median magnitude of [time, 3] acceleration in its own unit; NaN where nothing was observed."""
  magnitude = np.linalg.norm(np.asarray(acc, np.float64), axis=-1)
  observed = magnitude[np.isfinite(magnitude)]
  return float(np.median(observed)) if len(observed) else float("nan")


def guess(acc: np.ndarray) -> tuple[str, float]:
  """(unit, how many of it make 1 g) that gravity speaks for, ("", NaN) where none does.

  Counts per g other than 64 are powers of two from 128 to 32768, called "1/256 g" and so on.
  """
  felt = gravity(acc)
  for unit, per_g in _known().items():
    if abs(felt / per_g - 1) <= TOLERANCE:
      return unit, per_g
  return "", float("nan")


def _known() -> dict[str, float]:
  return MAGNITUDES | {f"1/{2**k} g": float(2**k) for k in range(7, 16)}


def per_g(unit: str, where: str) -> float:
  """How many of a declared unit make 1 g: "g", "mg", "m/s2", or "1/<counts> g".

  Raises:
    DistillError: another unit.
  """
  text = unit.strip().lower().replace("²", "2").replace("^", "").replace("m/s/s", "m/s2")
  text = text.replace("ms-2", "m/s2").replace("m s-2", "m/s2")
  if text in MAGNITUDES:
    return MAGNITUDES[text]
  counts = text.removeprefix("1/").removesuffix("g").strip()
  number = counts.replace(".", "", 1).isdigit() and float(counts) > 0
  if text.startswith("1/") and text.endswith("g") and number:
    return float(counts)
  raise DistillError(
    f"{where}: acceleration unit {unit!r}; expected g, mg, m/s2, or counts such as '1/4096 g' (4096"
    " to 1 g), or auto to have gravity settle it"
  )


def in_g(acc: np.ndarray, unit: str, where: str) -> np.ndarray:
  """Acceleration in g.

  Args:
    acc: [time, 3] in `unit`, NaN where missing.
    unit: see `per_g`; "auto" has gravity settle it.
    where: what messages call the signal.

  Returns:
    [time, 3] float32.

  Raises:
    DistillError: nothing observed, a unit that is not known, or gravity that contradicts it: at
      rest a sensor feels 1 g, so a median of 9.8 is no g.
  """
  acc = np.asarray(acc, np.float32)
  observed = acc[np.isfinite(acc).all(-1)]
  if not len(observed):
    raise DistillError(f"{where} has no observed sample: all are NaN")
  if np.all(observed == observed[0]):
    raise DistillError(f"{where} is constant ({observed[0, 0]:g}): a sensor that was off")
  felt, (likely, likely_per_g) = gravity(acc), guess(acc)
  if unit == "auto":
    if likely == "mg":
      raise DistillError(
        f"{where}: a median magnitude of {felt:.4g} may be mg or 1/1024 g; give the unit"
      )
    if not likely:
      raise DistillError(
        f"{where}: gravity settles no unit, the median magnitude is {felt:.4g}; give the unit, and"
        " the offset where the counts are unsigned"
      )
    return acc / np.float32(likely_per_g)
  divisor = per_g(unit, where)
  # Wider than a guess: a declared unit may belong to a recording that moves all the time.
  if np.isfinite(felt) and not 0.5 <= felt / divisor <= 2.0:
    hint = f"; it looks like {likely}" if likely else ""
    raise DistillError(
      f"{where}: the median magnitude is {felt:.4g}, which is no gravity in {unit} (expected about"
      f" {divisor:.4g}){hint}: correct the unit"
    )
  return acc / np.float32(divisor)
