"""Models that are shipped by name: made from a finished run, small, and loaded without a path."""

import numpy as np
import pytest

import students
import teachers
from distill import config as configs
from distill import models, ship
from distill.errors import DistillError
from distill.models import person_hash
from distill.workdir import open_folds
from tests import runs


@pytest.fixture(name="shipped")
def _shipped(smoke, tmp_path, monkeypatch):
  for package in (teachers, students):
    monkeypatch.setattr(package, "WEIGHTS", tmp_path / package.__name__ / "weights")
  return dict(zip(("teacher", "student"), ship.ship(smoke.folder), strict=True))


def test_both_load_by_name_and_embed_as_in_the_run(smoke, shipped):
  encoders = {"teacher": teachers.load("ours"), "student": students.load("ours")}
  for role, encoder in encoders.items():
    whole = models.parameters(models.load_encoder(smoke.folder / "fold0" / role))
    narrow = models.parameters(encoder)
    for name, values in whole.items():
      np.testing.assert_allclose(narrow[name], values, rtol=2**-11, atol=1e-7)
  rng = np.random.default_rng(0)
  ppg = rng.normal(size=(64 * 130, 1)).cumsum(axis=0)
  whole = models.load_encoder(smoke.folder / "fold0" / "teacher").embed(ppg, rate_hz=64.0)
  narrow = encoders["teacher"].embed(ppg, rate_hz=64.0)
  assert narrow.shape == (2, whole.shape[1])
  assert np.abs(narrow - whole).max() < 0.01 * np.abs(whole).max()


def test_the_folders_are_small_and_hold_both_heads_of_one_pair(shipped):
  stored = {role: models.read(folder) for role, folder in shipped.items()}
  for one in stored.values():
    assert (one.folder / models.WEIGHTS).stat().st_size <= ship.LARGEST_BYTES
    assert {values.dtype for values in one.tensors.values()} == {np.dtype(np.float16)}
    assert {name.split(".")[0] for name in one.tensors} == {
      *("encoder", "student_head", "teacher_head")
    }
  assert stored["student"].fields["pair"] == stored["teacher"].fields["pair"]
  assert stored["student"].fields["teachers"] == [stored["teacher"].fields["sha256"]]


def test_they_say_whom_they_saw_and_how_they_did(smoke, shipped, tmp_path):
  path = runs.CONFIG.removeprefix("--config=")
  config = configs.load(path, [f"--config.data.prepared_dir={smoke.prepared}"])
  fold = open_folds(config, tmp_path)[0]
  for role, folder in shipped.items():
    fields = models.read(folder).fields
    seen = set(fields["people_seen"])
    assert {person_hash(who) for who in fold.people("train")} <= seen
    assert not seen & {person_hash(who) for who in fold.people("test")}
    assert fields["licence"] == {"simulated": ship.LICENCES["simulated"]}
    card = (folder / models.CARD).read_text()
    assert card.startswith(f"# ours: {role}")
    value = fields["metrics"]["simulated"]["probes"]["hr_bpm"]["mae"]["value"]
    assert f"| simulated | hr_bpm | {value:.2f} |" in card
    for part in ("## Data", "## Metrics", "## Licence", "## Limits", "Not a medical device"):
      assert part in card


def test_what_may_not_or_cannot_be_shipped_is_refused(smoke, shipped, monkeypatch, capsys):
  with monkeypatch.context() as changed:
    changed.setattr(ship, "LARGEST_BYTES", 1000)
    with pytest.raises(DistillError, match=r"cannot be shipped: .* MB in float16, at most 0\.001"):
      ship.ship(smoke.folder)
  monkeypatch.setattr(ship, "LICENCES", {})
  assert ship.main([str(smoke.folder)]) == 2
  assert "weights made of simulated may not be shipped" in capsys.readouterr().err


def test_a_name_that_is_not_shipped_is_a_folder(shipped):
  with pytest.raises(DistillError, match="theirs is no model folder"):
    teachers.load("theirs")
