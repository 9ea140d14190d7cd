"""PhysioNet wrist PPG during exercise: 8 participants, walking, running and cycling, chest ECG.

Layout: WFDB records s<n>_<activity> (.hea, .dat, .atr) at 256 Hz: chest ECG, wrist PPG, and a
low-noise accelerometer of +-2 g beside one of wide range, which stands in where the first clips.
R peaks come from the .atr files. All but the ECG end in 140 to 170 missing samples. Needs wfdb.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from distill import beats
from distill.data import tables, units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.recording import Beats, Recording, Signal, Stretch
from distill.errors import DistillError

CLIPPED_G = 1.95  # of the low-noise accelerometer, per axis
ACTIVITIES = {
  "walk": "walking",
  "run": "running",
  "low_resistance_bike": "cycling, low resistance",
  "high_resistance_bike": "cycling, high resistance",
}


class PhysionetWrist(PairedBuilder):
  """PhysioNet wrist PPG during exercise 1.0.0."""

  SOURCE = "https://physionet.org/content/wrist/1.0.0/"
  URL = "https://physionet.org/static/published-projects/wrist/wrist-ppg-during-exercise-1.0.0.zip"
  LAYOUT = "s*.hea"
  LICENCE = "Open Data Commons Attribution 1.0"
  CITATION = (
    "D. Jarchi, A. J. Casson, Description of a Database Containing Wrist PPG Signals Recorded"
    " during Physical Exercise with Both Accelerometer and Gyroscope Measures of Motion,"
    " Data 2(1):1, 2017, doi 10.3390/data2010001; A. Goldberger et al.,"
    " PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101(23), 2000"
  )

  def sources(self) -> Sequence[Source]:
    """One recording a WFDB record, by participant."""
    folder = self.folder()
    found = [
      (int(match[1]), match[2], path)
      for path in folder.rglob("*.hea")
      if (match := re.fullmatch(rf"s(\d+)_({'|'.join(ACTIVITIES)})\.hea", path.name))
    ]
    if not found:
      raise DistillError(f"no s<n>_<activity>.hea under {folder}; get it from {self.SOURCE}")
    return [
      Source(f"s{n}/{name}", functools.partial(read, path, f"s{n}", name))
      for n, name, path in sorted(found)
    ]


def read(path: pathlib.Path, participant: str, name: str) -> Recording:
  """One WFDB record; time 0 is its first sample.

  Raises:
    DistillError: wfdb is not installed, or a file is missing or damaged.
  """
  ppg = tables.read(path, ["wrist_ppg"])
  rate_hz = ppg.rate_hz or 0.0
  fine, wide = (
    units.in_g(tables.read(path, names).values, "m/s2", f"acc of {path}")
    for names in (_axes("low_noise"), _axes("wide_range"))
  )
  clipped = (np.abs(fine) > CLIPPED_G).any(axis=1)
  acc = np.where(clipped[:, None], wide, fine)
  signals = {
    "ppg": Signal(ppg.values, rate_hz, 0.0, "au"),
    "acc": Signal(acc, rate_hz, 0.0, "g"),
  }
  length_s = len(acc) / rate_hz
  activities = (Stretch(0.0, length_s, ACTIVITIES[name]),)
  return Recording(participant, name, signals, _r_peaks(path, rate_hz), activities=activities)


def _axes(kind: str) -> list[str]:
  return [f"wrist_{kind}_accelerometer_{axis}" for axis in "xyz"]


def _r_peaks(path: pathlib.Path, rate_hz: float) -> Beats:
  """Annotated R peaks, else those detected in the ECG."""
  if path.with_suffix(".atr").is_file():
    samples, symbols = tables.annotations(path.with_suffix(".atr"))
    times_s = samples[np.isin(symbols, ["N"])] / rate_hz
    return Beats(times_s, beats.regular(times_s), "ecg")
  return beats.detect_ecg(tables.read(path, ["chest_ecg"]).values[:, 0], rate_hz)
