"""PPG-DaLiA: Empatica E4 on the wrist in daily life, chest ECG, 15 participants of 2.5 hours.

Layout: PPG_FieldStudy/S<n>/ with S<n>.pkl (all signals on one clock, R peaks, heart rate of 8 s
windows every 2 s, activity at 4 Hz, questionnaire) and S<n>_E4.zip. Where only the E4 files are,
beats come from the PPG and activities stay unknown: the E4's clock is not that of the other files.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill import beats
from distill.data import units, untrusted
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import empatica
from distill.data.recording import Beats, HeartRateTrack, Recording, Signal, Stretch
from distill.errors import DistillError

CHEST_HZ, ACTIVITY_HZ = 700.0, 4.0
LABEL_S, LABEL_STEP_S = 8.0, 2.0
ACTIVITIES = {
  1: "sitting",
  2: "stairs",
  3: "table soccer",
  4: "cycling",
  5: "driving",
  6: "lunch",
  7: "walking",
  8: "working",
}
SEXES = {"m": "male", "f": "female"}


class PpgDalia(PairedBuilder):
  """PPG-DaLiA."""

  SOURCE = "https://doi.org/10.24432/C53890"
  URL = "https://archive.ics.uci.edu/static/public/495/ppg+dalia.zip"
  LAYOUT = "PPG_FieldStudy/S*"
  LICENCE = "CC BY 4.0 at UCI; cite the authors"
  CITATION = (
    "A. Reiss, I. Indlekofer, P. Schmidt, K. Van Laerhoven, Deep PPG: Large-Scale Heart Rate"
    " Estimation with Convolutional Neural Networks, Sensors 19(14):3079, 2019"
  )

  def sources(self) -> Sequence[Source]:
    """One session a participant, by number."""
    folder = self.folder()
    people = [p for p in folder.glob("PPG_FieldStudy/S*") if re.fullmatch(r"S\d+", p.name)]
    people = people or [p for p in folder.glob("S*") if re.fullmatch(r"S\d+", p.name)]
    if not people:
      raise DistillError(
        f"no PPG_FieldStudy/S<n>/ under {folder}; get PPG-DaLiA from {self.SOURCE}"
      )
    people.sort(key=lambda path: int(path.name[1:]))
    return [Source(path.name, functools.partial(read, path)) for path in people]


def read(folder: pathlib.Path) -> Recording:
  """One participant's session.

  Raises:
    DistillError: neither pickle nor E4 files, or a damaged file.
  """
  name = folder.name
  if (folder / f"{name}.pkl").is_file():
    return _from_pickle(folder / f"{name}.pkl", name)
  for session in (folder / f"{name}_E4", folder / f"{name}_E4.zip"):
    if session.exists():
      return Recording(name, "session", empatica.read(session), **_person(_quest(folder)))
  raise DistillError(f"{folder} holds neither {name}.pkl nor {name}_E4(.zip)")


def _from_pickle(path: pathlib.Path, name: str) -> Recording:
  content = untrusted.load_pickle(path)
  try:
    wrist, chest = content["signal"]["wrist"], content["signal"]["chest"]
    bvp, acc = (np.asarray(wrist[key], np.float32) for key in ("BVP", "ACC"))
    label, activity = (np.asarray(content[key]).reshape(-1) for key in ("label", "activity"))
    peaks = content.get("rpeaks")
    ecg = np.asarray(chest["ECG"], np.float64).reshape(-1) if peaks is None else None
    person = _person(content.get("questionnaire", {}))
    bvp, acc = bvp.reshape(-1, 1), acc.reshape(-1, 3)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise DistillError(f"{path} cannot be read as PPG-DaLiA's pickle: {error!r}") from error
  signals = {
    "ppg": Signal(bvp, 64.0, 0.0, "au"),
    "acc": Signal(units.in_g(acc, "g", f"acc of {path}"), 32.0, 0.0, "g"),
  }
  if ecg is not None:
    reference = beats.detect_ecg(ecg, CHEST_HZ)
  else:
    times_s = np.unique(np.asarray(peaks, np.float64).reshape(-1)) / CHEST_HZ
    reference = Beats(times_s, beats.regular(times_s), "ecg")
  t0_s = LABEL_STEP_S * np.arange(len(label))
  track = HeartRateTrack(t0_s, LABEL_S, label.astype(np.float32), "ecg")
  return Recording(name, "session", signals, reference, track, _stretches(activity), **person)


def _stretches(activity: np.ndarray) -> tuple[Stretch, ...]:
  ends = np.flatnonzero(np.diff(activity)) + 1
  groups = zip(np.r_[0, ends], np.r_[ends, len(activity)], strict=True)
  return tuple(
    Stretch(a / ACTIVITY_HZ, b / ACTIVITY_HZ, ACTIVITIES[int(activity[a])])
    for a, b in groups
    if int(activity[a]) in ACTIVITIES
  )


def _quest(folder: pathlib.Path) -> dict[str, str]:
  """Lines "# AGE, 34" of the questionnaire."""
  path = folder / f"{folder.name}_quest.csv"
  text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
  return dict(re.findall(r"^#?\s*([A-Za-z]+)\s*,\s*(.*?)\s*$", text, re.MULTILINE))


def _person(quest: dict[str, Any]) -> dict[str, Any]:
  """Age, sex and BMI; NaN and "" where a field is missing or no number."""
  fields = {str(key).strip().lower(): value for key, value in quest.items()}

  def number(key: str) -> float:
    try:
      return float(fields.get(key, "nan"))
    except (TypeError, ValueError):
      return float("nan")

  height_m = number("height") / 100
  sex = SEXES.get(str(fields.get("gender", "")).strip().lower()[:1], "")
  return {"age": number("age"), "sex": sex, "bmi": number("weight") / height_m**2}
