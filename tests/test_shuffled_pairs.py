"""A control of training: the student learns from the PPG of another minute of the same person."""

import pathlib

import numpy as np
import pytest

from distill import config as configs
from distill import fold_training, frozen, stages
from distill.data import pairs
from distill.data.pipeline import Rows
from distill.data.store import PreparedSet
from distill.errors import DistillError
from students.transformer import SPEC
from tests import runs

SMOKE = runs.CONFIG.removeprefix("--config=")


def _rows(participant, recording, t0_s) -> Rows:
  fields = {"name": "toy", "simulated": True, "same_device": True, "records": ""}
  columns = {
    "participant": np.array(participant),
    "recording": np.array(recording),
    "t0_s": np.array(t0_s, float),
  }
  prepared = PreparedSet(pathlib.Path(), fields | {"specs": {"acc": SPEC.to_json()}}, columns)
  return Rows(prepared, np.arange(len(participant)))


def test_partners_are_other_minutes_of_the_same_person_each_used_once():
  participant = np.repeat(["a", "b", "c"], (30, 40, 1))
  t0_s = np.concatenate([20.0 * np.arange(30), 60.0 * np.arange(40), [0.0]])
  rows = _rows(participant, np.full(71, "walk"), t0_s)
  kept, partner = pairs.shuffled(rows, seed=3)
  own = kept.rows
  assert "c" not in set(participant[own])  # a single window has no other
  assert (participant[own] == "b").sum() == 40
  assert (participant[own] == "a").sum() >= 24  # some drew a window that overlaps them
  np.testing.assert_array_equal(participant[own], participant[partner])
  assert (np.abs(t0_s[own] - t0_s[partner]) >= 60).all()
  assert len(set(partner)) == len(partner)
  other, again = (pairs.shuffled(rows, seed=seed)[1] for seed in (4, 3))
  np.testing.assert_array_equal(partner, again)
  assert not np.array_equal(other, partner)


def test_windows_of_another_recording_never_overlap():
  rows = _rows(["a", "a"], ["walk", "sleep"], [0.0, 0.0])
  np.testing.assert_array_equal(pairs.shuffled(rows, seed=0)[1], [1, 0])


def test_the_student_is_given_the_teachers_vector_of_the_other_minute(smoke, tmp_path, monkeypatch):
  words = [
    f"--config.data.prepared_dir={smoke.prepared}",
    f"--config.teacher.load={smoke.folder}/fold0/teacher",
    "--config.shuffled_pairs=True",
  ]
  given = {}

  def stop(*parts, **_):
    given.update(sources=parts[4], teachers=parts[7], fold=parts[1])
    raise InterruptedError

  monkeypatch.setattr(fold_training, "train", stop)
  with pytest.raises(InterruptedError):
    stages.train(configs.load(SMOKE, words), tmp_path)
  vectors = given["teachers"][0].vectors(given["fold"])["simulated"]
  ((prepared, _),) = given["fold"].sets.values()
  who = prepared.index["participant"]
  assert isinstance(given["teachers"][0], frozen.EncoderTeacher)
  for source in given["sources"].values():
    batch = source.batch(np.arange(len(source)))
    acc_rows = np.concatenate([part.rows for part in source._parts])
    for vector, row in zip(batch["teacher"], acc_rows, strict=True):
      (found,) = np.flatnonzero((vectors == vector).all(axis=1))
      assert found != row
      assert who[found] == who[row]


def test_it_needs_stored_embeddings_and_a_teacher():
  for word in ("teacher.in_step=True", "method=rivals", "method=joint"):
    words = ["--config.shuffled_pairs=True", f"--config.{word}", "--config.loss.regression=0.0"]
    with pytest.raises(DistillError, match="shuffled_pairs gives other windows' stored teacher"):
      configs.load(SMOKE, words)
