"""One's own recordings: a folder of CSV, Parquet, NPZ, EDF or WFDB files with a manifest.

The manifest (`distill.data.manifest`) says who was recorded, which file and column holds what, at
which rate or with which time column, in which unit and from when on. `distill.data.inspect` shows
what was found before anything is prepared.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill import beats as beats_module
from distill import signals as signals_module
from distill.data import clocks, manifest, tables, units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.recording import Beats, HeartRateTrack, Recording, Signal, Stretch
from distill.errors import DistillError
from distill.spec import MODALITIES

HR_RANGE_BPM = (25.0, 250.0)  # outside, a value is none
RATES_HZ = (8.0, 5000.0)  # that a pulse or movement is sampled at; outside, time_unit is wrong


class Own(PairedBuilder):
  """One's own recordings."""

  SOURCE = "a folder of your own with manifest.toml or manifest.csv"
  LICENCE = "your own"

  def folder(self) -> pathlib.Path:
    """`data.source` itself."""
    root = pathlib.Path(self.data_config.source or ".")
    if not self.data_config.source or not root.is_dir():
      raise DistillError(f"set own needs data.source={root} to be {self.SOURCE}")
    return root

  @functools.cached_property
  def manifest(self) -> manifest.Manifest:
    """What the folder's manifest says."""
    return manifest.load(self.folder())

  @property
  def same_device(self) -> bool:
    """As the manifest says."""
    return self.manifest.same_device

  def sources(self) -> Sequence[Source]:
    """One recording a session of the manifest, in its order."""
    return [
      Source(f"{one.participant}/{one.name}", functools.partial(read, one))
      for one in self.manifest.sessions
    ]

  def identity(self) -> dict[str, Any]:
    """The manifest's text, and size and time of every file: edited recordings are prepared anew."""
    files = sorted({e.file for one in self.manifest.sessions for e in one.signals.values()})
    stats = {str(path): path.stat() for path in files if path.is_file()}
    return {
      **super().identity(),
      "manifest": hashlib.sha256(self.manifest.path.read_bytes()).hexdigest(),
      "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }


def read(session: manifest.Session) -> Recording:
  """One session of a manifest as a recording.

  Raises:
    DistillError: a file that is missing or damaged, a rate that nothing tells, a unit that gravity
      contradicts; the message names the entry of the manifest, or file and line.
  """
  entries = session.signals
  found = {name: read_signal(entries[name], name)[0] for name in MODALITIES if name in entries}
  return Recording(
    session.participant,
    session.name,
    found,
    beats=_reference(entries),
    heart_rate=_heart_rate(entries["hr"]) if "hr" in entries else None,
    activities=_activities(entries["activity"]) if "activity" in entries else (),
    age=session.age,
    sex=session.sex,
    bmi=session.bmi,
    skin_tone=session.skin_tone,
  )


def _table(entry: manifest.Entry) -> tables.Table:
  return tables.read(
    entry.file, entry.columns, time=entry.time, time_unit=entry.time_unit, skip=entry.skip
  )


def read_signal(entry: manifest.Entry, kind: str) -> tuple[Signal, clocks.Stamps | None]:
  """One signal, acceleration in g and PPG upright; what its time stamps show, if it has any.

  Raises:
    DistillError: see `read`.
  """
  table = _table(entry)
  if kind == "acc" and table.values.shape[1] != 3:
    raise DistillError(f"{entry.where}: {table.values.shape[1]} columns; expected x, y and z")
  signal, stamps = _on_clock(entry, table)
  samples = signal.samples - np.float32(entry.offset)
  if kind == "acc":
    samples = units.in_g(samples, _unit(entry, table), entry.where)
  elif entry.inverted:
    samples = -samples
  unit = "g" if kind == "acc" else "au"
  return dataclasses.replace(signal, samples=samples, unit=unit), stamps


def _unit(entry: manifest.Entry, table: tables.Table) -> str:
  """The unit that the manifest names, else the file's where it is one, else gravity's."""
  if entry.unit != "auto" or not table.units:
    return entry.unit
  try:
    units.per_g(table.units[0], entry.where)
  except DistillError:
    return "auto"
  return table.units[0]


def _on_clock(entry: manifest.Entry, table: tables.Table) -> tuple[Signal, clocks.Stamps | None]:
  if table.times_s is not None:
    where = str(entry.file)
    signal, stamps = clocks.even(
      table.times_s,
      table.values,
      unit="",
      where=where,
      rate_hz=entry.rate_hz,
      first_row=table.first_row,
    )
    start_s = signal.start_s + (entry.start_s or 0.0)
  else:
    rate_hz, stamps = entry.rate_hz or table.rate_hz, None
    if rate_hz is None:
      raise DistillError(f"{entry.where} needs rate_hz = <samples per second>, or time = <column>")
    if table.rate_hz and abs(rate_hz / table.rate_hz - 1) > clocks.NOMINAL:
      raise DistillError(
        f"{entry.where}: rate_hz is {rate_hz:g}, {entry.file.name} itself says {table.rate_hz:g};"
        " leave rate_hz out"
      )
    given = (entry.start_s, table.start_s, 0.0)
    start_s = next(value for value in given if value is not None)
    signal = Signal(table.values, signals_module.check_rate(rate_hz, entry.where), start_s, "")
  rate_hz = signal.rate_hz * (1 + 1e-6 * entry.drift_ppm)
  if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
    raise DistillError(
      f"{entry.where} has {rate_hz:.4g} samples per second; expected {RATES_HZ[0]:g} to"
      f" {RATES_HZ[1]:g}: is time_unit or rate_hz right?"
    )
  return dataclasses.replace(signal, rate_hz=rate_hz, start_s=start_s), stamps


def _reference(entries: Any) -> Beats | None:
  """Beats as given, else R peaks of the ECG, else None."""
  if "beats" in entries:
    entry = entries["beats"]
    times_s = _times(entry, entry.time)
    if np.any(np.diff(times_s) <= 0):
      row = int(np.flatnonzero(np.diff(times_s) <= 0)[0]) + 2
      raise DistillError(f"{entry.where}: beat {row} is not later than the one before")
    return Beats(times_s, beats_module.regular(times_s), entry.origin)
  if "ecg" in entries:
    signal, _ = read_signal(entries["ecg"], "ecg")
    found = beats_module.detect_ecg(signal.samples[:, 0], signal.rate_hz)
    return beats_module.shifted(found, signal.start_s)
  return None


def _times(entry: manifest.Entry, column: str) -> np.ndarray:
  """[rows] float64 seconds of a column of times."""
  table = tables.read(entry.file, (), time=column, time_unit=entry.time_unit, skip=entry.skip)
  if not np.isfinite(table.stamps_s).all():
    raise DistillError(f"{entry.file}: column {column!r} has an empty field; expected times")
  return table.stamps_s + (entry.start_s or 0.0)


def _heart_rate(entry: manifest.Entry) -> HeartRateTrack:
  hr_bpm = _table(entry).values[:, 0]
  if entry.time:
    times_s = _times(entry, entry.time)
  else:
    step_s = 1 / entry.rate_hz if entry.rate_hz else entry.window_s
    times_s = (entry.start_s or 0.0) + step_s * np.arange(len(hr_bpm))
  possible = (hr_bpm >= HR_RANGE_BPM[0]) & (hr_bpm <= HR_RANGE_BPM[1])
  return HeartRateTrack(
    times_s, entry.window_s, np.where(possible, hr_bpm, np.float32(np.nan)), entry.origin
  )


def _activities(entry: manifest.Entry) -> tuple[Stretch, ...]:
  start, stop, label = entry.columns
  starts_s, stops_s = _times(entry, start), _times(entry, stop)
  (labels,) = tables.read_text(entry.file, (label,), skip=entry.skip)
  backwards = np.flatnonzero(stops_s <= starts_s)
  if len(backwards):
    raise DistillError(f"{entry.file}: activity {backwards[0] + 1} stops before it starts")
  rows = zip(starts_s, stops_s, labels, strict=True)
  return tuple(Stretch(float(a), float(b), name) for a, b, name in rows if name)
