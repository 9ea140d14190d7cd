"""The same student trained in other ways: who is labelled, by what, and which rows there are."""

import json

import jsonschema
import numpy as np
import pytest

from distill import config as configs
from distill import embeddings, evaluate, fold_training, models, report, rivals, stages, workdir
from distill.data import splits, windows
from distill.errors import DistillError
from distill.spec import PPG, TARGETS
from tests import runs

TINY = (
  *("student.width=8", "student.heads=2", "student.filters=4", "student.mixes=2"),
  *("student.waves=4", "student.depth=1"),
)
SHARES = (0.1, 0.5, 1.0)


def _config(smoke, *words):
  words = (f"data.prepared_dir={smoke.prepared}", *TINY, *words)
  path = runs.CONFIG.removeprefix("--config=")
  return configs.load(path, [f"--config.{word}" for word in words])


@pytest.fixture(name="run", scope="module")
def _run(smoke, tmp_path_factory):
  """(folder, config, report) of a run of rivals alone."""
  folder = tmp_path_factory.mktemp("rivals") / "run"
  words = ("method=rivals", f"supervised.shares={SHARES}", "supervised.label_distillation=True")
  config = _config(smoke, *words)
  return folder, config, json.loads(report.to_json(stages.run(config, folder)))


# --- who is labelled ------------------------------------------------------------------------------


def test_a_smaller_share_lies_within_a_larger_one_whatever_the_order():
  people = [f"p{i}" for i in range(37)]
  drawn = {share: splits.labelled(people, share, 0) for share in (0.02, 0.1, 0.5, 1.0)}
  assert [len(some) for some in drawn.values()] == [0, 3, 18, 37]
  assert set(drawn[0.1]) < set(drawn[0.5]) < set(drawn[1.0])
  assert splits.labelled(people[::-1], 0.5, 0) == drawn[0.5]
  assert splits.labelled(people, 0.5, 1) != drawn[0.5]


def test_a_share_of_whole_people_is_not_lost_to_rounding():
  for n in range(1, 200):
    people = [str(i) for i in range(n)]
    for count in (1, n // 2, n):
      if count:
        assert len(splits.labelled(people, count / n, 0)) == count


@pytest.mark.parametrize("shares", ["(0.0,)", "(1.5,)", "(0.5,0.5)", "(-0.1,1.0)"])
def test_shares_that_are_none_are_refused(smoke, shares):
  with pytest.raises(DistillError, match=r"shares is .*expected different shares above 0"):
    _config(smoke, f"supervised.shares={shares}")


def test_the_rows_say_whose_labels_may_be_used(run):
  folder, config, _ = run
  fold = workdir.open_folds(config, folder)[0]
  train = fold.sets["simulated"][1].train
  half = splits.labelled(train, 0.5, config.seed)
  assert 0 < len(half) < len(train)
  table = embeddings.load(folder / "fold0" / "embeddings" / "simulated" / "supervised.parquet")
  share = table[evaluate.LABELLED_SHARE]
  people = table["participant"]
  assert set(people[share == 0.5]) == set(half)
  assert set(people[share == 1.0]) == set(train) - set(half)
  np.testing.assert_array_equal(np.isnan(share), table["split"] != "train")


def test_a_share_below_one_person_is_left_out_aloud(smoke, tmp_path, capsys):
  config = _config(smoke, "method=rivals", "supervised.shares=(0.1,)")
  fold = workdir.open_folds(config, tmp_path)[0]
  assert rivals.supervised(config, tmp_path, fold) == {}
  told = r"supervised_10: 10 % of 6 training people of simulated are less than one participant"
  assert told in capsys.readouterr().err


def test_few_labelled_windows_train_in_smaller_batches(smoke, capsys):
  settings = _config(smoke).supervised
  with settings.unlocked():
    settings.batch_size = 64
  assert rivals._within(settings, 30, "row").batch_size == 24  # eight devices share it
  assert "row: 30 labelled windows, in batches of 24" in capsys.readouterr().err
  assert rivals._within(settings, 64, "row") is settings
  assert rivals._within(settings, 7, "row") is settings  # refused by what draws the batches


# --- what they learn ------------------------------------------------------------------------------


def test_a_run_of_rivals_has_their_rows_and_nothing_to_retrieve(run):
  folder, _, made = run
  jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(made)
  one = made["sets"]["simulated"]
  for target in TARGETS:
    rows = set(one["probes"][target])
    assert {"supervised", "label_distillation", "untrained", "motion_features", "mean"} <= rows
    assert not {"supervised_50", "student", "teacher"} & rows
  assert one["retrieval"] == {}
  assert not (folder / "fold0" / "student").exists()
  assert list(one["by_share"]) == ["50"]
  assert one["by_share"]["50"]["labelled"] == [3]
  assert "MAE by share of the training people" in report.markdown(made)


def test_the_probes_of_a_share_know_the_labels_of_its_people_alone(run):
  folder, _, made = run
  place = folder / "fold0" / "embeddings" / "simulated"
  table = embeddings.load(place / "supervised_50.parquet")
  half = table.where(table[evaluate.LABELLED_SHARE] == 0.5)
  test = table.where((table["split"] == "test") & np.isfinite(table["hr_bpm"]))
  error = np.abs(half["hr_bpm"][np.isfinite(half["hr_bpm"])].mean() - test["hr_bpm"])
  by_person = [error[test["participant"] == who].mean() for who in np.unique(test["participant"])]
  rows = made["sets"]["simulated"]["by_share"]["50"]["probes"]["hr_bpm"]
  assert rows["mean"]["mae"]["value"] == pytest.approx(np.mean(by_person), rel=1e-5)
  # Its own head and a ridge on its own embedding compete for the row.
  direct = np.load(place / "predictions.npz")
  own = np.abs(direct["supervised_50/hr_bpm"][table["split"] == "test"] - _hr(table))
  if rows["supervised"]["head"] == "own_head":
    people = table["participant"][table["split"] == "test"]
    means = [np.nanmean(own[people == who]) for who in np.unique(people)]
    assert rows["supervised"]["mae"]["value"] == pytest.approx(np.mean(means), rel=1e-5)
  assert {"own_head", "ridge"} >= {rows["supervised"]["head"]}


def _hr(table):
  return table["hr_bpm"][table["split"] == "test"]


def test_a_student_of_half_of_the_people_saw_other_labels(run):
  folder, _, _ = run
  tensors = [
    models.read(folder / "fold0" / row / "model").tensors for row in ("supervised", "supervised_50")
  ]
  assert np.abs(tensors[0]["standardise.mean"] - tensors[1]["standardise.mean"]).max() > 0.1


def test_label_distillation_reads_the_pulse_and_not_the_true_beats(run):
  folder, config, _ = run
  fold = workdir.open_folds(config, folder)[0]
  rows = fold_training.usable(fold, config, "train")[0]
  found = rivals.pulse_labels(rows, "test")
  prepared = rows.prepared
  for i in range(len(rows)):
    ppg = prepared[int(rows.rows[i])][PPG][:, 0]
    read = windows.pulse_labels(ppg, 64.0, float(rows.column("motion_g")[i]))
    np.testing.assert_array_equal(found[i], np.float32([read[name] for name in TARGETS]))
  both = np.isfinite(found[:, 0]) & np.isfinite(rows.column("hr_bpm"))
  assert both.sum() > 10
  difference = np.abs(found[both, 0] - rows.column("hr_bpm")[both])
  assert 0 < np.median(difference) < 1.0  # near the truth, and not the truth
  walking = rows.column("motion_g") > windows.WALKING_G
  assert np.isnan(found[walking]).all()
  # Standardised by these very labels.
  observed = np.flatnonzero(
    (rows.column("ppg_coverage") >= 0.5) & (rows.column("acc_coverage") >= 0.5)
  )
  stored = models.read(folder / "fold0" / rivals.LABEL_DISTILLATION / "model").tensors
  np.testing.assert_allclose(
    stored["standardise.mean"], np.nanmean(found[observed].astype(float), axis=0), rtol=1e-5
  )


def test_nothing_is_distilled_by_a_run_of_rivals(run):
  folder, config, _ = run
  with pytest.raises(DistillError, match=r"method is 'rivals': no student is distilled"):
    stages.train(config, folder)


def test_an_unknown_method_is_refused(smoke):
  with pytest.raises(DistillError, match=r"method is 'magic'; expected one of distil, rivals"):
    _config(smoke, "method=magic")
