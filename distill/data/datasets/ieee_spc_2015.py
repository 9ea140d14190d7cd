"""IEEE Signal Processing Cup 2015 (TROIKA): treadmill, wrist PPG at 125 Hz, MAT files of 5 minutes.

Layouts: Training_data/DATA_<nn>_TYPE<nn>.mat with DATA_..._BPMtrace.mat (or REF_... beside them);
Extra_TrainingData/DATA_S<nn>_T<nn>.mat with BPM_S<nn>_T<nn>.mat; TestData/TEST_S<nn>_T<nn>.mat with
True_S<nn>_T<nn>.mat there or in TrueBPM/. `sig` has the rows ECG, PPG1, PPG2, x, y, z in training
files and no ECG in test files. `BPM0` is the ECG heart rate of 8 s windows every 2 s. The first PPG
channel is taken: against the ECG it is within 5 bpm twice as often as the second.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from distill import beats
from distill.data import units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import matlab
from distill.data.recording import HeartRateTrack, Recording, Signal
from distill.errors import DistillError

RATE_HZ = 125.0
LABEL_S, LABEL_STEP_S = 8.0, 2.0
# Signal file -> (participant, recording). The subjects of the test set are numbered anew.
_TRAINING = re.compile(r"DATA_(\d\d)_(TYPE\d\d)\.mat")
_TEST = re.compile(r"(?:DATA|TEST)_S(\d\d)_T(\d\d)\.mat")


class IeeeSpc2015(PairedBuilder):
  """IEEE Signal Processing Cup 2015."""

  name = "ieee_spc_2015"
  SOURCE = "https://sites.google.com/site/researchbyzhang/ieeespcup2015"
  LICENCE = "academic use with citation"
  CITATION = (
    "Z. Zhang, Z. Pi, B. Liu, TROIKA: A General Framework for Heart Rate Monitoring Using"
    " Wrist-Type Photoplethysmographic Signals During Intensive Physical Exercise,"
    " IEEE Trans. Biomed. Eng. 62(2):522-531, 2015, doi 10.1109/TBME.2014.2359372; of the test set:"
    " Z. Zhang, IEEE Trans. Biomed. Eng. 62(8):1902-1910, 2015"
  )

  def sources(self) -> Sequence[Source]:
    """One recording a signal file, training before test, by number."""
    folder = self.folder()
    found = []
    for path in sorted(folder.rglob("*.mat")):
      training, test = _TRAINING.fullmatch(path.name), _TEST.fullmatch(path.name)
      if training:
        found.append((0, f"P{training[1]}", training[2].lower(), path))
      elif test:
        found.append((1, f"T{test[1]}", f"trial{test[2]}", path))
    if not found:
      raise DistillError(
        f"no Training_data/DATA_<nn>_TYPE<nn>.mat under {folder}; get the IEEE SPC 2015 set from"
        f" {self.SOURCE}"
      )
    found.sort()
    return [
      Source(f"{who}/{name}", functools.partial(read, path, who, name))
      for _, who, name, path in found
    ]


def read(path: pathlib.Path, participant: str, name: str) -> Recording:
  """One file as a recording; time 0 is its first sample.

  Raises:
    DistillError: a file that is missing, damaged or of another shape.
  """
  rows = matlab.array(matlab.load(path, ("sig",)), "sig", path, "the IEEE SPC 2015 set")
  if rows.shape[0] not in (5, 6):
    raise DistillError(f"{path}: sig is {rows.shape}; expected (6, N), or (5, N) without ECG")
  ppg, acc = rows[-5], rows[-3:].T
  signals = {
    "ppg": Signal(ppg[:, None].astype(np.float32), RATE_HZ, 0.0, "au"),
    "acc": Signal(units.in_g(acc, "g", f"acc of {path}"), RATE_HZ, 0.0, "g"),
  }
  reference = beats.detect_ecg(rows[0], RATE_HZ) if len(rows) == 6 else None
  return Recording(participant, name, signals, reference, _heart_rate(path))


def _heart_rate(path: pathlib.Path) -> HeartRateTrack:
  """The file's own labels, under one of the names that the distributions give them."""
  stem = path.stem.removeprefix("DATA_").removeprefix("TEST_")
  names = (f"{path.stem}_BPMtrace.mat", f"REF_{stem}.mat", f"BPM_{stem}.mat", f"True_{stem}.mat")
  folders = (path.parent, path.parent.parent / "TrueBPM")
  there = [folder / name for folder in folders for name in names if (folder / name).is_file()]
  if not there:
    raise DistillError(f"no heart rate for {path}; expected one of {', '.join(names)} beside it")
  hr_bpm = matlab.array(matlab.load(there[0], ("BPM0",)), "BPM0", there[0], "the IEEE SPC 2015 set")
  if hr_bpm.shape[1] != 1:
    raise DistillError(f"{there[0]}: BPM0 is {hr_bpm.shape}; expected (W, 1)")
  t0_s = LABEL_STEP_S * np.arange(len(hr_bpm))
  return HeartRateTrack(t0_s, LABEL_S, hr_bpm[:, 0].astype(np.float32), "ecg")
