"""Archives and pickles as other people made them: read without running or overwriting anything.

A pickle can call any function while it is read, and an archive can name files outside the folder it
is unpacked into. Whatever a set's official files hold of either kind goes through here.
"""

import pathlib
import pickle
import zipfile
from typing import Any

from distill.errors import DistillError

MAX_MEMBER_BYTES = 4 << 30  # an hour of an E4 takes 4 MB; more than this is a bomb, not a recording
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


def load_pickle(path: pathlib.Path) -> Any:
  """Content of a pickle of NumPy arrays, numbers, texts and plain containers of these.

  Texts that Python 2 wrote come back as str.

  Raises:
    DistillError: no such file, one that is cut off or damaged, or one that asks for anything else
      than NumPy arrays; the message names what it asked for.
  """
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
    with zipfile.ZipFile(path) as archive:
      check_names(path, archive.namelist())
      info = archive.getinfo(name)
      if info.file_size > MAX_MEMBER_BYTES:
        raise DistillError(
          f"{path}/{name} unpacks to {info.file_size >> 20} MB; expected a recording, less than"
          f" {MAX_MEMBER_BYTES >> 20} MB"
        )
      return archive.read(info)
  except (FileNotFoundError, IsADirectoryError, KeyError) as error:
    raise DistillError(f"no {path}/{name}") from error
  except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
    raise DistillError(f"{path}/{name} cannot be read: {error}") from error
  except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
    raise DistillError(f"{path}/{name} cannot be read: {error}") from error


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
