"""report.json keeps its contract; the page, the figures and the tables say what it holds."""

import base64
import dataclasses
import json
import re

import jsonschema
import matplotlib.image
import numpy as np
import pytest

from distill import evaluate, plots, report
from distill.errors import DistillError
from tests.fold_tables import fold_tables, with_columns

FACTS = {
  "timing": {"prepare": 31.25, "train": 170.0},
  "versions": {"jax": "0.10.2"},
  "config": {"name": "demo", "folds": (0,), "optim": {"learning_rate": 1e-3}},
  "seed": 7,
}


def _made(simulated: bool, folds: int = 3) -> dict:
  settings = evaluate.Settings(galleries=(30,), repeats=3)
  tables = [fold_tables(k, simulated=simulated) for k in range(folds)]
  return report.build(evaluate.evaluate({"made up": tables}, settings), **FACTS)


@pytest.fixture(name="made", scope="module")
def _made_fixture():
  return _made(simulated=True)


@pytest.fixture(name="schema", scope="module")
def _schema():
  schema = json.loads(report.SCHEMA.read_text())
  jsonschema.Draft202012Validator.check_schema(schema)
  return jsonschema.Draft202012Validator(schema)


@pytest.fixture(name="run", scope="module")
def _run(made, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  for role in ("teacher", "student"):
    sub = folder / "fold0" / role
    sub.mkdir(parents=True)
    lines = [{"step": k, "train/loss": 2 / (k + 1)} for k in range(5)] + [
      {"step": 4, "val/loss": 1.0}
    ]
    (sub / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"step": 5')
  report.write(folder, made)
  return folder


def test_a_report_keeps_the_schema_and_is_strict_json(made, schema, run):
  text = (run / "report.json").read_text()

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  stored = json.loads(text, parse_constant=refuse)
  schema.validate(stored)
  assert stored == made == report.load(run)
  assert text == report.to_json(made)


def test_the_contract_names_are_there(made):
  assert made["schema_version"] == report.SCHEMA_VERSION
  assert made["simulated"] is True
  one = made["sets"]["made up"]
  for part in (one["retrieval"], one["controls"]["same_participant"], one["controls"]["shuffled"]):
    for way in ("acc_to_ppg", "ppg_to_acc"):
      names = {"gallery", "top1", "top5", "top10", "mean_rank", "median_rank", "mrr", "chance_top1"}
      assert names <= set(part[way][-1])
  for target in ("hr_bpm", "sdnn_ms", "rmssd_ms"):
    models = {"teacher", "student", "untrained", "supervised", "motion_features", "session_clock"}
    assert models | {"mean"} <= set(one["probes"][target])
    row = one["probes"][target]["student"]
    assert set(row["mae"]) == {"value", "lo", "hi"}
    assert {"r", "n_windows", "n_participants", "label_origin"} <= set(row)
  assert made["sets"]["made up"]["probes"]["hr_bpm"]["mean"]["r"] is None  # not NaN
  assert made["config"]["optim"] == {"learning_rate": 1e-3}


@pytest.mark.parametrize(
  "spoil",
  [
    lambda one: one["retrieval"]["acc_to_ppg"][0].pop("chance_top1"),
    lambda one: one["retrieval"].update(sideways=[]),
    lambda one: one["controls"]["shuffled"]["acc_to_ppg"][0].update(top1=1.2),
    lambda one: one["probes"]["hr_bpm"]["student"].pop("label_origin"),
    lambda one: one["probes"]["hr_bpm"]["student"]["mae"].update(value="4.1"),
    lambda one: one.pop("windows"),
  ],
)
def test_the_schema_refuses_a_report_that_breaks_the_contract(made, schema, spoil):
  broken = json.loads(report.to_json(made))
  spoil(broken["sets"]["made up"])
  with pytest.raises(jsonschema.ValidationError):
    schema.validate(broken)


def test_one_fold_with_one_person_to_test_on_still_makes_a_report(schema, tmp_path):
  fold = fold_tables(0, folds=15)
  made = report.build(evaluate.evaluate({"s": [fold]}, evaluate.Settings(repeats=2)), **FACTS)
  schema.validate(made)
  row = made["sets"]["s"]["probes"]["hr_bpm"]["student"]
  assert row["mae"]["lo"] is None
  assert row["n_participants"] == 1
  assert report.write(tmp_path, made).is_file()
  assert "nan" not in report.table(made).lower()


def test_groups_classes_and_traits_have_tables_and_keep_the_schema(schema):
  fold = dataclasses.replace(fold_tables(0, simulated=True), projections={})
  people = np.repeat(np.arange(15), 24)
  told = with_columns(
    fold,
    age=25.0 + 3 * people,
    sex=np.where(people % 2, "female", "male"),
    skin_tone=np.where(people % 4 < 2, "II", "V"),
    activity=np.where(fold.columns["motion_g"] > 0.05, "walking", "sitting"),
  )
  settings = evaluate.Settings(targets=("hr_bpm",))
  made = report.build(evaluate.evaluate({"s": [told]}, settings), **FACTS)
  schema.validate(made)
  text = report.markdown(made)
  groups = ("MAE by age group", "MAE by sex", "MAE by skin tone")
  for title in (*groups, "Activity: 120 windows of 5 participants"):
    assert f"### {title}" in text
  assert "### Sex: 5 participants, one mean embedding each; NO CLAIM below 50" in text
  assert "limits of agreement" in text
  one = made["sets"]["s"]
  assert "AUC" in report.trait_text(one, "activity")
  assert "MAE years" in report.trait_text(one, "age")


def test_every_figure_is_there_as_svg_and_png_with_alt_text(run):
  names = sorted(path.stem for path in (run / "plots").glob("*.svg"))
  assert names == sorted(path.stem for path in (run / "plots").glob("*.png"))
  targets = ("hr_bpm", "sdnn_ms", "rmssd_ms")
  expected = [f"made up_{t}_{kind}" for t in targets for kind in ("mae", "agreement")]
  assert names == sorted([*expected, "made up_retrieval", "learning_curves"])
  for path in (run / "plots").glob("*.png"):
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] >= 700
    assert np.ptp(pixels[:, :, :3].mean(axis=2)) > 0.5  # dark on light, in grey too


def test_alt_text_tells_the_numbers(made, run):
  drawn = {plot.name: plot for plot in plots.draw(made, run)}
  mae = made["sets"]["made up"]["probes"]["hr_bpm"]["student"]["mae"]["value"]
  assert f"distilled student {mae:.1f}" in drawn["made up_hr_bpm_mae"].alt
  assert "Same participant" in drawn["made up_retrieval"].alt
  assert "fold0/student: validation loss 1" in drawn["learning_curves"].alt


def test_figures_are_the_same_on_every_run(made, tmp_path):
  first, second = (plots.draw(made, tmp_path) for _ in range(2))
  assert [(p.svg, p.png) for p in first] == [(p.svg, p.png) for p in second]


def test_the_page_needs_no_other_file_and_says_simulated(run):
  page = (run / "report.html").read_text()
  assert not re.findall(r'(?:src|href)="(?!data:)', page)
  images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
  assert len(images) == 8 == page.count("<img ")
  assert all(b"<svg" in base64.b64decode(data) and len(alt) > 60 for data, alt in images)
  assert "Simulated: numbers of simulated sets" in page
  assert "made up (simulated)" in page


def test_real_recordings_carry_no_simulated_mark(tmp_path):
  made = _made(simulated=False, folds=1)
  report.write(tmp_path, made)
  text = (tmp_path / "report.html").read_text() + report.table(made) + report.markdown(made)
  assert "simulated)" not in text
  assert "SIMULATED" not in text
  assert 'class="banner"' not in text


def test_the_terminal_table_has_units_chance_mean_and_label_origin(made):
  text = report.table(made)
  assert "*** SIMULATED ***" in text
  assert "MAE bpm" in text
  assert "MAE ms" in text
  assert "chance top-1 %" in text
  assert "same participant" in text
  assert "mean of training people" in text
  assert "labels ecg" in text
  assert "teacher (sees PPG) (circular)" in text
  assert max(map(len, text.splitlines())) <= 125
  row = made["sets"]["made up"]["probes"]["hr_bpm"]["student"]["mae"]
  line = next(line for line in text.splitlines() if line.startswith("distilled student"))
  assert f"{row['value']:.2f}" in line
  assert f"{row['lo']:.2f} to {row['hi']:.2f}" in line


def test_markdown_tables_are_whole(made):
  text = report.markdown(made)
  for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
    assert len({line.count("|") for line in block.splitlines()}) == 1
  assert text.count("### ") == 7
  assert "Seed 7" in text
  assert "train 2.8 min" in text
  assert "jax 0.10.2" in text


def test_targets_that_cannot_be_measured_say_so(made):
  changed = json.loads(report.to_json(made))
  for row in changed["sets"]["made up"]["probes"]["rmssd_ms"].values():
    row["measurable"] = False
  assert "NOT MEASURABLE" in report.table(changed)
  assert "NOT MEASURABLE" not in report.table(made)


def test_wrists_at_rest_are_told_beside_what_recorded_ones_have():
  rest = {"stretches": 90, "in_band_mg": (2.0, 3.5, 6.0), "windows": 0}
  rest |= {"hr_mae_bpm": np.nan, "hr_close": np.nan, "hr_mean_mae_bpm": np.nan}
  other = rest | {"stretches": 30, "in_band_mg": (6.0, 7.5, 10.0), "windows": 12}
  other |= {"hr_mae_bpm": 4.0, "hr_close": 0.75, "hr_mean_mae_bpm": 9.0}
  folds = [
    dataclasses.replace(fold_tables(k, simulated=True), rest=some)
    for k, some in enumerate((rest, other, {}))
  ]
  settings = evaluate.Settings(targets=("hr_bpm",))
  one = report.build(evaluate.evaluate({"s": folds}, settings), **FACTS)["sets"]["s"]
  assert one["rest"]["in_band_mg"] == [3.0, 4.5, 7.0]  # by number of stretches
  told = report.summary_text(one)
  assert "At rest (120 stretches of 8 s) a wrist has 4.5 mg RMS per axis in 4-15 Hz (3.0 to" in told
  assert "recorded ones have 4 to 7 mg on an Empatica E4" in told
  assert (
    "errs by 4.0 bpm in 12 windows, 75.0 % of them within 5 bpm; their own mean errs by" in told
  )
  assert "recorded ones" not in report.summary_text(one | {"simulated": False})
  assert "At rest" not in report.summary_text(one | {"rest": {}})


def test_the_shift_curve_has_a_table_and_stands_in_the_alt_text(made, tmp_path):
  one = made["sets"]["made up"]
  rows = one["shift_curve"]["acc_to_ppg"]
  text = report.retrieval_text(one)
  assert "Retrieval of a partner shifted in time" in text
  assert f"\n1 min  {100 * rows[1]['top1']:>14.1f}"[:7] in text
  (plot,) = (plot for plot in plots.draw(made, tmp_path) if plot.name == "made up_retrieval")
  assert f"Partner that starts later, top-1: 0 s {100 * rows[0]['top1']:.1f} %" in plot.alt


def test_variability_from_pulses_is_called_so():
  folds = [fold_tables(k, origin="ppg") for k in range(3)]
  one = report.build(evaluate.evaluate({"s": folds}, None), **FACTS)["sets"]["s"]
  assert (
    "pulse-rate variability" in report._probe_table(one, "sdnn_ms", one["probes"]["sdnn_ms"]).note
  )
  assert "pulse-rate" not in report._probe_table(one, "hr_bpm", one["probes"]["hr_bpm"]).note
  assert report.pulse_note("rmssd_ms", "ecg") == ""


def test_numbers_of_every_kind_become_plain_json():
  sets = {"s": {"simulated": np.bool_(False), "x": [np.float32(np.nan), np.inf, np.int64(3)]}}
  made = report.build(sets, **FACTS)
  assert made["sets"]["s"] == {"simulated": False, "x": [None, None, 3]}
  assert made["config"]["folds"] == [0]


def test_a_second_report_replaces_the_first_and_leaves_nothing_over(made, run):
  before = sorted(path.name for path in run.rglob("*"))
  report.write(run, made)
  assert sorted(path.name for path in run.rglob("*")) == before
  assert not [name for name in before if "partial" in name]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "no report at .*report.json"),
    ("{", "not valid JSON"),
    ('{"schema_version": "9.0"}', "schema_version 9.0, this program reads 1"),
    ("[]", "schema_version none"),
  ],
)
def test_what_is_no_report_is_refused(tmp_path, text, message):
  if text is not None:
    (tmp_path / "report.json").write_text(text)
  with pytest.raises(DistillError, match=message):
    report.load(tmp_path)
