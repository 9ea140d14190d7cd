"""Ranks and metrics against a plain NumPy computation; ties, blocks, refusals."""

import numpy as np
import pytest

from distill import ranking
from distill.errors import DistillError
from distill.ranking import Condition, Question, Ranked


def _slow(queries, gallery, allowed=None, positive=None):
  """Ranks by a loop in float64."""
  unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in np.float64([queries, gallery])]
  cosine = unit[0] @ unit[1].T
  result = []
  for i, row in enumerate(cosine):
    partner = i if positive is None else positive[i]
    rivals = [j for j in range(len(row)) if j != partner and (allowed is None or allowed[i, j])]
    result.append((1 + sum(row[j] >= row[partner] - ranking.TIE for j in rivals), 1 + len(rivals)))
  return np.array(result).T


@pytest.fixture(name="pair")
def _pair():
  rng = np.random.default_rng(0)
  gallery = rng.normal(size=(61, 8)).astype(np.float32)
  return gallery + rng.normal(size=(61, 8)).astype(np.float32), gallery


@pytest.mark.parametrize("block", [(2048, 8192), (16, 8), (7, 61), (1, 3)])
def test_blocks_give_the_ranks_of_a_plain_loop(pair, block):
  rank, candidates = ranking.ranks(*pair, block=block)
  np.testing.assert_array_equal((rank, candidates), _slow(*pair))
  assert len(set(rank.tolist())) > 5


def test_products_of_several_tiles_give_the_ranks_of_a_plain_loop():
  rng = np.random.default_rng(4)
  size = 2 * ranking.CPU_TILE + 3
  gallery = rng.normal(size=(size, 6)).astype(np.float32)
  queries = gallery + rng.normal(size=gallery.shape).astype(np.float32)
  level = rng.normal(70, 5, (size, 1)).astype(np.float32)
  near = np.abs(level - level.T) <= 3
  questions = [Question(), Question(only=Condition(level, (3.0,)))]
  plain, only = ranking.answers(queries, gallery, questions)
  np.testing.assert_array_equal(plain, _slow(queries, gallery))
  np.testing.assert_array_equal(only, _slow(queries, gallery, allowed=near))


@pytest.mark.parametrize("lanes", [1, 5])
def test_blocks_counted_side_by_side_give_the_same_ranks(pair, lanes, monkeypatch):
  monkeypatch.setattr(ranking, "_lanes", lambda: lanes)
  np.testing.assert_array_equal(ranking.ranks(*pair, block=(4, 16)), _slow(*pair))


def test_conditions_choose_the_candidates(pair):
  rng = np.random.default_rng(1)
  group, level = rng.integers(0, 4, 61), rng.normal(70, 5, 61).astype(np.float32)
  near = np.abs(level[:, None] - level[None, :]) <= 2
  same = group[:, None] == group[None, :]
  only = Condition(np.stack([group, level], axis=1), (0.0, 2.0))
  got = ranking.ranks(*pair, Question(only=only), block=(16, 16))
  np.testing.assert_array_equal(got, _slow(*pair, allowed=same & near))
  got = ranking.ranks(*pair, Question(without=only), block=(16, 16))
  np.testing.assert_array_equal(got, _slow(*pair, allowed=~(same & near)))


def test_a_value_that_is_not_known_matches_nothing(pair):
  level = np.full((61, 1), np.nan)
  rank, candidates = ranking.ranks(*pair, Question(only=Condition(level, (2.0,))))
  assert (rank == 1).all()
  assert (candidates == 1).all()


def test_named_partners_may_stand_in_any_row(pair):
  partner = np.random.default_rng(2).permutation(61)[:20]
  got = ranking.ranks(pair[0][:20], pair[1], Question(positive=partner))
  np.testing.assert_array_equal(got, _slow_named(*pair, partner))


@pytest.mark.parametrize("condition", [None, "without"])
def test_several_partners_at_once_are_each_partner_by_itself(pair, condition):
  n = len(pair[0])
  partner = np.stack([np.roll(np.arange(n), k) for k in (1, 7, 30)])
  itself = ranking.Condition(np.arange(n)[:, None], (0.0,)) if condition else None
  rank, candidates = ranking.ranks(
    *pair, Question(positive=partner, without=itself), block=(16, 32)
  )
  for k, one in enumerate(partner):
    alone = ranking.ranks(*pair, Question(positive=one, without=itself))
    np.testing.assert_array_equal(rank[k], alone[0])
    np.testing.assert_array_equal(candidates[k], alone[1])


def test_questions_asked_together_are_each_question_by_itself(pair):
  n = len(pair[0])
  level, some = (np.arange(n) % 4)[:, None], np.arange(1, n, 3)
  among = np.where(np.isin(np.arange(n), some), 0.0, np.nan)[:, None]
  questions = [
    Question(),
    Question(some),
    Question(only=Condition(level, (1.0,))),
    Question(some, only=Condition(among, (0.0,))),
    Question(some, positive=some[::-1], without=Condition(np.arange(n)[:, None], (2.0,))),
    Question(some, partners=pair[0][some], without=Condition(level, (0.0,))),
  ]
  together = ranking.answers(*pair, questions, block=(16, 32))
  for question, (rank, candidates) in zip(questions, together, strict=True):
    alone = ranking.ranks(*pair, question)
    np.testing.assert_array_equal(rank, alone[0])
    np.testing.assert_array_equal(candidates, alone[1])
  whole, part, _, apart = (rank for rank, _ in together[:4])
  np.testing.assert_array_equal(part, whole[some])
  np.testing.assert_array_equal(apart, ranking.ranks(pair[0][some], pair[1][some])[0])


def _slow_named(queries, gallery, partner):
  rank = [
    _slow(np.repeat(queries[i : i + 1], len(gallery), axis=0), gallery)[0][j]
    for i, j in enumerate(partner)
  ]
  return np.array([rank, [len(gallery)] * len(partner)])


def test_the_nearest_view_of_a_query_counts(pair):
  views = np.stack([pair[0], np.roll(pair[0], 1, axis=0), -pair[0]])
  unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (np.float64(views), pair[1])]
  cosine = np.einsum("vnd,md->vnm", *unit).max(axis=0)
  own = np.diagonal(cosine)[:, None] - ranking.TIE
  got, _ = ranking.ranks(views, pair[1], block=(16, 16))
  np.testing.assert_array_equal(got, (cosine >= own).sum(axis=1))


def test_partners_outside_the_gallery_are_one_more_candidate(pair):
  rng = np.random.default_rng(3)
  queries, partners = pair[0][:20], pair[0][:20] + rng.normal(size=(20, 8))
  place, places = rng.integers(0, 3, (20, 1)), rng.integers(0, 3, (61, 1))
  apart = Condition(place, (0.0,), gallery=places)
  for condition, allowed in ((None, np.ones((20, 61), bool)), (apart, place != places.T)):
    got = ranking.ranks(
      queries, pair[1], Question(partners=partners, without=condition), block=(16, 16)
    )
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, pair[1], partners)]
    near = np.sum(unit[0] * unit[2], axis=1, keepdims=True) - ranking.TIE
    ahead = (unit[0] @ unit[1].T >= near) & allowed
    np.testing.assert_array_equal(got, (1 + ahead.sum(axis=1), 1 + allowed.sum(axis=1)))


def test_ties_count_against_the_model():
  collapsed = np.ones((9, 4), np.float32)
  rank, _ = ranking.ranks(collapsed, collapsed, block=(4, 4))
  assert (rank == 9).all()
  twice = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
  rank, _ = ranking.ranks(twice, twice, block=(4, 2))
  assert (rank == 2).all()


def test_duplicates_tie_in_whatever_block_they_stand():
  rng = np.random.default_rng(3)
  vectors = np.tile(rng.normal(size=(40, 200)).astype(np.float32), (3, 1))
  for block in [(128, 128), (16, 8), (64, 32)]:
    assert (ranking.ranks(vectors, vectors, block=block)[0] == 3).all()


def test_scale_and_order_of_rows_do_not_matter(pair):
  queries, gallery = pair
  rank, _ = ranking.ranks(queries, gallery)
  scaled, _ = ranking.ranks(
    queries * 1e-3, gallery * np.linspace(1, 50, 61, dtype=np.float32)[:, None]
  )
  order = np.random.default_rng(4).permutation(61)
  permuted, _ = ranking.ranks(queries[order], gallery[order])
  np.testing.assert_array_equal(rank, scaled)
  np.testing.assert_array_equal(rank[order], permuted)


def test_one_row_ranks_first():
  rank, candidates = ranking.ranks(np.ones((1, 3)), np.ones((1, 3)))
  assert (rank.tolist(), candidates.tolist()) == ([1], [1])


@pytest.mark.parametrize(
  ("queries", "gallery", "message"),
  [
    ([[1.0, np.nan], [1, 2]], [[1, 1], [1, 2]], r"1 of 2 query vectors are NaN.*row 0"),
    ([[1.0, 2], [1, 2]], [[1, 1], [0, 0]], r"1 of 2 gallery vectors.*zero.*row 1"),
    ([[1.0, 2]], [[1.0, 2, 3]], "2 dimensions and the gallery 3"),
    ([[1.0, 2]], [[1.0, 2], [3, 4]], "rows must be aligned"),
    ([[[1.0, 2]], [[0.0, 0]]], [[1.0, 2]], r"1 of 1 query vectors.*zero"),
    (np.empty((0, 2)), np.empty((0, 2)), "not empty"),
  ],
)
def test_what_cannot_be_ranked_is_refused(queries, gallery, message):
  with pytest.raises(DistillError, match=message):
    ranking.ranks(np.asarray(queries), np.asarray(gallery))


def test_metrics_of_known_ranks():
  ranked = Ranked(np.array([1, 2, 4, 11]), np.full(4, 20), np.array(["a", "a", "b", "b"]))
  got = ranking.metrics(ranked)
  assert [got[k] for k in ("top1", "top3", "top5", "top10")] == [0.25, 0.5, 0.75, 0.75]
  assert (got["mean_rank"], got["median_rank"], got["gallery"]) == (4.5, 3.0, 20.0)
  assert got["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 11) / 4)
  assert got["chance_top1"] == pytest.approx(0.05)
  assert (got["lo"], got["hi"]) == (0.0, 1.0)  # two people: the interval is clipped to what exists
  assert (got["n_queries"], got["n_participants"]) == (4, 2)


def test_people_weigh_the_same_whatever_their_number_of_queries():
  rank = np.array([1, 1, 1, 1, 7, 7])
  got = ranking.metrics(Ranked(rank, np.full(6, 20), np.array(list("aaaabc"))))
  assert got["top1"] == pytest.approx(1 / 3)
  assert got["mean_rank"] == pytest.approx((1 + 7 + 7) / 3)
  assert got["lo"] <= got["top1"] <= got["hi"]


def test_oracle_metrics_are_the_expectation_of_a_guess():
  size = np.array([1, 2, 4, 30])
  got = ranking.oracle_metrics(Ranked(size, size, np.array(["a", "a", "b", "b"])))
  rng = np.random.default_rng(5)
  drawn = np.concatenate([rng.integers(1, c + 1, 20_000) for c in size])
  assert got["top1"] == pytest.approx(np.mean(drawn == 1), abs=0.01)
  assert got["top5"] == pytest.approx(np.mean(drawn <= 5), abs=0.01)
  assert got["mrr"] == pytest.approx(np.mean(1 / drawn), abs=0.01)
  assert got["mean_rank"] == pytest.approx(np.mean(drawn), rel=0.02)
