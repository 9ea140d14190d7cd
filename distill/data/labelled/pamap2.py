"""PAMAP2: wrist acceleration at 100 Hz over 18 activities, 9 participants.

Layout: PAMAP2_Dataset/{Protocol,Optional}/subject<1nn>.dat, blanks between 54 columns without a
header: seconds, activity number, heart rate, then 17 columns for each of hand, chest and ankle
(temperature, acceleration of +-16 g and of +-6 g in m/s2, ...). The +-16 g sensor of the hand is
read: the other one clips.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from distill.data.labelled.stretches import runs
from distill.data.recording import Recording, Signal
from distill.data.windows import activity
from distill.errors import DistillError

SOURCE = "https://archive.ics.uci.edu/dataset/231/pamap2+physical+activity+monitoring"
TARGET = "activity"
RATE_HZ = 100.0
G_MS2 = 9.80665
COLUMNS = (0, 1, 4, 5, 6)
ACTIVITIES = {
  1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling",
  7: "nordic walking", 9: "watching TV", 10: "computer work", 11: "car driving",
  12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing",
  18: "folding laundry", 19: "house cleaning", 20: "playing soccer", 24: "rope jumping",
}  # fmt: skip

label = activity


def read(folder: pathlib.Path) -> Iterator[Recording]:
  """Every file, by participant.

  Raises:
    DistillError: no files, or one that is not as published.
  """
  paths = sorted(folder.rglob("subject1??.dat"))
  if not paths:
    raise DistillError(f"no subject<1nn>.dat under {folder}; get PAMAP2 from {SOURCE}")
  for path in paths:
    yield _read(path)


def _read(path: pathlib.Path) -> Recording:
  if not path.stat().st_size:
    raise DistillError(f"{path} cannot be read as PAMAP2: it is empty")
  try:
    table = np.loadtxt(path, usecols=COLUMNS, ndmin=2)
  except (OSError, ValueError, IndexError) as error:
    raise DistillError(f"{path} cannot be read as PAMAP2: {error}") from error
  number = np.round((table[:, 0] - table[0, 0]) * RATE_HZ).astype(int)
  if len(np.unique(number)) < len(number) or number.min() < 0:
    raise DistillError(f"{path}: time stamps in column 1 do not rise by 0.01 s a row")
  # Rows that a radio lost are missing in the file.
  acc = np.full((number.max() + 1, 3), np.nan, np.float32)
  acc[number] = table[:, 2:] / G_MS2
  kind = np.zeros(len(acc), int)
  kind[number] = table[:, 1].astype(int)
  names = np.array([ACTIVITIES.get(k, "") for k in range(25)])
  return Recording(
    path.stem,
    path.parent.name.lower(),
    {"acc": Signal(acc, RATE_HZ, 0.0, "g")},
    activities=runs(names[np.clip(kind, 0, 24)], RATE_HZ),
  )
