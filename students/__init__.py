"""Accelerometer encoders that learn: one file per family, each with SPEC and build.

`load` opens a model folder, "ours", which is shipped, or a public checkpoint by the name of its
family; `families` lists what is known, `import_student` makes a model folder of a checkpoint.
"""

import pathlib

from distill import published
from distill.nn.encoder import Encoder
from distill.published import Family, Imported
from students import harnet

__all__ = ["WEIGHTS", "families", "import_student", "load"]

WEIGHTS = pathlib.Path(__file__).parent / "weights"  # models shipped by name
_FAMILIES = {family.name: family for family in harnet.FAMILIES}


def families() -> tuple[Family, ...]:
  """Every public family: name, input, embedding size, licence and where its weights are."""
  return tuple(_FAMILIES.values())


def load(
  name_or_folder: str | pathlib.Path,
  path: str | pathlib.Path | None = None,
  *,
  window_s: float | None = None,
  output: str | None = None,
) -> Encoder:
  """An accelerometer encoder; see `distill.published.load`."""
  return published.load(
    _FAMILIES, name_or_folder, path, window_s=window_s, output=output, weights=WEIGHTS
  )


def import_student(
  family: str,
  source: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  window_s: float | None = None,
  output: str | None = None,
) -> Imported:
  """Makes a model folder of a public checkpoint; see `distill.published.import_to`."""
  found = published.find(_FAMILIES, family)
  return published.import_to(found, source, folder, window_s=window_s, output=output)
