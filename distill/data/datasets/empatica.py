"""Empatica E4 sessions: a folder, or a flat zip, with ACC.csv and BVP.csv among other files.

Line 1 is the start (Unix seconds or a date in UTC), line 2 the rate, then one row a sample. HR.csv
is never read: it is smoothed and lags by about 30 s. Acceleration beyond +-2 g is clipped by the
device and kept so. The set "empatica_e4" takes a tree of such sessions, whoever exported them.
"""

import datetime
import functools
import io
import pathlib
import re
import zipfile
from collections.abc import Sequence

import numpy as np

from distill.data import untrusted
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.recording import Recording, Signal
from distill.errors import DistillError

COUNTS_PER_G = 64.0
RATES_HZ = {"ACC.csv": 32.0, "BVP.csv": 64.0}
CHANNELS = {"ACC.csv": 3, "BVP.csv": 1}


class EmpaticaE4(PairedBuilder):
  """Any tree of E4 sessions: a folder or zip each, under a folder for each participant."""

  name = "empatica_e4"
  SOURCE = "sessions exported from E4 Connect, in folders named after the participants"
  LICENCE = "your own"

  def sources(self) -> Sequence[Source]:
    """Every session below the folder; the first folder on the way is the participant."""
    root = self.folder()
    found = {path.parent for path in root.rglob("BVP.csv")}
    found |= {path for path in root.rglob("*.zip") if _holds_session(path)}
    if not found:
      raise DistillError(f"no BVP.csv and no zip with one under {root}; expected {self.SOURCE}")
    sources = []
    for session in sorted(found):
      parts = session.relative_to(root).with_suffix("").parts or (root.name,)
      name = "/".join(parts[1:]) or "session"
      load = functools.partial(read_recording, session, parts[0], name)
      sources.append(Source("/".join(parts), load))
    return sources


def _holds_session(path: pathlib.Path) -> bool:
  try:
    with zipfile.ZipFile(path) as archive:
      return "BVP.csv" in archive.namelist()
  except (OSError, zipfile.BadZipFile):
    return False


def read_recording(session: pathlib.Path, participant: str, name: str) -> Recording:
  """One session as a recording; its clock is Unix time. Errors as `read`."""
  return Recording(participant, name, read(session))


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
  start_s, rate_hz = _header(lines[0], where, 1), _header(lines[1], where, 2)
  if rate_hz != RATES_HZ[name]:
    raise DistillError(f"{where}, line 2: rate {rate_hz:g} Hz; expected {RATES_HZ[name]:g} Hz")
  return Signal(_rows(lines[2], CHANNELS[name], where), rate_hz, start_s, unit)


def _text(session: pathlib.Path, name: str) -> tuple[str, str]:
  """(content, what messages call it) of one file of a folder or zip."""
  where = f"{session}/{name}"
  untrusted.check_size(session / name, untrusted.MAX_TEXT_BYTES)
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
  text = line.split(",")[0].strip()
  try:
    return float(text)
  except ValueError:
    pass
  try:
    date = datetime.datetime.fromisoformat(text)
  except ValueError as error:
    raise DistillError(f"{where}, line {row}: expected a number, got {line.strip()!r}") from error
  return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp()


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
