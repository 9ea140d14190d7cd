"""Limits of agreement and conformal intervals against simulations with known spread."""

import numpy as np
import pytest

from distill import agreement


def test_limits_add_what_differs_between_people_and_within():
  rng = np.random.default_rng(0)
  count = rng.integers(5, 60, 400)
  participant = np.repeat(np.arange(400), count)
  error = 2.0 + np.repeat(rng.normal(0, 3, 400), count) + rng.normal(0, 4, count.sum())
  true = rng.normal(75, 10, len(error))
  got = agreement.limits(true, true + error, participant)
  assert got["sd"] == pytest.approx(5.0, rel=0.04)
  assert got["bias"]["lo"] < 2.0 < got["bias"]["hi"]
  assert got["upper"] - got["lower"] == pytest.approx(2 * 1.96 * got["sd"])
  means = [error[participant == k].mean() for k in range(400)]
  assert got["bias"]["value"] == pytest.approx(np.mean(means))


def test_limits_of_balanced_people_are_the_components_of_variance():
  error = np.random.default_rng(1).normal(size=(7, 10)) + 3 * np.arange(7)[:, None]
  got = agreement.limits(np.zeros(70), error.ravel(), np.repeat(np.arange(7), 10))
  within = error.var(axis=1, ddof=1).mean()
  between = error.mean(axis=1).var(ddof=1) - within / 10
  assert got["sd"] == pytest.approx(np.sqrt(within + between))


def test_one_window_a_person_has_the_plain_sd_and_one_person_none():
  error = np.random.default_rng(2).normal(size=30)
  got = agreement.limits(np.zeros(30), error, np.arange(30))
  assert got["sd"] == pytest.approx(error.std(ddof=1))
  one = agreement.limits(np.zeros(30), error, np.zeros(30))
  assert np.isnan([one["sd"], one["lower"], one["upper"], one["bias"]["lo"]]).all()


def _people(rng, people: int) -> tuple[np.ndarray, np.ndarray]:
  """Absolute errors; some people are much worse than others and have more windows."""
  count = rng.integers(3, 30, people)
  scale = np.exp(rng.normal(0, 0.7, people)) * np.sqrt(count)
  return np.abs(rng.normal(size=count.sum()) * np.repeat(scale, count)), np.repeat(
    np.arange(people), count
  )


@pytest.mark.parametrize(("people", "level"), [(12, 0.9), (40, 0.8)])
def test_conformal_intervals_hold_a_window_of_a_new_person_as_often_as_they_say(people, level):
  rng = np.random.default_rng(3)
  covered = []
  for _ in range(600):
    error, participant = _people(rng, people)
    width = agreement.conformal_width(error, participant, level)
    new = _people(rng, 1)[0]
    covered.append(np.mean(new <= width))
  assert level - 0.02 < np.mean(covered) < level + 1 / (people + 1) + 0.02


def test_conformal_width_counts_people_and_needs_nine_for_nine_tenths():
  participant = np.repeat(np.arange(9), [1, 50, 2, 2, 2, 2, 2, 2, 2])
  error = np.where(participant == 0, 10.0, 1.0)
  assert agreement.conformal_width(error, participant) == 10.0
  assert agreement.conformal_width(error, participant, 0.8) == 1.0
  few = participant < 8
  assert np.isnan(agreement.conformal_width(error[few], participant[few]))


def test_coverage_is_told_by_participant():
  error = np.array([1.0, 1, 1, 5, 5, 5, 1, 9])
  participant = np.array(list("aaabbbcd"))
  width = np.array([2.0] * 7 + [np.nan])
  got = agreement.coverage(error, width, participant)
  assert got["coverage"]["value"] == pytest.approx(2 / 3)
  assert (got["below"], got["n_participants"], got["width"]) == (pytest.approx(1 / 3), 3, 2.0)
  assert (got["coverage"]["lo"], got["coverage"]["hi"]) == (0.0, 1.0)  # clipped to what exists
  none = agreement.coverage(error, np.full(8, np.nan), participant)
  assert np.isnan([none["width"], none["coverage"]["value"], none["below"]]).all()
