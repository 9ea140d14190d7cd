"""Controls, galleries and oracles mean what they say; shuffled pairs fall to chance."""

import dataclasses

import numpy as np
import pytest

from distill import ranking, retrieval, rhythm
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError
from distill.retrieval import Settings
from tests.fold_tables import fold_tables


@pytest.fixture(name="pair")
def _pair():
  fold = fold_tables()
  return fold.projections["student"], fold.projections["teacher"]


@pytest.fixture(name="judged", scope="module")
def _judged():
  fold = fold_tables()
  pair = fold.projections["student"], fold.projections["teacher"]
  return retrieval.retrieve([pair], Settings(galleries=(30, 100), repeats=10, shifts_s=(60.0,)))


def test_headline_stands_for_both_directions_and_grows_in_gallery(judged):
  for way in ("acc_to_ppg", "ppg_to_acc"):
    rows = judged["retrieval"][way]
    assert [row["gallery"] for row in rows] == [30, 100, 120]
    assert [row["chance_top1"] for row in rows] == pytest.approx([1 / 30, 1 / 100, 1 / 120])
    top1 = [row["top1"] for row in rows]
    assert top1[0] > top1[1] > top1[2] > 10 / 120
    assert all(row["lo"] <= row["top1"] <= row["hi"] for row in rows)


def test_directions_swap_with_the_tables(pair, judged):
  swapped = retrieval.retrieve([pair[::-1]], Settings(galleries=(), repeats=10, shifts_s=()))
  there, back = (judged["retrieval"][way][-1] for way in ("acc_to_ppg", "ppg_to_acc"))
  assert swapped["retrieval"]["ppg_to_acc"][-1] == there
  assert swapped["retrieval"]["acc_to_ppg"][-1] == back


def test_shuffled_pairs_fall_to_chance(judged):
  for rows in judged["controls"]["shuffled"].values():
    (row,) = rows
    assert row["n_queries"] == 1200
    assert row["chance_top1"] == pytest.approx(1 / 119)  # the true partner is no candidate
    # Three standard errors of a share at chance, 1200 draws.
    assert abs(row["top1"] - 1 / 119) < 3 * np.sqrt(1 / 119 / 1200)
    assert abs(row["top10"] - 10 / 119) < 3 * np.sqrt(10 / 119 / 1200)
    assert row["mean_rank"] == pytest.approx(60, rel=0.06)


def test_same_participant_ranks_within_the_person(pair, judged):
  student, teacher = pair
  (row,) = judged["controls"]["same_participant"]["acc_to_ppg"]
  rank = np.concatenate(
    [
      ranking.ranks(student.embedding[rows], teacher.embedding[rows])[0]
      for rows in (student["participant"] == name for name in np.unique(student["participant"]))
    ]
  )
  assert row["gallery"] == 24
  assert row["top1"] == pytest.approx(np.mean(rank == 1))
  assert row["mean_rank"] == pytest.approx(np.mean(rank))


def test_matched_controls_count_the_candidates_they_name(pair, judged):
  hr_bpm = pair[0]["hr_bpm"].astype(np.float32)
  near = (np.abs(hr_bpm[:, None] - hr_bpm[None, :]) <= 2).sum(axis=1)
  (row,) = judged["controls"]["hr_matched"]["acc_to_ppg"]
  assert row["gallery"] == pytest.approx(near[near > 1].mean())
  who = pair[0]["participant"][near > 1]
  chance = [(1 / near[near > 1])[who == one].mean() for one in np.unique(who)]
  assert row["chance_top1"] == pytest.approx(np.mean(chance))  # people weigh the same
  log = np.log(pair[0]["motion_g"]).astype(np.float32)
  near = (np.abs(log[:, None] - log[None, :]) <= np.float32(0.1)).sum(axis=1)
  (row,) = judged["controls"]["motion_matched"]["acc_to_ppg"]
  assert row["gallery"] == pytest.approx(near[near > 1].mean())


def test_motion_is_matched_in_cadence_too_where_it_is_known(pair):
  cadence_hz = np.random.default_rng(1).uniform(1.0, 3.5, len(pair[0]))
  told = dataclasses.replace(pair[0], columns={**pair[0].columns, "cadence_hz": cadence_hz})
  values = np.log(np.stack([told["motion_g"], cadence_hz], axis=1)).astype(np.float32)
  apart = np.abs(values[:, None] - values[None])
  near = (apart <= np.float32(0.1)).all(axis=2).sum(axis=1)
  judged = retrieval.retrieve([(told, pair[1])], Settings(galleries=(), repeats=2, shifts_s=()))
  (row,) = judged["controls"]["motion_matched"]["acc_to_ppg"]
  assert row["n_queries"] == np.sum(near > 1) < 100
  assert row["gallery"] == pytest.approx(near[near > 1].mean())
  assert "cadence" not in judged["not_scored"]


def test_a_model_that_reads_only_heart_rate_fails_among_equal_heart_rates(pair):
  student, teacher = pair
  angle = (student["hr_bpm"] - 40) / 60
  only_rate = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
  noise = np.random.default_rng(0).normal(0, 0.02, only_rate.shape).astype(np.float32)
  query = dataclasses.replace(student, embedding=only_rate + noise)
  gallery = dataclasses.replace(teacher, embedding=only_rate)
  judged = retrieval.retrieve([(query, gallery)], Settings(galleries=(), repeats=2, shifts_s=()))
  whole = judged["retrieval"]["acc_to_ppg"][0]
  (matched,) = judged["controls"]["hr_matched"]["acc_to_ppg"]
  assert whole["top1"] > 6 * whole["chance_top1"]
  assert matched["top1"] < 2 * matched["chance_top1"]
  assert judged["oracles"]["hr"]["top1"] > 6 * whole["chance_top1"]


def test_motion_levels_are_galleries_of_their_own(pair, judged):
  level = retrieval.motion_level(pair[0]["motion_g"], Settings())
  for name in retrieval.MOTION_LEVELS:
    (row,) = judged["by_motion"][name]["acc_to_ppg"]
    assert row["gallery"] == np.sum(level == name)
  known = retrieval.motion_level(np.array([0.0, 0.02, 0.1, np.nan]), Settings())
  assert known.tolist() == ["still", "light", "moving", ""]


def test_gap_free_windows_are_scored_apart(pair, judged):
  (row,) = judged["controls"]["gap_free"]["acc_to_ppg"]
  assert row["gallery"] == pair[0]["complete"].sum()


def test_shift_curve_falls_from_the_true_partner():
  fold = fold_tables()
  query, gallery = fold.projections["student"], fold.projections["teacher"]
  curve = retrieval.shift_curve(query, gallery, 60.0, (0.0, 15.0, 60.0, 600.0))
  assert sorted(curve) == [0.0, 60.0, 600.0]  # no two windows are 15 s apart
  assert [len(curve[s].rank) for s in sorted(curve)] == [120, 5 * 23, 5 * 14]
  assert np.mean(curve[0.0].rank == 1) > 3 * np.mean(curve[60.0].rank == 1)


def test_shifts_that_no_two_windows_are_apart_are_read_from_their_own_table(pair):
  query, gallery = pair
  picked = np.arange(0, 120, 3)
  near = query.embedding[picked] + 0.01  # the shifted partner is the query itself, nearly
  columns = {name: query[name][picked] for name in ("participant", "recording", "t0_s")}
  shifted = EmbeddingTable(near, columns | {"shift_s": np.full(len(picked), 5.0)}, "projection")
  shifts = (0.0, 5.0, 60.0)
  curve = retrieval.shift_curve(query, gallery, 60.0, shifts, shifted)
  assert (curve[5.0].rank == 1).all()
  np.testing.assert_array_equal(curve[5.0].participant, query["participant"][picked])
  assert (curve[5.0].candidates == 120).all()  # every window but the query's own, and the shifted
  plain = retrieval.shift_curve(query, gallery, 60.0, shifts)
  assert sorted(plain) == [0.0, 60.0]
  np.testing.assert_array_equal(plain[60.0].rank, curve[60.0].rank)
  settings = Settings(galleries=(), repeats=2, shifts_s=(5.0, 60.0))
  judged = retrieval.retrieve([pair], settings, shifted=[{"ppg": shifted}])
  assert [row["shift_s"] for row in judged["shift_curve"]["acc_to_ppg"]] == [0.0, 5.0, 60.0]
  assert [row["shift_s"] for row in judged["shift_curve"]["ppg_to_acc"]] == [0.0, 60.0]


def test_rhythms_are_ranked_with_their_own_controls(pair):
  rng = np.random.default_rng(0)
  columns = pair[0].columns
  beats_s = [np.sort(rng.uniform(0, 60, 70)) for _ in range(len(pair[0]))]
  late = [times + 0.2 for times in beats_s]
  noise = rng.normal(0, 0.06, (len(beats_s), 398)).astype(np.float32)
  tables = {
    "beats": EmbeddingTable(rhythm.of_beats(beats_s, 60.0), columns),
    "ppg": EmbeddingTable(rhythm.of_beats(late, 60.0), columns),
    "acc": EmbeddingTable(rhythm.of_beats(late, 60.0) + 3 * noise, columns),
  }
  settings = Settings(galleries=(30,), repeats=2, shifts_s=())
  found = retrieval.retrieve([pair], settings, rhythms=[tables])["rhythm"]
  assert found["true_beats"]["retrieval"]["acc_to_ppg"][-1]["top1"] == 1.0
  assert set(found["true_beats"]["retrieval"]) == {"acc_to_ppg"}
  rival = found["acceleration"]
  assert set(rival["retrieval"]) == {"acc_to_ppg", "ppg_to_acc"}
  thirty, whole = rival["retrieval"]["acc_to_ppg"]
  assert (thirty["gallery"], whole["gallery"]) == (30, 120)
  assert rival["controls"]["same_participant"]["acc_to_ppg"][0]["gallery"] == 24
  views = rhythm.delayed(tables["acc"].embedding, 60.0)
  rank, _ = ranking.ranks(views, tables["ppg"].embedding)
  assert 0.05 < whole["top1"] < 1
  assert whole["top1"] == pytest.approx(np.mean(rank == 1))


def test_shift_curve_does_not_count_windows_that_overlap_the_query():
  # Half-overlapping windows in a plane that turns by 20 degrees a window.
  angle = np.deg2rad(20) * np.arange(10)
  vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
  columns = {
    "participant": np.full(10, "a"),
    "recording": np.full(10, "r"),
    "t0_s": 1.7e9 + 30.0 * np.arange(10),  # clocks may be dates
  }
  table = EmbeddingTable(vectors, columns, "projection", "x")
  curve = retrieval.shift_curve(table, table, 60.0, (0.0, 30.0, 60.0))
  assert (curve[0.0].rank == 1).all()
  assert curve[0.0].candidates.tolist() == [9, 8, 8, 8, 8, 8, 8, 8, 8, 9]
  assert (curve[30.0].rank == 1).all()
  assert curve[60.0].rank.tolist() == [1, 1, 2, 2, 2, 2, 2, 2]  # the window before is as near


def test_scored_windows_do_not_overlap_and_people_count_the_same():
  recording = np.array(["a"] * 6 + ["b"] * 3)
  t0_s = np.array([0.0, 30, 60, 90, 100, 150, 10, 69.9, 70])
  rows = retrieval.non_overlapping(recording, t0_s, 60.0)
  assert rows.tolist() == [0, 2, 5, 6, 8]
  participant = np.repeat(list("abcdef"), [9, 9, 9, 9, 9, 1])
  kept = participant[retrieval.balanced(participant, 0.8, 0)]
  assert np.unique(kept, return_counts=True)[1].tolist() == [9] * 5
  kept = participant[retrieval.balanced(participant, 1.0, 0)]
  assert np.unique(kept, return_counts=True)[1].tolist() == [1] * 6


def test_folds_are_galleries_of_their_own():
  folds = [fold_tables(k) for k in range(3)]
  pairs = [(fold.projections["student"], fold.projections["teacher"]) for fold in folds]
  settings = Settings(galleries=(), repeats=2, shifts_s=())
  row = retrieval.retrieve(pairs, settings)["retrieval"]["acc_to_ppg"][-1]
  assert (row["gallery"], row["n_queries"], row["n_participants"]) == (120, 360, 15)
  alone = [retrieval.retrieve([pair], settings)["retrieval"]["acc_to_ppg"][-1] for pair in pairs]
  assert row["top1"] == pytest.approx(np.mean([one["top1"] for one in alone]))


def test_tables_without_columns_are_ranked_and_have_no_interval():
  vectors = np.random.default_rng(0).normal(size=(20, 4))
  table = EmbeddingTable(vectors.astype(np.float32), {})
  judged = retrieval.retrieve([(table, table)], Settings(repeats=2), force=True)
  row = judged["retrieval"]["acc_to_ppg"][-1]
  assert row["top1"] == 1.0
  assert np.isnan([row["lo"], row["hi"]]).all()
  assert set(judged["controls"]) == {"shuffled"}
  assert judged["not_scored"]["hr_matched"] == "no column 'hr_bpm'"
  expected = {"same_participant", "hr_matched", "motion_matched", "gap_free", "shift_curve"}
  expected |= {*retrieval.MOTION_LEVELS, "oracle hr", "oracle hr_and_hrv"}
  assert set(judged["not_scored"]) == expected | {"rhythm acceleration", "rhythm true_beats"}


def _changed(table, name, value):
  column = table[name].copy()
  column[3] = value
  return dataclasses.replace(table, columns={**table.columns, name: column})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.where(np.arange(5)), "120 acceleration rows and 5 PPG rows"),
    (lambda t: _changed(t, "t0_s", 7.0), r"row 3 .*'t0_s' \(180.0 and 7.0\)"),
    (lambda t: dataclasses.replace(t, space="embedding"), "compares projections"),
    (lambda t: dataclasses.replace(t, pair="other"), "different pairs of heads"),
  ],
)
def test_tables_that_do_not_belong_together_are_refused(pair, change, message):
  with pytest.raises(DistillError, match=message):
    retrieval.retrieve([(pair[0], change(pair[1]))], Settings(galleries=()))


def test_alignment_may_be_forced_and_nothing_is_refused(pair):
  other = dataclasses.replace(pair[1], pair="other")
  assert retrieval.retrieve([(pair[0], other)], Settings(repeats=2, galleries=()), force=True)
  with pytest.raises(DistillError, match="no fold"):
    retrieval.retrieve([])
  one = pair[0].where(np.arange(1)), pair[1].where(np.arange(1))
  with pytest.raises(DistillError, match="at least two windows"):
    retrieval.retrieve([one])
