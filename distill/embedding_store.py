"""Embeddings of a list of windows, computed once and kept in pieces on disk.

    key.json     what the vectors are: teacher hash, spec, output, windows, precision
    <k>.npy      [rows of piece k, dim], whole or not at all

A store that was interrupted goes on at the first missing piece; one of another key is refused.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.errors import DistillError

DTYPES = ("float32", "float16")
KEY = "key.json"


class EmbeddingStore:
  """Opens a store, or starts one.

  Args:
    folder: of the store.
    key: what decides the vectors, as JSON values.
    rows: number of windows.
    dtype: "float32", or "float16" at half the size; vectors come back as float32.
    piece: rows in a file, and at a time in memory.

  Raises:
    DistillError: an unknown precision, or a store of another key.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    key: Mapping[str, Any],
    *,
    rows: int,
    dtype: str = "float32",
    piece: int = 1024,
  ):
    if dtype not in DTYPES:
      raise DistillError(f"embeddings are stored as {' or '.join(DTYPES)}, not {dtype!r}")
    self._folder, self._rows, self._dtype, self._piece = folder, rows, dtype, piece
    self._claim(json.loads(json.dumps({**key, "rows": rows, "dtype": dtype, "piece": piece})))

  def _claim(self, key: dict[str, Any]) -> None:
    path = self._folder / KEY
    if path.is_file():
      there = json.loads(path.read_text())
      differing = sorted(name for name in key | there if key.get(name) != there.get(name))
      if differing:
        raise DistillError(
          f"{self._folder} holds the embeddings of another teacher or set (differing:"
          f" {', '.join(differing)}); delete it to embed again"
        )
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    if list(self._folder.glob("*.npy")):
      raise DistillError(f"{self._folder} has vectors but no {KEY}; delete it to embed again")
    partial = self._folder / ("." + KEY)
    partial.write_text(json.dumps(key, indent=1))
    partial.replace(path)

  def vectors(self, embed: Callable[[np.ndarray], np.ndarray], *, label: str) -> np.ndarray:
    """Every vector; pieces that are not there yet are computed and kept.

    Args:
      embed: [n] row numbers -> [n, dim] float32.
      label: name on the progress bar.

    Returns:
      [rows, dim] float32.

    Raises:
      DistillError: a damaged piece, or values that float16 cannot hold.
    """
    pieces = []
    with tqdm(total=self._rows, desc=label, unit="window", mininterval=1.0) as bar:
      for start in range(0, self._rows, self._piece):
        rows = np.arange(start, min(start + self._piece, self._rows))
        path = self._folder / f"{start // self._piece}.npy"
        if not path.is_file():
          _save(path, self._narrowed(embed(rows)))
        pieces.append(self._load(path, len(rows)))
        bar.update(len(rows))
    return np.concatenate(pieces).astype(np.float32)

  def _narrowed(self, vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # checked below
      narrow = vectors.astype(self._dtype)
    if not np.isfinite(narrow[np.isfinite(vectors)]).all():
      raise DistillError(
        f"embeddings up to {np.nanmax(np.abs(vectors)):.3g} do not fit float16, which ends at"
        " 65504; store them with --config.teacher.stored=float32"
      )
    return narrow

  def _load(self, path: pathlib.Path, rows: int) -> np.ndarray:
    try:
      piece = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise DistillError(f"{path} is damaged ({error}); delete it to embed again") from error
    if piece.ndim != 2 or len(piece) != rows or piece.dtype != self._dtype:
      raise DistillError(
        f"{path} is damaged: {piece.dtype} {piece.shape}; delete it to embed again"
      )
    return np.asarray(piece)


def _save(path: pathlib.Path, piece: np.ndarray) -> None:
  partial = path.with_name("." + path.name)
  with open(partial, "wb") as file:
    np.save(file, piece)
  partial.replace(path)
