"""The same student trained in other ways: who is labelled, by what, and which rows there are."""

import functools
import json
import types

import jax
import jsonschema
import numpy as np
import pytest
import tqdm

from distill import config as configs
from distill import (
  embeddings,
  evaluate,
  fold_training,
  models,
  probes,
  report,
  rivals,
  stages,
  workdir,
)
from distill.data import splits, windows
from distill.errors import DistillError
from distill.spec import PPG, TARGETS
from tests import runs

TINY = (
  *("student.width=8", "student.heads=2", "student.filters=4", "student.mixes=2"),
  *("student.waves=4", "student.depth=1"),
)
WORDS = (
  *("supervised.shares=(0.1,0.5)", "supervised.label_distillation=True"),
  *("augment.cut_out=0.4", "pretrain.augment.rotate=0.5"),
)


def _config(smoke, *words, name="quickstart"):
  words = (f"data.prepared_dir={smoke.prepared}", *TINY, *words)
  path = f"{runs.ROOT}/configs/{name}.py:smoke"
  return configs.load(path, [f"--config.{word}" for word in words])


@pytest.fixture(name="run", scope="module")
def _run(smoke, tmp_path_factory):
  """(folder, config, report, row -> what was trained) of a run of rivals whose training is void."""
  folder, given = tmp_path_factory.mktemp("rivals") / "run", {}

  def train(config, fold, place, objective, sources, settings, section, prepare=None):
    given[place.name] = types.SimpleNamespace(
      objective=objective, sources=sources, settings=settings, prepare=prepare
    )
    arguments = {"seed": config.seed, **configs.build_arguments(section)}
    saved = {"build": section.build, "arguments": arguments, "fields": {}, "card": ""}
    models.save(place / "model", objective, **saved)

  config = _config(smoke, *WORDS, name="baseline_contrastive")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fold_training, "train", train)
    # Figures and traits are tested elsewhere.
    patch.setattr(report, "write", lambda *_: None)
    patch.setattr(evaluate, "_traits", lambda *_, **__: {})
    made = stages.run(config, folder)
  return folder, config, json.loads(report.to_json(made)), given


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
  folder, config, *_ = run
  fold = workdir.open_folds(config, folder)[0]
  train = fold.sets["simulated"][1].train
  half = splits.labelled(train, 0.5, config.seed)
  assert 0 < len(half) < len(train)
  table = embeddings.load(folder / "fold0" / "embeddings" / "simulated" / "untrained.parquet")
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
  folder, _, made, given = run
  jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(made)
  assert set(given) == {"supervised_50", "label_distillation", "pretrained"}
  one = made["sets"]["simulated"]
  for target in TARGETS:
    rows = set(one["probes"][target])
    assert {"label_distillation", "contrastive", "untrained", "mean"} <= rows
    assert not {"supervised", "supervised_50", "student", "teacher"} & rows
  assert {"acc_signal_processing", "acc_jerk", "acc_curve"} <= set(one["probes"]["hr_bpm"])
  assert one["retrieval"] == {}
  assert not (folder / "fold0" / "student").exists()
  assert list(one["by_share"]) == ["50"]
  assert one["skipped"]["10 % of the training people"].endswith("less than one participant")
  assert "10 % of the training people is left out" in report.markdown(made)
  assert one["by_share"]["50"]["labelled"] == [3]
  assert "MAE by share of the training people" in report.markdown(made)


def test_the_probes_of_a_share_know_the_labels_of_its_people_alone(run):
  folder, _, made, _ = run
  place = folder / "fold0" / "embeddings" / "simulated"
  table = embeddings.load(place / "supervised_50.parquet")
  half = table.where(table[evaluate.LABELLED_SHARE] == 0.5)
  test = table.where((table["split"] == "test") & np.isfinite(table["hr_bpm"]))
  validation = table.where((table["split"] == "validation") & np.isfinite(table["hr_bpm"]))
  rows = made["sets"]["simulated"]["by_share"]["50"]["probes"]["hr_bpm"]
  mean = half["hr_bpm"][np.isfinite(half["hr_bpm"])].mean()
  assert rows["mean"]["mae"]["value"] == pytest.approx(_mae(test, mean), rel=1e-5)
  # Its own head and a ridge on its own embedding compete on validation people.
  direct = np.load(place / "predictions.npz")["supervised_50/hr_bpm"]
  alphas = evaluate.Settings(alphas=tuple(run[1].evaluate.alphas)).alphas
  ridge = probes.fit(half, validation, "hr_bpm", alphas)
  told = np.isfinite(table["hr_bpm"])
  heads = {"ridge": ridge.predict, "own_head": None}
  errors = {}
  for name, predict in heads.items():
    for part, some in (("validation", validation), ("test", test)):
      own = direct[told & (table["split"] == part)]
      errors[name, part] = _mae(some, predict(some.embedding) if predict else own)
  better = min(heads, key=lambda name: errors[name, "validation"])
  assert rows["supervised"]["head"] == better
  assert rows["supervised"]["mae"]["value"] == pytest.approx(errors[better, "test"], rel=1e-4)


def _mae(table, predicted):
  error, who = np.abs(table["hr_bpm"] - predicted), table["participant"]
  return np.mean([error[who == one].mean() for one in np.unique(who)])


def test_a_student_of_half_of_the_people_is_given_their_labels_alone(run):
  folder, config, _, given = run
  fold = workdir.open_folds(config, folder)[0]
  half = splits.labelled(fold.sets["simulated"][1].train, 0.5, config.seed)
  rows = fold.rows(config, "train", overlapping=True)["simulated"]
  rows = rows.where(np.isin(rows.column("participant"), half) & np.isfinite(rows.column("hr_bpm")))
  source = given["supervised_50"].sources["train"]
  found = source.batch(np.arange(len(source)))["targets"][:, 0]
  np.testing.assert_array_equal(np.sort(found), np.sort(rows.column("hr_bpm")))
  mean = given["supervised_50"].objective.standardise.mean[...][0]
  assert float(mean) == pytest.approx(rows.column("hr_bpm").mean(), rel=1e-5)
  held = fold.rows(config, "validation", overlapping=False)["simulated"].column("hr_bpm")
  assert len(given["supervised_50"].sources["validation"]) == np.isfinite(held).sum() > 0


def test_label_distillation_reads_the_pulse_and_not_the_true_beats(run, monkeypatch):
  folder, config, _, given = run
  fold = workdir.open_folds(config, folder)[0]
  rows = fold_training.observed_enough(fold_training.usable(fold, config, "train"), 0.5)[0]
  expected = []
  for row, motion in zip(rows.rows, rows.column("motion_g"), strict=True):
    read = windows.pulse_labels(rows.prepared[int(row)][PPG][:, 0], 64.0, float(motion))
    expected.append([read[name] for name in TARGETS])
  found = np.float32(expected)
  np.testing.assert_array_equal(rivals.pulse_labels(rows, "pulses"), found)
  monkeypatch.setattr(rivals, "tqdm", functools.partial(tqdm.tqdm, disable=True))
  np.testing.assert_array_equal(rivals.pulse_labels(rows, "pulses"), found)
  walking = rows.column("motion_g") > windows.WALKING_G
  assert walking.any()
  assert np.isnan(found[walking]).all()
  both = np.isfinite(found[:, 0]) & np.isfinite(rows.column("hr_bpm"))
  assert both.sum() > 10
  difference = np.abs(found[both, 0] - rows.column("hr_bpm")[both])
  assert 0 < np.median(difference) < 1.0  # near the truth, and not the truth
  one = given["label_distillation"]
  source = one.sources["train"]
  told = source.batch(np.arange(len(source)))["targets"]
  np.testing.assert_array_equal(told, found[np.isfinite(found).any(axis=1)])
  assert (one.settings.steps, one.settings.batch_size) == (config.steps, config.batch_size)


def test_students_are_trained_on_augmented_windows_and_never_on_warped_time(run):
  batch = {}
  for name in ("acc", "other_acc"):
    batch |= {name: np.ones((8, 100, 3), np.float32), name + "_mask": np.ones((8, 100, 3), bool)}
  for row in ("label_distillation", "pretrained"):
    one = run[3][row]
    changed = jax.jit(one.prepare)(batch, jax.random.key(0))
    hidden = not np.asarray(changed["acc_mask"]).all()
    turned = bool((np.asarray(changed["acc"])[np.asarray(changed["acc_mask"])] != 1).any())
    assert (hidden, turned) == ((False, True) if row == "pretrained" else (True, False)), row


def test_nothing_is_distilled_by_a_run_of_rivals(run):
  folder, config, *_ = run
  with pytest.raises(DistillError, match=r"method is 'rivals': no student is distilled"):
    stages.train(config, folder)


def test_an_unknown_method_is_refused(smoke):
  with pytest.raises(DistillError, match=r"'magic'; expected one of distil, joint, rivals"):
    _config(smoke, "method=magic")
