"""Arrays out of MAT files of version 5, with errors that name the file."""

import pathlib
from typing import Any

import numpy as np
import scipy.io

from distill.data import untrusted
from distill.errors import DistillError

# A damaged file fails in many ways, depending on the byte; one of version 7.3 is not implemented by
# SciPy, which says so.
DAMAGED = (
  *(OSError, ValueError, TypeError, NotImplementedError, KeyError, IndexError),
  *(EOFError, MemoryError, OverflowError, scipy.io.matlab.MatReadError),
)


def load(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
  """Variables of a MAT file, those that are there.

  Raises:
    DistillError: no such file, or no MAT file, one of absurd size, or one that is cut off.
  """
  untrusted.check_size(path, untrusted.MAX_FILE_BYTES)
  try:
    return dict(scipy.io.loadmat(path, variable_names=names))
  except DAMAGED as error:
    raise DistillError(f"{path} cannot be read as a MAT file: {error}") from error


def array(content: dict[str, Any], name: str, path: pathlib.Path, what: str) -> np.ndarray:
  """[rows, columns] float64: counts may be unsigned, and any difference of them would wrap.

  Raises:
    DistillError: no such variable, or one that is no table of numbers; `what` names the set.
  """
  value = np.asarray(content.get(name, np.zeros(0)))
  if not np.issubdtype(value.dtype, np.number) or value.ndim != 2 or not value.size:
    raise DistillError(f"{path} holds no array {name}; expected a file of {what}")
  return value.astype(np.float64)
