"""Frozen teachers: where the vectors that a student learns from come from.

A teacher is an encoder in a model folder, whose embeddings are computed once and stored, or a file
of embeddings that somebody else computed. Nothing here can be trained: what leaves this file is
NumPy.
"""

import abc
import hashlib
import pathlib
import sys
from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm

from distill import embeddings, models
from distill.data import pipeline
from distill.data.store import PreparedSet
from distill.embedding_store import EmbeddingStore
from distill.errors import DistillError
from distill.nn.encoder import Encoder, Forward
from distill.spec import PPG
from distill.workdir import Fold

FILES = (".parquet", ".npz")
SAME_TIME_S = 0.05  # starts that are nearer than this are the same start
BATCH = 128


class Teacher(abc.ABC):
  """Gives every stored window of a fold its vector.

  Attributes:
    name: "teacher", and "teacher_2", "teacher_3", ... where there are several.
    identity: hash of the weights or of the file.
    dim: length of an embedding.
    rhythm: values after it that say when the pulse came; 0 for none.
  """

  name: str
  identity: str
  dim: int
  rhythm: int = 0

  @abc.abstractmethod
  def vectors(self, fold: Fold) -> dict[str, np.ndarray]:
    """Set name -> [rows of the set, dim + rhythm] float32; NaN rows where there is no vector."""


class EncoderTeacher(Teacher):
  """The encoder of a model folder; embeds each window once.

  The store lies under <fold>/teacher_store/<name>/<set>/.

  Args:
    folder: model folder, the folder of a training, or the name of a shipped teacher.
    name: see `Teacher`.
    dtype: precision of the store, see `EmbeddingStore`.
    rhythm: whether the pulse's rhythm stands after each embedding.
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    *,
    name: str = "teacher",
    dtype: str = "float32",
    rhythm: bool = False,
  ):
    folder = models.find(folder, side="teachers")
    self.stored = models.read(folder)
    self.encoder: Encoder = models.load_encoder(folder)
    self.name, self.identity, self.dim = name, self.stored.fields["sha256"], self.encoder.dim
    self.rhythm = self.encoder.rhythm if rhythm else 0
    self._dtype = dtype

  def vectors(self, fold: Fold) -> dict[str, np.ndarray]:
    """See `Teacher`; no row is NaN.

    Raises:
      DistillError: a store of another teacher or set, or a damaged one.
    """
    forward = Forward(self.encoder, batch_size=BATCH, rhythm=bool(self.rhythm))
    return {
      name: self._open(fold, name, prepared).vectors(
        _embedder(prepared, forward, self.encoder), label=f"{self.name} embeds {name}"
      )
      for name, (prepared, _) in fold.sets.items()
    }

  def _open(self, fold: Fold, name: str, prepared: PreparedSet) -> EmbeddingStore:
    fields = self.stored.fields
    key = {
      "teacher": self.identity,
      "spec": self.encoder.spec.to_json(),
      "output": {"build": fields["build"], "arguments": fields["arguments"]},
      "rhythm": self.rhythm,
      "set": prepared.folder.name,
    }
    folder = fold.folder / "teacher_store" / self.name / name
    return EmbeddingStore(folder, key, rows=len(prepared), dtype=self._dtype)


def _embedder(
  prepared: PreparedSet, forward: Forward, encoder: Encoder
) -> Callable[[np.ndarray], np.ndarray]:
  def embed(rows: np.ndarray) -> np.ndarray:
    return forward(*pipeline.prepare_windows(prepared.windows(rows)[PPG], encoder.spec))

  return embed


class FileTeacher(Teacher):
  """A file of embeddings from anywhere, matched to windows by participant, recording and time.

  The file is a table as `distill.embeddings` reads it: `embedding`, `participant`, `recording` and
  `t0_s`, the second at which the embedded window starts on the recording's own clock. A `set`
  column tells sets apart that share names. Windows without a vector are not trained on or judged.

  Args:
    path: .parquet or .npz.
    name: see `Teacher`.

  Raises:
    DistillError: a column is missing, a vector is not finite, or two stand for the same start.
  """

  def __init__(self, path: str | pathlib.Path, *, name: str = "teacher"):
    self.path = pathlib.Path(path)
    table = embeddings.load(self.path)
    if embeddings.VALID in table.columns:
      table = table.where(table[embeddings.VALID].astype(bool))
    if table.space == "projection":
      raise DistillError(f"{self.path} holds projections; a teacher's file holds embeddings")
    if not len(table):
      raise DistillError(f"{self.path} holds no embedding")
    missing = sorted({"participant", "recording", "t0_s"} - set(table.columns))
    if missing:
      raise DistillError(
        f"{self.path} lacks {', '.join(missing)}; the vectors of a teacher are matched to windows"
        " by participant, recording and t0_s (the start in seconds), never by their order"
      )
    broken = np.flatnonzero(~np.isfinite(table.embedding).all(axis=1))
    if len(broken):
      raise DistillError(
        f"{self.path}: {len(broken)} vectors are not finite, the first in row {broken[0]}; leave"
        " out windows that were not embedded"
      )
    self.name, self.dim = name, table.embedding.shape[1]
    self.identity = hashlib.sha256(self.path.read_bytes()).hexdigest()
    self._vectors = table.embedding
    self._starts = self._indexed(table)

  def _indexed(self, table: embeddings.EmbeddingTable) -> dict[tuple[str, str, str], np.ndarray]:
    """(set or "", participant, recording) -> rows of the table by time."""
    sets = table.columns.get("set", np.full(len(table), ""))
    t0_s = table["t0_s"].astype(np.float64)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in np.argsort(t0_s, kind="stable"):
      who = (str(sets[row]), str(table["participant"][row]), str(table["recording"][row]))
      groups.setdefault(who, []).append(int(row))
    for who, rows in groups.items():
      near = np.flatnonzero(np.diff(t0_s[rows]) < 2 * SAME_TIME_S)
      if len(near):
        first, second = rows[near[0]], rows[near[0] + 1]
        raise DistillError(
          f"{self.path}: rows {first} and {second} are both of {'/'.join(filter(None, who))} at"
          f" {t0_s[first]:g} s; expected one vector for each start"
        )
    self._t0_s = t0_s
    return {who: np.array(rows) for who, rows in groups.items()}

  def vectors(self, fold: Fold) -> dict[str, np.ndarray]:
    """See `Teacher`.

    Raises:
      DistillError: a set of which no window has a vector; the message shows names and times of
        both sides.
    """
    return {name: self._matched(name, prepared) for name, (prepared, _) in fold.sets.items()}

  def _matched(self, name: str, prepared: PreparedSet) -> np.ndarray:
    found = np.full((len(prepared), self.dim), np.nan, np.float32)
    for row, (who, recording, t0_s) in enumerate(_starts(prepared.index)):
      rows = self._starts.get((name, who, recording), self._starts.get(("", who, recording)))
      if rows is not None:
        nearest = rows[np.argmin(np.abs(self._t0_s[rows] - t0_s))]
        if abs(self._t0_s[nearest] - t0_s) < SAME_TIME_S:
          found[row] = self._vectors[nearest]
    count = int(np.isfinite(found[:, 0]).sum())
    if not count:
      there, here = next(iter(self._starts.items())), next(_starts(prepared.index))
      raise DistillError(
        f"no vector of {self.path} belongs to a window of {name}: it has"
        f" {'/'.join(filter(None, there[0]))} at {self._t0_s[there[1][0]]:g} s, the set {here[0]}/"
        f"{here[1]} at {here[2]:g} s; names and start seconds must agree within {SAME_TIME_S} s"
      )
    told = f"{name}: {count} of {len(prepared)} windows have a vector in {self.path}"
    tqdm.write(told, file=sys.stderr)
    return found


def _starts(index: Mapping[str, np.ndarray]):
  return zip(index["participant"], index["recording"], index["t0_s"].astype(float), strict=True)


def open_teacher(
  path: str | pathlib.Path,
  *,
  name: str = "teacher",
  dtype: str = "float32",
  rhythm: bool = False,
) -> EncoderTeacher | FileTeacher:
  """The teacher of a model folder, or of a file of its embeddings, which has no rhythm."""
  if pathlib.Path(path).suffix in FILES and not pathlib.Path(path).is_dir():
    return FileTeacher(path, name=name)
  return EncoderTeacher(path, name=name, dtype=dtype, rhythm=rhythm)
