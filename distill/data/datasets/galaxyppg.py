"""GalaxyPPG: Galaxy Watch on one wrist, Empatica E4 on the other, Polar H10 on the chest.

Layout: Dataset/Meta.csv and Dataset/P<nn>/ with Event.csv, GalaxyWatch/PPG.csv (25 Hz, ms, raw
counts upside down, status 0 where good), E4/ACC.csv (32 Hz, microseconds, 1/64 g), PolarH10/ECG.csv
(130 Hz) and PolarH10/IBI.csv, both in milliseconds of the phone, 9 hours ahead of UTC. The beats
are those of the ECG; where it is not there, or its stamps are those of radio packets, they are the
ones that the strap found itself. PPG and acceleration come from two devices on two wrists and two
clocks: no pairs for distillation or retrieval by default.
"""

import csv
import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from distill import beats
from distill.data import clocks, tables, units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.recording import Beats, Recording, Stretch
from distill.errors import DistillError

PHONE_AHEAD_S = 9 * 3600.0
SEXES = {"M": "male", "F": "female"}
ECG_HZ = 130.0


class GalaxyPpg(PairedBuilder):
  """GalaxyPPG."""

  name = "galaxyppg"
  SOURCE = "https://github.com/Kaist-ICLab/GalaxyPPG-Supplementary-Code"
  URL = "https://zenodo.org/records/14635823/files/GalaxyPPG.zip?download=1"
  LAYOUT = "Dataset/P*"
  LICENCE = "CC BY 4.0"
  CITATION = "GalaxyPPG, KAIST Interactive Computing Lab, Scientific Data, 2025"
  SAME_DEVICE = False

  def sources(self) -> Sequence[Source]:
    """One session a participant; those without watch data are told when they are read."""
    folder = self.folder()
    people = sorted(p for p in folder.glob("Dataset/P*") if re.fullmatch(r"P\d\d", p.name))
    if not people:
      raise DistillError(f"no Dataset/P<nn>/ under {folder}; get GalaxyPPG from {self.SOURCE}")
    meta = folder / "Dataset" / "Meta.csv"
    return [Source(path.name, functools.partial(read, path, meta)) for path in people]


def read(folder: pathlib.Path, meta: pathlib.Path) -> Recording:
  """One participant's session; its clock is Unix time.

  Raises:
    DistillError: a file that is missing or damaged.
  """
  name = folder.name
  watch = tables.read(
    folder / "GalaxyWatch" / "PPG.csv", ["ppg", "status"], time="timestamp", time_unit="ms"
  )
  good = watch.values[:, 1] == 0
  counts = np.where(good, -watch.values[:, 0], np.float32(np.nan))[:, None]
  path = folder / "E4" / "ACC.csv"
  acc = tables.read(path, ["x", "y", "z"], time="timestamp", time_unit="us")
  acc_g = units.in_g(acc.values, "1/64 g", f"acc of {path}")
  where = f"{folder}/GalaxyWatch/PPG.csv"
  signals = {
    "ppg": clocks.even(watch.stamps_s, counts, unit="au", where=where, first_row=2)[0],
    "acc": clocks.even(acc.stamps_s, acc_g, unit="g", where=str(path), first_row=2)[0],
  }
  age, sex = _person(meta, name)
  strap = folder / "PolarH10"
  reference = _ecg_beats(strap / "ECG.csv") or _strap_beats(strap / "IBI.csv")
  return Recording(name, "session", signals, reference, None, _events(folder), age, sex)


def _ecg_beats(path: pathlib.Path) -> Beats | None:
  if not path.is_file():
    return None
  table = tables.read(path, ["ecg"], time="phoneTimestamp", time_unit="ms")
  stamps_s = table.stamps_s - PHONE_AHEAD_S
  try:
    ecg, _ = clocks.even(stamps_s, table.values, unit="uV", where=str(path), first_row=2)
  except DistillError:
    return None
  if abs(ecg.rate_hz / ECG_HZ - 1) > 0.05:  # packets, whose repeated stamps were left out
    return None
  return beats.shifted(beats.detect_ecg(ecg.samples[:, 0], ecg.rate_hz), ecg.start_s)


def _strap_beats(path: pathlib.Path) -> Beats | None:
  """Beats of the chest strap: each row is the beat at its time and the interval after it."""
  if not path.is_file():
    return None
  table = tables.read(path, ["duration"], time="phoneTimestamp", time_unit="ms")
  times_s = table.stamps_s - PHONE_AHEAD_S
  ends_s = times_s + table.values[:, 0].astype(np.float64) / 1000
  # After a pause the last interval's own end is a beat of which no row tells.
  alone = np.r_[np.abs(times_s[1:] - ends_s[:-1]) > 0.05, True]
  times_s = np.unique(np.r_[times_s, ends_s[alone]])
  return Beats(times_s, beats.regular(times_s), "chest_strap")


def _person(path: pathlib.Path, name: str) -> tuple[float, str]:
  if not path.is_file():
    return float("nan"), ""
  with open(path, newline="", encoding="utf-8-sig") as file:
    for row in csv.DictReader(file):
      if row.get("UID") == name:
        age = row.get("AGE") or ""
        years = float(age) if age.replace(".", "", 1).isdigit() else float("nan")
        return years, SEXES.get(row.get("GENDER") or "", "")
  return float("nan"), ""


def _events(folder: pathlib.Path) -> tuple[Stretch, ...]:
  path = next((folder / n for n in ("Event.csv", "event.csv") if (folder / n).is_file()), None)
  if path is None:
    return ()
  times_s = tables.read(path, (), time="timestamp", time_unit="ms").stamps_s
  names, states = tables.read_text(path, ["session", "status"])
  entered: dict[str, float] = {}
  found = []
  for time_s, name, state in zip(times_s, names, states, strict=True):
    if state == "ENTER":
      entered[name] = float(time_s)
    elif name in entered and time_s > entered[name]:
      found.append(Stretch(entered.pop(name), float(time_s), name))
  return tuple(found)
