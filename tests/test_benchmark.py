"""distill benchmark: cells run once, share what is the same, fail alone, and are told."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from distill import benchmark, cli, embeddings, models, probes, stages
from distill import config as configs
from distill.comparison import Cell, Curve, Grid, Result
from distill.errors import DistillError
from tests import runs
from tests.conftest import ROOT

SMOKE = runs.CONFIG.removeprefix("--config=")
BRIEF = "evaluate.targets=('hr_bpm',)"
CELLS = (
  Cell("first", SMOKE, (BRIEF,)),
  Cell("second", SMOKE, (BRIEF, "evaluate.seed=1")),
  Cell("broken", SMOKE, ("teacher.load=absent",)),
)
GRID_FILE = f"""
from distill.config import ConfigDict

def get_config():
  cells = (
    ("first", {SMOKE!r}, ({BRIEF!r},)),
    ("second", {SMOKE!r}, ({BRIEF!r}, "evaluate.seed=1")),
    ("broken", {SMOKE!r}, ("teacher.load=absent",)),
  )
  return ConfigDict(dict(name="tiny", cells=cells, seeds=(0,), reference="first"))
"""


@pytest.fixture(name="words", scope="module")
def _words(smoke):
  return [f"--config.data.prepared_dir={smoke.prepared}"]


@pytest.fixture(name="grid", scope="module")
def _grid():
  return Grid("tiny", CELLS, (0,), "first")


@pytest.fixture(name="place", scope="module")
def _place(smoke, grid, words, tmp_path_factory):
  """A benchmark that was interrupted when two cells were trained and not yet judged."""
  folder = tmp_path_factory.mktemp("benchmark")
  for cell in CELLS[:2]:
    place = folder / "cells" / f"{cell.name}-seed0"
    shutil.copytree(smoke.folder, place, ignore=shutil.ignore_patterns("report.*", "checkpoints"))
    (place / "config.json").write_text(configs.to_json(benchmark._config(cell, 0, words)))
  trained = _times(folder, "fold0")
  summary = benchmark.run(grid, folder, overrides=words, out=folder / "docs" / "grid.md")
  assert _times(folder, "fold0") == trained, "nothing was trained or embedded again"
  assert summary == json.loads((folder / "benchmark.json").read_text())
  return folder


def _times(folder, part=""):
  paths = [path for path in sorted(folder.rglob("*")) if not part or part in path.parts]
  return {path: path.stat().st_mtime_ns for path in paths}


def test_a_second_call_runs_nothing_and_says_the_same(place, words, tmp_path, capsys, monkeypatch):
  cells = [place / "cells" / f"{name}-seed0" for name in ("first", "second")]
  before = [_times(cell) for cell in cells]
  summary = (place / "benchmark.json").read_text()
  file = tmp_path / "grid.py"
  file.write_text(GRID_FILE)
  ran = []
  train = stages.run
  monkeypatch.setattr(stages, "run", lambda *given: ran.append(given[1].name) or train(*given))
  told = ["benchmark", f"--config={file}", f"--workdir={place}", *words, "--json"]
  assert cli.main(told) == 2
  out, err = capsys.readouterr()
  assert ran == ["broken-seed0"]
  assert [_times(cell) for cell in cells] == before
  assert out == summary == (place / "benchmark.json").read_text()
  last = err.splitlines()[-1]
  assert last.startswith("distill: 1 cell failed: broken-seed0: absent is no model folder")
  assert last.endswith("the same command tries again what is not finished")


def test_finished_cells_are_summarised_with_what_they_are(place):
  summary = json.loads((place / "benchmark.json").read_text())
  assert list(summary["cells"]) == ["first", "second"]
  assert list(summary["failed"]) == ["broken-seed0"]
  for name, cell in summary["cells"].items():
    made = json.loads((place / "cells" / f"{name}-seed0" / "report.json").read_text())
    one, same = (some["sets"]["simulated"] for some in (cell, made))
    mae = one["probes"]["hr_bpm"]["student"]["mae"]["value"]
    assert mae == pytest.approx(same["probes"]["hr_bpm"]["student"]["mae"]["value"], abs=1e-4)
    assert one["retrieval"] == same["retrieval"]
  facts = summary["cells"]["first"]["facts"]
  stored = models.read(place / "cells" / "first-seed0" / "fold0" / "student" / "model")
  encoder = sum(v.size for k, v in stored.tensors.items() if k.startswith("encoder."))
  assert facts["student_parameters"] == encoder
  assert facts["train_people"] == 6
  assert 30 <= facts["train_minutes"] <= 36
  atlas = summary["atlas"]["simulated"]
  assert len(atlas["values"]) == len(atlas["student"]) == len(atlas["teacher"]) > 10
  names = {path.name for path in place.iterdir()}
  assert names == {
    "cells",
    "docs",
    "plots",
    *(f"benchmark.{kind}" for kind in ("json", "html", "md")),
  }
  text = (place / "docs" / "grid.md").read_text()
  shown = [part.partition(")")[0] for part in text.split("](grid/")[1:]]
  assert shown
  assert {path.name for path in (place / "docs" / "grid").iterdir()} == set(shown)


def test_what_nothing_tells_apart_is_taken_over(place, words, tmp_path):
  cell = Cell("other", SMOKE, (BRIEF, "loss.regression=0.0"))
  config, first = benchmark._config(cell, 0, words), place / "cells" / "first-seed0"
  done = [(json.loads((first / "config.json").read_text()), first)]
  for role in ("teacher", "supervised"):
    benchmark._take_over(role, config, tmp_path, done)
    one, two = (models.read(folder / "fold0" / role / "model") for folder in (first, tmp_path))
    assert one.fields == two.fields
    assert (tmp_path / "fold0" / role / "metrics.jsonl").is_file()
  with config.unlocked():
    config.seed = 1
  benchmark._take_over("teacher", config, tmp_path / "seed1", done)
  assert not (tmp_path / "seed1").exists()


@pytest.mark.parametrize(
  ("change", "shared"),
  [
    ("loss.temperature=0.5", {"teacher", "supervised"}),
    ("student.width=16", {"teacher"}),
    ("data.simulated.amplitude=0.0", {"teacher"}),
    ("supervised.steps=9", {"teacher"}),
    ("pretrain.steps=9", {"supervised"}),
    ("teacher.width=16", {"supervised"}),
    ("evaluate.targets=('hr_bpm',)", {"teacher"}),
    ("augment.noise=0.25", {"teacher"}),
    ("teacher.in_step=True", {"teacher", "supervised"}),
    ("shuffled_pairs=True", {"teacher", "supervised"}),
    ("data.train_people=3", set()),
    ("data.simulated.device=e4", set()),
    ("seed=3", set()),
    ("folds=(1,)", set()),
    ("data.readers=2", {"teacher", "supervised"}),
  ],
)
def test_what_decides_a_training(change, shared):
  one, two = (
    json.loads(configs.to_json(configs.load(SMOKE, words)))
    for words in ([], [f"--config.{change}"])
  )
  same = {role for role in benchmark.ROLES if
          benchmark.decides(role, one) == benchmark.decides(role, two)}  # fmt: skip
  assert same == shared


def test_what_learns_together_is_not_taken_over(place, words, tmp_path):
  first = place / "cells" / "first-seed0"
  config = benchmark._config(
    Cell("joint", SMOKE, ("method=joint", "loss.regression=0.0")), 0, words
  )
  done = [(json.loads(configs.to_json(config)), first)]
  benchmark._take_over("teacher", config, tmp_path, done)
  assert not (tmp_path / "fold0").exists()


# --- trials ---------------------------------------------------------------------------------------


def test_rivals_have_the_budget_of_distillation_and_the_same_trials():
  grid = benchmark.load(f"{ROOT}/configs/benchmark.py")
  reference = benchmark._config(grid.cells[0], 0, [])
  assert grid.trials == (0.5, 1.0, 2.0)
  for cell in grid.cells:
    for trial in grid.trials:
      config = benchmark._config(cell, 0, [], trial)
      rival = config.method == "rivals"
      pretrained = rival and config.pretrain.side == "student"
      trained = config.supervised if rival and config.supervised.shares else config
      trained = config.pretrain if pretrained else trained
      assert (trained.steps, trained.batch_size) == (reference.steps, reference.batch_size)
      assert trained.optim.learning_rate == trial * reference.optim.learning_rate
      assert trained.optim.weight_decay == reference.optim.weight_decay
      if not rival:  # the teacher and the supervised student beside it are the same in all trials
        assert config.pretrain == benchmark._config(cell, 0, []).pretrain
        assert config.supervised == benchmark._config(cell, 0, []).supervised


def test_the_trial_that_is_best_on_validation_people_is_shown(grid, words, tmp_path, monkeypatch):
  """Under the first seed all trials run, under the others the chosen one."""
  ran = []
  errors = {1e-3: 9.0, 2e-3: 8.0, 4e-3: 7.0}  # of learning rates

  def run(config, folder):
    ran.append(folder.name)
    if config.name == "second" and config.optim.learning_rate == 4e-3:
      raise ZeroDivisionError
    return {"sets": {}, "timing": {}, "config": {}, "error": errors[config.optim.learning_rate]}

  def result(_config, _place, made, trial):
    return Result(made, {}, trials={trial: made["error"]}, trial=trial)

  told = {}
  monkeypatch.setattr(benchmark, "_run", lambda config, place, _: run(config, place))
  monkeypatch.setattr(benchmark, "result", result)
  monkeypatch.setattr(benchmark, "write", lambda *_: None)
  monkeypatch.setattr(
    benchmark.comparison, "summarise", lambda _, results, failed: told.update(results) or failed
  )
  tuned = dataclasses.replace(grid, cells=CELLS[:2], seeds=(0, 1), trials=(0.5, 1.0, 2.0))
  failed = benchmark.run(tuned, tmp_path / "b", overrides=words)
  assert ran == [
    *("first-rate0.5-seed0", "first-seed0", "first-rate2-seed0"),
    *("second-rate0.5-seed0", "second-seed0", "second-rate2-seed0"),
    *("first-rate2-seed1", "second-seed1"),
  ]
  assert list(failed) == ["second-rate2-seed0"]
  assert told["first"][0].trials == {0.5: 9.0, 1.0: 8.0, 2.0: 7.0}
  assert [told[name][seed].trial for name in told for seed in (0, 1)] == [2.0, 2.0, 1.0, 1.0]


def test_the_error_on_validation_people_is_that_of_the_ridge_that_was_chosen(place):
  made = json.loads((place / "cells" / "first-seed0" / "report.json").read_text())
  row = made["sets"]["simulated"]["probes"]["hr_bpm"]["student"]
  assert benchmark.validation_error(made) == row["validation_mae"]
  table = embeddings.load(place / "cells/first-seed0/fold0/embeddings/simulated/student.parquet")
  train, held = (
    table.where((table["split"] == part) & np.isfinite(table["hr_bpm"]))
    for part in ("train", "validation")
  )
  model = probes.fit(train, held, "hr_bpm", made["config"]["evaluate"]["alphas"])
  error = np.abs(model.predict(held.embedding) - held["hr_bpm"])
  means = [error[held["participant"] == who].mean() for who in set(held["participant"])]
  assert row["validation_mae"] == pytest.approx(np.mean(means), rel=1e-6)
  del row["validation_mae"]
  assert np.isnan(benchmark.validation_error(made))


def test_a_fault_of_one_cell_does_not_end_the_others(grid, words, tmp_path, monkeypatch, capsys):
  def fails(_config, folder):
    raise ZeroDivisionError(f"in {folder.name}\nsecond line")

  monkeypatch.setattr(stages, "run", fails)
  with pytest.raises(DistillError, match=r"no cell could be finished; 3 cells failed: first-seed0"):
    benchmark.run(grid, tmp_path / "b", overrides=words)
  told = [row for row in capsys.readouterr().err.splitlines() if "FAILED" in row]
  assert [row.partition(":")[0].strip() for row in told] == [f"{c.name}-seed0" for c in CELLS]
  assert "ZeroDivisionError: in second-seed0 (see" in told[1]
  kept = (tmp_path / "b" / "cells" / "second-seed0" / "error.txt").read_text()
  assert "second line" in kept


VARIANTS = ("", "small", "ablations", "ablations_small", "scaling", "wrists", "smoke")


@pytest.mark.parametrize("variant", VARIANTS)
def test_shipped_grids_name_configs_that_can_be_resolved(variant):
  grid = benchmark.load(f"{ROOT}/configs/benchmark.py:{variant}".rstrip(":"))
  made = [configs.to_json(benchmark._config(cell, 0, [])) for cell in grid.cells]
  assert len(set(made)) == len(made)
  names = {cell.name for cell in grid.cells}
  assert all(set(some) <= names for curve in grid.curves for some in curve.lines.values())


def test_some_cells_alone(place, words, tmp_path, capsys):
  curve = Curve("along", "seed", "seed", {"one": ("first", "second"), "two": ("second",)})
  grid = Grid("tiny", CELLS, (0,), "first", (curve,))
  few = grid.only(["first", "broken"])
  assert [cell.name for cell in few.cells] == ["first", "broken"]
  assert few.curves[0].lines == {"one": ("first",)}
  with pytest.raises(DistillError, match="has no cell 'frist'; did you mean 'first'"):
    grid.only(["frist"])
  with pytest.raises(DistillError, match="reference names no cell 'first'"):
    grid.only(["second"])
  (tmp_path / "grid.py").write_text(GRID_FILE)
  shutil.copytree(place, tmp_path / "run")
  common = ["benchmark", f"--config={tmp_path}/grid.py", f"--workdir={tmp_path}/run", *words]
  assert cli.main([*common, "--cells=first", "--json"]) == 0  # without the broken one
  assert list(json.loads(capsys.readouterr().out)["cells"]) == ["first"]
  assert cli.main([*common, f"--out={tmp_path}/grid.py"]) == 2
  assert "expected a name that ends in .md" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("name='x'", "is no benchmark: it lacks cells, seeds, reference; expected name, cells, seeds"),
    ("name='x', cells=(), seeds=(0,), reference='r', steps=3", "it has unknown fields steps"),
    ("name='x', cells=('r',), seeds=(0,), reference='r'", "write cells and curves as"),
    ("name='x', cells=(('r', 'f'),), seeds=(0,), reference='r', curves={'a': {'y': 1}}", "'lines'"),
  ],
)
def test_files_that_are_no_grid(tmp_path, text, message):
  file = tmp_path / "grid.py"
  file.write_text(
    f"from distill.config import ConfigDict\ndef get_config(): return ConfigDict(dict({text}))\n"
  )
  with pytest.raises(DistillError, match=message):
    benchmark.load(file)


def test_a_cell_that_cannot_be_resolved_stops_before_anything_runs(tmp_path):
  grid = Grid("tiny", (*CELLS, Cell("odd", SMOKE, ("stps=3",))), (0,), "first")
  with pytest.raises(DistillError, match=r"cell odd: no key config.stps; did you mean"):
    benchmark.run(grid, tmp_path / "b")
  assert not list(tmp_path.iterdir())


def test_a_folder_of_a_single_run_is_left_alone(grid, smoke):
  before = _times(smoke.folder)
  with pytest.raises(DistillError, match="is a file or a single run; choose another --workdir"):
    benchmark.run(grid, smoke.folder)
  assert _times(smoke.folder) == before
