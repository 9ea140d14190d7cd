"""HHAR: acceleration of smart watches over six activities, 9 participants.

Layout: Watch_accelerometer.csv with the columns Index, Arrival_Time (ms), Creation_Time (ns), x, y,
z (m/s2), User, Model, Device, gt. Each device has a clock and a rate of its own; rows of a device
are cut where it paused and brought to even time. gt "null" is no activity.
"""

import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import tqdm
from pyarrow import csv

from distill.data import clocks
from distill.data.labelled.stretches import runs
from distill.data.recording import Recording
from distill.data.windows import activity
from distill.errors import DistillError

SOURCE = "https://archive.ics.uci.edu/dataset/344/heterogeneity+activity+recognition"
TARGET = "activity"
FILE = "Watch_accelerometer.csv"
G_MS2 = 9.80665
PAUSE_S = 5.0  # longer ones end a recording
SHORTEST = 100  # samples of a stretch worth reading
COLUMNS = ("Creation_Time", "x", "y", "z", "User", "Device", "gt")

label = activity


def read(folder: pathlib.Path) -> Iterator[Recording]:
  """Every unbroken stretch of every device, by participant.

  Raises:
    DistillError: no file, or one that is not as published.
  """
  paths = sorted(folder.rglob(FILE))
  if not paths:
    raise DistillError(f"no {FILE} under {folder}; get HHAR from {SOURCE}")
  columns = _columns(paths[0])
  group = np.char.add(np.char.add(columns["User"], "/"), columns["Device"])
  for name in np.unique(group).tolist():
    rows = np.flatnonzero(group == name)
    user, _, device = name.partition("/")
    yield from _device({key: values[rows] for key, values in columns.items()}, user, device)


def _columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    options = csv.ConvertOptions(include_columns=list(COLUMNS))
    table = csv.read_csv(path, convert_options=options)
    found = {name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in COLUMNS}
    texts = {name: found[name].astype(str) for name in ("User", "Device", "gt")}
    times = {"times_s": found["Creation_Time"].astype(np.int64) * 1e-9}
    return {"acc": np.stack([found[axis] for axis in "xyz"], axis=1) / G_MS2} | texts | times
  except (OSError, ValueError, KeyError, pa.ArrowException) as error:
    raise DistillError(f"{path} cannot be read as HHAR: {error}") from error


def _device(columns: dict[str, np.ndarray], user: str, device: str) -> Iterator[Recording]:
  times_s = columns["times_s"]
  cuts = np.flatnonzero(np.abs(np.diff(times_s)) > PAUSE_S) + 1
  for number, rows in enumerate(np.split(np.arange(len(times_s)), cuts)):
    if len(rows) < SHORTEST:
      continue
    name = f"{device}/{number}"
    try:
      signal, _ = clocks.even(
        times_s[rows] - times_s[rows[0]],
        columns["acc"][rows].astype(np.float32),
        unit="g",
        where=f"{user}/{name}",
      )
    except DistillError as error:
      tqdm.tqdm.write(f"hhar: left out {user}/{name}: {error}", file=sys.stderr)
      continue
    grid_s = signal.start_s + np.arange(len(signal.samples)) / signal.rate_hz
    stamps_s = np.sort(times_s[rows] - times_s[rows[0]])
    nearest = np.searchsorted(stamps_s, grid_s).clip(max=len(rows) - 1)
    kind = columns["gt"][rows][np.argsort(times_s[rows], kind="stable")][nearest]
    kind = np.where(kind == "null", "", kind)
    stretches = runs(kind, signal.rate_hz, signal.start_s)
    yield Recording(user, name, {"acc": signal}, activities=stretches)
