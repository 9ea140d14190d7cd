"""The `sets` part of a report: rows of every model, pooled folds, fairness and refusals."""

import dataclasses

import numpy as np
import pytest

from distill import evaluate, probes
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError
from distill.evaluate import Settings
from tests.fold_tables import fold_tables, with_columns

SETTINGS = Settings(galleries=(30,), repeats=3, shifts_s=(60.0,))


@pytest.fixture(name="folds", scope="module")
def _folds():
  return [fold_tables(k) for k in range(3)]


@pytest.fixture(name="judged", scope="module")
def _judged(folds):
  return evaluate.evaluate({"made_up": folds}, SETTINGS)["made_up"]


def test_every_model_stands_in_the_table(judged):
  expected = {
    "teacher", "student", "untrained", "supervised", "motion_features", "session_clock", "mean",
    "own_mean", "acc_signal_processing", "ppg_signal_processing",
  }  # fmt: skip
  assert set(judged["probes"]["hr_bpm"]) == expected
  assert set(judged["probes"]["sdnn_ms"]) == expected - {
    "acc_signal_processing", "ppg_signal_processing",
  }  # fmt: skip
  assert set(judged["differences"]["hr_bpm"]) == expected - {"student"}


def test_rows_are_in_the_order_that_was_put_in(judged):
  mae = {model: row["mae"]["value"] for model, row in judged["probes"]["hr_bpm"].items()}
  assert mae["ppg_signal_processing"] < mae["student"] < mae["untrained"]
  assert mae["teacher"] < mae["student"] < mae["mean"] < mae["acc_signal_processing"]
  row = judged["probes"]["hr_bpm"]["student"]
  assert (row["n_windows"], row["n_participants"], row["label_origin"]) == (360, 15, "ecg")


def test_folds_are_pooled_over_windows(folds, judged):
  predicted, true, people = [], [], []
  for fold in folds:
    parts = [
      fold.embeddings["student"].where(fold.columns["split"] == part) for part in evaluate.PARTS
    ]
    model = probes.fit(*parts[:2], "hr_bpm")
    predicted.append(model.predict(parts[2].embedding))
    true.append(parts[2]["hr_bpm"])
    people.append(parts[2]["participant"])
  expected = probes.score(*map(np.concatenate, (true, predicted, people)), target="hr_bpm")
  row = judged["probes"]["hr_bpm"]["student"]
  assert row["mae"]["value"] == pytest.approx(expected["mae"]["value"])
  assert row["r"] == pytest.approx(expected["r"])


def test_differences_are_paired_and_negative_where_the_student_wins(judged):
  row = judged["differences"]["hr_bpm"]["untrained"]
  table = judged["probes"]["hr_bpm"]
  difference = table["student"]["mae"]["value"] - table["untrained"]["mae"]["value"]
  assert row["mae"]["value"] == pytest.approx(difference)
  assert row["mae"]["hi"] < 0
  assert row["relative"] == pytest.approx(difference / table["untrained"]["mae"]["value"])


def test_what_each_participant_got_gives_the_tables_again(judged):
  people = judged["people"]
  assert people["participant"].tolist() == [f"p{k:02d}" for k in range(15)]
  for target, models in judged["probes"].items():
    for model, row in models.items():
      values = people["mae"][target][model]
      assert np.nanmean(values) == pytest.approx(row["mae"]["value"], abs=1e-5)
  # Everybody has as many windows, so the mean over people is that over queries.
  whole = judged["retrieval"]["acc_to_ppg"][-1]
  assert np.mean(people["top1"]) == pytest.approx(whole["top1"], abs=1e-5)


def test_a_set_that_nothing_was_fitted_to(folds):
  """Probes come from the training people at home, scores from everybody away."""
  home = fold_tables(1)
  away = fold_tables(0, seed=3)
  everybody = np.full(len(away.columns["split"]), "test")
  rows = EmbeddingTable(away.embeddings["student"].embedding, away.columns, "projection", "pair")
  away = dataclasses.replace(
    with_columns(away, split=everybody), projections={"student": rows, "teacher": rows}
  )
  one = evaluate.evaluate({"away": [evaluate.transferred({"home": home}, away)]}, SETTINGS)["away"]
  train, validation = (
    home.embeddings["student"].where(home.columns["split"] == part)
    for part in ("train", "validation")
  )
  model = probes.fit(train, validation, "hr_bpm")
  true, who = away.columns["hr_bpm"], away.columns["participant"]
  predicted = model.predict(away.embeddings["student"].embedding)
  expected = probes.score(true, predicted, who, target="hr_bpm")["mae"]["value"]
  assert one["probes"]["hr_bpm"]["student"]["mae"]["value"] == pytest.approx(expected)
  mean = np.abs(true - train["hr_bpm"].mean())
  assert one["probes"]["hr_bpm"]["mean"]["mae_pooled"] == pytest.approx(mean.mean())
  assert one["windows"]["all"]["n_participants"] == 15
  assert one["retrieval"]["acc_to_ppg"][-1]["top1"] == 1.0  # with itself
  with pytest.raises(DistillError, match="expected test rows alone"):
    evaluate.transferred({"home": home}, home)


def test_labels_of_the_same_ppg_are_circular_for_what_reads_it(judged):
  assert not judged["probes"]["hr_bpm"]["teacher"]["circular"]
  table = judged["probes"]["sdnn_ms"]
  assert table["teacher"]["circular"]
  assert not table["student"]["circular"]
  assert table["teacher"]["label_origin"] == "ppg"


def test_supervised_is_scored_by_the_head_that_is_better_on_validation_people():
  fold = fold_tables()
  good = evaluate.evaluate({"s": [fold]}, SETTINGS)["s"]["probes"]["hr_bpm"]["supervised"]
  assert good["head"] == "own_head"
  validation = fold.columns["split"] == "validation"
  spoilt = fold.predictions["supervised", "hr_bpm"].copy()
  spoilt[validation] += 60
  predictions = {**fold.predictions, ("supervised", "hr_bpm"): spoilt}
  fold = dataclasses.replace(fold, predictions=predictions)
  row = evaluate.evaluate({"s": [fold]}, SETTINGS)["s"]["probes"]["hr_bpm"]["supervised"]
  assert row["head"] == "ridge"


def test_declined_windows_get_the_mean_and_are_counted():
  fold = fold_tables()
  values = fold.predictions["ppg_signal_processing", "hr_bpm"].copy()
  values[::2] = np.nan
  key = ("ppg_signal_processing", "hr_bpm")
  declining = dataclasses.replace(fold, predictions={**fold.predictions, key: values})
  rows = [
    evaluate.evaluate({"s": [f]}, SETTINGS)["s"]["probes"]["hr_bpm"]["ppg_signal_processing"]
    for f in (fold, declining)
  ]
  assert (rows[0]["declined"], rows[1]["declined"]) == (0.0, 0.5)
  assert rows[1]["mae"]["value"] > rows[0]["mae"]["value"] + 2
  assert rows[1]["n_windows"] == rows[0]["n_windows"]


def test_own_mean_and_mean_are_what_they_say(folds, judged):
  fold = folds[0]
  test = fold.columns["split"] == "test"
  hr_bpm, people = fold.columns["hr_bpm"][test], fold.columns["participant"][test]
  own = [np.abs(hr_bpm[people == p] - hr_bpm[people == p].mean()).mean() for p in np.unique(people)]
  row = evaluate.evaluate({"s": folds[:1]}, SETTINGS)["s"]["probes"]["hr_bpm"]["own_mean"]
  assert row["mae"]["value"] == pytest.approx(np.mean(own))
  assert row["oracle"]
  assert np.isnan(judged["probes"]["hr_bpm"]["mean"]["r"])


def test_session_clock_reads_the_time_since_the_start_whatever_the_clock_says():
  fold = fold_tables()
  minute = np.round(fold.columns["t0_s"] / 60)
  protocol = 60 + 3 * minute  # everybody's heart rate follows the same protocol
  begin = np.random.default_rng(0).integers(1_500_000_000, 1_700_000_000, 15)
  shifted = fold.columns["t0_s"] + np.repeat(begin, 24)
  fold = dataclasses.replace(with_columns(fold, t0_s=shifted, hr_bpm=protocol), projections={})
  table = evaluate.evaluate({"s": [fold]}, SETTINGS)["s"]["probes"]["hr_bpm"]
  assert table["session_clock"]["mae"]["value"] == pytest.approx(0)
  assert table["mean"]["mae"]["value"] > 10


def test_motion_levels_stand_apart(judged):
  counts = {level: judged["windows"][level]["n_windows"] for level in ("still", "light", "moving")}
  assert sum(counts.values()) == judged["windows"]["all"]["n_windows"] == 360
  for level, n in counts.items():
    assert judged["probes_by_motion"][level]["hr_bpm"]["student"]["n_windows"] == n


def test_windows_that_one_model_could_not_embed_are_scored_for_none():
  fold = fold_tables()
  row = np.flatnonzero(fold.columns["split"] == "test")[5]
  fold.embeddings["untrained"].embedding[row] = np.nan
  judged = evaluate.evaluate({"s": [fold]}, SETTINGS)["s"]
  assert judged["probes"]["hr_bpm"]["student"]["n_windows"] == 119
  assert judged["controls"]["shuffled"]["acc_to_ppg"][0]["n_queries"] < 3 * 120


def test_a_target_without_labels_is_skipped_aloud():
  fold = fold_tables()
  nothing = np.full(len(fold.columns["split"]), np.nan)
  judged = evaluate.evaluate({"s": [with_columns(fold, sdnn_ms=nothing)]}, SETTINGS)["s"]
  assert "sdnn_ms" not in judged["probes"]
  assert "no fold has labelled" in judged["skipped"]["sdnn_ms"]
  assert judged["windows"]["all"]["labelled"]["sdnn_ms"] == 0


def test_noisy_labels_make_a_target_not_measurable(folds):
  signs = [np.resize([-1.0, 1.0, np.nan], len(fold.columns["split"])) for fold in folds]
  for error_sd, measurable in ((12.0, False), (0.5, True)):
    twice = [
      with_columns(fold, rmssd_error_ms=error_sd * sign)
      for fold, sign in zip(folds, signs, strict=True)
    ]
    table = evaluate.evaluate({"s": twice}, SETTINGS)["s"]["probes"]
    assert table["rmssd_ms"]["student"]["measurable"] is measurable
    assert table["rmssd_ms"]["student"]["label_error_sd"] == pytest.approx(error_sd)
  assert table["hr_bpm"]["student"]["measurable"] is None


def test_scatter_is_thinned(folds):
  settings = dataclasses.replace(SETTINGS, scatter=50)
  scatter = evaluate.evaluate({"s": folds}, settings)["s"]["scatter"]["hr_bpm"]
  assert [len(scatter[key]) for key in ("true", "predicted", "participant")] == [50] * 3


def test_evaluation_repeats_itself(folds, judged):
  again = evaluate.evaluate({"made_up": folds}, SETTINGS)["made_up"]
  np.testing.assert_equal(again, judged)


def test_groups_traits_classes_and_intervals_stand_beside_the_probes(folds):
  people = np.repeat(np.arange(15), 24)
  told = [
    with_columns(
      dataclasses.replace(fold, projections={}),
      age=np.where(people == 3, np.nan, 25.0 + 3 * people),
      sex=np.where(people % 2, "female", "male"),
      skin_tone=np.array(["", "II", "V"])[people % 3],
      activity=np.where(fold.columns["motion_g"] > 0.05, "walking", "sitting"),
      hr_origin=np.where(people < 5, "ppg", "ecg"),
      pnn50=fold.columns["hr_bpm"] / 3,
      bmi=np.full(360, np.nan),
    )
    for fold in folds
  ]
  judged = evaluate.evaluate({"s": told}, Settings(targets=("hr_bpm",)))["s"]
  groups = judged["probes_by_group"]
  assert {name: list(values) for name, values in groups.items()} == {
    "age": ["0-29", "30-49", "50-64", "65+"],
    "sex": ["female", "male"],
    "skin_tone": ["II", "V"],
    "label_origin": ["ecg", "ppg"],
  }
  rows = [groups["sex"][sex]["hr_bpm"]["student"] for sex in ("female", "male")]
  whole = judged["probes"]["hr_bpm"]["student"]
  assert [row["n_participants"] for row in rows] == [7, 8]
  weighted = sum(row["mae"]["value"] * row["n_participants"] for row in rows) / 15
  assert weighted == pytest.approx(whole["mae"]["value"])
  assert groups["label_origin"]["ppg"]["hr_bpm"]["teacher"]["circular"]
  assert judged["probes"]["pnn50"]["student"]["mae"]["value"] == pytest.approx(
    whole["mae"]["value"] / 3, rel=0.02
  )
  assert set(judged["traits"]) == {"age", "sex"}
  assert "nobody has a label" in judged["skipped"]["bmi"]
  assert judged["classes"]["activity"]["motion_features"]["auc"]["value"] > 0.8
  # Five validation people are too few for an interval that holds nine tenths.
  assert np.isnan(whole["conformal"]["width"])
  assert "conformal" not in judged["probes"]["hr_bpm"]["mean"]
  assert whole["agreement"]["lower"] < whole["bias"] < whole["agreement"]["upper"]


def _leak(fold):
  split = fold.columns["split"].copy()
  split[np.flatnonzero(split == "train")[0]] = "test"
  projections = {
    side: dataclasses.replace(table, embedding=np.vstack([table.embedding, table.embedding[:1]]),
                              columns={})
    for side, table in fold.projections.items()
  }  # fmt: skip
  return with_columns(dataclasses.replace(fold, projections=projections), split=split)


def _misaligned(fold):
  table = fold.embeddings["student"]
  turned = table.where(np.roll(np.arange(len(table)), 1))
  return dataclasses.replace(fold, embeddings={**fold.embeddings, "student": turned})


@pytest.mark.parametrize(
  ("sets", "message"),
  [
    (lambda fold: {}, "no set"),
    (lambda fold: {"s": []}, "set s has no held-out fold"),
    (lambda fold: {"s": [dataclasses.replace(fold, embeddings={})]}, "without a table"),
    (lambda fold: {"s": [fold, fold]}, "'p00' is held out in two folds"),
    (lambda fold: {"s": [_leak(fold)]}, "stands in both train and test"),
    (lambda fold: {"s": [_misaligned(fold)]}, "rows of 'student' and 'teacher' differ"),
    (
      lambda fold: {"s": [dataclasses.replace(fold, predictions={("x", "hr_bpm"): np.zeros(3)})]},
      r"\(3,\) predictions of hr_bpm by 'x' for 360 rows",
    ),
    (
      lambda fold: {"s": [with_columns(fold, participant=np.full(360, "only"))]},
      "one participant only",
    ),
  ],
)
def test_what_cannot_be_judged_is_refused(sets, message):
  with pytest.raises(DistillError, match=message):
    evaluate.evaluate(sets(fold_tables()), SETTINGS)
