"""BAMI-1: wrist PPG and acceleration on a treadmill with ECG heart rate, 25 MAT files.

Layout: BAMI-1/BAMI1_<n>.mat with `rawPPG` (3, N) and `rawAcc` (3, N) uint16 at 50 Hz and `bpm_ecg`
(W, 1), the ECG heart rate of 8 s windows every 2 s. The first PPG channel is taken: of the three it
agrees best with the ECG. `bpm_proposed` is a method's output and is not read. No activities: the
protocol in the distribution's own notes fits no file.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import scipy.io

from distill.data.builder import PairedBuilder, Source
from distill.data.recording import HeartRateTrack, Recording, Signal
from distill.errors import DistillError

RATE_HZ = 50.0
COUNTS_PER_G, ZERO_G = 4096.0, 32768.0  # unsigned counts, zero in the middle
PPG_CHANNEL = 0
LABEL_S, LABEL_STEP_S = 8.0, 2.0
HR_RANGE_BPM = (30.0, 220.0)


class Bami(PairedBuilder):
  """BAMI-1."""

  SOURCE = "https://github.com/HeewonChung92/CNN_LSTM_HeartRateEstimation"
  LICENCE = "none stated; cite the authors"
  CITATION = (
    "H. Chung, H. Ko, H. Lee, J. Lee, Deep Learning for Heart Rate Estimation from Reflectance"
    " Photoplethysmography with Acceleration Power Spectrum and Acceleration Intensity,"
    " IEEE Access 8, 2020"
  )

  def sources(self) -> Sequence[Source]:
    """One recording a file, by number."""
    folder = self.folder()
    numbers = {
      int(match[1]): path
      for path in folder.glob("BAMI-1/BAMI1_*.mat")
      if (match := re.fullmatch(r"BAMI1_(\d+)\.mat", path.name))
    }
    if not numbers:
      raise DistillError(f"no BAMI-1/BAMI1_<n>.mat under {folder}; get BAMI from {self.SOURCE}")
    return [
      Source(f"P{n:02d}", functools.partial(read, numbers[n], f"P{n:02d}")) for n in sorted(numbers)
    ]


def read(path: pathlib.Path, participant: str) -> Recording:
  """One file as a recording; time 0 is its first sample.

  Raises:
    DistillError: not a MAT file, or an array is missing or has another shape.
  """
  try:
    file = scipy.io.loadmat(path, variable_names=("rawPPG", "rawAcc", "bpm_ecg"))
  except (OSError, ValueError, TypeError, NotImplementedError) as error:
    raise DistillError(f"{path} cannot be read as a MAT file: {error}") from error
  ppg, acc, hr_bpm = (_array(file, name, path) for name in ("rawPPG", "rawAcc", "bpm_ecg"))
  if ppg.shape[0] != 3 or acc.shape[0] != 3 or hr_bpm.shape[1] != 1:
    raise DistillError(
      f"{path}: rawPPG {ppg.shape}, rawAcc {acc.shape}, bpm_ecg {hr_bpm.shape}; expected (3, N),"
      " (3, N), (W, 1)"
    )
  valid = (hr_bpm[:, 0] >= HR_RANGE_BPM[0]) & (hr_bpm[:, 0] <= HR_RANGE_BPM[1])
  track = HeartRateTrack(
    t0_s=LABEL_STEP_S * np.arange(len(hr_bpm)),
    window_s=LABEL_S,
    hr_bpm=np.where(valid, hr_bpm[:, 0], np.nan).astype(np.float32),
    origin="ecg",
  )
  acc_g = (acc.T - ZERO_G) / COUNTS_PER_G
  signals = {
    "ppg": Signal(ppg[PPG_CHANNEL, :, None].astype(np.float32), RATE_HZ, 0.0, "au"),
    "acc": Signal(acc_g.astype(np.float32), RATE_HZ, 0.0, "g"),
  }
  return Recording(participant, "treadmill", signals, heart_rate=track)


def _array(file: dict, name: str, path: pathlib.Path) -> np.ndarray:
  """[rows, columns] float64: the counts are unsigned, and any difference of them would wrap."""
  if name not in file or np.ndim(file[name]) != 2 or not np.size(file[name]):
    raise DistillError(f"{path} holds no array {name}; expected a file of BAMI-1")
  return np.asarray(file[name], np.float64)
