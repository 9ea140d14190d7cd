"""Pairs of windows of one participant: for objectives that compare them, and as a control."""

from collections.abc import Sequence

import numpy as np

from distill.data import pipeline
from distill.errors import DistillError
from distill.spec import ACC, SignalSpec

OTHER = "other_"  # prefix of the second window's keys
DRAWS = 64  # second windows drawn for each first one before a training pass is over


class PairSource:
  """Pairs as training examples: a window, and another one of the same participant.

  Example i has the keys of `pipeline.TrainingSource`, the second window's signals under "other_",
  and "participant", a number. The second window shares no sample with the first; windows without
  such a partner are left out. Which partner is drawn depends on seed and i alone.

  Args:
    parts: rows of one or more sets; people of different sets are different people.
    specs: signals to load, preprocessed for these specs.
    seed: of the draws.
    draws: second windows for each first one; the length of the source is that many passes.

  Raises:
    DistillError: fewer than two participants with two windows that do not overlap.
  """

  def __init__(
    self, parts: Sequence[pipeline.Rows], specs: Sequence[SignalSpec], *, seed: int, draws: int = 1
  ):
    self._source = pipeline.TrainingSource(parts, specs, {})
    self._signals = [name for spec in specs for name in (spec.modality, spec.modality + "_mask")]
    self._seed, self._draws = seed, draws
    who = np.concatenate(
      [np.char.add(f"{k}/", part.column("participant")) for k, part in enumerate(parts)]
    )
    self._participant = np.unique(who, return_inverse=True)[1].astype(np.int32)
    self._recording = np.concatenate([part.column("recording") for part in parts])
    self._t0_s = np.concatenate([part.column("t0_s") for part in parts])
    self._window_s = max(spec.window_s for spec in specs)
    self._order = np.argsort(self._participant, kind="stable")
    self._bounds = np.searchsorted(
      self._participant[self._order], np.arange(self._participant.max() + 2)
    )
    self._firsts = np.array([row for row in range(len(who)) if len(self._partners(row))], int)
    people = len(np.unique(self._participant[self._firsts]))
    if people < 2:
      raise DistillError(
        f"{people} participants have two windows that do not overlap; comparing people needs 2 or"
        " more: prepare longer recordings of more people"
      )

  def _partners(self, row: int) -> np.ndarray:
    """Rows of the same participant that share no sample with `row`."""
    who = self._participant[row]
    own = self._order[self._bounds[who] : self._bounds[who + 1]]
    elsewhere = self._recording[own] != self._recording[row]
    apart = np.abs(self._t0_s[own] - self._t0_s[row]) >= self._window_s - 1e-6
    return own[elsewhere | apart]

  def __len__(self) -> int:
    return len(self._firsts) * self._draws

  def kept(self, numbers: np.ndarray) -> np.ndarray:
    """See `pipeline.Source`: none, for few pairs are drawn twice."""
    return np.zeros(len(numbers), bool)

  def batch(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """See `pipeline.Source`."""
    rows = self._firsts[numbers // self._draws]
    drawn = [
      np.random.default_rng([self._seed, i]).choice(self._partners(row))
      for i, row in zip(numbers.tolist(), rows, strict=True)
    ]
    other = self._source.batch(np.array(drawn))
    found = self._source.batch(rows) | {OTHER + name: other[name] for name in self._signals}
    return found | {"participant": self._participant[rows]}


def shuffled(rows: pipeline.Rows, *, seed: int) -> tuple[pipeline.Rows, np.ndarray]:
  """Another window of the same participant for each window: pairs that share the person alone.

  Args:
    rows: windows of one set; they may overlap.
    seed: of the draw.

  Returns:
    (the windows that got a partner, [kept] rows of the set of their partners). Every window is a
    partner once at most; those that got one that they share a sample with, or none, are left out.
  """
  n, window_s = len(rows), rows.prepared.specs[ACC].window_s
  order = np.random.default_rng((seed, n)).permutation(n)
  code = np.unique(rows.column("participant"), return_inverse=True)[1]
  partner = np.arange(n)
  for who in range(code.max() + 1):
    own = order[code[order] == who]
    partner[own] = np.roll(own, 1)
  recording, t0_s = rows.column("recording"), rows.column("t0_s")
  apart = (recording != recording[partner]) | (np.abs(t0_s - t0_s[partner]) >= window_s - 1e-3)
  return rows.where(apart), rows.rows[partner[apart]]
