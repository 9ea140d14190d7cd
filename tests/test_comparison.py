"""distill.comparison: averaged seeds, paired cells against SciPy, what tables and figures say."""

import dataclasses
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from scipy import stats

from distill import comparison, comparison_plots, comparison_report, evaluate, report
from distill.comparison import Cell, Curve, Grid, Result
from distill.errors import DistillError
from tests.fold_tables import fold_tables, with_columns

FACTS = {"train_people": 5, "train_minutes": 120.0, "student_parameters": 900}
GRID = Grid(
  "made up",
  (Cell("good", "x.py"), Cell("poor", "x.py", ("optim.learning_rate=9.0",))),
  (0, 1),
  "good",
  (Curve("rate", "optim.learning_rate", "learning rate", {"both": ("good", "poor")}),),
)
ATLAS = {"target": "hr_bpm", "values": [60.0, 70.0, 90.0], "explained": [0.5, 0.2], "r": [0.9, 0.1]}
ATLAS |= {side: [[0.1, 0.2], [0.0, 0.3], [0.4, 0.1]] for side in ("teacher", "student")}


def _report(seed: int, noise: float, rate: float) -> dict:
  """A report on always the same people; the student is that of `fold_tables` and noise."""
  fold = fold_tables()
  rng = np.random.default_rng(seed)
  student = fold.embeddings["student"]
  vectors = student.embedding + noise * rng.normal(size=student.embedding.shape)
  vectors = vectors.astype(np.float32)
  test = fold.columns["split"] == "test"
  changed = {
    "embeddings": {"student": dataclasses.replace(student, embedding=vectors)},
    "projections": {
      "student": dataclasses.replace(fold.projections["student"], embedding=vectors[test])
    },
  }
  fold = dataclasses.replace(
    fold, **{part: getattr(fold, part) | values for part, values in changed.items()}
  )
  return _judged(fold, seed, rate)


def _judged(fold, seed: int, rate: float) -> dict:
  few = np.isin(fold.columns["participant"], ["p02", "p05", "p08"])
  odd = np.char.strip(fold.columns["participant"], "p").astype(int) % 2 == 1
  sex = np.where(odd, "female", "male")
  fold = with_columns(fold, labelled_share=np.where(few, 0.5, 1.0), sex=sex)
  settings = evaluate.Settings(
    galleries=(30,), repeats=2, shifts_s=(60.0,), targets=("hr_bpm",), shares=(0.5,), traits=()
  )
  data = {"sets": ["s"], "source": "", "splits": "", "simulated": {"participants": 2, "seed": 0}}
  return report.build(
    evaluate.evaluate({"s": [fold]}, settings),
    timing={"train": 60.0},
    versions={"jax": "0.1"},
    config={"data": data, "folds": (0,), "optim": {"learning_rate": rate}},
    seed=seed,
  )


@pytest.fixture(name="results", scope="module")
def _results():
  return {
    name: {
      seed: Result(_report(seed, noise, rate), FACTS, [[0, 2.0], [5, 1.5]], {"s": ATLAS})
      for seed in (0, 1)
    }
    for name, noise, rate in (("good", 0.3, 1.0), ("poor", 6.0, 9.0))
  }


@pytest.fixture(name="summary", scope="module")
def _summary(results):
  return comparison.summarise(GRID, results, {"third-seed0": "no such file"})


@pytest.fixture(name="drawn", scope="module")
def _drawn(summary):
  return comparison_plots.draw(summary)


def _people(results, name, *keys):
  """[seeds, people] of what every participant got."""
  found = []
  for one in results[name].values():
    values = one.report["sets"]["s"]["people"]
    for key in keys:
      values = values[key]
    found.append(values)
  return np.array(found, float)


def _same(row, interval, value):
  assert [row["value"], row["lo"], row["hi"]] == pytest.approx([value, *interval], abs=1e-9)


def test_errors_are_averaged_over_seeds_and_intervals_taken_over_people(results, summary):
  for name in ("good", "poor"):
    means = _people(results, name, "mae", "hr_bpm", "student").mean(axis=0)
    interval = stats.ttest_1samp(means, 0).confidence_interval()
    row = summary["cells"][name]["sets"]["s"]["probes"]["hr_bpm"]["student"]
    _same(row["mae"], interval, means.mean())
    by_seed = [
      one.report["sets"]["s"]["probes"]["hr_bpm"]["student"]["mae"]["value"]
      for one in results[name].values()
    ]
    sd = summary["cells"][name]["seed_sd"]["s"]["hr_bpm"]
    assert sd == pytest.approx(abs(by_seed[0] - by_seed[1]) / np.sqrt(2))


def test_rivals_within_a_cell_are_paired_by_participant(results, summary):
  student, other = (
    _people(results, "good", "mae", "hr_bpm", model).mean(axis=0) for model in ("student", "mean")
  )
  row = summary["cells"]["good"]["sets"]["s"]["differences"]["hr_bpm"]["mean"]
  test = stats.ttest_rel(student, other)
  _same(row["mae"], test.confidence_interval(), (student - other).mean())
  assert row["relative"] == pytest.approx((student - other).mean() / other.mean())


def test_cells_are_paired_by_participant(results, summary):
  row = summary["differences"]["s"]["poor"]
  for key, path in (("hr_bpm", ("mae", "hr_bpm", "student")), ("top1", ("top1",))):
    poor, good = (_people(results, name, *path).mean(axis=0) for name in ("poor", "good"))
    _same(row[key]["mae"], stats.ttest_rel(poor, good).confidence_interval(), (poor - good).mean())
    assert row[key]["n_participants"] == 5
  assert row["hr_bpm"]["mae"]["value"] > 0 > row["top1"]["mae"]["value"]
  assert set(summary["differences"]["s"]) == {"poor"}


def test_people_whom_only_one_cell_has_are_left_out(results):
  one, other = (results[name][0].report["sets"]["s"] for name in ("good", "poor"))
  people = one["people"]
  fewer = {
    "participant": people["participant"][2:][::-1],
    "mae": {"hr_bpm": {"student": people["mae"]["hr_bpm"]["student"][2:][::-1]}},
  }
  found = comparison.between(one | {"people": fewer}, other)
  a, b = (_people(results, name, "mae", "hr_bpm", "student")[0, 2:] for name in ("good", "poor"))
  assert found["hr_bpm"]["mae"]["value"] == pytest.approx((a - b).mean())
  assert found["hr_bpm"]["n_participants"] == 3
  assert set(found) == {"hr_bpm"}


@pytest.mark.parametrize(
  ("key", "value"), [("sets", ["t"]), ("splits", "other"), ("simulated", {"seed": 1})]
)
def test_cells_on_other_people_are_not_compared(results, key, value):
  poor = {}
  for seed, one in results["poor"].items():
    config = one.report["config"]
    changed = {**config, "data": {**config["data"], key: value}}
    poor[seed] = dataclasses.replace(one, report={**one.report, "config": changed})
  found = comparison.summarise(GRID, results | {"poor": poor}, {})
  assert found["differences"] == {}


def test_a_cell_without_a_student_is_about_what_stands_for_it(results):
  fold = fold_tables()
  kept = {model: table for model, table in fold.embeddings.items() if model != "student"}
  fold = dataclasses.replace(fold, embeddings=kept, projections={})
  rival = {seed: Result(_judged(fold, seed, 9.0), FACTS) for seed in (0, 1)}
  summary = comparison.summarise(GRID, results | {"poor": rival}, {})
  one = summary["cells"]["poor"]["sets"]["s"]
  assert set(one["differences"]["hr_bpm"]) == set(one["probes"]["hr_bpm"]) - {"supervised"}
  supervised = np.array(rival[0].report["sets"]["s"]["people"]["mae"]["hr_bpm"]["supervised"])
  good = _people(results, "good", "mae", "hr_bpm", "student").mean(axis=0)
  row = summary["differences"]["s"]["poor"]
  assert set(row) == {"hr_bpm"}
  assert row["hr_bpm"]["mae"]["value"] == pytest.approx((supervised - good).mean())
  text = comparison_report.markdown(summary, [], "images")
  value = one["probes"]["hr_bpm"]["supervised"]["mae"]["value"]
  assert f"| poor | supervised from scratch | {value:.2f} |" in text
  assert comparison_report.text(summary).count("poor") > 3


def test_one_seed_is_the_report_itself(results):
  one = results["good"][0].report["sets"]["s"]
  made = report.plain(comparison.averaged([one]))
  for part in ("retrieval", "controls", "windows", "scatter", "people", "probes_by_motion"):
    assert made[part] == one[part]
  row, same = made["probes"]["hr_bpm"]["student"], one["probes"]["hr_bpm"]["student"]
  assert row["mae"]["lo"] == pytest.approx(same["mae"]["lo"], abs=1e-4)


def test_tables_hold_the_numbers_and_are_whole(summary, drawn):
  text = comparison_report.markdown(summary, drawn, "images")
  for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
    assert len({line.count("|") for line in block.splitlines()}) == 1
  mae = summary["cells"]["poor"]["sets"]["s"]["probes"]["hr_bpm"]["student"]["mae"]
  row = f"{mae['value']:.2f} | {mae['lo']:.2f} to {mae['hi']:.2f}"
  assert f"| poor | distilled student | {row} |" in text
  row = summary["differences"]["s"]["poor"]["hr_bpm"]
  assert f"{row['mae']['value']:+.2f}, {row['mae']['lo']:+.2f} to {row['mae']['hi']:+.2f}" in text
  assert "third-seed0: no such file" in text
  assert "### MAE by sex, good" in text
  one = summary["cells"]["good"]["sets"]["s"]
  oracle, (header, *rows) = one["oracles"]["hr"]["top1"], _table(text, "### Retrieval")
  column = header.index("oracle: true heart rate: top-1 %")
  assert [row[column] for row in rows] == [f"{100 * oracle:.1f}"] * 2
  assert "![Mean absolute error of heart rate" in text
  assert "](images/s_hr_bpm_cells.svg)" in text
  assert "nan" not in text.lower()
  assert max(map(len, comparison_report.text(summary).splitlines())) <= 150


def _table(text: str, title: str) -> list[list[str]]:
  """Header and rows of the Markdown table under a title."""
  lines = text.partition(title + "\n")[2].strip().splitlines()
  rows = [line for line in lines[: lines.index("")] if "---" not in line]
  return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_how_cells_were_tuned_is_told(results, summary):
  assert "No cell was tuned" in comparison_report.introduction(summary)
  tried = {
    name: {
      seed: dataclasses.replace(one, trials={0.5: 9.25, 2.0: 8.5} if not seed else {}, trial=2.0)
      for seed, one in some.items()
    }
    for name, some in results.items()
  }
  tuned = comparison.summarise(GRID, tried, {})
  assert "Every cell had 2 trials: learning rates, chosen" in comparison_report.introduction(tuned)
  assert "2 of 0.5: 9.25, 2: 8.50" in comparison_report.cells_table(tuned).rows[0]


def test_figures_have_alt_text_and_the_page_needs_no_other_file(summary, drawn):
  names = {plot.name for plot in drawn}
  expected = {"s_hr_bpm_cells", "s_retrieval_cells", "s_curve_rate", "s_hr_bpm_agreement"}
  assert expected | {"s_labels", "s_atlas", "learning_cells"} <= names
  for plot in drawn:
    assert len(plot.alt) > 80
    assert xml.etree.ElementTree.fromstring(plot.svg).tag.endswith("svg")
    assert plot.png.startswith(b"\x89PNG")
  curve = next(plot for plot in drawn if plot.name == "s_curve_rate")
  mae = summary["cells"]["poor"]["sets"]["s"]["probes"]["hr_bpm"]["student"]["mae"]
  assert f"both at 9: heart rate {mae['value']:.1f}" in curve.alt
  labels = next(plot for plot in drawn if plot.name == "s_labels")
  part = summary["cells"]["poor"]["sets"]["s"]["by_share"]["50"]["probes"]["hr_bpm"]["student"]
  assert f"poor, heart rate at 50 % {part['mae']['value']:.1f}" in labels.alt
  page = comparison_report.html(summary, drawn)
  assert not re.findall(r'(?:src|href)="(?!data:)', page)
  assert page.count("<img ") == len(drawn) == len(re.findall(r'alt="[^"]{80,}"', page))
  assert "third-seed0" in page


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"cells": ()}, "needs at least one cell and one seed"),
    ({"seeds": ()}, "needs at least one cell and one seed"),
    ({"seeds": (0, 0)}, r"seeds are \(0, 0\)"),
    ({"cells": (*GRID.cells, Cell("good", "y.py"))}, "two cells named 'good'"),
    ({"cells": (*GRID.cells, Cell("a/b", "y.py"))}, "cell name 'a/b'"),
    ({"trials": ()}, r"trials are \(\); expected different factors above 0"),
    ({"trials": (1.0, 0.0)}, r"expected different factors above 0 on the learning rate"),
    ({"reference": "god"}, "reference names no cell 'god'; did you mean 'good'"),
    ({"curves": (Curve("c", "x", "y", {"l": ("bad",)}),)}, "curve c names no cell 'bad'"),
  ],
)
def test_grids_that_make_no_sense(changes, message):
  with pytest.raises(DistillError, match=message):
    dataclasses.replace(GRID, **changes)


def test_an_axis_that_is_no_number_is_refused(results):
  grid = dataclasses.replace(GRID, curves=(Curve("c", "optim.rate", "y", {"l": ("good",)}),))
  with pytest.raises(DistillError, match=r"curve c: optim.rate is None in a cell"):
    comparison.summarise(grid, results, {})
