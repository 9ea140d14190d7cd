"""What the controls need of the recordings: rhythms, windows that start later, and wrists at rest.

They are made when a run's windows are embedded, so that judging needs no recordings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distill import calibration, embeddings, rhythm
from distill.data import pipeline
from distill.data.store import PreparedSet
from distill.embeddings import EmbeddingTable
from distill.nn.encoder import Encoder, Forward
from distill.spec import ACC, PPG

# Windows whose rhythm is ranked, of whole participants, and partners of each shift. Ours: enough
# for intervals of a few per cent, and seconds to compute.
RHYTHM_WINDOWS, SHIFTED_WINDOWS = 1200, 192
REST_WINDOWS = 600  # that are looked at for wrists at rest
# Shifts below a minute, which no two windows of a prepared set need be apart.
SHIFTS_S = (0.25, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
COLUMNS = ("participant", "recording", "t0_s", "hr_bpm", "motion_g")

# Encoder of a modality, its forward pass, and its projection head.
Side = tuple[Encoder, Forward, Callable[[Any], Any]]


def rhythms(prepared: PreparedSet, rows: np.ndarray, *, seed: int) -> dict[str, EmbeddingTable]:
  """Rhythms of the windows `rows`, or of those of some people drawn with the seed.

  Returns:
    "acc", "ppg" and, where one of the windows has reference beats, "beats" -> table of
    `distill.rhythm` vectors, row by row the same windows.
  """
  rows = _whole_people(prepared.index["participant"], rows, seed)
  rates = {name: prepared.specs[name].rate_hz for name in (ACC, PPG)}
  parts: dict[str, list[np.ndarray]] = {ACC: [], PPG: []}
  for start in range(0, len(rows), 256):
    raw = prepared.windows(rows[start : start + 256])
    parts[ACC].append(rhythm.of_acc(raw[ACC], rates[ACC]))
    parts[PPG].append(rhythm.of_ppg(raw[PPG], rates[PPG]))
  found = {name: np.concatenate(some) for name, some in parts.items()}
  known = prepared.beats(rows)
  if any(one is not None for one in known):
    times_s = [np.zeros(0) if one is None else one.times_s for one in known]
    found["beats"] = rhythm.of_beats(times_s, prepared.specs[PPG].window_s)
  columns = {name: prepared.index[name][rows] for name in COLUMNS}
  return {
    name: EmbeddingTable(values, columns | {embeddings.VALID: embeddings.embedded(values)})
    for name, values in found.items()
  }


def _whole_people(participant: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
  """The rows of as many people, in an order drawn with the seed, as have RHYTHM_WINDOWS of them."""
  names, code, count = np.unique(participant[rows], return_inverse=True, return_counts=True)
  order = np.random.default_rng(seed).permutation(len(names))
  first = np.cumsum(count[order]) <= RHYTHM_WINDOWS
  first[0] = True
  return rows[np.isin(code, order[first])]


def rest(prepared: PreparedSet, rows: np.ndarray, *, seed: int) -> dict[str, Any]:
  """How noisy wrists at rest are in some of the windows, and what signal processing finds there.

  Returns:
    Fields of `distill.calibration.Calibration`; nothing where the set is sampled too slowly or its
    windows are too short to tell.
  """
  spec = prepared.specs[ACC]
  if spec.rate_hz <= 2 * calibration.BAND_HZ[1] or spec.window_s < calibration.STRETCH_S:
    return {}
  size = min(REST_WINDOWS, len(rows))
  rows = np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
  found = calibration.calibrate(
    prepared.windows(rows)[ACC], spec.rate_hz, prepared.index["hr_bpm"][rows]
  )
  return dataclasses.asdict(found)


def shifted(
  prepared: PreparedSet,
  rows: np.ndarray,
  sides: Mapping[str, Side],
  *,
  pair: str,
  seed: int,
) -> dict[str, EmbeddingTable]:
  """Projections of windows that start a little later than some of the windows `rows`.

  They are joined from a window and the one that follows it without a gap, at the nearest sample.

  Args:
    prepared: the set.
    rows: its non-overlapping windows.
    sides: modality -> (encoder, its forward pass, its projection head).
    pair: hash of the heads.
    seed: of the draw.

  Returns:
    Modality -> table with `shift_s` and participant, recording and t0_s of the window that the
    shift is counted from; nothing where no two windows follow each other.
  """
  firsts, seconds = _following(prepared, rows)
  if not (len(firsts) and sides):
    return {}
  size = min(SHIFTED_WINDOWS, len(firsts))
  picked = np.sort(np.random.default_rng(seed).choice(len(firsts), size, replace=False))
  first, second = prepared.windows(firsts[picked]), prepared.windows(seconds[picked])
  shifts_s = [s for s in SHIFTS_S if s < prepared.specs[PPG].window_s]
  columns = {
    name: np.tile(prepared.index[name][firsts[picked]], len(shifts_s))
    for name in ("participant", "recording", "t0_s")
  }
  columns["shift_s"] = np.repeat(shifts_s, size)
  found = {}
  for name, (encoder, forward, project) in sides.items():
    rate_hz = prepared.specs[name].rate_hz
    both, length = np.concatenate([first[name], second[name]], axis=1), first[name].shape[1]
    skipped = [round(s * rate_hz) for s in shifts_s]
    raw = np.concatenate([both[:, k : k + length] for k in skipped])
    vectors = forward(*pipeline.prepare_windows(raw, encoder.spec))
    valid = {embeddings.VALID: embeddings.embedded(vectors)}
    table = EmbeddingTable(np.asarray(project(vectors)), columns | valid, "projection", pair)
    found[name] = table.where(table.valid)
  return found


def _following(prepared: PreparedSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows, and the rows of the windows that begin where these end."""
  index, window_s = prepared.index, prepared.specs[PPG].window_s

  def key(row: int, later_s: float = 0.0) -> tuple[str, str, float]:
    start_s = round(float(index["t0_s"][row]) + later_s, 2)
    return str(index["participant"][row]), str(index["recording"][row]), start_s

  at = {key(row): row for row in rows.tolist()}
  found = [(row, at[key(row, window_s)]) for row in rows.tolist() if key(row, window_s) in at]
  return tuple(np.array(found, int).reshape(-1, 2).T)  # type: ignore[return-value]
