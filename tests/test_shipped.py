"""The teacher and the student that come with the toolkit: offline, small, a pair, and useful."""

import pathlib

import numpy as np
import pytest

import students
import teachers
from distill import models, objectives, ranking, ship
from distill.data import splits
from distill.data.cohort import Cohort, simulate
from distill.models import person_hash
from tests.conftest import ROOT

FOLDERS = {side.__name__: pathlib.Path(side.WEIGHTS) / "ours" for side in (teachers, students)}
PEOPLE, MINUTES = 10, 6


@pytest.mark.parametrize("side", FOLDERS)
def test_the_folder_is_whole_small_and_says_what_it_is(side):
  stored = models.read(FOLDERS[side])
  assert (stored.folder / models.WEIGHTS).stat().st_size <= ship.LARGEST_BYTES
  assert models.digest(stored.tensors) == stored.fields["sha256"]
  assert stored.part("student_head")
  assert stored.part("teacher_head")
  card = (stored.folder / models.CARD).read_text()
  for name, found in stored.fields["metrics"].items():
    for target, row in found["probes"].items():
      assert f"| {name} | {target} | {row['mae']['value']:.2f} |" in card


def test_they_are_one_pair_and_saw_no_held_out_person():
  teacher, student = (models.read(FOLDERS[side]).fields for side in ("teachers", "students"))
  assert teacher["pair"] == student["pair"]
  assert student["teachers"] == [teacher["sha256"]]
  split = splits.load(ROOT / "configs" / "splits" / "stress_predict.txt").split(0)
  for fields in (teacher, student):
    seen = set(fields["people_seen"])
    assert {person_hash(f"stress_predict/{who}") for who in split.train} <= seen
    assert not seen & {person_hash(f"stress_predict/{who}") for who in split.test}


def test_the_student_finds_the_minute_of_people_that_neither_has_seen():
  # Another seed: these people are in no training of theirs. Projections, as retrieval compares.
  vectors: dict[str, list[np.ndarray]] = {"acc": [], "ppg": []}
  encoders = {"acc": students.load("ours"), "ppg": teachers.load("ours")}
  for person in range(PEOPLE):
    recording = simulate(Cohort(PEOPLE, MINUTES, gaps=False, seed=2024), person)
    for name, encoder in encoders.items():
      signal = recording.signals[name]
      vectors[name].append(encoder.embed(signal.samples, rate_hz=signal.rate_hz))
  stored = models.read(FOLDERS["students"])
  sides = {
    name: np.asarray(objectives.load_head(stored, head)(np.concatenate(vectors[name])))
    for name, head in (("acc", "student_head"), ("ppg", "teacher_head"))
  }
  assert len(sides["acc"]) == PEOPLE * MINUTES
  rank, _ = ranking.ranks(sides["acc"], sides["ppg"])
  assert np.mean(rank <= 10) > 2 * 10 / len(rank)  # twice what chance gives
