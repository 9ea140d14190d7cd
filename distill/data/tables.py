"""Columns out of the files people have: CSV, Parquet, NPZ, EDF/BDF and WFDB records.

One call, `read`, whatever the format; what a file itself knows of its rate, start and units comes
along. Only the columns asked for are held, and no more than MOST_VALUES of them: a larger file is
refused before it fills the memory. EDF needs the package edfio and WFDB the package wfdb, both
optional.
"""

import contextlib
import dataclasses
import datetime
import pathlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distill.errors import DistillError, nearest

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
ISO = "iso"  # of a time column that holds dates such as 2024-03-01T10:00:00.25Z
TEXT = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t")  # the one that a header has most often counts
TIME_WORDS = ("time", "timestamp", "t", "seconds", "unix")
SUFFIXES = (*TEXT, ".parquet", ".npz", ".edf", ".bdf", ".hea")
_EMPTY = ["", " ", "NaN", "nan", "NA", "N/A", "null", "NULL", "None"]
_BLOCK_BYTES = 16 << 20
_LINE_BYTES = 1 << 20  # of a header; what is longer is no table of text
# Numbers of one signal and its times: 4 days of three axes at 50 Hz. What follows holds a recording
# whole, at up to 110 bytes a number where its time stamps jitter: 7 GB.
MOST_VALUES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Table:
  """Columns of one file.

  Attributes:
    values: [rows, columns] float32, NaN where a field is empty.
    times_s: [rows] float64, or None without a time column; Unix seconds where it holds dates.
    first_row: number of the first row of data in the file, for messages.
    rate_hz: samples per second, where the format says it.
    start_s: Unix seconds of the first sample, where the format says it.
    units: of the columns, where the format says them; else "".
  """

  values: np.ndarray
  times_s: np.ndarray | None = None
  first_row: int = 1
  rate_hz: float | None = None
  start_s: float | None = None
  units: tuple[str, ...] = ()

  @property
  def stamps_s(self) -> np.ndarray:
    """`times_s` of a file that was read with a time column.

    Raises:
      DistillError: it was read without one.
    """
    if self.times_s is None:
      raise DistillError("this table was read without a time column; pass time=<name>")
    return self.times_s


def read(
  path: pathlib.Path,
  columns: Sequence[str],
  *,
  time: str = "",
  time_unit: str = "s",
  skip: int = 0,
) -> Table:
  """Columns of a file as numbers.

  Args:
    path: the format is told by the suffix; of a WFDB record the .hea file.
    columns: names; of text files without a header, numbers that count from "1". In NPZ a name may
      be that of an array [rows, columns].
    time: name of the time column, "" for none.
    time_unit: "s", "ms", "us", "ns", or "iso" for dates; without a zone they count as UTC.
    skip: lines of a text file before its header.

  Raises:
    DistillError: no such file or column, a format that is not known, a field that is no number, a
      damaged file, or more than MOST_VALUES numbers; the message names the file, and the line where
      there are lines.
  """
  if time_unit not in (*SECONDS, ISO):
    raise DistillError(
      f"{path}: time_unit {time_unit!r}; expected one of {', '.join(SECONDS)}, iso"
    )
  if not path.is_file():
    raise DistillError(f"no file {path}")
  suffix = _suffix(path)
  if suffix in TEXT:
    return _text(path, columns, time, time_unit, skip)
  if suffix in (".parquet", ".npz"):
    return (_parquet if suffix == ".parquet" else _npz)(path, columns, time, time_unit)
  if time:
    raise DistillError(f"{path} knows its own rate and start; leave out time = {time!r}")
  return (_wfdb if suffix == ".hea" else _edf)(path, columns)


def time_column(names: Sequence[str]) -> str:
  """The one of a file's columns that is called like a clock; "" if none is."""
  lower = {name.lower(): name for name in names}
  return next((lower[word] for word in TIME_WORDS if word in lower), "")


def names(path: pathlib.Path) -> list[str]:
  """Names of the columns of a file, to propose some of them.

  Raises:
    DistillError: as `read`.
  """
  suffix = _suffix(path)
  with _damage(path):
    if suffix in TEXT:
      return _header(path, 0)[0]
    if suffix == ".parquet":
      import pyarrow.parquet

      return list(pyarrow.parquet.read_schema(path).names)
    if suffix == ".npz":
      with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return list(file.files)
    if suffix == ".hea":
      return list(_package("wfdb", path).rdheader(str(path.with_suffix(""))).sig_name)
    return [signal.label for signal in _edf_file(path).signals]


def read_text(path: pathlib.Path, columns: Sequence[str], *, skip: int = 0) -> list[list[str]]:
  """Columns of a text file as texts, each a list of one entry a row; errors as `read`."""
  if not path.is_file():
    raise DistillError(f"no file {path}")
  import pyarrow as pa

  found, _ = _text_columns(path, {name: pa.string() for name in columns}, skip)
  return [found.column(name).to_pylist() for name in columns]


def first_field(path: pathlib.Path, name: str, *, skip: int = 0) -> str:
  """Text of a column in the first row of data of a text, Parquet or NPZ file; errors as `read`."""
  if _suffix(path) not in TEXT:
    return _first_stored(path, name)
  there, delimiter = _header(path, skip)
  if name not in there:
    raise _missing(path, name, there)
  with _damage(path):
    line = _line(path, skip + 2)
  return (line.split(delimiter) + [""] * len(there))[there.index(name)].strip().strip('"')


def _first_stored(path: pathlib.Path, name: str) -> str:
  there = names(path)
  if name not in there:
    raise _missing(path, name, there)
  with _damage(path):
    if _suffix(path) == ".npz":
      with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return str(file[name].reshape(-1)[0])
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as stored:
      batch = next(stored.iter_batches(batch_size=1, columns=[name]))
    return str(batch.column(0)[0].as_py())


def _suffix(path: pathlib.Path) -> str:
  suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix.lower()
  if suffix not in SUFFIXES:
    kind = suffix or "without a suffix"
    raise DistillError(f"{path}: files {kind} cannot be read; known: {', '.join(SUFFIXES)}")
  return suffix


@contextlib.contextmanager
def _damage(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except DistillError:
    raise
  except (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    UserWarning,
    MemoryError,
    zipfile.BadZipFile,
  ) as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise DistillError(f"{path} cannot be read: {reason}") from error


def _check_size(path: pathlib.Path, rows: int, columns: int) -> None:
  if rows * columns > MOST_VALUES:
    raise DistillError(
      f"{path} is too long for one recording, of at most {MOST_VALUES} numbers: it has {rows} rows"
      f" or more in {columns} column(s); split it into parts of a day, each with its own entry"
    )


def _side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray:
  """[rows, all columns] float32 of arrays [rows] or [rows, columns]."""
  flat = [np.asarray(one, np.float32).reshape(len(one), -1) for one in columns]
  return np.concatenate(flat, axis=1) if flat else np.zeros((0, 0), np.float32)


def _missing(path: pathlib.Path, name: str, there: Sequence[str]) -> DistillError:
  return DistillError(f"{path} has no column {name!r}{nearest(name, there)}")


# --- text ----------------------------------------------------------------------------------------


def _text(
  path: pathlib.Path, columns: Sequence[str], time: str, time_unit: str, skip: int
) -> Table:
  import pyarrow as pa

  types: dict[str, Any] = {name: pa.float64() for name in columns}
  if time:
    types[time] = pa.float64() if time_unit != ISO else _date_type(path, time, skip)
  found, first_row = _text_columns(path, types, skip)
  if not found.num_rows:
    raise DistillError(f"{path} has a header but no data")
  values = _side_by_side([found.column(name).to_numpy() for name in columns])
  return Table(values, _seconds(found.column(time), time_unit) if time else None, first_row)


def _seconds(column: Any, time_unit: str) -> np.ndarray:
  """[rows] float64 of a pyarrow column."""
  if time_unit != ISO:
    values: np.ndarray = np.asarray(column.to_numpy(), np.float64) * SECONDS[time_unit]
    return values
  stamps = column.to_numpy().astype("datetime64[us]")
  micros = stamps.astype(np.int64).astype(np.float64)
  return np.where(np.isnat(stamps), np.nan, micros * 1e-6)


def _header(path: pathlib.Path, skip: int) -> tuple[list[str], str]:
  """Names of the columns as written, stripped, and the delimiter."""
  line = _line(path, skip + 1).strip("\r\n")
  if not line.strip():
    raise DistillError(f"{path} is empty{f' after {skip} lines' if skip else ''}")
  delimiter = max(DELIMITERS, key=line.count)
  return [name.strip().strip('"') for name in line.split(delimiter)], delimiter


def _line(path: pathlib.Path, number: int) -> str:
  """Line `number`, from 1 on, with its end; "" after the last."""
  line = b""
  with _open(path) as stream:
    for k in range(1, number + 1):
      line = stream.readline(_LINE_BYTES)
      if len(line) == _LINE_BYTES:
        raise DistillError(f"{path}, line {k} does not end: this is no table of text")
      if not line:
        break
  if b"\0" in line:
    raise DistillError(f"{path}, line {k} holds zero bytes: is it UTF-16? save it as UTF-8")
  return line.decode("utf-8-sig", errors="replace")


def _open(path: pathlib.Path) -> Any:
  import gzip

  return gzip.open(path) if path.name.endswith(".gz") else open(path, "rb")


def _date_type(path: pathlib.Path, time: str, skip: int) -> Any:
  """Dates with a zone and dates without need different types."""
  import pyarrow as pa

  field = first_field(path, time, skip=skip)
  return pa.timestamp("us", tz="UTC" if re.search(r"(Z|[+-]\d\d:?\d\d)$", field) else None)


def _text_columns(path: pathlib.Path, types: dict[str, Any], skip: int) -> tuple[Any, int]:
  """A pyarrow table of the columns, and the line of the first row of data."""
  import pyarrow as pa
  from pyarrow import csv

  with _damage(path):
    there, delimiter = _header(path, skip)
  numbered = all(name.isdigit() for name in types) and not set(types) <= set(there)
  names = [str(1 + i) for i in range(len(there))] if numbered else there
  for name in types:
    if name not in names:
      raise _missing(path, name, names)
  twice = next((name for name in types if names.count(name) > 1), None)
  if twice:
    raise DistillError(f"{path} has two columns {twice!r}; rename one of them")
  first_row = skip + (1 if numbered else 2)
  options = {
    # One thread: only then does the reader know the line of a broken row.
    "read_options": csv.ReadOptions(
      use_threads=False, block_size=_BLOCK_BYTES, skip_rows=first_row - 1, column_names=names
    ),
    "parse_options": csv.ParseOptions(delimiter=delimiter),
    "convert_options": csv.ConvertOptions(
      column_types=types,
      include_columns=list(types),
      timestamp_parsers=[csv.ISO8601],
      null_values=_EMPTY,
      check_utf8=False,
    ),
  }
  try:
    with _open(path) as stream, csv.open_csv(stream, **options) as reader:
      batches, rows = [], 0
      for batch in reader:
        rows += batch.num_rows
        _check_size(path, rows, len(types))
        batches.append(batch)
      table = pa.Table.from_batches(batches, reader.schema)
  except pa.ArrowInvalid as error:
    if "Empty CSV" in str(error):
      raise DistillError(f"{path} has a header but no data") from error
    raise DistillError(_broken(path, str(error), names)) from error
  except (OSError, EOFError) as error:
    raise DistillError(f"{path} cannot be read: {error}") from error
  return table, first_row


def _broken(path: pathlib.Path, message: str, there: Sequence[str]) -> str:
  """What pyarrow says about a row, in our words."""
  message = " ".join(message.split())
  row = re.search(r"Row #(\d+)", message)
  line = f", line {row[1]}" if row else ""
  column, value = re.search(r"column #(\d+)", message), re.search(r"value '(.*)'", message)
  if column and value:
    name = there[int(column[1])]
    hint = "" if "double" in message else " (a date such as 2024-03-01T10:00:00)"
    date = re.match(r"\d{4}-\d\d-\d\d", value[1]) and "double" in message
    comma = re.fullmatch(r"[-+]?\d*,\d+", value[1])
    mend = "; dates need time_unit = 'iso'" if date else ""
    mend += "; write decimals with a point" if comma else ""
    return f"{path}{line}, column {name!r}: expected a number{hint}, got {value[1][:40]!r}{mend}"
  fields = re.search(r"Expected (\d+) columns, got (\d+)", message)
  if fields:
    return f"{path}{line}: expected {fields[1]} fields, got {fields[2]}; is the file cut off there?"
  return f"{path}{line} cannot be read: {message[:120]}"


# --- Parquet and NPZ -----------------------------------------------------------------------------


def _parquet(path: pathlib.Path, columns: Sequence[str], time: str, time_unit: str) -> Table:
  import pyarrow as pa
  import pyarrow.parquet

  wanted = [*columns, time] if time else list(columns)
  with _damage(path):
    notes = pyarrow.parquet.read_metadata(path)
    schema = notes.schema.to_arrow_schema()
    _check_size(path, notes.num_rows, len(wanted))
    for name in wanted:
      if name not in schema.names:
        raise _missing(path, name, schema.names)
      kind = schema.field(name).type
      dated = name == time and time_unit == ISO and pa.types.is_timestamp(kind)
      if not (dated or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DistillError(f"{path}: column {name!r} holds {kind}; expected numbers")
    table = pyarrow.parquet.read_table(path, columns=wanted)
    values = _side_by_side([table.column(name).to_numpy() for name in columns])
    times_s = _seconds(table.column(time), time_unit) if time else None
  if not len(table):
    raise DistillError(f"{path} has columns but no rows")
  return Table(values, times_s)


def _npz(path: pathlib.Path, columns: Sequence[str], time: str, time_unit: str) -> Table:
  wanted = [*columns, time] if time else list(columns)
  # Opened here: NumPy leaves a damaged file open.
  with _damage(path), open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
    sizes = {one.filename.removesuffix(".npy"): one.file_size for one in file.zip.infolist()}
    for name in wanted:
      if name not in file.files:
        raise _missing(path, name, file.files)
    # Numbers take 1 to 8 bytes; how many they are shows once they are read.
    _check_size(path, sum(sizes[name] for name in wanted) // 16, 1)
    arrays = {name: file[name] for name in wanted}
  for name, array in arrays.items():
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
      raise DistillError(f"{path}: array {name!r} holds {array.dtype}; expected numbers")
    if array.ndim > 2 or not array.size:
      raise DistillError(
        f"{path}: array {name!r} has shape {array.shape}; expected [rows, columns]"
      )
  _check_size(path, sum(array.size for array in arrays.values()), 1)
  if len({len(array) for array in arrays.values()}) > 1:
    lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
    raise DistillError(f"{path}: the arrays differ in length: {lengths}")
  values = _side_by_side([arrays[name] for name in columns])
  times_s = None
  if time:
    if time_unit == ISO:
      raise DistillError(f"{path}: times in NPZ are numbers; give time_unit s, ms, us or ns")
    times_s = arrays[time].reshape(-1).astype(np.float64) * SECONDS[time_unit]
  return Table(values, times_s)


# --- EDF and WFDB --------------------------------------------------------------------------------


def _package(name: str, path: pathlib.Path) -> Any:
  import importlib

  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise DistillError(
      f"{path} needs the package {name}, which is not installed; get it with:"
      " pip install 'ppg2accel[formats]'"
    ) from error


def _edf_file(path: pathlib.Path) -> Any:
  edfio = _package("edfio", path)
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)  # about a file that is cut off
    return (edfio.read_bdf if path.suffix.lower() == ".bdf" else edfio.read_edf)(path)


def _edf(path: pathlib.Path, columns: Sequence[str]) -> Table:
  with _damage(path):
    file = _edf_file(path)
    if not file.is_continuous:
      raise DistillError(
        f"{path} is EDF+D, with pauses; export it as continuous EDF, one file a part"
      )
    by_name = {signal.label: signal for signal in file.signals}
    signals = [_pick(path, name, by_name) for name in columns]
    rates = {float(signal.sampling_frequency) for signal in signals}
    if len(rates) > 1:
      raise DistillError(f"{path}: columns {', '.join(columns)} have different rates: {rates}")
    _check_size(path, file.num_data_records * signals[0].samples_per_data_record, len(signals))
    values = _side_by_side([signal.data for signal in signals])
    start_s = None
    with contextlib.suppress(ValueError):  # a date that was removed for privacy
      start = datetime.datetime.combine(file.startdate, file.starttime, datetime.UTC)
      start_s = start.timestamp()
  units = tuple(signal.physical_dimension.strip() for signal in signals)
  return Table(values, rate_hz=rates.pop(), start_s=start_s, units=units)


def _wfdb(path: pathlib.Path, columns: Sequence[str]) -> Table:
  wfdb = _package("wfdb", path)
  with _damage(path):
    header = wfdb.rdheader(str(path.with_suffix("")))
    places = {name: i for i, name in enumerate(header.sig_name or [])}
    channels = [_pick(path, name, places) for name in columns]
    _check_size(path, header.sig_len or 0, header.n_sig)  # all of them are read
    record = wfdb.rdrecord(str(path.with_suffix("")), channels=channels)
    values = np.asarray(record.p_signal, np.float32)
    start = record.base_datetime
  start_s = None if start is None else start.replace(tzinfo=datetime.UTC).timestamp()
  return Table(values, None, 1, float(record.fs), start_s, tuple(record.units))


def annotations(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Sample numbers and symbols, both [marks], of a WFDB annotation file; errors as `read`."""
  wfdb = _package("wfdb", path)
  with _damage(path):
    found = wfdb.rdann(str(path.with_suffix("")), path.suffix.removeprefix("."))
  return np.asarray(found.sample, np.int64), np.asarray(found.symbol)


def _pick(path: pathlib.Path, name: str, there: dict[str, Any]) -> Any:
  if name not in there:
    raise _missing(path, name, list(there))
  return there[name]
