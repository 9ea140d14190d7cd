"""Sets with labels and one sensor, for probes alone: PAMAP2, HHAR, MotionSense, MIT-BIH.

Their recordings hold acceleration without PPG, or an ECG alone, so they cannot be paired and are
no builders of `distill.data.datasets`. `open_set` reads the official files and cuts and labels
windows in memory.
"""

import pathlib
from typing import Any

import numpy as np
import tqdm

from distill import signals
from distill.data.labelled import hhar, mitbih, motionsense, pamap2
from distill.errors import DistillError
from distill.spec import ACC, SignalSpec

# Name -> module with SOURCE, TARGET, read(folder) -> recordings, label(recording, t0_s, window_s).
READERS: dict[str, Any] = {
  "pamap2": pamap2,
  "hhar": hhar,
  "motionsense": motionsense,
  "mitbih": mitbih,
}
MIN_COVERAGE = 0.5


class LabelledSet:
  """Windows of one signal with one class each; read like a prepared set.

  Attributes:
    name: of the set.
    specs: modality -> SignalSpec of the windows.
    simulated: False.
    index: columns participant, recording, t0_s and the target, "" where no class fills the window.
  """

  simulated = False

  def __init__(
    self, name: str, spec: SignalSpec, windows: np.ndarray, index: dict[str, np.ndarray]
  ):
    self.name, self.specs, self.index = name, {spec.modality: spec}, index
    self._windows, self._modality = windows, spec.modality

  def __len__(self) -> int:
    return len(self._windows)

  def windows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The windows `rows` [n]: modality -> [n, time, channels] float32, NaN where missing."""
    return {self._modality: self._windows[rows]}


def open_set(name: str, data_config: Any) -> LabelledSet:
  """Reads and cuts a set.

  Args:
    name: of READERS.
    data_config: the config's data section: source, window_s, hop_s and working rates. The ECG of
      MIT-BIH stands where PPG stands, as the one wave of the heart that it has.

  Raises:
    DistillError: no source, no files, or a file that is not as published.
  """
  reader = READERS[name]
  if not data_config.source:
    raise DistillError(
      f"set {name} needs its official files: set data.source to the folder that holds {name}/"
      f" (get them from {reader.SOURCE})"
    )
  root = pathlib.Path(data_config.source)
  folder = root / name if (root / name).is_dir() else root
  return _cut(name, reader, folder, data_config)


def _cut(name: str, reader: Any, folder: pathlib.Path, data_config: Any) -> LabelledSet:
  parts: list[np.ndarray] = []
  rows: list[tuple[str, str, float, str]] = []
  modality, rate_hz, window_s = "", 0.0, float(data_config.window_s)
  for recording in tqdm.tqdm(reader.read(folder), desc=f"read {name}", unit="recording"):
    (modality,) = recording.signals
    rate_hz = data_config[f"{modality}_rate_hz"]
    signal = recording.signals[modality]
    even = signals.resample(signal.samples, signal.rate_hz, rate_hz)
    stop_s = signal.start_s + len(even) / rate_hz
    for t0_s in signals.window_starts(signal.start_s, stop_s, window_s, data_config.hop_s):
      window = signals.cut(even, rate_hz, t0_s - signal.start_s, window_s)
      if np.isfinite(window).all(axis=1).mean() >= MIN_COVERAGE:
        parts.append(window)
        label = reader.label(recording, float(t0_s), window_s)
        rows.append((recording.participant, recording.name, float(t0_s), label))
  if not parts:
    raise DistillError(f"set {name}: no recording in {folder} holds a window of {window_s:g} s")
  unit, channels = ("g", ("x", "y", "z")) if modality == ACC else ("au", ("wave",))
  spec = SignalSpec(modality, rate_hz, window_s, channels, unit)
  columns = [np.array(column) for column in zip(*rows, strict=True)]
  index = dict(zip(("participant", "recording", "t0_s", reader.TARGET), columns, strict=True))
  return LabelledSet(name, spec, np.stack(parts).astype(np.float32), index)
