"""The small text file that says what one's own recordings are: manifest.toml or manifest.csv.

TOML, one [[recording]] a session, its signals as tables in it:

    same_device = true
    [[recording]]
    participant = "anna"
    name = "monday"
    age = 31
    sex = "female"
    skin_tone = "IV"
    ppg = { file = "anna/monday.csv", column = "green", rate_hz = 64.0 }
    acc = { file = "anna/monday_acc.csv", columns = ["x", "y", "z"], time = "t", time_unit = "ms" }

CSV, one row a signal, with the same words as header; several columns are separated by "|", fields
by commas, semicolons or tabs:

    participant,name,signal,file,column,rate_hz,time,time_unit,unit
    anna,monday,ppg,anna/monday.csv,green,64,,,
    anna,monday,acc,anna/monday_acc.csv,x|y|z,,t,ms,m/s2

Age in years, BMI in kg/m2, skin tone in the words of any one scale, such as Fitzpatrick's I to VI;
they may be left out, and are asked of a person once.
"""

import csv
import dataclasses
import datetime
import math
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from distill.data import tables
from distill.errors import DistillError, nearest

NAMES = ("manifest.toml", "manifest.csv")
PERSON = ("age", "sex", "bmi", "skin_tone")
POSSIBLE = {"age": (0.0, 120.0), "bmi": (5.0, 150.0)}  # years, kg/m2
SEXES = ("", "female", "male")
COLUMNS = {"ppg": 1, "acc": 3, "ecg": 1, "beats": 0, "hr": 1, "activity": 3}  # that each needs


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where one signal of a recording is and how it is to be read.

  Attributes:
    where: what messages call it, such as "manifest.toml: anna/monday: ppg".
    file: path of the file.
    columns: one for ppg, ecg and hr; x, y, z for acc; none for beats, whose times are their data;
      start, stop and label for activity.
    rate_hz: samples per second; None where the file or its time column says it.
    time: name of the time column, "" for none.
    time_unit: "s", "ms", "us", "ns" or "iso".
    start_s: time of the first sample, or, beside a time column, what is added to it; seconds.
    drift_ppm: by how many millionths the device's clock runs fast.
    unit: of acceleration: "g", "m/s2", "mg", "1/64 g", or "auto" to have gravity settle it.
    offset: what is subtracted first, in `unit`'s own counts (32768 of unsigned 16 bit).
    inverted: whether the PPG is upside down.
    skip: lines of a text file before its header.
    window_s: of hr: seconds that each value stands for.
    origin: of beats and hr: "ecg" or "chest_strap".
  """

  where: str
  file: pathlib.Path
  columns: tuple[str, ...] = ()
  rate_hz: float | None = None
  time: str = ""
  time_unit: str = "s"
  start_s: float | None = None
  drift_ppm: float = 0.0
  unit: str = "auto"
  offset: float = 0.0
  inverted: bool = False
  skip: int = 0
  window_s: float = 8.0
  origin: str = "ecg"


@dataclasses.dataclass(frozen=True)
class Session:
  """One recording of the manifest: its signals by name, and who was recorded."""

  participant: str
  name: str
  signals: Mapping[str, Entry]
  age: float = math.nan
  sex: str = ""
  bmi: float = math.nan
  skin_tone: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
  """All recordings of a folder.

  Attributes:
    path: of the manifest.
    sessions: recordings, in the order of the file.
    same_device: whether PPG and acceleration come from one device and clock.
  """

  path: pathlib.Path
  sessions: tuple[Session, ...]
  same_device: bool = True


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """The manifest of a folder, or None.

  Raises:
    DistillError: both a TOML and a CSV manifest.
  """
  there = [folder / name for name in NAMES if (folder / name).is_file()]
  if len(there) > 1:
    raise DistillError(f"{folder} has both {' and '.join(NAMES)}; keep one of them")
  return there[0] if there else None


def load(folder: pathlib.Path) -> Manifest:
  """Reads the manifest of a folder.

  Raises:
    DistillError: no manifest, text that is no TOML or CSV, a key that is not known, a value of the
      wrong kind, one recording given twice, one file under two participants, or a participant whose
      age, sex, BMI or skin tone changes; the message names the place.
  """
  path = find(folder)
  if path is None:
    raise DistillError(
      f"no {' or '.join(NAMES)} in {folder}; `distill inspect {folder}` proposes one from the files"
    )
  manifest = (_from_toml if path.suffix == ".toml" else _from_csv)(path)
  if not manifest.sessions:
    raise DistillError(f"{path} names no recording")
  _check_people(manifest)
  return manifest


# --- the two ways to write it --------------------------------------------------------------------


def _from_toml(path: pathlib.Path) -> Manifest:
  try:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
  except UnicodeDecodeError as error:
    raise DistillError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
  except tomllib.TOMLDecodeError as error:
    raise DistillError(f"{path} is no TOML: {error}") from error
  _known(content, ("same_device", "recording"), str(path))
  recordings = content.get("recording", [])
  if not isinstance(recordings, list) or not all(isinstance(one, dict) for one in recordings):
    raise DistillError(f"{path}: expected tables [[recording]]")
  sessions = []
  for number, one in enumerate(recordings, start=1):
    where = f"{path}: recording {number}"
    _known(one, ("participant", "name", *PERSON, *COLUMNS), where)
    signals = {name: one[name] for name in COLUMNS if name in one}
    for name, fields in signals.items():
      if not isinstance(fields, dict):
        raise DistillError(f"{where}: {name} must be a table {{ file = ..., column = ... }}")
    sessions.append(_session(path, where, one, signals))
  return Manifest(path, tuple(sessions), _bool(content.get("same_device", True), str(path)))


def _from_csv(path: pathlib.Path) -> Manifest:
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      first = file.readline()
      file.seek(0)
      delimiter = max(tables.DELIMITERS, key=first.count)
      reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
      header = tuple(reader.fieldnames or ())
      rows = [(reader.line_num, row) for row in reader]
  except UnicodeDecodeError as error:
    raise DistillError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
  except csv.Error as error:
    raise DistillError(f"{path} is no CSV: {error}") from error
  for name in ("participant", "signal", "file"):
    if name not in header:
      raise DistillError(f"{path}, line 1: no column {name!r}; it has: {', '.join(header)}")
  _known(
    dict.fromkeys(header), ("participant", "name", "signal", *PERSON, *_KEYS), f"{path}, line 1"
  )
  grouped: dict[tuple[str, str], tuple[str, dict, dict]] = {}
  for line, row in rows:
    where = f"{path}, line {line}"
    if None in row or None in row.values():
      raise DistillError(f"{where}: expected {len(header)} fields")
    fields = {key: value.strip() for key, value in row.items() if value.strip()}
    kind = fields.pop("signal", "")
    if kind not in COLUMNS:
      raise DistillError(f"{where}: signal {kind!r}{nearest(kind, COLUMNS)}")
    person = {k: fields.pop(k) for k in ("participant", "name", *PERSON) if k in fields}
    key = (person.get("participant", ""), person.get("name", ""))
    _, known, signals = grouped.setdefault(key, (where, person, {}))
    if kind in signals:
      raise DistillError(
        f"{where}: {kind} of {'/'.join(key)} is given twice; give the sessions names"
      )
    known |= person
    signals[kind] = fields
  return Manifest(path, tuple(_session(path, *one) for one in grouped.values()))


# --- what is in it -------------------------------------------------------------------------------


def _session(
  path: pathlib.Path, where: str, fields: Mapping[str, Any], signals: Mapping[str, Any]
) -> Session:
  participant = str(fields.get("participant", "")).strip()
  if not participant:
    raise DistillError(f"{where} has no participant; every split is by participant")
  sex = str(fields.get("sex", "")).lower()
  sex = {"f": "female", "m": "male"}.get(sex, sex)
  if sex not in SEXES:
    raise DistillError(f"{where}: sex {sex!r}; expected female, male, or nothing")
  entries = {
    name: _entry(path, f"{where}: {participant}: {name}", name, one)
    for name, one in signals.items()
  }
  if not entries:
    raise DistillError(f"{where}: {participant} has no signal; expected ppg and acc")
  name = str(fields.get("name", "")).strip() or next(iter(entries.values())).file.stem
  age, bmi = (_of_person(fields, key, where) for key in POSSIBLE)
  skin_tone = str(fields.get("skin_tone", "")).strip()
  return Session(participant, name, entries, age, sex, bmi, skin_tone)


def _of_person(fields: Mapping[str, Any], key: str, where: str) -> float:
  """Age or BMI, NaN where it is not told."""
  if key not in fields:
    return math.nan
  value, (low, high) = _number(fields[key], f"{where}: {key}"), POSSIBLE[key]
  if not low <= value <= high:
    raise DistillError(f"{where}: {key} is {value:g}; expected {low:g} to {high:g}, or nothing")
  return value


_KEYS = {
  "file": "text",
  "column": "names",
  "columns": "names",
  "rate_hz": "number",
  "time": "text",
  "time_unit": "text",
  "start": "time",
  "drift_ppm": "number",
  "unit": "text",
  "offset": "number",
  "inverted": "bool",
  "skip": "count",
  "window_s": "number",
  "origin": "text",
}


def _entry(path: pathlib.Path, where: str, kind: str, fields: Mapping[str, Any]) -> Entry:
  _known(fields, tuple(_KEYS), where)
  found: dict[str, Any] = {}
  for key, value in fields.items():
    text = f"{where}: {key}"
    what = _KEYS[key]
    if what == "number":
      found[key] = _number(value, text)
    elif what == "count":
      found[key] = _count(value, text)
    elif what == "bool":
      found[key] = _bool(value, text)
    elif what == "time":
      found["start_s"] = _time(value, text)
    elif what == "names":
      found["columns"] = _names(value)
    else:
      found[key] = str(value)
  if "file" not in found:
    raise DistillError(f"{where} has no file")
  entry = Entry(where=where, **{**found, "file": path.parent / found["file"]})
  _check_entry(kind, entry)
  return entry


def _check_entry(kind: str, entry: Entry) -> None:
  needed = COLUMNS[kind]
  npz = entry.file.suffix == ".npz" and len(entry.columns) == 1  # one array may hold them all
  if len(entry.columns) != needed and not npz:
    raise DistillError(
      f"{entry.where} names {len(entry.columns)} column(s); expected {needed}"
      + (": x, y and z" if kind == "acc" else "")
    )
  for key, value in (("rate_hz", entry.rate_hz), ("window_s", entry.window_s)):
    if value is not None and value <= 0:
      raise DistillError(f"{entry.where}: {key} is {value:g}; expected a positive number")
  if kind == "beats" and not entry.time:
    raise DistillError(f"{entry.where} needs time = the name of the column of beat times")
  if entry.origin not in ("ecg", "chest_strap"):
    raise DistillError(f"{entry.where}: origin {entry.origin!r}; expected ecg or chest_strap")
  if abs(entry.drift_ppm) > 1e4:
    raise DistillError(
      f"{entry.where}: drift_ppm is {entry.drift_ppm:g}; expected under 10000 (1 %)"
    )


def _known(fields: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
  for key in fields:
    if key not in known:
      raise DistillError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")


def _number(value: Any, where: str) -> float:
  try:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
      raise ValueError
    return number
  except (TypeError, ValueError) as error:
    raise DistillError(f"{where} is {value!r}; expected a number") from error


def _count(value: Any, where: str) -> int:
  number = _number(value, where)
  if number < 0 or number != int(number):
    raise DistillError(f"{where} is {value!r}; expected a whole number from 0 on")
  return int(number)


def _bool(value: Any, where: str) -> bool:
  text = str(value).lower()
  if text not in ("true", "false", "yes", "no", "1", "0"):
    raise DistillError(f"{where} is {value!r}; expected true or false")
  return text in ("true", "yes", "1")


def _names(value: Any) -> tuple[str, ...]:
  if isinstance(value, list):
    return tuple(str(one) for one in value)
  return tuple(one.strip() for one in str(value).split("|"))


def _time(value: Any, where: str) -> float:
  """Seconds: a number as it is, a date as Unix time (UTC where it has no zone)."""
  if isinstance(value, str):
    try:
      value = datetime.datetime.fromisoformat(value)
    except ValueError:
      return _number(value, where)
  if isinstance(value, datetime.datetime):
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
  return _number(value, where)


def _check_people(manifest: Manifest) -> None:
  """Two people under one name, or one recording under two, would spoil every split."""
  people: dict[str, Session] = {}
  names: set[tuple[str, str]] = set()
  owners: dict[tuple[pathlib.Path, tuple[str, ...]], str] = {}
  for one in manifest.sessions:
    if (one.participant, one.name) in names:
      raise DistillError(
        f"{manifest.path}: recording {one.participant}/{one.name} is given twice; name each"
      )
    names.add((one.participant, one.name))
    first = people.setdefault(one.participant, one)
    for key in PERSON:
      here, there = getattr(one, key), getattr(first, key)
      if here != there and not (here != here or there != there or "" in (here, there)):
        raise DistillError(
          f"{manifest.path}: participant {one.participant!r} has {key} {there} and {here}; are"
          " these two people? give each a name"
        )
    for entry in one.signals.values():
      owner = owners.setdefault((entry.file.resolve(), entry.columns), one.participant)
      if owner != one.participant:
        raise DistillError(
          f"{manifest.path}: {entry.file} is given for {owner!r} and for {one.participant!r}; a"
          " recording of one person under two names would leak between training and test"
        )
