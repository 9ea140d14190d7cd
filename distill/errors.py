"""The one exception a user may meet: what was wrong, where, what was expected, what to do.

`distill.cli` turns it into one line and exit code 2. Anything else that escapes is a fault of ours
and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class DistillError(ValueError):
  """Bad input, told in one line: what was wrong, where, what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Hint for a misspelt name: `"; did you mean 'a' or 'b'?"`, or the known names when none is near.

  Args:
    name: what the user wrote.
    known: what would have been accepted.

  Returns:
    A phrase to append to an error message.
  """
  known = sorted(set(known))
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
  if close:
    return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
  return "; known: " + ", ".join(known)
