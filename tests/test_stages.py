"""The whole job from a shipped config: contract, repeatability, and what stops it."""

import dataclasses
import hashlib
import json
import pathlib
import types

import jsonschema
import numpy as np
import pytest

from distill import config as configs
from distill import controls, fold_training, frozen, models, report, stages, workdir
from distill.data import pipeline, splits
from distill.data.store import PreparedSet
from distill.errors import DistillError
from tests import runs

MODELS = ("teacher", "student", "untrained", "supervised", "motion_features", "session_clock")


def _config(smoke, *overrides):
  words = (f"data.prepared_dir={smoke.prepared}", *overrides)
  return configs.load(runs.CONFIG.removeprefix("--config="), [f"--config.{word}" for word in words])


@pytest.fixture(name="made")
def _made(smoke):
  return json.loads((smoke.folder / "report.json").read_text())


@pytest.fixture(name="fold")
def _fold(smoke, tmp_path):
  return workdir.open_folds(_config(smoke), tmp_path)[0]


# --- what a run leaves ----------------------------------------------------------------------------


def test_the_report_of_the_demo_keeps_its_contract(made):
  jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(made)
  assert list(made["sets"]) == ["simulated"]
  assert made["simulated"] is True
  one = made["sets"]["simulated"]
  assert one["simulated"] is True
  for target in ("hr_bpm", "sdnn_ms", "rmssd_ms"):
    assert {*MODELS, "mean"} <= set(one["probes"][target])
  for part in (one["retrieval"], one["controls"]["same_participant"]):
    assert {"acc_to_ppg", "ppg_to_acc"} <= set(part)


def test_the_report_says_how_it_was_made(made, smoke):
  assert made["config"] == json.loads((smoke.folder / "config.json").read_text())
  assert made["versions"] == json.loads((smoke.folder / "versions.json").read_text())
  assert {"prepare", "pretrain", "embed", "train", "supervise", "judge"} == set(made["timing"])


def test_the_first_training_of_a_set_reads_none_of_its_records(tmp_path, monkeypatch):
  config = _config(types.SimpleNamespace(prepared=tmp_path / "prepared"))
  stages.prepare(config)
  (fold,) = workdir.open_folds(config, tmp_path)
  rows = fold_training.usable(fold, config, "train")
  monkeypatch.setattr(PreparedSet, "windows", None)
  for side in ("teacher", "student"):
    source = pipeline.TrainingSource(rows, [fold_training.outline(config, side).spec], {})
    source.batch(np.arange(len(source)))


@pytest.mark.parametrize(
  ("words", "read"),
  [
    ((), ["ppg", "acc"]),
    (("teacher.load=a/folder",), ["acc"]),
    (("method=rivals",), ["acc"]),
    (("method=joint", "loss.regression=0.0"), ["ppg", "acc"]),
  ],
)
def test_what_a_run_reads_is_what_the_encoders_that_it_trains_read(smoke, words, read):
  specs = fold_training.read_in_training(_config(smoke, *words))
  assert [spec.modality for spec in specs] == read


def test_a_second_run_from_nothing_gives_the_same_numbers(made, tmp_path):
  again = runs.smoke(tmp_path / "run", tmp_path / "prepared")
  report_again = json.loads((again.folder / "report.json").read_text())
  for one in (made, report_again):
    one["timing"] = None
    one["config"]["data"]["prepared_dir"] = ""
  assert report_again == made


def test_the_command_prints_the_table_and_where_the_page_is(smoke):
  assert "distilled student" in smoke.out
  assert smoke.out.endswith(f"report: {smoke.folder}/report.html\n")


def test_a_students_folder_holds_both_heads_and_says_who_it_saw(smoke, fold):
  stored = models.read(smoke.folder / "fold0" / "student" / "model")
  for part in ("encoder", "student_head", "teacher_head"):
    assert stored.part(part), part
  hashes = {
    part: {hashlib.sha256(who.encode()).hexdigest()[:16] for who in fold.people(part)}
    for part in ("train", "validation", "test")
  }
  assert set(stored.fields["people_seen"]) == hashes["train"] | hashes["validation"]
  assert not hashes["test"] & set(stored.fields["people_seen"])
  assert stored.fields["simulated"] is True
  assert models.load_encoder(smoke.folder / "fold0" / "student").spec.modality == "acc"
  assert "simulated" in (stored.folder / "README.md").read_text()


def test_every_window_that_is_judged_belongs_to_a_person_held_out(smoke, fold):
  from distill import embeddings

  folder = smoke.folder / "fold0" / "embeddings" / "simulated"
  table = embeddings.load(folder / "student_projection.parquet")
  held = {who.partition("/")[2] for who in fold.people("test")}
  assert set(table["participant"]) == held


def test_the_report_tells_how_noisy_the_wrists_are_at_rest(made, smoke, fold):
  rest = made["sets"]["simulated"]["rest"]
  assert rest["stretches"] > 10
  low, middle, high = rest["in_band_mg"]
  assert 0.3 < low < middle < high < 15  # mg; the fine sensor is quieter than recorded ones
  ((prepared, split),) = fold.sets.values()
  slow = types.SimpleNamespace(
    specs={"acc": dataclasses.replace(prepared.specs["acc"], rate_hz=25)}
  )
  assert controls.rest(slow, np.arange(3), seed=0) == {}
  held = np.flatnonzero(np.isin(prepared.index["participant"], split.test))
  again = controls.rest(prepared, held, seed=0)
  assert again["stretches"] == rest["stretches"]  # all of so few windows are looked at


# --- what stops it --------------------------------------------------------------------------------


def _vectors(fold, sign):
  """A teacher that knows heart rate on training people; on the others `sign` says."""
  vectors = {}
  for name, (prepared, split) in fold.sets.items():
    hr_bpm = np.nan_to_num(prepared.index["hr_bpm"], nan=70.0).astype(np.float32)
    known = np.isin(prepared.index["participant"], split.train)
    centred = hr_bpm - hr_bpm.mean()
    vectors[name] = np.where(known, centred, sign * centred)[:, None]
  return vectors


def test_a_teacher_that_knows_no_heart_rate_stops_the_run_before_distillation(
  smoke, fold, tmp_path, monkeypatch
):
  words = (f"teacher.load={smoke.folder}/fold0/teacher", "pretrain.check_probe=True")
  monkeypatch.setattr(frozen.EncoderTeacher, "vectors", lambda _, fold: _vectors(fold, -1.0))
  with pytest.raises(DistillError, match=r"the teacher knows no heart rate.*check_probe=False"):
    stages.train(_config(smoke, *words), tmp_path / "run")
  assert not (tmp_path / "run" / "fold0" / "student").exists()


def test_a_teacher_that_knows_heart_rate_passes(smoke, fold, capsys):
  stages._check_probe(_config(smoke), fold, _vectors(fold, 1.0))
  assert "heart-rate probe of the teacher" in capsys.readouterr().err


def test_a_given_teacher_that_saw_people_held_out_here_is_refused(smoke, tmp_path):
  words = (f"teacher.load={smoke.folder}/fold0/teacher", "folds=(1,)")
  with pytest.raises(DistillError, match=r"trained on \d+ participants who are held out in fold 1"):
    stages.pretrain(_config(smoke, *words), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_given_model_that_saw_people_of_an_external_set_is_refused(tmp_path):
  away = splits.Split((), (), ("anna", "ben"))
  fold = workdir.Fold(0, tmp_path, {}, {"elsewhere": (None, away)})
  fields = {"people_seen": [models.person_hash("elsewhere/ben")]}
  stored = models.ModelFolder(pathlib.Path("given"), fields, {})
  with pytest.raises(DistillError, match=r"student in given was trained on 1 .* elsewhere/ben"):
    stages.check_unseen(fold, stored, "student")


def test_a_student_that_starts_from_another_has_seen_its_people_too(smoke, tmp_path, monkeypatch):
  stored = models.read(smoke.folder / "fold0" / "student" / "model")
  fields = stored.fields | {"people_seen": ["somebody"], "sets": ["elsewhere"]}
  models.write(tmp_path / "start", stored.tensors, fields, "")
  monkeypatch.setattr(fold_training, "fit", lambda objective, *_, **__: objective)
  words = (f"teacher.load={smoke.folder}/fold0/teacher", f"start={tmp_path}/start")
  stages.train(_config(smoke, *words), tmp_path / "run")
  made = models.read(tmp_path / "run" / "fold0" / "student" / "model")
  assert set(made.fields["people_seen"]) == {"somebody", *stored.fields["people_seen"]}
  assert made.fields["sets"] == ["simulated", "elsewhere"]


def test_the_embeddings_of_another_teacher_are_refused(smoke, fold, tmp_path):
  fold = dataclasses.replace(fold, folder=tmp_path / "fold0")
  store = tmp_path / "fold0" / "teacher_store" / "teacher" / "simulated"
  store.mkdir(parents=True)
  (store / "key.json").write_text("{}")
  with pytest.raises(DistillError, match=r"embeddings of another teacher or set.*delete it"):
    frozen.open_teacher(smoke.folder / "fold0" / "teacher").vectors(fold)
