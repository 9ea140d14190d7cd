"""MIT-BIH arrhythmia database: half an hour of ECG for 47 people, every beat annotated.

Layout: WFDB records 100 to 234 (.hea, .dat, .atr) at 360 Hz. The first lead is read (lead II
where there is one) and stands where PPG stands, as the one wave of the heart. Beats are normal
after AAMI EC57, class N. Paced records are left out, as EC57 does; 201 and 202 are one person.
Needs wfdb.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from distill.data import tables
from distill.data.recording import Beats, Recording, Signal
from distill.errors import DistillError

SOURCE = "https://physionet.org/content/mitdb/1.0.0/"
TARGET = "arrhythmia"
PACED = ("102", "104", "107", "217")
SAME_PERSON = {"202": "201"}
NORMAL = tuple("NLRej")
BEATS = (*NORMAL, *"AaJSVEFQf/!")
ECTOPIC, REGULAR = "ectopic", "regular"


def read(folder: pathlib.Path) -> Iterator[Recording]:
  """Every record that is not paced.

  Raises:
    DistillError: no files, a damaged one, or wfdb is not installed.
  """
  paths = [path for path in sorted(folder.rglob("[12]??.hea")) if path.stem not in PACED]
  if not paths:
    raise DistillError(f"no records 100 to 234 under {folder}; get them from {SOURCE}")
  for path in paths:
    yield _read(path)


def _read(path: pathlib.Path) -> Recording:
  leads = tables.names(path)
  table = tables.read(path, ["MLII" if "MLII" in leads else leads[0]])
  rate_hz = table.rate_hz or 0.0
  samples, symbols = tables.annotations(path.with_suffix(".atr"))
  beat = np.isin(symbols, BEATS)
  beats = Beats(samples[beat] / rate_hz, np.isin(symbols[beat], NORMAL), "ecg")
  who = SAME_PERSON.get(path.stem, path.stem)
  return Recording(who, path.stem, {"ppg": Signal(table.values, rate_hz, 0.0, "au")}, beats)


def label(recording: Recording, t0_s: float, window_s: float) -> str:
  """ "ectopic" with at least one beat that is not normal, "regular" with none, "" without beats."""
  beats = recording.beats
  if beats is None:
    return ""
  inside = (beats.times_s >= t0_s) & (beats.times_s < t0_s + window_s)
  if not inside.any():
    return ""
  return REGULAR if beats.normal[inside].all() else ECTOPIC
