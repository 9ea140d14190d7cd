"""The only place where a config's "package.module:name" string becomes an object.

`distill` never imports `teachers` or `students`; configs name them and this file finds them.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from distill.errors import DistillError, nearest


def resolve(name: str, *, key: str) -> Any:
  """The object that "package.module:name" names.

  Args:
    name: for example "students.transformer:build".
    key: the config key the name stands in, for the message.

  Raises:
    DistillError: not of that form, no such module, or no such name in it.
  """
  module_name, colon, attribute = name.partition(":")
  if not colon or not module_name or not attribute:
    raise DistillError(
      f"config.{key} is {name!r}; expected 'package.module:name', like students.transformer:build"
    )
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    raise DistillError(f"config.{key} is {name!r}: no module named {error.name!r}") from error
  if not hasattr(module, attribute):
    public = [n for n in vars(module) if not n.startswith("_")]
    raise DistillError(
      f"config.{key} is {name!r}: {module_name} has no {attribute!r}{nearest(attribute, public)}"
    )
  return getattr(module, attribute)


def check_arguments(build: Callable, arguments: Mapping[str, Any], *, key: str) -> None:
  """Refuses arguments that `build` does not take, by name.

  Raises:
    DistillError: an argument nobody reads.
  """
  known = inspect.signature(build).parameters
  for name in arguments:
    if name not in known:
      raise DistillError(f"config.{key}.{name} is read by nobody{nearest(name, known)}")
