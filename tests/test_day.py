"""Days: the cohort holds what it says, what is removed is gone, rivals of infilling are right."""

import functools

import numpy as np
import pytest
from scipy import stats

import students.day
from distill import config as configs
from distill import day as days
from distill.data import day
from distill.errors import DistillError
from distill.spec import DAY_CHANNELS, DAY_SPEC
from tests.conftest import ROOT


@functools.cache
def _cohort():
  return day.simulate(160, 0)


@functools.cache
def _encoder():
  return students.day.build(seed=0, width=8, depth=1, heads=2, patch=240)


def _auc(values, positive):
  rank = stats.rankdata(values)
  n = positive.sum()
  return (rank[positive].sum() - n * (n + 1) / 2) / (n * (len(values) - n))


def test_a_day_has_26_channels_of_1440_minutes_and_3744_tokens():
  assert DAY_SPEC.shape == (1440, 26)
  assert set(day.LOADS) == set(DAY_SPEC.channels)
  assert (1440 // 10) * 26 == 3744
  config = configs.load(f"{ROOT}/configs/aim_day.py")
  assert config.student.patch == 10
  assert _encoder().stem.tokens == 6 * 26


def test_a_person_is_the_same_in_every_cohort():
  few = day.simulate(3, 0)
  np.testing.assert_array_equal(few.values, _cohort().values[:3])
  np.testing.assert_array_equal(few.mask, _cohort().mask[:3])
  assert (day.simulate(3, 1).values != few.values).any()
  with pytest.raises(DistillError, match="participants >= 1"):
    day.simulate(0, 0)


def test_hypertension_is_carried_by_the_night_and_is_not_in_the_day():
  cohort = _cohort()
  tense = cohort.hypertension == "yes"
  rate = cohort.values[:, :, DAY_SPEC.channels.index("heart_rate")]
  deep, awake = slice(13 * 60, 17 * 60), slice(2 * 60, 9 * 60)
  fall = rate[:, awake].mean(axis=1) - rate[:, deep].mean(axis=1)
  n, m = tense.sum(), (~tense).sum()
  spread = np.sqrt((n + m + 1) / (12 * n * m))  # of the AUC of a feature that tells nothing
  assert _auc(-fall, tense) > 0.5 + 3 * spread
  assert abs(_auc(rate[:, awake].mean(axis=1), tense) - 0.5) < 3 * spread


def test_gaps_are_shared_by_the_channels_of_a_sensor():
  mask = _cohort().mask
  assert 0.5 < mask.mean() < 0.9
  for sensor in DAY_CHANNELS:
    own = mask[:, :, day.columns_of(sensor)]
    assert (own == own[:, :, :1]).all()
  assert (mask[:, :, 0] != mask[:, :, 10]).any()
  with pytest.raises(DistillError, match="did you mean 'skin'"):
    day.columns_of("skins")


def test_what_is_removed_is_gone_and_nothing_else():
  cohort = _cohort().where(np.arange(4))
  gone = days.without(cohort, "night")
  assert not gone.mask[:, 11 * 60 : 19 * 60].any()
  np.testing.assert_array_equal(gone.mask[:, : 11 * 60], cohort.mask[:, : 11 * 60])
  gone = days.without(cohort, "acc")
  left = np.ones(26, bool)
  left[day.columns_of("acc")] = False
  assert not gone.mask[:, :, ~left].any()
  np.testing.assert_array_equal(gone.mask[:, :, left], cohort.mask[:, :, left])
  np.testing.assert_array_equal(days.without(cohort, "").mask, cohort.mask)


def test_the_rivals_of_infilling_are_what_their_names_say():
  cohort = _cohort()
  train, test = cohort.where(np.arange(30)), cohort.where(np.arange(30, 33))
  seen = test.mask & (np.random.default_rng(0).random(test.mask.shape) < 0.5)
  seen[1, :, 4] = False
  means = days._means(train)
  channel = train.values[:, 700, 3][train.mask[:, 700, 3]]
  assert means[700, 3] == pytest.approx(channel.mean(), abs=1e-5)
  line = days._by_line(test, seen, train)
  here = seen[0, :, 7]
  expected = np.interp(np.arange(1440), np.flatnonzero(here), test.values[0, here, 7])
  np.testing.assert_allclose(line[0, :, 7], expected, atol=1e-4)
  np.testing.assert_allclose(line[1, :, 4], means[:, 4], atol=1e-6)
  found = days._by_neighbours(test, seen, train)
  for i in range(3):
    both = seen[i] & train.mask
    apart = [
      np.mean((test.values[i] - other)[some] ** 2) for other, some in zip(train.values, both)
    ]
    near = np.argsort(apart)[: days.NEIGHBOURS]
    values = np.where(train.mask[near], train.values[near], np.nan)
    known = np.isfinite(values).any(axis=0)
    mean = np.nansum(values, axis=0) / np.maximum(np.isfinite(values).sum(axis=0), 1)
    np.testing.assert_allclose(found[i], np.where(known, mean, means), atol=1e-4)


@pytest.mark.parametrize(("kind", "share"), days.INFILL.items())
def test_hidden_tokens_are_whole_and_of_the_asked_share(kind, share):
  hidden = days._hidden(_encoder(), 5, kind, share, 0)
  tokens = hidden.reshape(5, 6, 240, 26)
  assert (tokens.all(axis=2) == tokens.any(axis=2)).all()
  np.testing.assert_allclose(hidden.mean(axis=(1, 2)), share, atol=0.01)
  if kind == "temporal":
    assert (hidden == hidden[:, :, :1]).all()
  if kind == "channel":
    assert (hidden == hidden[:, :1]).all()


def test_errors_count_what_was_hidden_and_known():
  true = np.zeros((2, 4, 1))
  guess = np.array([[[1.0], [2.0], [3.0], [np.nan]], [[1.0]] * 4])
  scored = np.array([[[True], [True], [False], [False]], [[False]] * 4])
  np.testing.assert_allclose(days._error(guess, true, scored), [2.5, np.nan])


def test_an_encoder_of_minutes_is_refused():
  config = configs.load(f"{ROOT}/configs/aim_day.py:smoke")
  with config.unlocked():
    config.student = configs.ConfigDict({"build": "teachers.transformer:build", "width": 16})
    config.student.depth, config.student.heads = 1, 2
  with pytest.raises(DistillError, match=r"such as students\.day:build"):
    days._encoder(config)
