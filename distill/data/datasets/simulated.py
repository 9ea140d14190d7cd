"""The simulated cohort as a data set like any other; nothing is downloaded, nothing is read.

Participants "sim00000", "sim00001", ... are drawn by `distill.data.cohort` from the settings in
`data.simulated`. True beats are their reference (origin "simulated"), and windows and labels come
out of the same road as those of recorded sets.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from distill.data.builder import PairedBuilder
from distill.data.cohort import Cohort, participant_name, simulate
from distill.data.cutting import Source


class Simulated(PairedBuilder):
  """Simulated wrists. A change of the simulation's code or constants raises VERSION."""

  VERSION = tfds.core.Version("1.0.1")
  SOURCE = "distill.data.cohort"
  LICENCE = "that of this code"
  SIMULATED = True

  @property
  def cohort(self) -> Cohort:
    """Settings of the config's `simulated` section.

    Raises:
      DistillError: a setting out of range.
    """
    return Cohort(
      **{f.name: self.data_config.simulated[f.name] for f in dataclasses.fields(Cohort)}
    )

  def identity(self) -> dict[str, Any]:
    """The cohort; no files."""
    return dataclasses.asdict(self.cohort)

  def sources(self) -> Sequence[Source]:
    """One recording a participant, by index."""
    cohort = self.cohort
    return [
      Source(participant_name(i), functools.partial(simulate, cohort, i)) for i in cohort.people
    ]
