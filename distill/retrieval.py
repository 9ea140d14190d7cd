"""Cross-modal retrieval on tables of projections: galleries of stated sizes, controls, oracles.

Row i of both tables is one window seen by two sensors. A minute of PPG is nearly fingerprinted by
its beat times and in motion both sensors share one artefact, therefore no headline is given without
its controls. The ranks themselves are computed in `distill.ranking`.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from distill import rhythm, statistics
from distill.embeddings import VALID, EmbeddingTable, embedded
from distill.errors import DistillError
from distill.ranking import Condition, Question, Ranked, answers, metrics, oracle_metrics, ranks
from distill.spec import ACC, PPG

ACC_TO_PPG, PPG_TO_ACC = "acc_to_ppg", "ppg_to_acc"
MOTION_LEVELS = ("still", "light", "moving")
WHOLE = "whole"
# Of what `retrieve` returns.
PARTS = (
  *("retrieval", "controls", "by_motion", "oracles", "shift_curve"),
  *("rhythm", "not_scored"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is asked of retrieval. All thresholds are ours unless said otherwise.

  Attributes:
    galleries: sizes of the repeated random galleries; those not below the whole set are left out.
    repeats: random galleries per size, and shuffles of the shuffled control.
    seed: of every draw.
    hr_within_bpm: HR-matched candidates (SCIENCE.md section 5).
    log_motion_within: motion-matched candidates: |ln SD - ln SD'| and |ln cadence - ln cadence'| at
      most this, 0.1 being 10 %.
    still_below_g: windows with less motion are "still". About three times the noise of a coarse
      wrist sensor (1/64 g steps).
    moving_from_g: windows with at least this motion are "moving"; walking gives 0.2 g and more.
    keep_people: share of the participants who must keep their place when windows per participant
      are made equal; those with fewer windows than the others need are left out.
    oracle_hr_bpm: two heart rates closer than this are one to the oracle.
    oracle_hrv_ms: the same for SDNN and RMSSD.
    shifts_s: points of the shift curve; those that no two windows are apart are left out.
  """

  galleries: tuple[int, ...] = (30, 100, 300, 1000, 3000, 10_000, 20_000)
  repeats: int = 20
  seed: int = 0
  hr_within_bpm: float = 2.0
  log_motion_within: float = 0.1
  still_below_g: float = 0.02
  moving_from_g: float = 0.1
  keep_people: float = 0.8
  oracle_hr_bpm: float = 1.0
  oracle_hrv_ms: float = 5.0
  shifts_s: tuple[float, ...] = (0.25, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)


# --- which windows --------------------------------------------------------------------------------


def non_overlapping(recording: np.ndarray, t0_s: np.ndarray, window_s: float) -> np.ndarray:
  """Rows of windows that share no second with another, first come first kept in each recording.

  Args:
    recording: [n] names, unique over participants.
    t0_s: [n] starts, seconds.
    window_s: length of a window, seconds.

  Returns:
    [kept] int rows, ascending.
  """
  keep = []
  last: dict[Any, float] = {}
  for row in np.lexsort((t0_s, recording)):
    # The tolerance of a millisecond lets windows touch whose starts were rounded.
    if t0_s[row] - last.get(recording[row], -np.inf) >= window_s - 1e-3:
      keep.append(row)
      last[recording[row]] = t0_s[row]
  return np.sort(np.asarray(keep, np.int64))


def balanced(participant: np.ndarray, keep_people: float, seed: int) -> np.ndarray:
  """Rows with the same number of windows of every participant, drawn with a seed.

  The number is the largest that at least `keep_people` of the participants have; the others are
  left out, because one person with a single window would otherwise leave a single one of each.

  Args:
    participant: [n] names.
    keep_people: share in (0, 1].
    seed: of the draw.

  Returns:
    [kept] int rows, ascending.
  """
  names, code, count = np.unique(participant, return_inverse=True, return_counts=True)
  needed = max(1, int(np.ceil(keep_people * len(names))))
  size = np.sort(count)[::-1][needed - 1]
  order = np.random.default_rng((seed, len(participant))).permutation(len(participant))
  keep = [order[code[order] == k][:size] for k in np.flatnonzero(count >= size)]
  return np.sort(np.concatenate(keep))


def motion_level(motion_g: np.ndarray, settings: Settings) -> np.ndarray:
  """[n] "still", "light" or "moving" by the SD of the acceleration magnitude; "" where unknown."""
  edges = [settings.still_below_g, settings.moving_from_g]
  level = np.asarray(MOTION_LEVELS)[np.digitize(np.nan_to_num(motion_g), edges)]
  return np.where(np.isfinite(motion_g), level, "")


# --- one pair of tables ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Lagged(EmbeddingTable):
  """Rhythms that are compared at several lags, of which the best counts (`distill.rhythm`).

  Attributes:
    window_s: length of a window, seconds.
    later: as `distill.rhythm.delayed` takes it.
  """

  window_s: float = 60.0
  later: bool = True


def paired(acc: EmbeddingTable, ppg: EmbeddingTable, *, force: bool = False) -> None:
  """Refuses two tables whose rows or vectors do not belong together.

  Args:
    acc: projections of the acceleration side.
    ppg: projections of the PPG side, row by row the same windows.
    force: compare vectors that were never aligned all the same.

  Raises:
    DistillError: other rows, a window that stands twice, tables that say that they are of another
      side, embeddings instead of projections, another pair of heads, or a vector of zeros, which
      has no direction.
  """
  if len(acc) != len(ppg):
    raise DistillError(f"{len(acc)} acceleration rows and {len(ppg)} PPG rows; they must be pairs")
  for name in ("participant", "recording", "t0_s"):
    if name in acc.columns and name in ppg.columns and np.any(acc[name] != ppg[name]):
      row = int(np.flatnonzero(acc[name] != ppg[name])[0])
      raise DistillError(
        f"row {row} of the two tables differs in {name!r} ({acc[name][row]} and {ppg[name][row]});"
        " rows must be the same windows in the same order"
      )
  for side, table in (("acceleration", acc), ("PPG", ppg)):
    _check_rows(side, table)
  if force:
    return
  if "embedding" in (acc.space, ppg.space):
    raise DistillError(
      "retrieval compares projections and was given embeddings; write them with"
      " distill embed --space=projection, or pass force (--force)"
    )
  if acc.side == PPG or ppg.side == ACC:
    raise DistillError(
      f"the first table (--query) was read from {acc.side or 'unknown'} and the second (--gallery)"
      f" from {ppg.side or 'unknown'}; the first is that of acceleration, the second that of PPG"
    )
  if not acc.pair or acc.pair != ppg.pair:
    raise DistillError(
      f"the two tables come from different pairs of heads ({acc.pair or 'none'!r} and"
      f" {ppg.pair or 'none'!r}), so their cosines mean nothing; pass force"
      " (--force) to compare them anyway"
    )


def _check_rows(side: str, table: EmbeddingTable) -> None:
  zero = np.flatnonzero(table.valid & ~embedded(table.embedding))
  if len(zero):
    raise DistillError(
      f"{len(zero)} {side} vectors are zero (first: row {zero[0]}) and have no direction; leave"
      f" these rows out, of both tables, or mark them False in a column {VALID!r}"
    )
  if not {"recording", "t0_s"} <= set(table.columns):
    return
  first: dict[Any, int] = {}
  for row, window in enumerate(_keys(table)):
    if first.setdefault(window, row) != row:
      who = "/".join(filter(None, window[:2]))
      raise DistillError(
        f"{side} rows {first[window]} and {row} are both of {who} at {window[2]:g} s; expected one"
        " row for each window"
      )


def _both_valid(acc: EmbeddingTable, ppg: EmbeddingTable) -> tuple[EmbeddingTable, EmbeddingTable]:
  """Without the windows of which too little was observed on either side.

  Raises:
    DistillError: none is left.
  """
  rows = acc.valid & ppg.valid
  if not rows.any():
    raise DistillError("no window was observed enough on both sides to be embedded")
  return (acc, ppg) if rows.all() else (acc.where(rows), ppg.where(rows))


def scored_rows(table: EmbeddingTable, window_s: float, settings: Settings) -> np.ndarray:
  """Rows that retrieval scores: non-overlapping, equally many of every participant."""
  rows = np.arange(len(table))
  if {"recording", "t0_s"} <= set(table.columns):
    rows = non_overlapping(sessions(table.columns), table["t0_s"], window_s)
  if "participant" in table.columns:
    rows = rows[balanced(table["participant"][rows], settings.keep_people, settings.seed)]
  return rows


def sessions(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """[n] int, a number for each recording of each participant (names are unique within one)."""
  name = np.unique(columns["recording"], return_inverse=True)[1]
  person = np.zeros(len(name), int)
  if "participant" in columns:
    person = np.unique(columns["participant"], return_inverse=True)[1]
  return np.unique(person * (name.max() + 1) + name, return_inverse=True)[1]


def since_start(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """[n] float64 seconds since the first window of the same recording; clocks may be dates."""
  session, t0_s = sessions(columns), np.asarray(columns["t0_s"], np.float64)
  start = np.full(session.max() + 1, np.inf)
  np.minimum.at(start, session, t0_s)
  return t0_s - start[session]


def _participants(table: EmbeddingTable) -> np.ndarray:
  """[n] names; one and the same where none are known, which leaves intervals NaN."""
  return np.asarray(table.columns.get("participant", np.full(len(table), "")))


Pair = tuple[EmbeddingTable, EmbeddingTable]
Name = TypeVar("Name", bound=Hashable)
# What is asked of one pair, or why it cannot be.
Rule = Callable[[EmbeddingTable, Settings], Question | str]


def _ranked(
  query: EmbeddingTable, gallery: EmbeddingTable, questions: Mapping[Name, Question]
) -> dict[Name, Ranked]:
  """The answers by name, of the queries that had at least one candidate beside the partner."""
  vectors, who = query.embedding, _participants(query)
  if isinstance(query, Lagged):
    vectors = rhythm.delayed(vectors, query.window_s, later=query.later)
  found = {}
  replies = answers(vectors, gallery.embedding, list(questions.values()))
  for (name, question), (rank, candidates) in zip(questions.items(), replies, strict=True):
    asked = who if question.rows is None else who[question.rows]
    draws = zip(np.atleast_2d(rank), np.atleast_2d(candidates), strict=True)
    found[name] = Ranked.pool([Ranked(*one, asked) for one in draws]).contested()
  return found


def _whole(query: EmbeddingTable, gallery: EmbeddingTable) -> Ranked:
  return _ranked(query, gallery, {WHOLE: Question()})[WHOLE]


def random_galleries(
  query: EmbeddingTable, gallery: EmbeddingTable, size: int, settings: Settings
) -> Ranked:
  """Ranks within `settings.repeats` random galleries of `size` windows, each window a query."""
  parts = []
  for repeat in range(settings.repeats):
    rng = np.random.default_rng((settings.seed, size, repeat))
    rows = rng.choice(len(query), size, replace=False)
    parts.append(_whole(query.where(rows), gallery.where(rows)))
  return Ranked.pool(parts)


def same_participant(query, _settings) -> Question | str:
  """Candidates are the other windows of the same participant: is it the heart or the person?"""
  if "participant" not in query.columns:
    return _without("participant")
  code = np.unique(query["participant"], return_inverse=True)[1]
  return Question(only=Condition(code[:, None], (0.0,)))


def hr_matched(query, settings) -> Question | str:
  """Candidates have the same heart rate: does the model read beats or their rate?"""
  if "hr_bpm" not in query.columns:
    return _without("hr_bpm")
  values = np.asarray(query["hr_bpm"], np.float64)[:, None]
  return _matched(values, settings.hr_within_bpm)


def motion_matched(query, settings) -> Question | str:
  """Candidates move as much and in the same cadence: does the model read more than shared motion?

  Without a column `cadence_hz`, which `distill embed` writes, they move as much.
  """
  if "motion_g" not in query.columns:
    return _without("motion_g")
  names = [name for name in ("motion_g", "cadence_hz") if name in query.columns]
  values = np.stack([np.asarray(query[name], np.float64) for name in names], axis=1)
  log = np.log(values, out=np.full_like(values, np.nan), where=values > 0)
  return _matched(log, settings.log_motion_within)


def gap_free(query, _settings) -> Question | str:
  """Only windows without a missing sample: gaps that both sensors share fingerprint a pair."""
  if "complete" not in query.columns:
    return _without("complete")
  if not np.any(query["complete"]):
    return "every window has a gap"
  return _among(query["complete"])


def shuffled(query, settings) -> Question | str:
  """Partners drawn from the other windows, over all participants: must fall to chance.

  The true partner leaves the gallery: it would take the first place from whatever is drawn.
  """
  n = len(query)
  if n < 3:
    return "fewer than three windows"
  partner = np.empty((settings.repeats, n), np.int64)
  for repeat, row in enumerate(partner):
    # One cycle through a random order: every other window is the partner with the same chance.
    order = np.random.default_rng((settings.seed, n, repeat)).permutation(n)
    row[order] = np.roll(order, 1)
  return Question(positive=partner, without=Condition(np.arange(n)[:, None], (0.0,)))


CONTROLS: Mapping[str, Rule] = {
  "same_participant": same_participant,
  "hr_matched": hr_matched,
  "motion_matched": motion_matched,
  "gap_free": gap_free,
  "shuffled": shuffled,
}


def _without(column: str) -> str:
  return f"no column {column!r}"


def _matched(values: np.ndarray, within: float) -> Question | str:
  """Of the windows with known values, among those that differ by at most `within` in each."""
  known = np.isfinite(values).all(axis=1)
  if not known.any():
    return "no window has a known value"
  return Question(np.flatnonzero(known), only=Condition(values, (within,) * values.shape[1]))


def _among(kept: np.ndarray) -> Question:
  """Queries and candidates are the kept windows alone."""
  return Question(
    np.flatnonzero(kept), only=Condition(np.where(kept, 0.0, np.nan)[:, None], (0.0,))
  )


def oracle(query: EmbeddingTable, within: Mapping[str, float]) -> Ranked | str:
  """Candidates are the windows that agree in the true labels: what knowing these alone would give.

  Args:
    query: table with the label columns named in `within`.
    within: label column -> difference up to which two values are one to the oracle. Exact values
      would tell every window from every other, which no estimate does.
  """
  if missing := sorted(set(within) - set(query.columns)):
    return _without(missing[0])
  known = np.isfinite(np.stack([query[name] for name in within], axis=1)).all(axis=1)
  if not known.any():
    return "no window has all true labels"
  rows = query.where(known)
  values = np.stack([np.asarray(rows[name], np.float64) for name in within], axis=1)
  everything = np.ones((len(rows), 1), np.float32)
  condition = Condition(values, tuple(within.values()))
  rank, candidates = ranks(everything, everything, Question(only=condition))
  return Ranked(rank, candidates, _participants(rows))


def shift_curve(
  query: EmbeddingTable,
  gallery: EmbeddingTable,
  window_s: float,
  shifts_s: Sequence[float],
  shifted: EmbeddingTable | None = None,
) -> dict[float, Ranked]:
  """Ranks of the window `shift_s` later in the same recording, as if it were the partner.

  Candidates are all windows that share no second with the query, and the shifted one. A curve that
  stays high far from zero says that the model knows the person or the posture; its floor is the
  same-participant level and not 1 / N.

  Args:
    query: projections of one side, with `recording` and `t0_s`; windows may overlap.
    gallery: projections of the other side, row by row the same windows.
    window_s: length of a window, seconds.
    shifts_s: points of the curve, seconds; 0 is the true partner.
    shifted: projections of the other side that start `shift_s` (a column) after the window of that
      participant, recording and t0_s, for shifts that no two rows of the gallery are apart.

  Returns:
    shift_s -> ranks of the queries that have such a window; shifts that never occur are left out.
  """
  session, since = sessions(query.columns), since_start(query.columns)
  place = np.stack([session, since], axis=1)
  row_at = {key: row for row, key in enumerate(zip(session, np.round(since, 2)))}
  own = {key: row for row, key in enumerate(_keys(query))}
  apart = Condition(place, (0.0, window_s - 1e-3))
  questions = {}
  for shift_s in shifts_s:
    later = zip(session, np.round(since + shift_s, 2))
    partner = np.array([row_at.get(key, -1) for key in later])
    rows = np.flatnonzero(partner >= 0)
    if len(rows):
      questions[shift_s] = Question(rows, positive=partner[rows], without=apart)
    elif shifted is not None:
      moved = shifted.where(np.isclose(shifted["shift_s"], shift_s))
      found = np.array([own.get(key, -1) for key in _keys(moved)], int)
      rows, vectors = found[found >= 0], moved.embedding[found >= 0]
      if len(rows):
        questions[shift_s] = Question(rows, partners=vectors, without=apart)
  return _ranked(query, gallery, questions)


def _keys(table: EmbeddingTable) -> list[tuple[str, str, float]]:
  return list(
    zip(
      _participants(table).tolist(),
      table["recording"].tolist(),
      np.round(table["t0_s"], 2).tolist(),
    )
  )


# --- a whole set ----------------------------------------------------------------------------------


def retrieve(
  folds: Sequence[Pair],
  settings: Settings | None = None,
  *,
  window_s: float = 60.0,
  force: bool = False,
  shifted: Sequence[Mapping[str, EmbeddingTable]] = (),
  rhythms: Sequence[Mapping[str, EmbeddingTable]] = (),
) -> dict[str, Any]:
  """Everything that a report says about retrieval on one set.

  Vectors of different folds come from different models, so each fold is its own gallery and the
  queries are pooled afterwards.

  Args:
    folds: (acceleration projections, PPG projections) of each held-out fold, row by row the same
      windows. Columns used where present: participant, recording, t0_s, hr_bpm, sdnn_ms, rmssd_ms,
      motion_g, cadence_hz, complete.
    settings: sizes, seed and tolerances.
    window_s: length of a window, seconds.
    force: compare tables that were never aligned.
    shifted: of each fold "ppg" and "acc" -> `shift_curve`'s table of that name.
    rhythms: of each fold "acc", "ppg" and, where true beats are known, "beats" -> tables of
      `distill.rhythm` vectors, row by row the same windows, with columns as `folds` have them.

  Returns:
    `retrieval` and each of `controls`: direction -> list of `metrics`, by growing gallery (the
    whole set last); `by_motion`: level -> direction -> list; `oracles`: name -> `oracle_metrics`;
    `shift_curve`: direction -> list of `{shift_s, ...metrics}`; `rhythm`: "acceleration" (the rival
    that has learnt nothing) and "true_beats" (an oracle) -> retrieval, controls, by_motion;
    `not_scored`: name -> why what is asked for is not there.

  Raises:
    DistillError: no fold, fewer than two windows, tables that do not belong together, or vectors
      that have no direction.
  """
  settings = settings or Settings()
  kept, tables = _scored(folds, settings, window_s, force)
  missing: dict[str, str] = {}
  if "motion_g" in tables[0][0].columns and "cadence_hz" not in tables[0][0].columns:
    missing["cadence"] = f"{_without('cadence_hz')}; motion is matched by its level alone"
  return {
    **_judged(_ways(tables), settings, CONTROLS, missing),
    "oracles": _oracles([acc for acc, _ in tables], settings, missing),
    "shift_curve": _curves(kept, shifted or [{}] * len(kept), window_s, settings, missing),
    "rhythm": _rhythms(rhythms, window_s, settings, missing),
    "not_scored": missing,
  }


def participant_top1(
  folds: Sequence[Pair], settings: Settings | None = None, *, window_s: float = 60.0
) -> tuple[np.ndarray, np.ndarray]:
  """Top-1 of each participant, acceleration to PPG, in the whole set; see `retrieve`.

  Returns:
    (names [people], sorted; shares [people] float64).
  """
  _, tables = _scored(folds, settings or Settings(), window_s, False)
  ranked = Ranked.pool([_whole(acc, ppg) for acc, ppg in tables])
  return statistics.participant_means((ranked.rank == 1).astype(float), ranked.participant)


def _scored(
  folds: Sequence[Pair], settings: Settings, window_s: float, force: bool
) -> tuple[list[Pair], list[Pair]]:
  """The valid pairs of every fold, and those of them that are scored."""
  if not folds:
    raise DistillError("retrieval was given no fold; pass at least one pair of tables")
  tables, kept = [], []
  for acc, ppg in folds:
    paired(acc, ppg, force=force)
    kept.append(_both_valid(acc, ppg))
    tables.append(_scored_pair(*kept[-1], window_s, settings))
  if min(len(acc) for acc, _ in tables) < 2:
    raise DistillError("retrieval needs at least two windows in every fold, got one")
  return kept, tables


def _scored_pair(
  acc: EmbeddingTable, ppg: EmbeddingTable, window_s: float, settings: Settings
) -> Pair:
  rows = scored_rows(acc, window_s, settings)
  return acc.where(rows), ppg.where(rows)


Ways = Mapping[str, Sequence[Pair]]


def _ways(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
  """Direction -> (query, gallery) of each fold; the queries always carry the columns."""
  back = [(dataclasses.replace(ppg, columns=acc.columns), acc) for acc, ppg in pairs]
  return {ACC_TO_PPG: list(pairs), PPG_TO_ACC: back}


def _judged(
  ways: Ways, settings: Settings, controls: Mapping[str, Rule], missing: dict[str, str]
) -> dict[str, Any]:
  """Retrieval, controls and motion levels; adds to `missing` what cannot be scored, and why."""
  levels = {level: _at_level(level) for level in MOTION_LEVELS}
  rules = {**controls, **levels}
  found: dict[str, Any] = {"retrieval": {}, "controls": {}, "by_motion": {}}
  for way, pairs in ways.items():
    told: list[dict[str, Ranked | str]] = []
    for query, gallery in pairs:
      asked = {name: rule(query, settings) for name, rule in rules.items()}
      questions = {name: one for name, one in asked.items() if isinstance(one, Question)}
      refused = {name: one for name, one in asked.items() if isinstance(one, str)}
      told.append(refused | _ranked(query, gallery, {WHOLE: Question(), **questions}))
    for name in (WHOLE, *rules):
      row = _pooled(one[name] for one in told)
      if isinstance(row, str):
        missing[name] = row
      elif name == WHOLE:
        found["retrieval"][way] = [*_galleries(pairs, settings), metrics(row)]
      else:
        part = found["controls" if name in controls else "by_motion"]
        part.setdefault(name, {})[way] = [metrics(row)]
  return found


def _galleries(pairs, settings: Settings) -> list[dict[str, Any]]:
  """Metrics in random galleries of each size below that of the whole set."""
  smallest = min(len(query) for query, _ in pairs)
  sizes = [size for size in settings.galleries if 2 <= size < smallest]
  # Seconds for thousands of windows, minutes for tens of thousands: only those show a bar.
  return [
    metrics(Ranked.pool([random_galleries(q, g, size, settings) for q, g in pairs]))
    for size in tqdm(sizes, desc="random galleries", unit="size", leave=False, delay=5)
  ]


def _pooled(parts: Iterable[Ranked | str]) -> Ranked | str:
  parts = list(parts)
  given = [part for part in parts if not isinstance(part, str) and len(part.rank)]
  if given:
    return Ranked.pool(given)
  return next((part for part in parts if isinstance(part, str)), "no query has another candidate")


def _at_level(level: str) -> Rule:
  """Queries and candidates of one motion level."""

  def rule(query, settings):
    if "motion_g" not in query.columns:
      return _without("motion_g")
    kept = motion_level(query["motion_g"], settings) == level
    if np.sum(kept) < 2:
      return f"fewer than two {level} windows"
    return _among(kept)

  return rule


def _oracles(
  tables: Sequence[EmbeddingTable], settings: Settings, missing: dict[str, str]
) -> dict[str, Any]:
  rate = {"hr_bpm": settings.oracle_hr_bpm}
  variability = dict.fromkeys(("sdnn_ms", "rmssd_ms"), settings.oracle_hrv_ms)
  found = {}
  for name, within in {"hr": rate, "hr_and_hrv": rate | variability}.items():
    row = _pooled(oracle(table, within) for table in tables)
    if isinstance(row, str):
      missing[f"oracle {name}"] = row
    else:
      found[name] = oracle_metrics(row)
  return found


def _curves(
  folds: Sequence[Pair], shifted, window_s: float, settings: Settings, missing: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
  """Shift curves of both directions, over all windows of the folds, overlapping ones too."""
  for name in ("recording", "t0_s"):
    if name not in folds[0][0].columns:
      missing["shift_curve"] = _without(name)
      return {}
  found = {}
  for way, pairs in _ways(folds).items():
    side = "ppg" if way == ACC_TO_PPG else "acc"
    curves = [
      shift_curve(q, g, window_s, (0.0, *settings.shifts_s), more.get(side))
      for (q, g), more in zip(pairs, shifted)
    ]
    shifts = sorted(set().union(*curves))
    found[way] = [
      {"shift_s": s, **metrics(Ranked.pool([c[s] for c in curves if s in c]))} for s in shifts
    ]
    if never := [f"{s:g}" for s in settings.shifts_s if s not in shifts]:
      missing["shift_curve"] = f"no two windows are {', '.join(never)} s apart"
  return found


def _rhythms(
  folds: Sequence[Mapping[str, EmbeddingTable]],
  window_s: float,
  settings: Settings,
  missing: dict[str, str],
) -> dict[str, Any]:
  """What rhythm alone finds without learning: that of the acceleration, and that of true beats."""
  found = {}
  for name, side in {"acceleration": "acc", "true_beats": "beats"}.items():
    pairs = []
    for fold in folds:
      if side in fold and np.sum(fold[side].valid & fold["ppg"].valid) > 1:
        pair = _scored_pair(*_both_valid(fold[side], fold["ppg"]), window_s, settings)
        pairs.append(pair)
    if not pairs or min(len(query) for query, _ in pairs) < 2:
      missing[f"rhythm {name}"] = (
        "the recordings are not at hand" if not folds else f"no windows with a rhythm of {side}"
      )
      continue
    ways = {
      way: [(_lagged(q, window_s, way), g) for q, g in some] for way, some in _ways(pairs).items()
    }
    if side == "beats":
      del ways[PPG_TO_ACC]  # beats are no acceleration
    controls = {"same_participant": same_participant}
    found[name] = _judged(ways, settings, controls, {})
  return found


def _lagged(query: EmbeddingTable, window_s: float, way: str) -> Lagged:
  return Lagged(query.embedding, query.columns, window_s=window_s, later=way == ACC_TO_PPG)
