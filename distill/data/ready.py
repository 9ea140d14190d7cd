"""Windows as an encoder takes them, kept on disk, so that reading and filtering is done once.

`ReadyWindows` is one file of one prepared set and one spec; a window lies at its row number in the
set, so that every split, fold and training shares it. Nothing depends on it: a row that is not
there is made again, the file may be deleted at any time, also under a running training, and where
nothing can be written, nothing is kept.

A row is [time, channels] float32, NaN where missing, and behind it the 64-bit XXH3 hash of its
values, seeded with its number. That is what says that a row is there: in a hole of the sparse file,
or after a process was killed or the disk was full half-way through a row, it does not fit. Nothing
is synced: pages that were lost with the power show in the same way. Processes that write one row at
once write the same.
"""

import errno
import functools
import os
import pathlib
import sys
import weakref

import numpy as np
import tqdm
import xxhash

FOLDER = "ready"  # in the folder of a prepared set
FORMAT = 2  # of a row; a part of what names the files
HASH_BYTES = 8
# Of the disk that is never taken: a checkpoint that finds it full would end the run.
LEFT_FREE_BYTES = 2**30


class ReadyWindows:
  """Opens a file of ready windows, or starts one. Copies in other processes open it anew.

  It is read and written by system calls and not mapped, which would count as the process's own
  memory and would end the process where the disk is full.

  Args:
    folder: made if it is not there; its own folder must be.
    name: of the file, another one for whatever else is kept.
    rows: number of windows of the set.
    shape: (time, channels) of a window.
  """

  def __init__(self, folder: pathlib.Path, name: str, rows: int, shape: tuple[int, int]):
    self._arguments = folder, name, rows, shape
    self._row_bytes = 4 * shape[0] * shape[1] + HASH_BYTES
    # Hashes of the rows that this process wrote, or has seen to fit; 0 for none. Hashing takes time
    # beside reading, so it is done once. In a file that was cut off since, the hashes are others.
    self._fitted = np.zeros(rows, np.uint64)
    self._refusal: OSError | None = None
    self._file = self._open(folder, name)

  def __reduce__(self) -> tuple:
    return ReadyWindows, self._arguments

  def _open(self, folder: pathlib.Path, name: str) -> int | None:
    flags = os.O_RDWR | os.O_CREAT
    try:
      folder.mkdir(exist_ok=True)
      found = os.open(folder / name, flags, 0o666)
    except OSError as error:
      self._refusal = error
      try:
        found = os.open(folder / name, os.O_RDONLY)  # what its owner kept may be read
      except OSError:
        return None
    weakref.finalize(self, os.close, found).atexit = False  # threads may still be reading then
    return found

  def has(self, rows: np.ndarray) -> np.ndarray:
    """[n] bool: which of the rows have been written; `read` says whether they are whole."""
    found = self._fitted[rows] != 0
    for i in np.flatnonzero(~found):
      found[i] = self._written(int(rows[i]))
    return found

  def _written(self, row: int) -> bool:
    """Whether there is a hash, which is the last of a row that is written."""
    if self._file is None:
      return False
    try:
      return any(os.pread(self._file, HASH_BYTES, (row + 1) * self._row_bytes - HASH_BYTES))
    except OSError:
      return False

  def read(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Reads those of some rows that are there.

    Args:
      rows: [n] row numbers.
      out: [m, time, channels] float32, filled in place; rows that are not there leave anything.
      places: [n] places in `out`.

    Returns:
      [n] bool, which were there.
    """
    if self._file is None:
      return np.zeros(len(rows), bool)
    stored, fitted = np.zeros((len(rows), 1), "<u8"), self._fitted[rows]
    holes = False
    try:
      for i, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True)):
        # Reading a hole costs more than looking first, which is lost time where there is none.
        if holes and not self._written(row):
          continue
        os.preadv(self._file, [out[place], stored[i]], row * self._row_bytes)
        if not stored[i]:
          holes = True
        elif not fitted[i]:
          fitted[i] = xxhash.xxh3_64_intdigest(out[place], row)
    except OSError:
      pass  # a bad disk, or a file that another machine deleted: what was not read is made again
    there = (stored[:, 0] == fitted) & (fitted != 0)
    self._fitted[rows[there]] = fitted[there]
    return there

  def write(self, rows: np.ndarray, windows: np.ndarray) -> None:
    """Keeps windows [n, time, channels] float32 as rows [n], or says once why that cannot be."""
    if self._refusal is None:
      try:
        self._write(rows, windows)
      except OSError as error:
        self._refusal = error
    if self._refusal is not None:
      _tell(
        f"ready windows cannot be kept in {self._arguments[0]} ({self._refusal.strerror}): each"
        " pass reads and filters them again, which is slower; make room there, or make it writable"
      )

  def _write(self, rows: np.ndarray, windows: np.ndarray) -> None:
    assert self._file is not None  # else there is a refusal
    disk = os.fstatvfs(self._file)
    if disk.f_bavail * disk.f_frsize < LEFT_FREE_BYTES + windows.nbytes:
      raise OSError(errno.ENOSPC, f"less than {LEFT_FREE_BYTES / 2**30:g} GiB would be left free")
    for row, window in zip(rows.tolist(), windows, strict=True):
      found = xxhash.xxh3_64_intdigest(window, row)
      parts = [window, found.to_bytes(HASH_BYTES, "little")]
      if os.pwritev(self._file, parts, row * self._row_bytes) != self._row_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      self._fitted[row] = found


@functools.cache
def _tell(line: str) -> None:
  """Once in a process, whichever training meets it."""
  tqdm.tqdm.write(line, file=sys.stderr)
