"""Recordings that no run knows: one call from a folder to files that probe and retrieve read."""

import types

import numpy as np
import pytest

from distill import config as configs
from distill import embeddings, models, outside, tables
from distill.cli import main
from distill.errors import DistillError
from distill.models import person_hash
from tests import pulses

PEOPLE = ("anna", "bert", "cleo", "dora", "emil")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Five people's recordings of 200 s in a layout of one's own, acceleration at 100 Hz."""
  folder = tmp_path_factory.mktemp("own")
  entries = []
  for seed, who in enumerate(PEOPLE):
    recording = pulses.recording(who, seconds=200.0, seed=seed)
    ppg, acc = recording.signals["ppg"], recording.signals["acc"]
    np.savez(
      folder / f"{who}.npz", green=ppg.samples[:, 0], **dict(zip("xyz", acc.samples.T, strict=True))
    )
    entries.append(
      f'[[recording]]\nparticipant = "{who}"\nname = "one"\n'
      f'ppg = {{ file = "{who}.npz", column = "green", rate_hz = {ppg.rate_hz} }}\n'
      f'acc = {{ file = "{who}.npz", columns = ["x", "y", "z"], rate_hz = {acc.rate_hz},'
      ' unit = "g" }\n'
    )
  (folder / "manifest.toml").write_text("same_device = true\n" + "\n".join(entries))
  return folder


@pytest.fixture(scope="module")
def embedded(smoke, source, tmp_path_factory):
  out = tmp_path_factory.mktemp("out")
  run = smoke.folder / "fold0"
  return outside.embed(run / "student", source, out, teacher=run / "teacher")


def test_one_call_writes_both_sides_in_both_spaces(embedded):
  assert list(embedded) == ["student", "student_projection", "teacher", "teacher_projection"]
  tables = {name: embeddings.load(path) for name, path in embedded.items()}
  for table in tables.values():
    assert len(table) == 15
    assert set(table["participant"]) == set(PEOPLE)
    assert not table["seen"].any()
    assert np.isfinite(table.embedding).all()
  assert tables["student_projection"].pair == tables["teacher_projection"].pair != ""


def test_the_vectors_are_those_of_the_encoder_on_the_raw_recording(embedded, smoke, source):
  table = embeddings.load(embedded["student"])
  with np.load(source / "cleo.npz") as file:
    acc = np.stack([file[axis] for axis in "xyz"], axis=1)
  rate_hz = pulses.recording("cleo", seconds=200.0, seed=2).signals["acc"].rate_hz
  direct = models.load_encoder(smoke.folder / "fold0" / "student").embed(acc, rate_hz=rate_hz)
  mine = table.where(table["participant"] == "cleo")
  np.testing.assert_allclose(mine.embedding, direct[: len(mine)], atol=1e-4)


def test_probe_and_retrieve_read_what_was_written(embedded, capsys):
  assert main(["probe", f"--embeddings={embedded['student']}", "--json"]) == 0
  assert '"mae"' in capsys.readouterr().out
  words = [f"--{side}={embedded[name]}" for side, name in PAIR.items()]
  assert main(["retrieve", *words, "--json"]) == 0
  assert '"acc_to_ppg"' in capsys.readouterr().out


PAIR = {"query": "student_projection", "gallery": "teacher_projection"}


def test_people_whom_the_model_saw_are_marked_and_told(capsys):
  prepared = types.SimpleNamespace(name="own", index={"participant": np.array(["a", "b", "a"])})
  stored = models.ModelFolder(
    models.pathlib.Path("ours"), {"people_seen": [person_hash("own/a"), person_hash("x/b")]}, {}
  )
  np.testing.assert_array_equal(tables._seen(prepared, stored), [True, False, True])
  assert "ours: 1 of these people were seen in training" in capsys.readouterr().err


def test_a_teacher_that_the_student_did_not_learn_from_is_refused(smoke, source, tmp_path):
  stored = models.read(smoke.folder / "fold0" / "teacher" / "model")
  tensors = {name: values + 1 for name, values in stored.tensors.items()}
  models.write(tmp_path / "other", tensors, stored.fields, "")
  with pytest.raises(DistillError, match="did not learn from the teacher"):
    outside.embed(smoke.folder / "fold0" / "student", source, tmp_path, teacher=tmp_path / "other")


def _find(folder):
  data = configs.base().data
  data.source = str(folder)
  return outside.find_layout(data)


def test_the_layout_is_found(source):
  assert _find(source) == "own"


def test_a_folder_with_a_manifest_is_ones_own_also_where_the_manifest_is_wrong(tmp_path):
  (tmp_path / "manifest.toml").write_text('[[recording]]\nperson = "anna"\n')
  assert _find(tmp_path) == "own"  # reading it then says what is wrong, not that there is none


def test_public_sets_are_known_by_their_files(shared_data):
  found = {path.name: _find(path) for path in sorted(shared_data.iterdir()) if path.is_dir()}
  assert found
  assert {name: name for name in found} == found


def test_folders_in_no_layout_and_half_a_question_are_refused(tmp_path, capsys):
  (tmp_path / "notes.txt").write_text("nothing")
  with pytest.raises(DistillError, match="has no known layout; put a manifest"):
    _find(tmp_path)
  with pytest.raises(DistillError, match="there is no folder"):
    _find(tmp_path / "absent")
  assert main(["embed", f"--source={tmp_path}"]) == 2
  assert "embed needs --student and --source together" in capsys.readouterr().err
