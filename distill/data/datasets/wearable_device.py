"""PhysioNet wearable-device set: Empatica E4 at stress tasks, aerobic and anaerobic exercise.

Layout: STRESS, AEROBIC and ANAEROBIC, in each a folder a participant (S01, f01; split sessions
S11_a, f14_b) with E4 files whose start is a date and whose values are floats. The name of the
protocol is the activity of the whole session. A session that repeats itself (S02 of STRESS has
rows twice) is cut where it begins anew. Heart rate comes from quality-gated pulse beats.
"""

import csv
import dataclasses
import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import empatica
from distill.data.recording import Recording, Signal, Stretch
from distill.errors import DistillError

PROTOCOLS = {"STRESS": "stress", "AEROBIC": "aerobic", "ANAEROBIC": "anaerobic"}
REPEAT_S = 30.0  # of equal samples that are no chance


class WearableDevice(PairedBuilder):
  """Wearable device dataset from induced stress and structured exercise sessions."""

  SOURCE = "https://physionet.org/content/wearable-device-dataset/"
  URL = (
    "https://physionet.org/static/published-projects/wearable-device-dataset/wearable-device-"
    "dataset-from-induced-stress-and-structured-exercise-sessions-1.0.1.zip"
  )
  LAYOUT = "**/STRESS/S*"
  LICENCE = "Open Data Commons Attribution 1.0"
  CITATION = "A. Hongn et al., Scientific Data, 2025, doi 10.1038/s41597-025-04845-9"

  def sources(self) -> Sequence[Source]:
    """One recording a session: by protocol, then participant."""
    folder = self.folder()
    sessions = [
      path
      for protocol in PROTOCOLS
      for path in sorted(folder.glob(f"**/{protocol}/*"))
      if path.is_dir() and re.fullmatch(r"[Sf]\d\d(_[a-z])?", path.name)
    ]
    if not sessions:
      raise DistillError(
        f"no STRESS/S<nn>/, AEROBIC/ or ANAEROBIC/ under {folder}; get it from {self.SOURCE}"
      )
    return [
      Source(f"{path.name}/{PROTOCOLS[path.parent.name]}", functools.partial(read, path))
      for path in sessions
    ]


def read(session: pathlib.Path) -> Recording:
  """One session; its clock is Unix time, shifted by the publisher.

  Raises:
    DistillError: a file of the session is missing or damaged.
  """
  protocol = PROTOCOLS[session.parent.name]
  participant, _, part = session.name.partition("_")
  signals = {name: _once(signal) for name, signal in empatica.read(session).items()}
  start_s = min(signal.start_s for signal in signals.values())
  stop_s = max(signal.stop_s for signal in signals.values())
  return Recording(
    participant,
    f"{protocol}_{part}" if part else protocol,
    signals,
    activities=(Stretch(start_s, stop_s, protocol),),
    **_person(session, participant),
  )


def _once(signal: Signal) -> Signal:
  """The signal up to where its first 30 s come a second time."""
  length = round(REPEAT_S * signal.rate_hz)
  head, samples = signal.samples[:length], signal.samples
  if len(samples) < 2 * length or np.all(head == head[0]):
    return signal
  # Rows equal to the first row are few; only there can the head begin again.
  again = np.flatnonzero((samples[length:-length] == head[0]).all(1)) + length
  for start in again:
    if np.array_equal(samples[start : start + length], head):
      return dataclasses.replace(signal, samples=samples[:start])
  return signal


def _person(session: pathlib.Path, participant: str) -> dict[str, Any]:
  """Age, sex and BMI from subject-info.csv, as far as its columns are there.

  It lies beside the protocols, or beside the folder Wearable_Dataset that holds them.
  """
  paths = [folder / "subject-info.csv" for folder in session.parents[1:3]]
  path = next((path for path in paths if path.is_file()), None)
  if path is None:
    return {}
  with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
    rows = list(csv.reader(file))
  header = [name.strip().lower() for name in rows[0]] if rows else []
  row = next((row for row in rows[1:] if row and row[0].strip() == participant), None)
  if row is None:
    return {}
  fields = dict(zip(header, row))

  def number(word: str) -> float:
    value = next((v for name, v in fields.items() if word in name), "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value.strip()) else float("nan")

  sex = next((v.strip().lower()[:1] for n, v in fields.items() if "gender" in n or n == "sex"), "")
  return {
    "age": number("age"),
    "sex": {"m": "male", "f": "female"}.get(sex, ""),
    "bmi": number("weight") / (number("height") / 100) ** 2,
  }
