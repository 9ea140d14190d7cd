"""Embedding files: vectors with who, which recording and when beside them (NPZ or Parquet).

The contract that `distill embed` writes and that `retrieve` and `probe` read, whoever wrote it:
`embedding` [n, dim] and, as far as known, `participant`, `recording`, `t0_s`, `coverage`, `valid`
and label columns, all of length n. `space`, `pair`, `side` and `simulated` say what the vectors
are: retrieval compares projections of one aligned pair of heads, probes read embeddings.
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.errors import DistillError, nearest
from distill.spec import ACC, PPG

PARTS = ("train", "validation", "test")  # of the people: what the column "split" holds
SPACES = ("embedding", "projection", "")
SIDES = (ACC, PPG, "")
VALID = "valid"  # column: False where too little was observed to embed the window
NAMES = ("participant", "recording")  # columns that become text, whatever they are in a file
FLAGS = (VALID, "seen")  # columns that are true or false, whatever they are in a file
SUFFIXES = (".npz", ".parquet")
TOLD = ("space", "pair", "side", "simulated")  # beside the columns
_META = b"ppg2accel"


@dataclasses.dataclass(frozen=True)
class EmbeddingTable:
  """Vectors and their columns.

  Attributes:
    embedding: [n, dim] float32, finite in every row whose `valid` column (if there is one) is True.
    columns: name -> [n] array (strings, numbers or booleans); missing numbers are NaN.
    space: "embedding" (before the head), "projection" (after it) or "" (unknown origin).
    pair: hash of the aligned pair of projection heads, "" if the vectors were never aligned.
    side: "acc" or "ppg", what the vectors were read from; "" if unknown.
    simulated: whether the recordings were drawn by a computer.
  """

  embedding: np.ndarray
  columns: Mapping[str, np.ndarray]
  space: str = ""
  pair: str = ""
  side: str = ""
  simulated: bool = False

  def __post_init__(self):
    if self.embedding.ndim != 2:
      raise DistillError(f"embedding must be [n, dim], got shape {self.embedding.shape}")
    if self.space not in SPACES:
      raise DistillError(f"space is {self.space!r}; expected 'embedding', 'projection' or ''")
    if self.side not in SIDES:
      raise DistillError(f"side is {self.side!r}; expected 'acc', 'ppg' or ''")
    for name, column in self.columns.items():
      if np.shape(column) != (len(self.embedding),):
        raise DistillError(
          f"column {name!r} has shape {np.shape(column)}; expected ({len(self.embedding)},), one"
          " value for each embedding"
        )

  def __len__(self) -> int:
    return len(self.embedding)

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self.columns:
      hint = nearest(name, self.columns) if self.columns else "; it has no columns at all"
      raise DistillError(f"the embedding table has no column {name!r}{hint}")
    return self.columns[name]

  @property
  def valid(self) -> np.ndarray:
    """[n] bool: the rows that hold an embedding, that is those not refused for want of data."""
    finite = np.isfinite(self.embedding).all(axis=1)
    return finite & np.asarray(self.columns.get(VALID, True), bool)

  def where(self, rows: np.ndarray) -> "EmbeddingTable":
    """The rows picked by a boolean mask or by indices, in that order."""
    columns = {name: column[rows] for name, column in self.columns.items()}
    return dataclasses.replace(self, embedding=self.embedding[rows], columns=columns)


def embedded(vectors: np.ndarray) -> np.ndarray:
  """[n] bool of encoder outputs [n, dim]: False for the zero vector of an unobserved window."""
  return np.any(vectors != 0, axis=1)


def check_free(path: str | pathlib.Path) -> None:
  """Refuses a name that embeddings cannot be written to, or at which something else lies.

  Raises:
    DistillError: a suffix that is neither `.npz` nor `.parquet`, or a file there that holds no
      embeddings, such as a recording.
  """
  path = pathlib.Path(path)
  if path.suffix not in SUFFIXES:
    raise DistillError(
      f"cannot write embeddings to {path}: use a name that ends in .npz or .parquet"
    )
  if path.is_dir():
    raise DistillError(f"cannot write embeddings to {path}: it is a folder")
  above = next(place for place in path.parents if place.exists())
  if not above.is_dir():
    raise DistillError(f"cannot write embeddings to {path}: {above} is a file")
  if path.exists() and not _holds_embeddings(path):
    raise DistillError(
      f"{path} is there and holds no embeddings: it is left as it is; choose another name"
    )


def _holds_embeddings(path: pathlib.Path) -> bool:
  try:
    if path.suffix == ".parquet":
      return "embedding" in pq.read_schema(path).names
    with zipfile.ZipFile(path) as file:
      return "embedding.npy" in file.namelist()
  except (OSError, zipfile.BadZipFile, pa.ArrowException):
    return False


def save(table: EmbeddingTable, path: str | pathlib.Path) -> None:
  """Writes `.npz` or `.parquet`; the file appears whole or not at all.

  Raises:
    DistillError: see `check_free`.
  """
  check_free(path)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  if path.suffix == ".npz":
    with open(partial, "wb") as file:
      arrays: dict[str, Any] = {"embedding": table.embedding, **table.columns, **_told(table)}
      np.savez(file, **arrays)
  else:
    _n, dim = table.embedding.shape
    flat = pa.array(np.ascontiguousarray(table.embedding).reshape(-1))
    arrays = {"embedding": pa.FixedSizeListArray.from_arrays(flat, dim)}
    arrays |= {name: pa.array(column) for name, column in table.columns.items()}
    meta = {_META: json.dumps(_told(table)).encode()}
    pq.write_table(pa.table(arrays).replace_schema_metadata(meta), partial)
  partial.replace(path)


def _told(table: EmbeddingTable) -> dict[str, Any]:
  """What a file says of the vectors beside their columns."""
  return {name: getattr(table, name) for name in TOLD}


def load(path: str | pathlib.Path, *, strict: bool = False) -> EmbeddingTable:
  """Reads an embedding file from any program.

  Args:
    path: of the file.
    strict: refuse vectors that are not finite where no column `valid` says that they are none.

  Raises:
    DistillError: no such file, neither NPZ nor Parquet, no `embedding` column, columns of different
      lengths, a row without its participant, times that are none, or flags that say neither.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise DistillError(f"no embedding file at {path}; write one with: distill embed --out={path}")
  if path.suffix not in SUFFIXES:
    raise DistillError(f"{path} is neither .npz nor .parquet")
  try:
    table = _load_npz(path) if path.suffix == ".npz" else _load_parquet(path)
    if strict:
      _check_finite(table)
    return table
  except DistillError as error:
    raise DistillError(f"{path}: {error}") from error
  except (OSError, ValueError, EOFError, pa.ArrowException) as error:
    raise DistillError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _check_finite(table: EmbeddingTable) -> None:
  marked = np.asarray(table.columns.get(VALID, np.ones(len(table), bool)), bool)
  bad = np.flatnonzero(marked & ~np.isfinite(table.embedding).all(axis=1))
  if len(bad):
    raise DistillError(
      f"{len(bad)} of {len(table)} embeddings hold NaN or infinity (first: row {bad[0]}); leave"
      f" these rows out, of both files of a pair, or mark them False in a column {VALID!r}"
    )


def _load_npz(path: pathlib.Path) -> EmbeddingTable:
  if not zipfile.is_zipfile(path):
    raise DistillError("is no NPZ file; write one with numpy.savez, or Parquet")
  with np.load(path, allow_pickle=False) as file:
    arrays = {name: _array(file, name) for name in file.files}
  scalars = [name for name in TOLD if name in arrays and not arrays[name].ndim]
  told = {name: arrays.pop(name).item() for name in scalars}
  return _table(arrays, told)


def _array(file: Any, name: str) -> np.ndarray:
  try:
    found: np.ndarray = file[name]
  except ValueError as error:
    raise DistillError(
      f"array {name!r} cannot be read ({error}); store names as text, with .astype(str), and"
      " numbers as numbers"
    ) from error
  return found


def _load_parquet(path: pathlib.Path) -> EmbeddingTable:
  stored = pq.read_table(path)
  meta = json.loads((stored.schema.metadata or {}).get(_META, b"{}"))
  arrays = {}
  for name in stored.column_names:
    column = stored[name].combine_chunks()
    if name == "embedding":
      arrays[name] = _stacked(column.to_numpy(zero_copy_only=False))
    else:
      values = column.to_numpy(zero_copy_only=False)
      arrays[name] = _text(values) if values.dtype == object else values
  return _table(arrays, {name: meta[name] for name in TOLD if name in meta})


def _stacked(rows: np.ndarray) -> np.ndarray:
  """[n, dim] of the lists of a column."""
  if not len(rows):
    return np.empty((0, 0))
  sizes = sorted({-1 if row is None else np.size(row) for row in rows})
  if len(sizes) > 1:
    raise DistillError(
      "every row of 'embedding' must be a list of the same length, found"
      f" {', '.join('none' if size < 0 else str(size) for size in sizes)}"
    )
  return np.stack(list(rows))


def _text(values: np.ndarray) -> np.ndarray:
  """Names as text, "" where there is none."""
  return np.array(["" if value is None or value != value else str(value) for value in values], str)


def _seconds(values: np.ndarray) -> np.ndarray:
  """Times in seconds; dates become Unix time."""
  if values.dtype.kind == "M":
    values = values.astype("datetime64[us]").astype(np.float64) / 1e6
  if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
    raise DistillError("column 't0_s' must hold seconds in every row, as numbers or dates")
  return values


def _true(values: np.ndarray, name: str) -> np.ndarray:
  """[n] bool of flags, numbers, or texts that say true or false; a missing one is False."""
  if values.dtype.kind not in "US":
    return np.nan_to_num(values).astype(bool)
  texts = np.char.lower(values.astype(str))
  known = {"true": True, "1": True, "false": False, "0": False, "": False}
  if strange := sorted(set(texts.tolist()) - set(known)):
    raise DistillError(f"column {name!r} holds {strange[0]!r}; expected true or false")
  return np.array([known[text] for text in texts.tolist()], bool)


def _table(arrays: dict[str, np.ndarray], told: Mapping[str, Any]) -> EmbeddingTable:
  if "embedding" not in arrays:
    raise DistillError(f"no column 'embedding'; found: {', '.join(sorted(arrays)) or 'nothing'}")
  embedding = arrays.pop("embedding").astype(np.float32)
  arrays |= {name: _text(arrays[name]) for name in NAMES if name in arrays}
  arrays |= {name: _seconds(arrays[name]) for name in ("t0_s",) if name in arrays}
  arrays |= {name: _true(arrays[name], name) for name in FLAGS if name in arrays}
  nobody = int(np.sum(arrays.get("participant", np.zeros(0, str)) == ""))
  if nobody:
    raise DistillError(f"{nobody} rows have no participant; judging needs to know whose they are")
  return EmbeddingTable(embedding, arrays, **told)
