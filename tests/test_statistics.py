"""Intervals over participants against SciPy and against their nominal coverage."""

import numpy as np
import pytest
from scipy import stats

from distill import statistics
from distill.errors import DistillError


def test_t_interval_equals_scipy():
  values = np.random.default_rng(0).normal(3, 2, 9)
  interval = statistics.t_interval(values)
  expected = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
  np.testing.assert_allclose([interval.lo, interval.hi], expected, rtol=1e-12)
  assert interval.n == 9


def test_nan_is_left_out_and_one_value_has_no_interval():
  interval = statistics.t_interval(np.array([np.nan, 4.0]))
  assert (interval.value, interval.n) == (4.0, 1)
  assert np.isnan([interval.lo, interval.hi]).all()
  assert np.isnan(statistics.t_interval(np.array([np.nan])).value)


def test_participants_weigh_the_same_however_many_windows_they_have():
  participant = np.array(["a"] * 99 + ["b", "c"])
  values = np.array([1.0] * 99 + [3.0, np.nan])
  assert statistics.over_participants(values, participant).value == 2.0
  names, means = statistics.participant_means(values, participant)
  assert names.tolist() == ["a", "b", "c"]
  np.testing.assert_array_equal(means, [1.0, 3.0, np.nan])


def test_interval_does_not_depend_on_the_order_of_rows():
  rng = np.random.default_rng(1)
  values, participant = rng.normal(size=60), rng.integers(0, 7, 60).astype(str)
  order = rng.permutation(60)
  first = statistics.over_participants(values, participant)
  second = statistics.over_participants(values[order], participant[order])
  np.testing.assert_allclose([first.value, first.lo], [second.value, second.lo], rtol=1e-12)


def test_paired_difference_equals_scipy_on_participant_means():
  rng = np.random.default_rng(2)
  participant = np.repeat(np.array(list("abcdef")), 10)
  person = np.repeat(rng.normal(0, 10, 6), 10)
  a, b = person + rng.normal(0, 1, 60), person + 1 + rng.normal(0, 1, 60)
  interval = statistics.paired_difference(a, b, participant)
  means = [v.reshape(6, 10).mean(axis=1) for v in (a, b)]
  expected = stats.ttest_rel(*means).confidence_interval()
  np.testing.assert_allclose([interval.lo, interval.hi], expected, rtol=1e-9)
  assert interval.hi < 0  # people differ by far more than the models do, and the pairing removes it


@pytest.mark.parametrize("people", [5, 12])
def test_interval_covers_at_its_stated_rate(people):
  rng = np.random.default_rng(people)
  participant = np.repeat(np.arange(people), 6)
  covered = 0
  for _ in range(1500):
    person = np.repeat(rng.normal(7, 2, people), 6)
    interval = statistics.over_participants(person + rng.normal(0, 3, len(person)), participant)
    covered += interval.lo <= 7 <= interval.hi
  assert 0.93 < covered / 1500 < 0.97


def test_rows_that_do_not_fit_are_refused():
  with pytest.raises(DistillError, match="row by row"):
    statistics.over_participants(np.zeros(3), np.array(["a", "b"]))
  with pytest.raises(DistillError, match="same rows"):
    statistics.paired_difference(np.zeros(3), np.zeros(2), np.array(["a", "b", "c"]))
