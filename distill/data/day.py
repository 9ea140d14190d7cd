"""A simulated cohort of whole days: 26 summaries a minute from five sensors, with what wrists lose.

All constants are ours, laid down before any model was trained on the cohort and never tuned to
results. A day runs from noon to noon, so that the night lies in one piece. Every channel is a sum
of what happens to the body (sleep, movement, strain, the hour), a level of the person, noise that
the channels of one sensor share and noise of its own; units are such that each varies by about 1.

Hypertension is carried by the night: the fall of heart rate and the rise of its variability in
sleep are smaller, after the non-dipping of blood pressure; by day the same channels tell nothing,
because people's levels differ more. Body mass (standardised) goes with little movement and a higher
heart rate at all hours.
"""

import dataclasses

import numpy as np

from distill.errors import DistillError, nearest
from distill.spec import DAY_CHANNELS, DAY_SPEC

MINUTES = 1440
NIGHT = (11 * 60, 19 * 60)  # minutes after noon: 23:00 to 07:00
# What sleep, movement, strain and the hour add to each channel.
LOADS = {
  "heart_rate": (-1.0, 1.2, 0.6, 0.2),
  "heart_rate_low": (-1.0, 0.8, 0.5, 0.2),
  "heart_rate_sd": (-0.5, 0.8, 0.3, 0.0),
  "rmssd": (0.9, -0.6, -0.7, -0.1),
  "sdnn": (0.7, -0.4, -0.5, -0.1),
  "breaths": (-0.6, 0.8, 0.4, 0.0),
  "pulse_height": (0.5, -0.4, -0.6, 0.1),
  "oxygen": (-0.4, -0.2, 0.0, 0.0),
  "steps": (-0.4, 1.5, 0.0, 0.1),
  "cadence": (-0.3, 1.4, 0.0, 0.1),
  "motion_log": (-1.2, 1.0, 0.2, 0.2),
  "jerk": (-0.9, 1.1, 0.2, 0.1),
  "still_share": (1.0, -1.2, -0.1, -0.2),
  "posture_x": (0.8, 0.3, 0.0, 0.0),
  "posture_y": (-0.5, 0.4, 0.0, 0.0),
  "posture_z": (0.3, -0.5, 0.0, 0.0),
  "posture_changes": (-0.6, 0.6, 0.1, 0.1),
  "skin_conductance": (0.3, 0.4, 0.8, 0.1),
  "conductance_slope": (0.0, 0.2, 0.5, 0.0),
  "conductance_peaks": (0.2, 0.2, 0.9, 0.0),
  "lead_contact": (0.3, -0.4, 0.0, 0.0),
  "skin_temperature": (0.9, -0.3, -0.3, 0.5),
  "temperature_slope": (0.2, -0.2, -0.1, 0.3),
  "ambient": (-0.3, 0.2, 0.0, 0.6),
  "climb": (-0.2, 0.9, 0.0, 0.0),
  "floors": (-0.2, 0.8, 0.0, 0.0),
}
DIPPING = ("heart_rate", "heart_rate_low", "rmssd", "sdnn")  # sleep moves them by the person's dip
LEVEL_SD, SHARED_SD, OWN_SD = 0.6, 0.4, 0.4
SHARED_TAU_MIN = 90.0
DIP, DIP_HYPERTENSIVE, DIP_SD = 1.0, 0.5, 0.2
HYPERTENSIVE = 0.4  # share of people
BMI_MOVEMENT, BMI_HEART = -0.35, 0.35  # what a standard deviation of body mass adds
OFF_WRIST = (0.3, 3.0)  # hours, two a day on average; every sensor is lost
DROPOUT = (0.5, 4.0)  # hours, two a day and sensor on average
NIGHT_OFF = 0.15  # share of days on which the wearable spends the night on its charger


@dataclasses.dataclass(frozen=True)
class Days:
  """One day of each person.

  Attributes:
    values: [people, minutes, channels] float32, complete.
    mask: bool of the same shape, True where it was observed.
    participant: [people] names.
    hypertension: [people] "yes" or "no".
    bmi: [people] standardised.
  """

  values: np.ndarray
  mask: np.ndarray
  participant: np.ndarray
  hypertension: np.ndarray
  bmi: np.ndarray

  def where(self, rows: np.ndarray) -> "Days":
    """The people picked by a mask or by indices."""
    fields = (getattr(self, field.name)[rows] for field in dataclasses.fields(self))
    return Days(*fields)


def simulate(participants: int, seed: int) -> Days:
  """Draws a cohort; person i is the same whatever the number of people.

  Raises:
    DistillError: fewer than one participant.
  """
  if participants < 1:
    raise DistillError(f"a cohort of days needs participants >= 1, got {participants}")
  people = [_person(np.random.default_rng([seed, i])) for i in range(participants)]
  values, mask, tense, bmi = (np.stack(some) for some in zip(*people, strict=True))
  names = np.array([f"day{i:05d}" for i in range(participants)])
  return Days(values, mask, names, np.where(tense, "yes", "no"), bmi.astype(np.float32))


def _person(rng: np.random.Generator):
  tense, bmi = rng.random() < HYPERTENSIVE, rng.normal()
  dip = rng.normal(DIP_HYPERTENSIVE if tense else DIP, DIP_SD)
  sleep = _sleep(rng)
  lazy = 1.0 + BMI_MOVEMENT * bmi
  movement = _bouts(rng, 10.0, 30.0) * (1 - sleep) * max(lazy, 0.2)
  strain = _bouts(rng, 5.0, 60.0) * (1 - 0.7 * sleep)
  hour = np.sin(2 * np.pi * np.arange(MINUTES) / MINUTES)
  drivers = np.stack([sleep, movement, strain, hour], axis=1)
  columns = []
  for channels in DAY_CHANNELS.values():
    shared = SHARED_SD * _slow(rng, SHARED_TAU_MIN)
    for name in channels:
      weight = np.array(LOADS[name]) * [dip if name in DIPPING else 1.0, 1.0, 1.0, 1.0]
      level = LEVEL_SD * rng.normal() + BMI_HEART * bmi * name.startswith("heart_rate")
      columns.append(drivers @ weight + level + shared + OWN_SD * rng.normal(size=MINUTES))
  return np.stack(columns, axis=1).astype(np.float32), _observed(rng), tense, bmi


def columns_of(sensor: str) -> slice:
  """Columns of a sensor's channels.

  Raises:
    DistillError: no such sensor.
  """
  if sensor not in DAY_CHANNELS:
    raise DistillError(f"no sensor {sensor!r}{nearest(sensor, DAY_CHANNELS)}")
  first = DAY_SPEC.channels.index(DAY_CHANNELS[sensor][0])
  return slice(first, first + len(DAY_CHANNELS[sensor]))


def _sleep(rng: np.random.Generator) -> np.ndarray:
  """[minutes] 0 awake to 1 asleep, with awakenings."""
  minute = np.arange(MINUTES)
  start, stop = rng.normal(NIGHT, 40.0)
  depth = 1 / (1 + np.exp(-(minute - start) / 15)) - 1 / (1 + np.exp(-(minute - stop) / 10))
  return np.clip(depth - 0.6 * _bouts(rng, 2.0, 15.0), 0.0, 1.0)


def _bouts(rng: np.random.Generator, count: float, mean_min: float) -> np.ndarray:
  """[minutes] sum of smooth bumps at random times."""
  minute, total = np.arange(MINUTES), np.zeros(MINUTES)
  for _ in range(rng.poisson(count)):
    length = rng.exponential(mean_min) + 3.0
    height = rng.uniform(0.4, 1.2)
    total += height * np.exp(-0.5 * ((minute - rng.uniform(0, MINUTES)) / length) ** 2)
  return np.minimum(total, 2.0)


def _slow(rng: np.random.Generator, tau_min: float) -> np.ndarray:
  """[minutes] first-order noise of unit variance."""
  keep = np.exp(-1 / tau_min)
  noise, out = rng.normal(size=MINUTES), np.empty(MINUTES)
  out[0] = noise[0]
  for i in range(1, MINUTES):
    out[i] = keep * out[i - 1] + np.sqrt(1 - keep**2) * noise[i]
  return out


def _observed(rng: np.random.Generator) -> np.ndarray:
  """[minutes, channels] bool."""
  mask = np.ones(DAY_SPEC.shape, bool)
  for _ in range(rng.poisson(2.0)):
    mask[_gap(rng, OFF_WRIST)] = False
  if rng.random() < NIGHT_OFF:
    mask[slice(*NIGHT)] = False
  for sensor in DAY_CHANNELS:
    for _ in range(rng.poisson(2.0)):
      mask[_gap(rng, DROPOUT), columns_of(sensor)] = False
  return mask


def _gap(rng: np.random.Generator, hours: tuple[float, float]) -> slice:
  length = round(60 * rng.uniform(*hours))
  start = rng.integers(-length, MINUTES)
  return slice(max(start, 0), max(start + length, 0))
