"""Files as other people made them: read without running, overwriting or exhausting anything.

A pickle can call any function while it is read, and an archive can name files outside the folder it
is unpacked into; either, and any text, can be larger than the memory. Whatever a set's official
files hold of these kinds goes through here.
"""

import contextlib
import pathlib
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from distill.errors import DistillError

# Of a text that is read whole: 8 hours of three axes and their times at 50 Hz take 70 MB.
MAX_TEXT_BYTES = 512 << 20
# Of a pickle or MAT file: a day of 8 channels of float64 at 700 Hz; MAT 5 itself ends there.
MAX_FILE_BYTES = 4 << 30
_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
_NUMPY_MODULES = {
  "numpy",
  *(f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")),
}


class _ArraysOnly(pickle.Unpickler):
  """Admits NumPy arrays and plain containers; anything else is refused by name, not run."""

  def find_class(self, module: str, name: str) -> Any:
    if module in _NUMPY_MODULES and name in _NUMPY:
      # The official files come from a NumPy before 2.0, which had another name for its core.
      return super().find_class(module.replace("numpy.core", "numpy._core"), name)
    if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
      return super().find_class(module, name)
    raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no NumPy array")

  def persistent_load(self, pid: Any) -> Any:
    raise pickle.UnpicklingError(f"it refers to {pid!r} outside of itself")


def check_size(path: pathlib.Path, most_bytes: int) -> None:
  """Refuses a file that is too large to be read whole; one that is not there passes.

  Raises:
    DistillError: more than `most_bytes`.
  """
  if path.is_file():
    _check_bytes(str(path), path.stat().st_size, most_bytes)


def _check_bytes(where: str, size: int, most_bytes: int) -> None:
  if size > most_bytes:
    raise DistillError(
      f"{where} takes {size / 2**20:.0f} MB; expected one recording of at most"
      f" {most_bytes / 2**20:.0f} MB: split it, or get it anew if it is damaged"
    )


def load_pickle(path: pathlib.Path) -> Any:
  """Content of a pickle of NumPy arrays, numbers, texts and plain containers of these.

  Texts that Python 2 wrote come back as str.

  Raises:
    DistillError: no such file, one of absurd size, one that is cut off or damaged, or one that asks
      for anything else than NumPy arrays; the message names what it asked for.
  """
  check_size(path, MAX_FILE_BYTES)
  try:
    with open(path, "rb") as file:
      return _ArraysOnly(file, encoding="latin1").load()
  except FileNotFoundError as error:
    raise DistillError(f"no pickle at {path}") from error
  # A damaged pickle can raise nearly anything, as each opcode has its own way to fail.
  except Exception as error:
    reason = str(error) if isinstance(error, pickle.UnpicklingError) else repr(error)
    raise DistillError(f"{path} cannot be read as a pickle of arrays: {reason}") from error


def zip_member(path: pathlib.Path, name: str) -> bytes:
  """One file of a zip archive, read without unpacking.

  Raises:
    DistillError: no such archive, no such file in it, a damaged archive, a file of absurd size, or
      an archive with a path that climbs out of the folder it would be unpacked into.
  """
  try:
    with _damage(f"{path}/{name}"), zipfile.ZipFile(path) as archive:
      check_names(path, archive.namelist())
      info = archive.getinfo(name)
      _check_bytes(f"{path}/{name}", info.file_size, MAX_TEXT_BYTES)
      return archive.read(info)
  except KeyError as error:
    raise DistillError(f"no {path}/{name}") from error


def unpack(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpacks a zip archive into a folder that is not there yet, whole or not at all.

  Raises:
    DistillError: no zip archive, a damaged one, one with a path that climbs out of the folder, or
      one that holds more than the disk has room for.
  """
  partial = folder.with_name(folder.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  try:
    with _damage(str(path)), zipfile.ZipFile(path) as archive:
      check_names(path, archive.namelist())
      size = sum(info.file_size for info in archive.infolist())
      free = shutil.disk_usage(path.parent).free
      if size > free:
        raise DistillError(
          f"{path} unpacks to {size / 2**30:.1f} GB; the disk has {free / 2**30:.1f} GB free"
        )
      archive.extractall(partial)
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


DAMAGED = (
  *(OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, zlib.error),
  RuntimeError,  # encrypted, or an unknown compression
)


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
  try:
    yield
  except DistillError:
    raise
  except (FileNotFoundError, IsADirectoryError) as error:
    raise DistillError(f"no {where}") from error
  except DAMAGED as error:
    raise DistillError(f"{where} cannot be read: {error}") from error


def check_names(path: pathlib.Path, names: list[str]) -> None:
  """Refuses an archive whose paths leave the folder.

  Raises:
    DistillError: an absolute path, a drive, or "..".
  """
  for name in names:
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or (parts and (parts[0] == "/" or ":" in parts[0])):
      raise DistillError(
        f"{path} holds {name!r}, a path that climbs out of the folder; the archive is refused:"
        " get it anew from the official source"
      )
