"""Stress-Predict: Empatica E4 sessions of about an hour with stress tasks, 35 participants.

Layout: Raw_data/S<nn>/{ACC,BVP,...}.csv and Processed_data/Improved_All_Combined_hr_rsp_binary.csv
with a stress label (0, 1) for each Unix second; participant S01 has none. Heart rate comes from
quality-gated pulse beats: there is no independent reference.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from distill.data import untrusted
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import empatica
from distill.data.recording import Recording, Stretch
from distill.errors import DistillError

LABEL_FILE = "Processed_data/Improved_All_Combined_hr_rsp_binary.csv"
LABEL_HEADER = "Participant,HR,respr,Time(sec),Label"
NAMES = {0: "baseline", 1: "stress"}


class StressPredict(PairedBuilder):
  """Stress-Predict."""

  SOURCE = "https://doi.org/10.3390/s22218135"
  URL = "https://github.com/italha-d/Stress-Predict-Dataset/archive/refs/heads/main.zip"
  LAYOUT = "Raw_data/S*"
  LICENCE = "MIT"
  CITATION = (
    "T. Iqbal et al., Stress Monitoring Using Wearable Sensors: A Pilot Study and Stress-Predict"
    " Dataset, Sensors 22(21):8135, 2022, doi 10.3390/s22218135"
  )

  def sources(self) -> Sequence[Source]:
    """One session a participant, by number."""
    folder = self.folder()
    sessions = sorted(
      path for path in folder.glob("Raw_data/S*") if re.fullmatch(r"S\d\d", path.name)
    )
    if not sessions:
      raise DistillError(
        f"no Raw_data/S<nn>/ under {folder}; get Stress-Predict from {self.SOURCE}"
      )
    labels = folder / LABEL_FILE
    return [Source(path.name, functools.partial(read, path, labels)) for path in sessions]


def read(session: pathlib.Path, label_file: pathlib.Path) -> Recording:
  """One session; its clock is Unix time.

  Args:
    session: folder of one participant.
    label_file: stress labels of all participants; activities stay unknown where it is absent.

  Raises:
    DistillError: a file of the session or the label file is damaged.
  """
  name, signals = session.name, empatica.read(session)
  return Recording(name, "session", signals, activities=_activities(label_file, name))


def _activities(path: pathlib.Path, participant: str) -> tuple[Stretch, ...]:
  if not path.is_file():
    return ()
  rows = _labels(path)
  rows = rows[rows[:, 0] == int(participant[1:])]
  if not len(rows):
    return ()
  time_s, label = rows[:, 1], rows[:, 2].astype(int)
  ends = np.flatnonzero((np.diff(label) != 0) | (np.diff(time_s) != 1)) + 1
  groups = zip(np.r_[0, ends], np.r_[ends, len(rows)])
  return tuple(Stretch(time_s[a], time_s[b - 1] + 1, NAMES[label[a]]) for a, b in groups)


@functools.lru_cache(maxsize=1)
def _labels(path: pathlib.Path) -> np.ndarray:
  """[rows, 3] participant number, Unix second, label."""
  untrusted.check_size(path, untrusted.MAX_TEXT_BYTES)
  with open(path, encoding="ascii", errors="replace") as file:
    header = file.readline().strip()
  if header != LABEL_HEADER:
    raise DistillError(f"{path}, line 1: {header[:80]!r}; expected {LABEL_HEADER!r}")
  try:
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 3, 4), ndmin=2)
  except ValueError as error:
    raise DistillError(f"{path}: {str(error).splitlines()[0]}") from error
  if not np.isin(rows[:, 2], list(NAMES)).all():
    raise DistillError(f"{path}: labels other than 0 and 1 in column Label")
  return rows
