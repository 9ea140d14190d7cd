"""A recording: one continuous session of one participant, each signal with its own clock.

Builders (`distill.data.datasets`) produce recordings, `distill.data.windows` cuts them. All times
are seconds on one clock per recording, the one that its own `start_s` values refer to.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Signal:
  """Evenly sampled signal.

  Attributes:
    samples: [time, channels] float32; NaN where a sample is missing.
    rate_hz: samples per second.
    start_s: time of sample 0 on the recording's clock, seconds.
    unit: "g" for acceleration, "au" for PPG.
  """

  samples: np.ndarray
  rate_hz: float
  start_s: float
  unit: str

  @property
  def stop_s(self) -> float:
    """Time just after the last sample, seconds."""
    return self.start_s + len(self.samples) / self.rate_hz


@dataclasses.dataclass(frozen=True)
class Beats:
  """Reference beats.

  Attributes:
    times_s: [beats] float64 beat times (R peaks, or PPG systolic peaks), ascending, seconds.
    normal: [beats] bool; False for ectopic beats and for beats that were removed as artefacts. An
      RR interval counts as normal-to-normal when both of its beats are normal.
    origin: "ecg", "chest_strap", "simulated" or "ppg" (then the variability is that of pulses).
  """

  times_s: np.ndarray
  normal: np.ndarray
  origin: str


@dataclasses.dataclass(frozen=True)
class HeartRateTrack:
  """Reference heart rate in short windows, as sets without raw ECG give it.

  Attributes:
    t0_s: [windows] float64 start of each short window, seconds.
    window_s: length of the short windows, seconds.
    hr_bpm: [windows] float32; NaN where the set marks a value as invalid.
    origin: "ecg" or "chest_strap".
  """

  t0_s: np.ndarray
  window_s: float
  hr_bpm: np.ndarray
  origin: str


@dataclasses.dataclass(frozen=True)
class Stretch:
  """A labelled stretch of time: activity, stress condition."""

  start_s: float
  stop_s: float
  label: str


@dataclasses.dataclass(frozen=True)
class Recording:
  """One session of one participant.

  Attributes:
    participant: unique within the set.
    name: unique within the participant.
    signals: "ppg" and "acc" (label-only sets: "acc" alone).
    beats: reference beats, or None.
    heart_rate: reference heart rate in short windows, or None.
    activities: labelled stretches, not overlapping.
    age: years, NaN where unknown.
    sex: "female", "male" or "" where unknown.
    bmi: kg/m2, NaN where unknown.
    skin_tone: in the words of one scale, such as Fitzpatrick's "I" to "VI"; "" where unknown.
  """

  participant: str
  name: str
  signals: Mapping[str, Signal]
  beats: Beats | None = None
  heart_rate: HeartRateTrack | None = None
  activities: tuple[Stretch, ...] = ()
  age: float = float("nan")
  sex: str = ""
  bmi: float = float("nan")
  skin_tone: str = ""
