"""Without beat-locked movement the simulated wrist says nothing of single beats.

The null cohort is the same people, seed and all, with amplitude 0. Whatever still finds the right
minute of PPG there would be a leak of the simulation. Judged without learning, by the rival of
SCIENCE section 5: cross-correlation of the acceleration's envelope with the PPG.
"""

import functools

import numpy as np
import pytest
from scipy import signal as scipy_signal

from distill import baselines, beats, signals, statistics
from distill.data.cohort import Cohort, simulate
from distill.data.windows import motion_g
from distill.retrieval import Settings

PEOPLE, MINUTES, RATE_HZ = 24, 10, 50.0
WINDOW = round(60 * RATE_HZ)
LATEST = 40  # samples by which the PPG may lag: 0.8 s


def _band(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
  sos = scipy_signal.butter(3, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
  return scipy_signal.sosfiltfilt(sos, samples, axis=0)


@functools.cache
def _still(amplitude: float) -> dict[str, np.ndarray]:
  """Still minutes: envelope of the 4-11 Hz acceleration, PPG, person, true and estimated rate."""
  found: dict[str, list] = {name: [] for name in ("envelope", "ppg", "person", "hr", "estimate")}
  for person in range(PEOPLE):
    recording = simulate(Cohort(PEOPLE, MINUTES, amplitude=amplitude, gaps=False, seed=11), person)
    acc, ppg = (
      signals.resample(recording.signals[name].samples, recording.signals[name].rate_hz, RATE_HZ)
      for name in ("acc", "ppg")
    )
    envelope = _band(np.log(np.sum(_band(acc, 4, 11) ** 2, axis=1) + 1e-9), 0.7, 4)
    pulse = _band(ppg[:, 0], 0.7, 4)
    for start in range(0, len(acc) - WINDOW + 1, WINDOW):
      minute = slice(start, start + WINDOW)
      if motion_g(acc[minute], RATE_HZ) < Settings().still_below_g:
        t0_s = recording.signals["acc"].start_s + start / RATE_HZ
        found["envelope"].append(envelope[minute])
        found["ppg"].append(pulse[minute])
        found["person"].append(person)
        found["hr"].append(beats.labels(recording.beats, t0_s, 60.0).hr_bpm.value)
        window = acc[None, minute].astype(np.float32)
        found["estimate"].append(baselines.acc_heart_rate(window, RATE_HZ)[0])
  return {name: np.array(values) for name, values in found.items()}


def _above_chance(amplitude: float) -> statistics.Interval:
  """Top-1 within the same person minus chance, over people with three still minutes or more."""
  still = _still(amplitude)
  envelope, ppg = (
    np.fft.rfft((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True), axis=1)
    for x in (still["envelope"], still["ppg"])
  )
  gains = []
  for person in np.unique(still["person"]):
    rows = np.flatnonzero(still["person"] == person)
    if len(rows) >= 3:
      crossed = np.fft.irfft(envelope[rows][:, None] * np.conj(ppg[rows][None]), axis=2)
      score = crossed[:, :, np.r_[-LATEST:1]].max(axis=2)
      nearest = np.sum(score >= np.diagonal(score)[:, None], axis=1) == 1
      gains.append(nearest.mean() - 1 / len(rows))
  assert len(gains) >= 15
  return statistics.t_interval(np.array(gains))


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
