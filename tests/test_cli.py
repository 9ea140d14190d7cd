"""The command: what goes wrong ends in one line and exit code 2, what goes well in clean output."""

import fcntl
import json
import re
import shutil
import threading

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill import benchmark, cli, day, embeddings, missing, models, report, workdir
from distill.embeddings import EmbeddingTable
from tests import pulses, runs

VERBS = ("prepare", "pretrain", "train", "embed", "retrieve", "probe", "report", "run", "benchmark")
SMALL = ("--config.data.simulated.participants=5", "--config.data.simulated.minutes=2")
START_S = 1644227574.0


@pytest.fixture(name="refused")
def _refused(capsys):
  """Runs the command, which must refuse; returns the one line that it says."""

  def run(*words: str) -> str:
    assert cli.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    told = [line for line in captured.err.splitlines() if line.startswith("distill: ")]
    assert len(told) == 1
    assert captured.err.endswith(told[0] + "\n"), "the reason comes last"
    return told[0].removeprefix("distill: ")

  return run


@pytest.fixture(name="done")
def _done(capsys):
  """Runs the command, which must do it; returns its standard output."""

  def run(*words: str) -> str:
    code = cli.main(list(words))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out

  return run


def _e4(folder, seconds=130.0, **texts):
  """An Empatica E4 session; `texts` replaces whole files."""
  folder.mkdir(parents=True)
  ppg = 50 * pulses.ppg_of(pulses.beat_times(seconds), seconds, noise=0.01)
  acc = np.rint(64 * pulses.acc_still(seconds)).astype(int)
  bvp = "".join(f"{value:.2f}\n" for value in ppg)
  rows = "".join(f"{x},{y},{z}\n" for x, y, z in acc)
  start = ", ".join([f"{START_S:.6f}"] * 3)
  files = {"BVP": f"{START_S:.2f}\n64.0\n{bvp}", "ACC": f"{start}\n32.0, 32.0, 32.0\n{rows}"}
  for name, text in (files | texts).items():
    (folder / f"{name}.csv").write_text(text)


def _e4_words(tmp_path, verb="run"):
  return (
    *(verb, runs.CONFIG, "--config.data.sets=('stress_predict',)"),
    *(f"--config.data.source={tmp_path}/source", f"--config.data.prepared_dir={tmp_path}/prepared"),
    f"--workdir={tmp_path}/run",
  )


def _nothing_written(tmp_path):
  left = [path.name for path in tmp_path.iterdir() if path.name != "source"]
  assert left in ([], ["prepared"]), left
  assert not list(tmp_path.glob("prepared/*"))


# --- words ----------------------------------------------------------------------------------------


def test_help_lists_every_verb(capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(["--help"])
  assert ended.value.code == 0
  told = capsys.readouterr().out
  for verb in VERBS:
    assert f"\n    {verb} " in told


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ([], "VERB"),
    (["tran"], "no verb 'tran'; did you mean 'train'"),
    (
      ["train", "--workdir=x", "--confg=y"],
      "train knows no option --confg; did you mean '--config'",
    ),
    (["train", "x", "--workdir=x"], "train cannot place 'x'"),
    (["train", f"{runs.CONFIG}"], "--workdir"),
    (["train", "--workdir=absent"], "absent holds no run"),
    (["prepare"], "give --config=FILE"),
    (["prepare", "--source=x"], "--source belongs to named sets"),
    (["prepare", "own", "--source=absent"], "manifest"),
    (["inspect", "absent"], "absent"),
    (["report"], "RUN"),
    (["benchmark", "--workdir=x"], "--config"),
    (["benchmark", "--config=absent.py", "--workdir=x"], "no config file at absent.py"),
    (["benchmark", runs.CONFIG, "--workdir=x"], "is no benchmark: it lacks cells, seeds"),
    (["report", "absent"], "absent holds no run"),
    (["report", "absent", "--config.steps=3"], "report takes no config, so no --config.steps=3"),
    (["retrieve"], "retrieve needs a work folder, or --query and --gallery"),
    (["retrieve", "--query=absent.npz", "--gallery=absent.npz"], "no embedding file at absent.npz"),
    (["retrieve", "absent"], "no report"),
    (["probe"], "probe needs a work folder, or --embeddings"),
    (["embed", "--model=x"], "embed needs --workdir, or --student and --source, or --model, --set"),
    (["embed", "--model=x", "--set=y", "--out=z.npz"], "x is no model folder"),
    (["embed", "--space=both"], "--space"),
    (["embed", "--workdir=x", "--out=y.npz"], "embed was given the work folder x and --out"),
    (["retrieve", "x", "--query=a.npz"], "retrieve was given the work folder x and --query; give"),
    (["probe", "x", "--embeddings=a.npz"], "probe was given the work folder x and --embeddings"),
    (["export", "absent", "--out=x"], "absent is no model folder"),
    (["export", "ours"], "--out"),
    (["train", "--config=absent.py", "--workdir=x"], "no config file at absent.py"),
    (["run", runs.CONFIG, "--config.stps=3", "--workdir=x"], "no key config.stps; did you mean"),
    (["run", runs.CONFIG, "--config.batch_size=1", "--workdir=x"], "batch_size is 1"),
  ],
)
def test_words_that_say_nothing_useful_are_answered(
  refused, tmp_path, monkeypatch, words, expected
):
  monkeypatch.chdir(tmp_path)
  assert expected in refused(*words)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("verb", "words", "expected"),
  [
    ("inspect", ["."], "distill: stopped\n"),
    (
      "run",
      ["--workdir=x"],
      "distill: stopped; the same command goes on from the last checkpoint\n",
    ),
  ],
)
def test_who_stops_a_run_is_told_how_it_goes_on(monkeypatch, capsys, verb, words, expected):
  def stopped(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(cli, f"_{verb}", stopped)
  assert cli.main([verb, *words]) == 130
  assert capsys.readouterr().err == expected


def test_a_place_that_cannot_be_written_to_is_told(refused, tmp_path):
  (tmp_path / "file").write_text("")
  told = refused("run", runs.CONFIG, f"--workdir={tmp_path}/file/run")
  assert told == f"{tmp_path}/file/run: Not a directory"


# --- recordings -----------------------------------------------------------------------------------


def test_a_data_folder_that_is_missing_or_empty(refused, tmp_path):
  assert f"{tmp_path}/source is no folder" in refused(*_e4_words(tmp_path))
  (tmp_path / "source").mkdir()
  assert f"under {tmp_path}/source" in refused(*_e4_words(tmp_path))
  _nothing_written(tmp_path)


@pytest.mark.parametrize(
  ("texts", "expected"),
  [
    ({"ACC": "1, 1, 1\n32, 32, 32\n1,2,3\n4,5\n"}, "ACC.csv, line 4: expected 3"),
    ({"BVP": f"{START_S}\n32.0\n" + "1.0\n" * 9000}, "BVP.csv, line 2: rate 32 Hz; expected 64"),
    ({"BVP": f"{START_S}\n64.0\n" + "7.0\n" * 9000}, "constant"),
    ({"BVP": f"{START_S}\n64.0\n" + "nan\n" * 9000}, "S02"),
  ],
)
def test_a_recording_that_cannot_be_used_names_its_file(refused, tmp_path, texts, expected):
  _e4(tmp_path / "source" / "Raw_data" / "S02", **texts)
  assert expected in refused(*_e4_words(tmp_path))
  _nothing_written(tmp_path)


def test_a_window_longer_than_the_recording(refused, tmp_path):
  _e4(tmp_path / "source" / "Raw_data" / "S02", seconds=40.0)
  assert "shorter than one window of 60 s" in refused(*_e4_words(tmp_path))
  _nothing_written(tmp_path)


def test_one_participant_cannot_be_held_out_and_the_folder_stays_free(refused, tmp_path):
  _e4(tmp_path / "source" / "Raw_data" / "S02")
  told = refused(*_e4_words(tmp_path))
  assert "1 participant(s) cannot fill 5 folds" in told
  assert "add recordings of other participants" in told
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    ("data.ppg_rate_hz=32.0", "the teacher expects ppg with rate_hz 64.0"),
    ("data.acc_rate_hz=25.0", "the student expects acc with rate_hz 50.0"),
    ("data.window_s=30.0", "the student expects acc with window_s 60.0"),
    ("folds=(7,)", "no fold 7; there are 5"),
    ("batch_size=64", "fewer than one batch of 64"),
  ],
)
def test_data_that_the_models_were_not_made_for(refused, smoke, tmp_path, override, expected):
  told = refused(
    *("train", runs.CONFIG, *SMALL, f"--config.{override}", "--config.data.hop_s=30.0"),
    *(f"--config.data.prepared_dir={tmp_path}/prepared", f"--workdir={tmp_path}/run"),
    f"--config.teacher.load={_unknown_teacher(smoke, tmp_path)}",
  )
  assert expected in told
  if "batch" not in override:
    assert not (tmp_path / "run").exists()
  assert not list(tmp_path.glob("run/fold0/student/*"))


# --- a given teacher ------------------------------------------------------------------------------


def _unknown_teacher(smoke, tmp_path):
  """A copy of the smoke run's teacher that has seen nobody."""
  stored = models.read(smoke.folder / "fold0" / "teacher" / "model")
  models.write(
    tmp_path / "source" / "teacher", stored.tensors, stored.fields | {"people_seen": []}, ""
  )
  return tmp_path / "source" / "teacher"


def _damage(folder):
  path = folder / models.WEIGHTS
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def _cut(folder):
  path = folder / models.WEIGHTS
  path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
  ("spoil", "expected"),
  [
    (shutil.rmtree, "is no model folder: model.safetensors is missing"),
    (lambda folder: (folder / models.SPEC).unlink(), "is no model folder: spec.json is missing"),
    (_damage, "does not match the sha256 in spec.json: damaged or changed"),
    (_cut, "cannot be read"),
  ],
)
def test_a_teacher_that_is_missing_or_damaged(refused, smoke, tmp_path, spoil, expected):
  folder = _unknown_teacher(smoke, tmp_path)
  spoil(folder)
  told = refused(
    *("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}"),
    *(f"--config.teacher.load={folder}", f"--workdir={tmp_path}/run"),
  )
  assert str(folder) in told
  assert expected in told
  assert not (tmp_path / "run").exists()


def test_a_student_is_no_teacher(refused, smoke, tmp_path):
  told = refused(
    *("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}"),
    *(f"--config.teacher.load={smoke.folder}/fold0/student", f"--workdir={tmp_path}/run"),
  )
  assert "config.teacher is an encoder of acc signals; a teacher reads ppg" in told
  assert not (tmp_path / "run").exists()


# --- work folders ---------------------------------------------------------------------------------


def _contents(folder):
  return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_folder_with_another_run_is_refused_and_left_alone(refused, smoke):
  before = _contents(smoke.folder)
  told = refused(
    *("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}"),
    *("--config.seed=5", f"--workdir={smoke.folder}"),
  )
  assert f"{smoke.folder} already holds another run: config.seed is 0 there and 5 here" in told
  assert _contents(smoke.folder) == before


def test_a_folder_with_other_files_is_refused_and_left_alone(refused, tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  assert "is not empty and holds no run" in refused("run", runs.CONFIG, f"--workdir={tmp_path}")
  file = f"--workdir={tmp_path}/thesis.txt"
  assert "is not empty and holds no run" in refused("run", runs.CONFIG, file)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_stored_config_that_was_cut_off_is_refused(refused, smoke, tmp_path):
  text = (smoke.folder / "config.json").read_text()
  (tmp_path / "config.json").write_text(text[:100])
  assert "config.json" in refused("report", str(tmp_path))
  assert "config.json is damaged" in refused("run", runs.CONFIG, f"--workdir={tmp_path}")


def test_bad_input_leaves_an_empty_folder_empty_and_a_killed_claim_is_taken_up(refused, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "versions.json").write_text("{}")  # a claim ends with config.json
  assert "is no folder" in refused(*_e4_words(tmp_path))
  assert not list(run.iterdir())


# --- a finished run -------------------------------------------------------------------------------


def _same_but_timing(text, other):
  return {**json.loads(text), "timing": 0} == {**json.loads(other), "timing": 0}


def test_results_of_other_verbs_have_the_names_that_those_give():
  assert {benchmark.PAGE, day.RESULT, missing.RESULT} < set(cli.RESULTS)


@pytest.mark.parametrize("file", sorted(cli.RESULTS))
def test_report_names_the_results_of_other_verbs(file, refused, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / file).write_text("")
  said = refused("report", str(tmp_path))
  assert f"distill {cli.RESULTS[file]}`" in said
  assert str(tmp_path / file) in said


def test_report_prints_the_contract_and_nothing_else(done, smoke):
  text = done("report", str(smoke.folder), "--json")
  assert text == (smoke.folder / "report.json").read_text()
  jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(json.loads(text))


def test_a_moved_run_is_judged_where_it_lies(done, smoke, tmp_path):
  moved = shutil.copytree(smoke.folder, tmp_path / "moved")
  (moved / "report.json").unlink()
  (moved / "report.html").unlink()
  text = done("report", str(moved), "--json")
  assert _same_but_timing(text, (smoke.folder / "report.json").read_text())
  assert (moved / "report.html").is_file()


def test_run_called_again_does_nothing_more(done, smoke, tmp_path):
  copy = shutil.copytree(smoke.folder, tmp_path / "copy")
  before = {p: t for p, t in _contents(copy).items() if "fold0" in p.parts}
  done("run", f"--workdir={copy}")
  assert {p: t for p, t in _contents(copy).items() if "fold0" in p.parts} == before
  one, two = ((folder / "report.json").read_text() for folder in (smoke.folder, copy))
  assert _same_but_timing(one, two)


def test_the_table_says_that_the_set_is_simulated(done, smoke):
  assert "simulated" in done("report", str(smoke.folder))
  assert "| model" in done("report", str(smoke.folder), "--markdown")


def test_retrieve_and_probe_read_a_finished_run(done, smoke):
  found = json.loads(done("retrieve", str(smoke.folder), "--json"))["simulated"]
  assert found["retrieval"]["acc_to_ppg"][-1]["chance_top1"] > 0
  rows = json.loads(done("probe", str(smoke.folder), "--target=hr_bpm", "--json"))["simulated"]
  assert {"teacher", "student", "mean"} <= set(rows)
  assert "chance" in done("retrieve", str(smoke.folder))
  assert "MAE" in done("probe", str(smoke.folder))


def test_a_target_that_was_not_probed_is_refused_with_the_nearest(refused, smoke):
  told = refused("probe", str(smoke.folder), "--target=hr_bmp")
  assert "holds no probe of 'hr_bmp'; did you mean 'hr_bpm'?" in told


# --- embedding files ------------------------------------------------------------------------------


@pytest.fixture(name="files", scope="module")
def _files(smoke, tmp_path_factory):
  """Embeddings of the smoke set: of the student, and both projections."""
  folder = tmp_path_factory.mktemp("files")
  student = f"--model={smoke.folder}/fold0/student"
  teacher = f"--teacher={smoke.folder}/fold0/teacher"
  common = ("embed", f"--set={smoke.set_folder}", student)
  for words in (
    (f"--out={folder}/student.npz",),
    (f"--out={folder}/acc.parquet", "--space=projection"),
    (f"--out={folder}/ppg.parquet", "--space=projection", teacher),
  ):
    assert cli.main([*common, *words]) == 0
  return folder


def test_sets_are_made_ready_for_the_encoders_of_a_config_and_for_none_without(tmp_path, capsys):
  small = [f"--config.data.simulated.{key}=2" for key in ("participants", "minutes")]
  for k, words in enumerate((["simulated"], [runs.CONFIG])):
    place = tmp_path / str(k)
    assert cli.main(["prepare", *words, *small, f"--config.data.prepared_dir={place}"]) == 0
    (folder,) = place.glob("simulated-*")
    assert capsys.readouterr().out == f"simulated: {folder}\n"
    assert (folder / "ready").is_dir() == (words == [runs.CONFIG])


def test_embeddings_of_any_prepared_set_are_retrieved_and_probed(done, files):
  pair = (f"--query={files}/acc.parquet", f"--gallery={files}/ppg.parquet")
  found = json.loads(done("retrieve", *pair, "--json"))["acc"]
  assert {"acc_to_ppg", "ppg_to_acc"} == set(found["retrieval"])
  words = (f"--embeddings={files}/student.npz", "--target=hr_bpm")
  rows = json.loads(done("probe", *words, "--json"))["student"]
  assert all(np.isfinite(one["mae"]["value"]) for one in rows.values())
  assert "mean" in rows


def test_a_file_keeps_what_its_vectors_are(files):
  table, acc = (embeddings.load(files / name) for name in ("student.npz", "acc.parquet"))
  ppg = embeddings.load(files / "ppg.parquet")
  assert (table.space, acc.space, ppg.space) == ("embedding", "projection", "projection")
  assert acc.pair == ppg.pair != ""
  assert {"participant", "recording", "t0_s", "coverage", "hr_bpm"} <= set(table.columns)


def test_files_that_were_never_aligned_are_refused_unless_forced(refused, done, files):
  pair = (f"--query={files}/student.npz", f"--gallery={files}/student.npz")
  assert "--force" in refused("retrieve", *pair)
  found = json.loads(done("retrieve", *pair, "--force", "--json"))["student"]
  assert found["retrieval"]["acc_to_ppg"][-1]["top1"] == 1.0  # with itself


def test_sides_that_were_swapped_or_given_twice_are_refused(refused, files):
  acc, ppg = f"{files}/acc.parquet", f"{files}/ppg.parquet"
  told = refused("retrieve", f"--query={ppg}", f"--gallery={acc}")
  assert "(--query) was read from ppg and the second (--gallery) from acc" in told
  assert "everything would find itself" in refused("retrieve", f"--query={acc}", f"--gallery={acc}")


def test_people_whom_the_model_saw_and_simulated_ones_are_told(smoke, files, capsys):
  seen = embeddings.load(files / "student.npz")
  known = set(models.read(smoke.folder / "fold0" / "student" / "model").fields["people_seen"])
  expected = [models.person_hash(f"simulated/{who}") in known for who in seen["participant"]]
  np.testing.assert_array_equal(seen["seen"], expected)
  assert 0 < np.sum(expected) < len(expected)
  assert cli.main(["probe", f"--embeddings={files}/student.npz"]) == 0
  captured = capsys.readouterr()
  assert captured.out.startswith("student (simulated)\n")
  assert f"seen the people of {np.sum(expected)} of {len(expected)} windows" in captured.err
  pair = (f"--query={files}/acc.parquet", f"--gallery={files}/ppg.parquet")
  assert cli.main(["retrieve", *pair]) == 0
  assert capsys.readouterr().out.startswith("acc (simulated)\n")
  for verb in ("retrieve", "probe"):
    assert cli.main([verb, str(smoke.folder)]) == 0
    assert capsys.readouterr().out.startswith("simulated (simulated)\n")


def test_what_is_no_file_of_embeddings_is_not_written_over(refused, smoke, tmp_path):
  raw = tmp_path / "rec.npz"
  noise = 0.01 * np.random.default_rng(0).normal(size=(3000, 3))
  np.savez(raw, acc=(noise + [0, 0, 1]).astype(np.float32))
  before = raw.read_bytes()
  words = ("embed", f"--model={smoke.folder}/fold0/student", f"--recording={raw}", "--rate-hz=50")
  told = refused(*words, "--columns=acc", f"--out={raw}")
  assert "is there and holds no embeddings: it is left as it is" in told
  assert raw.read_bytes() == before
  assert "ends in .npz or .parquet" in refused(*words, "--columns=acc", f"--out={tmp_path}/x.csv")
  (tmp_path / "file").write_text("x")
  told = refused(*words, "--columns=acc", f"--out={tmp_path}/file/x.npz")
  assert f"{tmp_path}/file is a file" in told
  told = refused("inspect", str(tmp_path), f"--picture={tmp_path}/rec.npz")
  assert "expected a name that ends in .png" in told
  assert raw.read_bytes() == before


def test_a_recordings_own_clock_is_read(done, refused, smoke, tmp_path, capsys):
  rng = np.random.default_rng(0)
  times_s = np.delete(np.arange(9000) / 50, np.r_[4000:6000])  # 40 s are lost
  acc = (0.01 * rng.normal(size=(len(times_s), 3)) + [0, 0, 1]).astype(np.float32)
  np.savez(tmp_path / "rec.npz", t=times_s * 1000, acc=acc)
  out = tmp_path / "out.npz"
  words = ["embed", f"--model={smoke.folder}/fold0/student", f"--recording={tmp_path}/rec.npz"]
  words += [f"--out={out}"]
  assert "is its clock" in refused(*words, "--columns=t", "--rate-hz=50")
  done(*words, "--columns=acc", "--time=t", "--time-unit=ms")
  assert len(embeddings.load(out)) == 3
  np.testing.assert_allclose(embeddings.load(out)["coverage"], [1, 1 / 3, 1], atol=2e-3)
  assert cli.main([*words, "--columns=acc", "--rate-hz=50"]) == 0
  assert "column 't' is not read, so lost rows would go unseen" in capsys.readouterr().err
  assert len(embeddings.load(out)) == 2


def test_a_folder_of_fine_tuning_is_not_trained_in_and_is_told(refused, smoke, tmp_path):
  shutil.copytree(smoke.folder / "fold0" / "student", tmp_path / "run" / "fold0" / "finetuned")
  for name in ("config.json", "versions.json"):
    shutil.copy(smoke.folder / name, tmp_path / "run" / name)
  told = refused("embed", f"--workdir={tmp_path}/run")
  assert f"no trained student in {tmp_path}/run/fold0/student" in told
  assert "made by `distill finetune`" in refused("report", f"{tmp_path}/run")
  assert not (tmp_path / "run" / "fold0" / "teacher").exists()


def test_what_stops_the_student_is_found_before_its_teacher_is_trained(refused, smoke, tmp_path):
  words = ("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}")
  words += (f"--workdir={tmp_path}/run",)
  assert "is absent, which is no folder" in refused(*words, "--config.data.splits=absent")
  assert "fewer than one batch of 4096" in refused(*words, "--config.batch_size=4096")
  teacher = f"--config.start={smoke.folder}/fold0/teacher"
  assert "a model of ppg; a student starts from one of acceleration" in refused(*words, teacher)
  assert not (tmp_path / "run").exists()  # so that the mended command can use it


def test_a_second_process_waits_for_the_first(smoke, tmp_path, capsys):
  shutil.copytree(smoke.folder, tmp_path / "run")
  config = workdir.read_config(tmp_path / "run")
  with open(tmp_path / "run" / workdir.LOCK, "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write("123")
    lock.flush()
    threading.Timer(0.5, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
    with workdir.claimed(config, tmp_path / "run"), workdir.claimed(config, tmp_path / "run"):
      assert f"{tmp_path}/run is in use by process 123: waiting" in capsys.readouterr().err
      with open(tmp_path / "run" / workdir.LOCK) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_embedding_files_that_cannot_be_used(refused, files, tmp_path):
  assert "no embedding file at" in refused("probe", f"--embeddings={tmp_path}/absent.npz")
  np.savez(tmp_path / "other.npz", vectors=np.zeros((3, 2)))
  told = refused("probe", f"--embeddings={tmp_path}/other.npz")
  assert "no column 'embedding'; found: vectors" in told
  (tmp_path / "cut.parquet").write_bytes((files / "acc.parquet").read_bytes()[:200])
  assert "cut.parquet cannot be read" in refused("probe", f"--embeddings={tmp_path}/cut.parquet")
  bare = EmbeddingTable(np.zeros((4, 2), np.float32), {"participant": np.array(list("aabb"))})
  embeddings.save(bare, tmp_path / "bare.npz")
  assert "no column 'hr_bpm'" in refused("probe", f"--embeddings={tmp_path}/bare.npz")
  words = ("probe", f"--embeddings={files}/student.npz", "--target=mood")
  assert "no column 'mood'" in refused(*words)


def _foreign(folder, name, **columns):
  """A file as another program might write it: ten people of six windows."""
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(60, 8)).astype(np.float32)
  given = {"embedding": vectors, "participant": np.repeat(np.arange(10), 6)}
  given |= {"hr_bpm": 60 + 5 * vectors[:, 0], **columns}
  path = folder / name
  if path.suffix == ".npz":
    np.savez(path, **given)
  else:
    given["embedding"] = list(given["embedding"])
    pq.write_table(pa.table({key: pa.array(value) for key, value in given.items()}), path)
  return path


def _but(values, row, value):
  changed = np.array(values, dtype=None if not isinstance(value, str) else "U10")
  changed[row] = value
  return changed


VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
TEN = np.repeat(np.arange(10), 6)
SPLIT = np.repeat(["train"] * 6 + ["validation"] * 2 + ["test"] * 2, 6)


@pytest.mark.parametrize(
  ("name", "columns", "message"),
  [
    ("a.npz", {"embedding": _but(VECTORS, (3, 2), np.nan)}, r"1 of 60 .* \(first: row 3\)"),
    ("a.npz", {"embedding": _but(VECTORS, (4, 0), np.inf)}, "hold NaN or infinity"),
    ("a.npz", {"embedding": VECTORS[:, 0]}, r"embedding must be \[n, dim\]"),
    ("a.npz", {"embedding": VECTORS[:0]}, "one value for each embedding"),
    ("a.npz", {"participant": np.arange(3)}, "one value for each embedding"),
    ("a.npz", {"participant": _but(TEN.astype(float), 5, np.nan)}, "1 rows have no participant"),
    ("a.npz", {"split": _but(SPLIT, 0, "test")}, "'0' stands in both train and test"),
    ("a.npz", {"split": _but(SPLIT, 0, "val")}, "column 'split' holds 'val'; expected train, "),
    ("a.npz", {"hr_bpm": np.full(60, np.nan)}, "no fold has labelled"),
    ("a.npz", {"t0_s": np.full(60, "noon")}, "column 't0_s' must hold seconds"),
    ("a.npz", {"valid": np.full(60, "maybe")}, "column 'valid' holds 'maybe'; expected true or"),
    ("a.npz", {"activity": np.full(60, "sit", object)}, r"'activity' .* with \.astype\(str\)"),
    ("a.parquet", {"embedding": [[1.0], [1.0, 2.0]] * 30}, "of the same length, found 1, 2"),
    ("a.parquet", {"embedding": [None, [1.0, 2.0]] * 30}, "of the same length, found none, 2"),
    ("a.parquet", {"participant": [None, "b"] * 30}, "30 rows have no participant"),
  ],
)
def test_files_of_other_programs_that_are_wrong_are_told(refused, tmp_path, name, columns, message):
  path = _foreign(tmp_path, name, **columns)
  assert re.search(message, refused("probe", f"--embeddings={path}"))


def test_one_row_no_columns_other_rows_and_no_archive(refused, tmp_path):
  one = tmp_path / "one.npz"
  np.savez(one, embedding=VECTORS[:1])
  assert "no column 'hr_bpm'; it has no columns" in refused("probe", f"--embeddings={one}")
  same = (f"--query={one}", f"--gallery={one}", "--force")
  assert "at least two windows" in refused("retrieve", *same)
  whole, narrow = (tmp_path / f"{name}.npz" for name in ("whole", "narrow"))
  np.savez(whole, embedding=VECTORS)
  np.savez(narrow, embedding=VECTORS[:, :5])
  told = refused("retrieve", f"--query={whole}", f"--gallery={narrow}", "--force")
  assert "have 8 dimensions and the gallery 5" in told or "have 5 dimensions" in told
  told = refused("retrieve", f"--query={whole}", f"--gallery={one}", "--force")
  assert "60 acceleration rows and 1 PPG rows" in told
  told = refused("retrieve", f"--query={whole}", f"--gallery={whole}", "--force", "--window-s=0")
  assert "--window-s is 0" in told
  (tmp_path / "junk.npz").write_bytes(b"hello")
  assert "is no NPZ file" in refused("probe", f"--embeddings={tmp_path}/junk.npz")


def test_people_whom_the_model_has_seen_are_told(tmp_path, capsys):
  path = _foreign(tmp_path, "a.npz", seen=TEN < 2)
  assert cli.main(["probe", f"--embeddings={path}"]) == 0
  assert "has seen the people of 12 of 60 windows in training" in capsys.readouterr().err
  path = _foreign(tmp_path, "a.npz", seen=TEN < 0)
  assert cli.main(["probe", f"--embeddings={path}"]) == 0
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("valid", [["True", "False"], ["1", "0"], [1.0, 0.0], [True, None]])
def test_rows_that_are_marked_in_other_words_are_left_out(tmp_path, valid):
  path = _foreign(tmp_path, "a.parquet", valid=valid * 30)
  table = embeddings.load(path)
  np.testing.assert_array_equal(table["valid"], [True, False] * 30)
  np.testing.assert_array_equal(table.valid, [True, False] * 30)


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"embedding": _but(VECTORS, 7, 0.0)}, "1 acceleration vectors are zero (first: row 7)"),
    ({"t0_s": np.r_[0.0, np.arange(59)]}, "acceleration rows 0 and 1 are both of 0/0 at 0 s"),
  ],
)
def test_rows_that_retrieval_cannot_place_are_told(refused, tmp_path, columns, message):
  path = _foreign(tmp_path, "a.npz", **{"recording": TEN, "t0_s": np.arange(60), **columns})
  assert message in refused("retrieve", f"--query={path}", f"--gallery={path}", "--force")


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_numbered_people_dates_and_marked_rows_are_understood(done, tmp_path, name):
  marked = {"embedding": _but(VECTORS, (3, 2), np.nan), "valid": np.arange(60) != 3}
  start = np.datetime64("2026-01-01", "us") + np.arange(60) * np.timedelta64(60_000_000, "us")
  path = _foreign(tmp_path, name, t0_s=start, recording=TEN, **marked)
  table = embeddings.load(path, strict=True)
  assert set(table["participant"]) == set("0123456789")
  np.testing.assert_allclose(np.diff(table["t0_s"]), 60.0)
  rows = json.loads(done("probe", f"--embeddings={path}", "--json"))["a"]
  assert rows["embedding"]["n_windows"] == 59
  pair = (f"--query={path}", f"--gallery={path}", "--force", "--json")
  assert json.loads(done("retrieve", *pair))["a"]["controls"]["same_participant"]


def test_embedding_what_does_not_fit_is_refused(refused, smoke, tmp_path):
  model = f"--model={smoke.folder}/fold0/student"
  out = f"--out={tmp_path}/a.npz"
  assert "no prepared set at" in refused("embed", model, f"--set={tmp_path}", out)
  words = ("embed", f"--model={smoke.folder}/fold0/teacher", f"--set={smoke.set_folder}", out)
  assert "has no teacher_head" in refused(*words, "--space=projection")
  assert ".npz or .parquet" in refused(
    "embed", model, f"--set={smoke.set_folder}", f"--out={tmp_path}/a.csv"
  )
  assert not list(tmp_path.iterdir())
