"""WESAD: Empatica E4 on the wrist at baseline, stress, amusement and meditation, 15 participants.

Official layout: WESAD/S<n>/ with S<n>.pkl (wrist and chest signals on one clock, a condition label
at 700 Hz, chest ECG), S<n>_E4_Data.zip and S<n>_readme.txt (age, sex). Where the pickle is there it
is read: its ECG gives the beats. Where only the E4 files are, zipped or unpacked, beats come from
the PPG, and conditions from derived/wesad_e4_condition_segments.csv if it lies beside WESAD/.
"""

import csv
import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill import beats
from distill.data import untrusted
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import empatica
from distill.data.recording import Recording, Signal, Stretch
from distill.errors import DistillError

CONDITIONS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}
CHEST_HZ = 700.0
SEGMENT_FILE = "derived/wesad_e4_condition_segments.csv"


class Wesad(PairedBuilder):
  """WESAD."""

  SOURCE = "https://archive.ics.uci.edu/dataset/465/wesad+wearable+stress+and+affect+detection"
  URL = "https://uni-siegen.sciebo.de/s/HGdUkoNlW1Ub0Gx/download"
  LAYOUT = "WESAD/S*"
  LICENCE = "for research, cite the authors"
  CITATION = (
    "P. Schmidt, A. Reiss, R. Duerichen, C. Marberger, K. Van Laerhoven, Introducing WESAD,"
    " ICMI 2018, doi 10.1145/3242969.3242985"
  )

  def sources(self) -> Sequence[Source]:
    """One session a participant, by number."""
    folder = self.folder()
    people = [path for path in folder.glob("WESAD/S*") if re.fullmatch(r"S\d+", path.name)]
    if not people:
      raise DistillError(f"no WESAD/S<n>/ under {folder}; get WESAD from {self.SOURCE}")
    people.sort(key=lambda path: int(path.name[1:]))
    segments = folder / SEGMENT_FILE
    return [Source(path.name, functools.partial(read, path, segments)) for path in people]


def read(folder: pathlib.Path, segment_file: pathlib.Path) -> Recording:
  """One participant's session.

  Args:
    folder: WESAD/S<n>.
    segment_file: conditions on the E4 clock; needed only where the pickle is absent.

  Raises:
    DistillError: neither pickle nor E4 files, or a damaged file.
  """
  name = folder.name
  person = _person(folder / f"{name}_readme.txt")
  if (folder / f"{name}.pkl").is_file():
    return _from_pickle(folder / f"{name}.pkl", name, person)
  for session in (folder / f"{name}_E4_Data", folder / f"{name}_E4_Data.zip"):
    if session.exists():
      signals = empatica.read(session)
      activities = _segments(segment_file, name, signals["ppg"].start_s)
      return Recording(name, "session", signals, activities=activities, **person)
  raise DistillError(f"{folder} holds neither {name}.pkl nor {name}_E4_Data(.zip)")


def _person(path: pathlib.Path) -> dict[str, Any]:
  """Age, sex and BMI; NaN and "" where the readme does not say."""
  text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
  fields = dict(re.findall(r"^([A-Z][a-z]+)[^:\n]*:\s*([\w.]+)", text, re.MULTILINE))
  numbers = {}
  for name in ("Age", "Height", "Weight"):
    number = re.match(r"\d+(\.\d+)?", fields.get(name, ""))
    numbers[name] = float(number[0]) if number else float("nan")
  sex = fields.get("Gender", "")
  return {
    "age": numbers["Age"],
    "sex": sex if sex in ("female", "male") else "",
    "bmi": numbers["Weight"] / (numbers["Height"] / 100) ** 2,
  }


def _segments(path: pathlib.Path, name: str, start_s: float) -> tuple[Stretch, ...]:
  if not path.is_file():
    return ()
  try:
    with open(path, newline="", encoding="ascii") as file:
      rows = [row for row in csv.DictReader(file) if row["subject"] == name]
    return tuple(
      Stretch(start_s + float(r["e4_start_s"]), start_s + float(r["e4_end_s"]), r["label_name"])
      for r in rows
    )
  except (KeyError, TypeError, ValueError) as error:
    raise DistillError(f"{path} has a broken row or header: {error!r}") from error


# --- the official pickle --------------------------------------------------------------------------


def _from_pickle(path: pathlib.Path, name: str, person: dict[str, Any]) -> Recording:
  content = untrusted.load_pickle(path)
  try:
    wrist, chest = content["signal"]["wrist"], content["signal"]["chest"]
    bvp, acc = (np.asarray(wrist[key], np.float32) for key in ("BVP", "ACC"))
    ecg, label = np.asarray(chest["ECG"], np.float64), np.asarray(content["label"]).reshape(-1)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise DistillError(f"{path} cannot be read as WESAD's pickle: {error!r}") from error
  signals = {
    "ppg": Signal(bvp.reshape(-1, 1), 64.0, 0.0, "au"),
    "acc": Signal(_in_g(acc, path), 32.0, 0.0, "g"),
  }
  reference = beats.detect_ecg(ecg.reshape(-1), CHEST_HZ)
  return Recording(name, "session", signals, reference, activities=_conditions(label), **person)


def _in_g(acc: np.ndarray, path: pathlib.Path) -> np.ndarray:
  """Acceleration in g: the unit in the pickle is not documented, gravity tells it."""
  magnitude = float(np.median(np.linalg.norm(acc, axis=1)))
  if 0.5 <= magnitude <= 2.0:
    return acc
  if 0.5 <= magnitude / empatica.COUNTS_PER_G <= 2.0:
    return acc / np.float32(empatica.COUNTS_PER_G)
  raise DistillError(
    f"{path}: the median acceleration is {magnitude:g}; expected 1 (g) or 64 (1/64 g)"
  )


def _conditions(label: np.ndarray) -> tuple[Stretch, ...]:
  ends = np.flatnonzero(np.diff(label)) + 1
  groups = zip(np.r_[0, ends], np.r_[ends, len(label)])
  return tuple(
    Stretch(a / CHEST_HZ, b / CHEST_HZ, CONDITIONS[int(label[a])])
    for a, b in groups
    if int(label[a]) in CONDITIONS
  )
