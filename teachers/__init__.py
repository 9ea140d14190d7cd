"""PPG encoders that teach: one file per family, each with SPEC and build.

`load` opens a model folder, "ours", which is shipped, or a public checkpoint by the name of its
family; `families` lists what is known, `import_teacher` makes a model folder of a checkpoint.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from distill import published
from distill.nn.encoder import Encoder
from distill.published import Family, Imported
from teachers import anyppg, heartgpt, papagei, pulseppg, speech

__all__ = ["WEIGHTS", "families", "import_teacher", "load"]

WEIGHTS = pathlib.Path(__file__).parent / "weights"  # models shipped by name
_FAMILIES = {
  family.name: family
  for module in (papagei, pulseppg, anyppg, heartgpt, speech)
  for family in module.FAMILIES
}


def families() -> tuple[Family, ...]:
  """Every public family: name, input, embedding size, licence and where its weights are."""
  return tuple(_FAMILIES.values())


def load(
  name_or_folder: str | pathlib.Path,
  path: str | pathlib.Path | None = None,
  *,
  window_s: float | None = None,
  output: str | Sequence[str] | None = None,
  **options: Any,
) -> Encoder:
  """A PPG encoder; see `distill.published.load`."""
  return published.load(
    _FAMILIES,
    name_or_folder,
    path,
    window_s=window_s,
    output=output,
    weights=WEIGHTS,
    **options,
  )


def import_teacher(
  family: str,
  source: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  window_s: float | None = None,
  output: str | Sequence[str] | None = None,
  **options: Any,
) -> Imported:
  """Makes a model folder of a public checkpoint; see `distill.published.import_to`."""
  found = published.find(_FAMILIES, family)
  return published.import_to(found, source, folder, window_s=window_s, output=output, **options)
