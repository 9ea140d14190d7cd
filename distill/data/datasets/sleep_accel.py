"""PhysioNet sleep-accel: Apple Watch acceleration and heart rate over a night, sleep stages.

Layout: motion/<id>_acceleration.txt (seconds, x, y, z in g, separated by spaces),
heart_rate/<id>_heartrate.txt (seconds, bpm) and labels/<id>_labeled_sleep.txt (seconds, stage of
the next 30 s), on one clock whose 0 is the start of the sleep study. Heart rate is the watch's own,
from its optical sensor, every few seconds. There is no PPG: the set serves probes.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from distill.data import clocks, units, untrusted
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.recording import HeartRateTrack, Recording, Stretch
from distill.errors import DistillError
from distill.spec import ACC

STAGES = {0: "wake", 1: "N1", 2: "N2", 3: "N3", 4: "N3", 5: "REM"}
STAGE_S = 30.0
HR_STEP_S = 10.0  # the watch's values come every 2 to 8 s; they are averaged over this
BEFORE_S = 600.0  # of movement before the sleep study that is kept


class SleepAccel(PairedBuilder):
  """Motion and heart rate from a wrist-worn wearable and labeled sleep from polysomnography."""

  SOURCE = "https://physionet.org/content/sleep-accel/1.0.0/"
  URL = (
    "https://physionet.org/static/published-projects/sleep-accel/motion-and-heart-rate-from-a"
    "-wrist-worn-wearable-and-labeled-sleep-from-polysomnography-1.0.0.zip"
  )
  LAYOUT = "motion/*_acceleration.txt"
  LICENCE = "Open Data Commons Attribution 1.0"
  CITATION = (
    "O. Walch, Y. Huang, D. Forger, C. Goldstein, Sleep stage prediction with raw acceleration and"
    " photoplethysmography heart rate data derived from a consumer wearable device, Sleep 42(12),"
    " 2019"
  )
  SIGNALS = (ACC,)

  def sources(self) -> Sequence[Source]:
    """One night a participant."""
    folder = self.folder()
    paths = sorted(folder.glob("**/motion/*_acceleration.txt"))
    if not paths:
      raise DistillError(
        f"no motion/<id>_acceleration.txt under {folder}; get it from {self.SOURCE}"
      )
    return [
      Source(p.name.removesuffix("_acceleration.txt"), functools.partial(read, p)) for p in paths
    ]


def read(path: pathlib.Path) -> Recording:
  """One night.

  Args:
    path: of the file of accelerations; the others are found beside its folder.

  Raises:
    DistillError: a file that is missing, or has a row that is not numbers.
  """
  name, root = path.name.removesuffix("_acceleration.txt"), path.parent.parent
  motion = _rows(path, 4)
  motion = motion[motion[:, 0] >= -BEFORE_S]
  acc_g = units.in_g(motion[:, 1:], "g", f"acc of {path}")
  acc, _ = clocks.even(motion[:, 0], acc_g, unit="g", where=str(path))
  track = _heart_rate(_rows(root / "heart_rate" / f"{name}_heartrate.txt", 2))
  labels = root / "labels" / f"{name}_labeled_sleep.txt"
  stages = _stages(_rows(labels, 2)) if labels.is_file() else ()
  return Recording(name, "night", {ACC: acc}, heart_rate=track, activities=stages)


def _rows(path: pathlib.Path, columns: int) -> np.ndarray:
  """[rows, columns] float64 of a text file separated by spaces or commas."""
  untrusted.check_size(path, untrusted.MAX_TEXT_BYTES)
  try:
    text = path.read_text(encoding="ascii").replace(",", " ")
    values = np.array(text.split(), np.float64).reshape(-1, columns)
  except FileNotFoundError as error:
    raise DistillError(f"no file {path}") from error
  except (OSError, ValueError) as error:
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan", re.IGNORECASE)
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    for row, line in enumerate(lines, start=1):
      fields = line.replace(",", " ").split()
      if line.strip() and (len(fields) != columns or not all(map(number.fullmatch, fields))):
        raise DistillError(
          f"{path}, line {row}: expected {columns} numbers, got {line.strip()[:40]!r}"
        ) from error
    raise DistillError(f"{path} cannot be read: {error}") from error
  if not len(values):
    raise DistillError(f"{path} has no data")
  return values


def _heart_rate(rows: np.ndarray) -> HeartRateTrack:
  """Averages of the watch's values in even steps, NaN where it gave none."""
  step = np.floor(rows[:, 0] / HR_STEP_S).astype(int)
  first = step.min()
  count = np.bincount(step - first)
  total = np.bincount(step - first, rows[:, 1])
  hr_bpm = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
  t0_s = HR_STEP_S * (first + np.arange(len(hr_bpm)))
  return HeartRateTrack(t0_s, HR_STEP_S, hr_bpm, "ppg")


def _stages(rows: np.ndarray) -> tuple[Stretch, ...]:
  stage = rows[:, 1].astype(int)
  ends = np.flatnonzero((np.diff(stage) != 0) | (np.diff(rows[:, 0]) != STAGE_S)) + 1
  groups = zip(np.r_[0, ends], np.r_[ends, len(rows)], strict=True)
  return tuple(
    Stretch(rows[a, 0], rows[b - 1, 0] + STAGE_S, STAGES[stage[a]])
    for a, b in groups
    if stage[a] in STAGES
  )
