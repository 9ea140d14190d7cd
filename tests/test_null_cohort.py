"""Without beat-locked movement the simulated wrist says nothing of single beats.

The null cohort is the same people, seed and all, with amplitude 0. Whatever still finds the right
minute of PPG there would be a leak of the simulation. Judged without learning, by the rival of
SCIENCE section 5: cross-correlation of the acceleration's envelope with the PPG.
"""

import functools

import numpy as np
import pytest

from distill import baselines, beats, rhythm, signals, statistics
from distill.data.cohort import Cohort, simulate
from distill.data.windows import motion_g
from distill.ranking import Condition, Question, ranks
from distill.retrieval import Settings

PEOPLE, MINUTES, RATE_HZ = 24, 10, 50.0
WINDOW = round(60 * RATE_HZ)


@functools.cache
def _still(amplitude: float) -> dict[str, np.ndarray]:
  """Still minutes: rhythms of both sensors, person, true and estimated rate."""
  windows: dict[str, list] = {name: [] for name in ("acc", "ppg", "person", "hr")}
  for person in range(PEOPLE):
    recording = simulate(Cohort(PEOPLE, MINUTES, amplitude=amplitude, gaps=False, seed=11), person)
    acc, ppg = (
      signals.resample(recording.signals[name].samples, recording.signals[name].rate_hz, RATE_HZ)
      for name in ("acc", "ppg")
    )
    for start in range(0, len(acc) - WINDOW + 1, WINDOW):
      minute = slice(start, start + WINDOW)
      if motion_g(acc[minute], RATE_HZ) < Settings().still_below_g:
        t0_s = recording.signals["acc"].start_s + start / RATE_HZ
        windows["acc"].append(acc[minute])
        windows["ppg"].append(ppg[minute])
        windows["person"].append(person)
        windows["hr"].append(beats.labels(recording.beats, t0_s, 60.0).hr_bpm.value)
  found = {name: np.array(values) for name, values in windows.items()}
  return {
    "acc": rhythm.of_acc(found["acc"], RATE_HZ),
    "ppg": rhythm.of_ppg(found["ppg"], RATE_HZ),
    "estimate": baselines.acc_heart_rate(found["acc"].astype(np.float32), RATE_HZ),
    "person": found["person"],
    "hr": found["hr"],
  }


def _above_chance(amplitude: float) -> statistics.Interval:
  """Top-1 within the same person minus chance, over people with three still minutes or more."""
  still = _still(amplitude)
  same = Condition(still["person"][:, None], (0.0,))
  rank, candidates = ranks(rhythm.delayed(still["acc"], 60.0), still["ppg"], Question(only=same))
  gain = np.where(candidates >= 3, (rank == 1) - 1 / candidates, np.nan)
  interval = statistics.over_participants(gain, still["person"])
  assert interval.n >= 15
  return interval


def test_still_minutes_of_the_null_cohort_are_retrieved_at_chance():
  interval = _above_chance(0.0)
  assert interval.lo <= 0 <= interval.hi


def test_the_same_people_with_beat_locked_movement_are_retrieved_above_chance():
  assert _above_chance(1.0).lo > 0.05
  assert _above_chance(4.0).lo > 0.5


@pytest.mark.parametrize(("amplitude", "knows"), [(0.0, False), (4.0, True)])
def test_rate_from_the_envelope_knows_nothing_in_the_null_cohort(amplitude, knows):
  still = _still(amplitude)
  error = np.abs(still["estimate"] - still["hr"])
  of_mean = np.abs(still["hr"] - still["hr"].mean())
  gain = statistics.paired_difference(error, of_mean, still["person"])
  assert (gain.hi < 0) if knows else (gain.lo > 0)  # negative: better than the mean
