"""Empatica E4 sessions: a folder, or a flat zip, with ACC.csv and BVP.csv among other files.

Line 1 is the start (Unix seconds), line 2 the rate, then one row a sample. HR.csv is never read: it
is smoothed and lags by about 30 s. Acceleration beyond +-2 g is clipped by the device and kept so.
"""

import io
import pathlib
import re

import numpy as np

from distill.data import untrusted
from distill.data.recording import Signal
from distill.errors import DistillError

COUNTS_PER_G = 64.0
RATES_HZ = {"ACC.csv": 32.0, "BVP.csv": 64.0}
CHANNELS = {"ACC.csv": 3, "BVP.csv": 1}


def read(session: pathlib.Path) -> dict[str, Signal]:
  """PPG and acceleration of a session, `start_s` in Unix seconds.

  Args:
    session: folder or zip with the CSV files at its root.

  Returns:
    {"ppg": [time, 1] in the device's arbitrary unit, "acc": [time, 3] in g}.

  Raises:
    DistillError: a file is missing, has no data, another rate, or a row that is no number; the
      message names file and row.
  """
  bvp, acc = _signal(session, "BVP.csv", "au"), _signal(session, "ACC.csv", "g")
  acc = Signal(acc.samples / np.float32(COUNTS_PER_G), acc.rate_hz, acc.start_s, acc.unit)
  return {"ppg": bvp, "acc": acc}


def _signal(session: pathlib.Path, name: str, unit: str) -> Signal:
  text, where = _text(session, name)
  lines = text.split("\n", 2)
  if len(lines) < 3 or not lines[2].strip():
    raise DistillError(f"{where} has no data: expected a start time, a rate, then one row a sample")
  start_s, rate_hz = (_header(line, where, row) for row, line in enumerate(lines[:2], start=1))
  if rate_hz != RATES_HZ[name]:
    raise DistillError(f"{where}, line 2: rate {rate_hz:g} Hz; expected {RATES_HZ[name]:g} Hz")
  return Signal(_rows(lines[2], CHANNELS[name], where), rate_hz, start_s, unit)


def _text(session: pathlib.Path, name: str) -> tuple[str, str]:
  """(content, what messages call it) of one file of a folder or zip."""
  where = f"{session}/{name}"
  try:
    content = (session / name).read_bytes() if session.is_dir() else None
  except OSError as error:
    raise DistillError(f"no {where}; expected an Empatica E4 session with {name}") from error
  try:
    return (untrusted.zip_member(session, name) if content is None else content).decode(
      "ascii"
    ), where
  except UnicodeDecodeError as error:
    raise DistillError(f"{where} cannot be read: {error}") from error


def _header(line: str, where: str, row: int) -> float:
  try:
    return float(line.split(",")[0])
  except ValueError as error:
    raise DistillError(f"{where}, line {row}: expected a number, got {line.strip()!r}") from error


def _rows(text: str, channels: int, where: str) -> np.ndarray:
  """[rows, channels] float32."""
  try:
    # numpy's C reader: 30 times the speed of Python's csv on these files.
    rows = np.loadtxt(io.StringIO(text), np.float32, delimiter=",", ndmin=2, comments=None)
  except ValueError as error:
    raise DistillError(f"{where}, {_broken_row(text, channels)}") from error
  if rows.shape[1] != channels:
    raise DistillError(f"{where} has {rows.shape[1]} columns; expected {channels}")
  return rows


def _broken_row(text: str, channels: int) -> str:
  number = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
  for line, row in enumerate(text.splitlines(), start=3):
    fields = row.split(",")
    if row.strip() and (len(fields) != channels or not all(map(number.fullmatch, fields))):
      return f"line {line}: expected {channels} number(s), got {row.strip()[:40]!r}"
  return f"expected rows of {channels} number(s)"
