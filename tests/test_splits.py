"""distill.data.splits: nobody stands in two parts, and files say what is wrong with them."""

import itertools
import pathlib

import numpy as np
import pytest

from distill.data import splits
from distill.data.splits import Folds, Split
from distill.errors import DistillError

NAMES = [f"S{i:02d}" for i in range(23)]
COMMITTED = pathlib.Path(__file__).parents[1] / "configs" / "splits"


def test_assign_is_balanced_and_independent_of_order():
  folds = splits.assign(NAMES)
  sizes = [list(folds.fold.values()).count(k) for k in range(5)]
  assert sorted(sizes) == [4, 4, 5, 5, 5]
  assert splits.assign(NAMES[::-1]).fold == folds.fold
  assert splits.assign(NAMES[::-1]).sha256 == folds.sha256
  assert splits.assign(NAMES[:-1]).sha256 != folds.sha256


def test_every_participant_is_tested_once_and_parts_are_disjoint():
  folds = splits.assign(NAMES)
  tested = []
  for k in range(folds.n):
    split = folds.split(k)
    assert sorted(split.train + split.validation + split.test) == NAMES
    assert split.validation == folds.split((k + 1) % folds.n).test
    tested += split.test
  assert sorted(tested) == NAMES


def test_part_of_rows_and_strangers():
  split = Split(("a", "b"), ("c",), ("d",))
  assert split.part_of(np.array(["d", "a", "c"])).tolist() == ["test", "train", "validation"]
  with pytest.raises(DistillError, match=r"e stand in no part.*known: a, b, c, d"):
    split.part_of(np.array(["a", "e"]))


def test_fewer_training_people_are_nested_and_leave_the_others_alone():
  whole = splits.assign(NAMES).split(1)
  kept = [whole.fewer(n) for n in range(1, len(whole.train) + 1)]
  for n, one in enumerate(kept, start=1):
    assert len(one.train) == n
    assert (one.validation, one.test) == (whole.validation, whole.test)
    assert sorted(one.train + one.unused) == list(whole.train)
  assert all(set(a.train) < set(b.train) for a, b in itertools.pairwise(kept))
  assert kept[-1] == whole
  for n in (0, len(whole.train) + 1):
    with pytest.raises(DistillError, match=f"train_people is {n}; this split has 13"):
      whole.fewer(n)


def test_a_participant_in_two_parts_is_refused():
  with pytest.raises(DistillError, match="'a' stands in train and in test"):
    Split(("a", "b"), ("c",), ("a",))


@pytest.mark.parametrize(
  ("names", "folds", "message"),
  [
    (["a"], 5, r"1 participant\(s\) cannot fill 5 folds"),
    (["a", "b", "a", "c", "d", "e"], 3, "'a' is given twice"),
    (NAMES, 2, "too few"),
  ],
)
def test_assign_refuses(names, folds, message):
  with pytest.raises(DistillError, match=message):
    splits.assign(names, folds)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a 0\nb 1\na 2\n", "line 3: participant 'a' already"),
    ("a 0\nb\nc 2\n", "line 2: expected 'participant fold', got 'b'"),
    ("a 0\nb -1\nc 2\n", "line 2"),
    ("a 0\nb 1\nc 3\n", "without holes"),
    ("a 0\nb 1\n", "at least three"),
    ("", "at least three"),
  ],
)
def test_a_broken_file_says_where(tmp_path, text, message):
  path = tmp_path / "toy.txt"
  path.write_text(text)
  with pytest.raises(DistillError, match=message) as caught:
    splits.load(path)
  assert str(path) in str(caught.value)


def test_no_file_and_no_such_fold(tmp_path):
  with pytest.raises(DistillError, match="no split file"):
    splits.load(tmp_path / "absent.txt")
  with pytest.raises(DistillError, match="no fold 5; there are 5"):
    splits.assign(NAMES).split(5)


def test_saved_and_loaded_with_comments(tmp_path):
  folds = splits.assign(NAMES)
  folds.save(tmp_path / "f.txt", "two\nlines")
  assert splits.load(tmp_path / "f.txt") == Folds(dict(folds.fold))
  assert splits.load(tmp_path / "f.txt").sha256 == folds.sha256


@pytest.mark.parametrize(("name", "people"), [("bami", 25), ("wesad", 15), ("stress_predict", 35)])
def test_committed_folds_hold_the_official_participants(name, people):
  folds = splits.load(COMMITTED / f"{name}.txt")
  sizes = [list(folds.fold.values()).count(k) for k in range(folds.n)]
  assert sizes == [people // 5] * 5
