"""MotionSense: acceleration of a phone in the trouser pocket over six activities, 24 participants.

Layout: A_DeviceMotion_data/<activity>_<trial>/sub_<n>.csv at 50 Hz with gravity.x, ... and
userAcceleration.x, ... in g among their columns. What an accelerometer reads is their sum.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from distill.data import tables
from distill.data.recording import Recording, Signal, Stretch
from distill.data.windows import activity
from distill.errors import DistillError

SOURCE = "https://github.com/mmalekzadeh/motion-sense"
TARGET = "activity"
RATE_HZ = 50.0
ACTIVITIES = {
  "dws": "walking downstairs",
  "ups": "walking upstairs",
  "wlk": "walking",
  "jog": "jogging",
  "sit": "sitting",
  "std": "standing",
}

label = activity


def read(folder: pathlib.Path) -> Iterator[Recording]:
  """Every trial, by participant.

  Raises:
    DistillError: no files, or one that is not as published.
  """
  found = [
    (int(who[1]), what[1], path)
    for path in folder.rglob("sub_*.csv")
    if (who := re.fullmatch(r"sub_(\d+)\.csv", path.name))
    and (what := re.fullmatch(rf"((?:{'|'.join(ACTIVITIES)})_\d+)", path.parent.name))
  ]
  if not found:
    raise DistillError(f"no <activity>_<trial>/sub_<n>.csv under {folder}; get it from {SOURCE}")
  for number, trial, path in sorted(found):
    yield _read(path, f"sub_{number}", trial)


def _read(path: pathlib.Path, participant: str, trial: str) -> Recording:
  parts = [
    tables.read(path, [f"{kind}.{axis}" for axis in "xyz"]).values
    for kind in ("gravity", "userAcceleration")
  ]
  acc = np.add(*parts)
  stretch = Stretch(0.0, len(acc) / RATE_HZ, ACTIVITIES[trial.partition("_")[0]])
  signals = {"acc": Signal(acc, RATE_HZ, 0.0, "g")}
  return Recording(participant, trial, signals, activities=(stretch,))
