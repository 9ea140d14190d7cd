"""WildPPG: long outdoor days, optical sensors on four places, ECG on the sternum, 16 participants.

Layout: WildPPG_Part_<id>.mat (version 5) with structs `wrist` and `sternum`, each trace a struct of
`fs`, `v` and `descr`; all at 128 Hz on one clock. Read are the wrist's green PPG and acceleration,
whose unit gravity settles, and the sternum's ECG, whose R peaks are the reference.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill import beats
from distill.data import units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import matlab
from distill.data.recording import Recording, Signal
from distill.errors import DistillError

PREFIX = "WildPPG_Part_"


class WildPpg(PairedBuilder):
  """WildPPG."""

  name = "wildppg"
  SOURCE = "https://siplab.org/projects/WildPPG"
  LICENCE = "CC BY-NC-SA 4.0, non-commercial"
  CITATION = (
    "M. Meier, B. U. Demirel, C. Holz, WildPPG: A Real-World PPG Dataset of Long Continuous"
    " Recordings, NeurIPS Datasets and Benchmarks, 2024"
  )

  def sources(self) -> Sequence[Source]:
    """One recording a file, by participant."""
    folder = self.folder()
    paths = sorted(folder.glob(f"**/{PREFIX}*.mat"))
    if not paths:
      raise DistillError(f"no {PREFIX}<id>.mat under {folder}; get WildPPG from {self.SOURCE}")
    return [Source(p.stem.removeprefix(PREFIX), functools.partial(read, p)) for p in paths]


def read(path: pathlib.Path) -> Recording:
  """One participant's day; time 0 is the first sample.

  Raises:
    DistillError: a file that is missing, damaged or of another kind.
  """
  content = matlab.load(path, ("id", "wrist", "sternum"))
  ppg, ppg_hz = _trace(content, "wrist", "ppg_g", path)
  axes = [_trace(content, "wrist", f"acc_{axis}", path) for axis in "xyz"]
  ecg, ecg_hz = _trace(content, "sternum", "ecg", path)
  if len({(len(values), rate_hz) for values, rate_hz in axes}) > 1:
    raise DistillError(f"{path}: the three axes of the wrist differ in length or rate")
  acc = np.stack([values for values, _ in axes], axis=1)
  signals = {
    "ppg": Signal(ppg[:, None].astype(np.float32), ppg_hz, 0.0, "au"),
    "acc": Signal(units.in_g(acc, "auto", f"acc of {path}"), axes[0][1], 0.0, "g"),
  }
  return Recording(
    path.stem.removeprefix(PREFIX), "day", signals, beats=beats.detect_ecg(ecg, ecg_hz)
  )


def _trace(
  content: dict[str, Any], place: str, name: str, path: pathlib.Path
) -> tuple[np.ndarray, float]:
  """([time] float64, Hz) of one trace; structs come nested in arrays of one element."""
  try:
    trace = _inside(_inside(content[place])[name])
    values = np.asarray(_inside(trace["v"]), np.float64).reshape(-1)
    rate_hz = float(np.asarray(_inside(trace["fs"])).reshape(-1)[0])
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise DistillError(f"{path} has no trace {place}.{name}; expected a file of WildPPG") from error
  if len(values) < 2 or not rate_hz > 0:
    raise DistillError(f"{path}: trace {place}.{name} has {len(values)} samples at {rate_hz:g} Hz")
  return values, rate_hz


def _inside(value: Any) -> Any:
  """What stands in arrays of one element."""
  while (
    isinstance(value, np.ndarray)
    and value.size == 1
    and (value.dtype == object or value.dtype.names)
  ):
    inner = value.reshape(-1)[0]
    if isinstance(inner, np.void):
      return inner
    value = inner
  return value
