"""Participant folds as small text files: who is trained on, who validates, who is held out.

A split is decided before anything is windowed, from participants' names alone. The file lists one
`participant fold` per line; `#` starts a comment.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from distill.embeddings import PARTS
from distill.errors import DistillError


@dataclasses.dataclass(frozen=True)
class Split:
  """Participants by part; no participant stands in two.

  Attributes:
    train: names, sorted.
    validation: names, sorted.
    test: names, sorted.
    unused: names, sorted; in no part.
  """

  train: tuple[str, ...]
  validation: tuple[str, ...]
  test: tuple[str, ...]
  unused: tuple[str, ...] = ()

  def __post_init__(self):
    seen: dict[str, str] = {}
    for part in (*PARTS, "unused"):
      for name in getattr(self, part):
        if name in seen:
          raise DistillError(
            f"participant {name!r} stands in {seen[name]} and in {part}; expected one part only"
          )
        seen[name] = part

  def part_of(self, participants: np.ndarray) -> np.ndarray:
    """The part of each row.

    Args:
      participants: [n] names.

    Returns:
      [n] strings, "train", "validation" or "test".

    Raises:
      DistillError: a participant that this split does not know.
    """
    parts = {name: part for part in PARTS for name in getattr(self, part)}
    unknown = sorted(set(map(str, participants)) - set(parts))
    if unknown:
      raise DistillError(
        f"participants {', '.join(unknown[:5])} stand in no part of the split; known:"
        f" {', '.join(sorted(parts)[:10])}; add them to the split file"
      )
    return np.array([parts[str(name)] for name in participants], dtype="U10")

  def fewer(self, people: int) -> "Split":
    """The split with that many training people; a larger number keeps those of a smaller one.

    Who stays is decided by the SHA-256 of the names, as folds are. The others are unused.

    Raises:
      DistillError: not a number from 1 to that of the training people.
    """
    if not 1 <= people <= len(self.train):
      raise DistillError(
        f"data.train_people is {people}; this split has {len(self.train)} training people, expected"
        " 1 to that many, or 0 for all"
      )
    dealt = sorted(self.train, key=_hashed)
    kept, left = sorted(dealt[:people]), sorted((*dealt[people:], *self.unused))
    return dataclasses.replace(self, train=tuple(kept), unused=tuple(left))


@dataclasses.dataclass(frozen=True)
class Folds:
  """Which fold each participant belongs to.

  Attributes:
    fold: participant -> fold, 0 to n - 1.
  """

  fold: Mapping[str, int]

  def __post_init__(self):
    used = sorted(set(self.fold.values()))
    if len(used) < 3 or used != list(range(len(used))):
      raise DistillError(
        f"folds must be numbered 0, 1, 2, ... without holes, at least three of them (training,"
        f" validation, test); got {used} for {len(self.fold)} participants"
      )

  @property
  def n(self) -> int:
    """Number of folds."""
    return 1 + max(self.fold.values())

  @property
  def sha256(self) -> str:
    """Hash of who stands where, the same whatever the order or the comments of the file."""
    return hashlib.sha256(_lines(self).encode()).hexdigest()

  def split(self, k: int) -> Split:
    """Test = fold k, validation = the next one, training = all others.

    Raises:
      DistillError: there is no fold k.
    """
    if not 0 <= k < self.n:
      raise DistillError(f"no fold {k}; there are {self.n}, numbered 0 to {self.n - 1}")
    held = {k: "test", (k + 1) % self.n: "validation"}
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(self.fold):
      parts[held.get(self.fold[name], "train")].append(name)
    return Split(*(tuple(parts[part]) for part in PARTS))

  def save(self, path: str | pathlib.Path, comment: str = "") -> None:
    """Writes the text file that `load` reads."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    pathlib.Path(path).write_text(head + _lines(self))


def _lines(folds: Folds) -> str:
  rows = sorted((fold, name) for name, fold in folds.fold.items())
  return "".join(f"{name} {fold}\n" for fold, name in rows)


def assign(participants: Iterable[str], folds: int = 5) -> Folds:
  """Balanced folds from the names alone, so that no seed and no order of files matters.

  The names are sorted by their SHA-256 and dealt out like cards; fold sizes differ by at most one.

  Raises:
    DistillError: a name given twice, fewer than three folds, or fewer participants than folds.
  """
  names = list(participants)
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise DistillError(f"participant {twice[0]!r} is given twice")
  if folds < 3:
    raise DistillError(f"{folds} folds are too few; at least 3: training, validation, test")
  if len(names) < folds:
    raise DistillError(
      f"{len(names)} participant(s) cannot fill {folds} folds; judging needs people who were never"
      " trained on: add recordings of other participants"
    )
  dealt = sorted(names, key=_hashed)
  return Folds({name: i % folds for i, name in enumerate(dealt)})


def _hashed(name: str) -> str:
  return hashlib.sha256(name.encode()).hexdigest()


def labelled(people: Sequence[str], share: float, seed: int) -> tuple[str, ...]:
  """The training people of a share, whose labels alone supervision and probes may use.

  Drawn by a hash of seed and name, so that a smaller share lies within every larger one and no
  order of files matters. A share of less than one person has nobody.

  Args:
    people: names of the training people.
    share: above 0, up to 1.
    seed: of the draw.

  Returns:
    floor(share * people) names, sorted.
  """
  count = int(share * len(people) + 1e-9)
  drawn = sorted(people, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
  return tuple(sorted(drawn[:count]))


def load(path: str | pathlib.Path) -> Folds:
  """Reads a split file.

  Raises:
    DistillError: no such file, a line that is not `participant fold`, a participant who stands
      twice, or holes in the numbering.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise DistillError(f"no split file at {path}; expected lines of 'participant fold'")
  fold: dict[str, int] = {}
  for number, line in enumerate(path.read_text().splitlines(), start=1):
    words = line.partition("#")[0].split()
    if not words:
      continue
    if len(words) != 2 or not words[1].isdecimal():
      raise DistillError(
        f"{path}, line {number}: expected 'participant fold', got {line.strip()!r}"
      )
    name, k = words
    if name in fold:
      raise DistillError(f"{path}, line {number}: participant {name!r} already stands in a fold")
    fold[name] = int(k)
  try:
    return Folds(fold)
  except DistillError as error:
    raise DistillError(f"{path}: {error}") from error
