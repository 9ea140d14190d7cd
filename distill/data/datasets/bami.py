"""BAMI: wrist PPG and acceleration on a treadmill with ECG heart rate, 25 and 23 MAT files.

Layout: BAMI-1/BAMI1_<n>.mat and BAMI-2/BAMI2_<n>.mat with `rawPPG` (3, N) and `rawAcc` (3, N), both
uint16 at 50 Hz, and `bpm_ecg` (W, 1), the ECG heart rate of 8 s windows every 2 s. Of the three PPG
channels the first agrees best with the ECG and is taken, turned upright: raw counts of light fall
at a pulse (in 23 of the 25 files of BAMI-1 pulses fall faster than they rise). `bpm_proposed` is a
method's output and is not read. No activities: the protocol in the distribution's own notes fits no
file. The labels of BAMI-2 are 1 s late and a few of them lie below any resting heart rate; these
are left out. The two are two sets, as nothing says whether they share participants.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import matlab
from distill.data.recording import HeartRateTrack, Recording, Signal
from distill.errors import DistillError

RATE_HZ = 50.0
COUNTS_PER_G, ZERO_G = 4096.0, 32768.0  # unsigned counts, zero in the middle
PPG_CHANNEL = 0
LABEL_S, LABEL_STEP_S = 8.0, 2.0


class Bami(PairedBuilder):
  """BAMI-1."""

  VERSION = tfds.core.Version("1.1.0")  # PPG upright
  SOURCE = "https://github.com/HeewonChung92/CNN_LSTM_HeartRateEstimation"
  URL = SOURCE + "/archive/refs/heads/master.zip"
  LAYOUT = "BAMI-*/*.mat"
  LICENCE = "none stated; cite the authors"
  CITATION = (
    "H. Chung, H. Ko, H. Lee, J. Lee, Deep Learning for Heart Rate Estimation from Reflectance"
    " Photoplethysmography with Acceleration Power Spectrum and Acceleration Intensity,"
    " IEEE Access 8, 2020"
  )

  NUMBER: ClassVar[int] = 1
  LATE_S: ClassVar[float] = 0.0
  HR_RANGE_BPM: ClassVar[tuple[float, float]] = (30.0, 220.0)

  def sources(self) -> Sequence[Source]:
    """One recording a file, by number."""
    folder, k = self.folder(), self.NUMBER
    numbers = {
      int(match[1]): path
      for path in folder.glob(f"BAMI-{k}/BAMI{k}_*.mat")
      if (match := re.fullmatch(rf"BAMI{k}_(\d+)\.mat", path.name))
    }
    if not numbers:
      raise DistillError(f"no BAMI-{k}/BAMI{k}_<n>.mat under {folder}; get BAMI from {self.SOURCE}")
    load = functools.partial(read, late_s=self.LATE_S, hr_range_bpm=self.HR_RANGE_BPM)
    return [
      Source(f"P{n:02d}", functools.partial(load, numbers[n], f"P{n:02d}")) for n in sorted(numbers)
    ]


class Bami2(Bami):
  """BAMI-2."""

  NUMBER = 2
  LATE_S = 1.0
  HR_RANGE_BPM = (50.0, 220.0)


def read(
  path: pathlib.Path,
  participant: str,
  late_s: float = Bami.LATE_S,
  hr_range_bpm: tuple[float, float] = Bami.HR_RANGE_BPM,
) -> Recording:
  """One file as a recording; time 0 is its first sample.

  Args:
    path: of the file.
    participant: its name in the set.
    late_s: start of the first label's window.
    hr_range_bpm: labels outside are left out.

  Raises:
    DistillError: not a MAT file, or an array is missing or has another shape.
  """
  names = ("rawPPG", "rawAcc", "bpm_ecg")
  file = matlab.load(path, names)
  ppg, acc, hr_bpm = (matlab.array(file, name, path, "BAMI") for name in names)
  if ppg.shape[0] != 3 or acc.shape[0] != 3 or hr_bpm.shape[1] != 1:
    raise DistillError(
      f"{path}: rawPPG {ppg.shape}, rawAcc {acc.shape}, bpm_ecg {hr_bpm.shape}; expected (3, N),"
      " (3, N), (W, 1)"
    )
  valid = (hr_bpm[:, 0] >= hr_range_bpm[0]) & (hr_bpm[:, 0] <= hr_range_bpm[1])
  track = HeartRateTrack(
    t0_s=late_s + LABEL_STEP_S * np.arange(len(hr_bpm)),
    window_s=LABEL_S,
    hr_bpm=np.where(valid, hr_bpm[:, 0], np.nan).astype(np.float32),
    origin="ecg",
  )
  acc_g = (acc.T - ZERO_G) / COUNTS_PER_G
  signals = {
    "ppg": Signal(-ppg[PPG_CHANNEL, :, None].astype(np.float32), RATE_HZ, 0.0, "au"),
    "acc": Signal(acc_g.astype(np.float32), RATE_HZ, 0.0, "g"),
  }
  return Recording(participant, "treadmill", signals, heart_rate=track)
