"""The simulated cohort: settings in, recordings out. What is in them: `distill.data.physiology`."""

import dataclasses
import math

import numpy as np

from distill.data import physiology, wrist
from distill.data.recording import Beats, Recording, Signal, Stretch
from distill.errors import DistillError, nearest


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Settings of a simulated cohort.

  Attributes:
    participants: number of people; one recording each.
    first: index of the first of them; people from other indices are other people.
    minutes: length of each recording.
    device: accelerometer, "fine" (50 Hz, 0.24 mg steps) or "e4" (32 Hz, 1/64 g steps).
    amplitude: factor on the beat-locked movement and on nothing else; 0 gives the null cohort.
    gaps: whether the sensors lose data now and then.
    seed: of everything; participant i is the same person whatever the other settings.
  """

  participants: int
  minutes: float
  device: str = "fine"
  amplitude: float = 1.0
  gaps: bool = True
  seed: int = 0
  first: int = 0

  def __post_init__(self):
    if self.participants < 1 or self.minutes < 1:
      raise DistillError(
        "a simulated cohort needs participants >= 1 and minutes >= 1, got"
        f" participants={self.participants} and minutes={self.minutes:g}"
      )
    if self.device not in physiology.DEVICES:
      raise DistillError(
        f"unknown simulated device {self.device!r}{nearest(self.device, physiology.DEVICES)}"
      )
    if not (self.amplitude >= 0 and math.isfinite(self.amplitude)):
      raise DistillError(f"simulated amplitude must be 0 or more, got {self.amplitude}")
    for name in ("seed", "first"):
      if getattr(self, name) < 0:
        raise DistillError(f"simulated {name} must be 0 or more, got {getattr(self, name)}")

  @property
  def people(self) -> range:
    """Indices of its participants."""
    return range(self.first, self.first + self.participants)


def participant_name(participant: int) -> str:
  """Name of the participant of an index, the same in every cohort."""
  return f"sim{participant:05d}"


def simulate(cohort: Cohort, participant: int) -> Recording:
  """Draws one participant's recording.

  Args:
    cohort: settings.
    participant: index in `cohort.people`.

  Returns:
    PPG at 64 Hz, acceleration at the device's own rate, both from second 0; true beats, activities,
    age and sex.

  Raises:
    DistillError: participant outside the cohort.
  """
  if participant not in cohort.people:
    raise DistillError(
      f"simulated participant {participant} asked for; the cohort has {cohort.participants}"
      f" (counted from {cohort.first})"
    )
  seed, duration_s = cohort.seed, 60.0 * cohort.minutes
  device = physiology.DEVICES[cohort.device]
  body = physiology.draw_body(seed, participant, duration_s)
  late_s = wrist.pre_ejection(physiology.stream(seed, participant, "pre-ejection"), body)
  acc_samples = round(duration_s * device.rate_hz)
  movement = wrist.draw_movement(seed, participant, body, late_s, acc_samples, device.rate_hz)
  unit = physiology.stream(seed, participant, "sensor")
  acc = wrist.measure(unit, movement, device, cohort.amplitude)
  ppg_samples = round(duration_s * physiology.PPG_HZ)
  ppg = wrist.draw_ppg(seed, participant, body, late_s, movement, device.rate_hz, ppg_samples)
  if cohort.gaps:
    gaps_s = wrist.draw_gaps(physiology.stream(seed, participant, "gaps"), duration_s)
    wrist.blank(ppg, gaps_s["ppg"], physiology.PPG_HZ)
    wrist.blank(acc, gaps_s["acc"], device.rate_hz)
  inside = (body.beat_s >= 0) & (body.beat_s < duration_s)
  return Recording(
    participant=participant_name(participant),
    name="simulated",
    signals={
      "ppg": Signal(ppg, physiology.PPG_HZ, 0.0, "au"),
      "acc": Signal(acc, device.rate_hz, 0.0, "g"),
    },
    beats=Beats(body.beat_s[inside], body.normal[inside], "simulated"),
    activities=_stretches(body.bouts, duration_s),
    age=float(body.person.age),
    sex=body.person.sex,
  )


def _stretches(bouts: physiology.Bouts, duration_s: float) -> tuple[Stretch, ...]:
  """Activities inside the recording; neighbours of one kind become one stretch."""
  first = np.flatnonzero(np.diff(bouts.kind, prepend=-1))
  start_s = np.clip(bouts.start_s[first], 0, duration_s)
  stop_s = np.append(start_s[1:], duration_s)
  labels = [physiology.ACTIVITIES[k].label for k in bouts.kind[first]]
  rows = zip(start_s, stop_s, labels, strict=True)
  return tuple(Stretch(float(a), float(b), label) for a, b, label in rows if b > a)
