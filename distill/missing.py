"""How much a student loses when less of a minute is observed; `distill missing`.

Parts of unseen people's windows are taken away in four patterns, and two students read what is
left: one that was distilled on windows with gaps and is given the mask, and the same student
distilled on complete windows, which is given the mask or a window whose gaps were filled. Probes
are fitted on windows as they were recorded; PPG projections, which retrieval searches, stay whole.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from distill import config as configs
from distill import models, objectives, plots, probes, report, signals, stages, statistics, workdir
from distill.config import ConfigDict
from distill.data import pipeline
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError
from distill.frozen import EncoderTeacher
from distill.nn.encoder import Encoder, Forward
from distill.ranking import Question, ranks
from distill.spec import ACC, PPG, SignalSpec
from distill.workdir import Fold

Path = pathlib.Path
RESULT = "missing.json"
BURST_S = (2.0, 10.0)
SHARES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)
PATTERNS = ("bursts", "long_gap", "axis", "still")
# The fourth pattern is shown and has no aim: what it takes away is what the student reads.
AIMED = ("bursts", "long_gap", "axis")
AIMED_SHARE, AIMED_PART = 0.5, 1 / 3
FILLS = ("zero", "linear", "last")
BATCH = 128
CHUNK = 16 * BATCH  # windows read at once where all are embedded
WINDOWS = 500  # of a fold's test people that are judged, evenly over all: each is read 105 times


# --- what is taken away ---------------------------------------------------------------------------


def keep(
  window: np.ndarray, rate_hz: float, pattern: str, share: float, rng: np.random.Generator
) -> np.ndarray:
  """What stays observed of one window.

  Args:
    window: [time, axes] in g, NaN where missing.
    rate_hz: samples per second.
    pattern: "bursts" of 2-10 s, one "long_gap", one "axis" that is lost for the rest of the time,
      or the "still" seconds first.
    share: of the time that stays observed; in one axis of the pattern "axis", else in all of them.
    rng: draws places, lengths and the axis.

  Returns:
    [time, axes] bool, True where the pattern leaves the sample.

  Raises:
    DistillError: a pattern that is not known.
  """
  time, axes = window.shape
  lost = round((1.0 - share) * time)
  left = np.ones(window.shape, bool)
  if pattern == "bursts":
    left[_bursts(time, lost, rate_hz, rng)] = False
  elif pattern in ("long_gap", "axis"):
    start = rng.integers(time - lost + 1)
    which = slice(None) if pattern == "long_gap" else rng.integers(axes)
    left[start : start + lost, which] = False
  elif pattern == "still":
    left[_stillest(window, lost, rate_hz)] = False
  else:
    raise DistillError(f"no pattern {pattern!r} of missing data; known: {', '.join(PATTERNS)}")
  return left


def _bursts(time: int, lost: int, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
  """[time] bool: bursts at random places that make up `lost` samples, the last one cut to fit."""
  lengths: list[int] = []
  while sum(lengths) < lost:
    lengths.append(min(round(rng.uniform(*BURST_S) * rate_hz), lost - sum(lengths)))
  # What stays is shared out at random between, before and after the bursts.
  cuts = np.sort(rng.integers(0, time - lost + 1, len(lengths)))
  gone = np.zeros(time, bool)
  shift = 0
  for cut, length in zip(cuts, lengths, strict=True):
    gone[cut + shift : cut + shift + length] = True
    shift += length
  return gone


def _stillest(window: np.ndarray, lost: int, rate_hz: float) -> np.ndarray:
  """Indices of the `lost` samples in the seconds that move least; unobserved seconds come last."""
  magnitude = np.sqrt(np.square(window).sum(axis=1))  # NaN where an axis is missing
  second = (np.arange(len(window)) / rate_hz).astype(int)
  seen = np.isfinite(magnitude)
  count = np.maximum(np.bincount(second, seen), 1)
  mean = np.bincount(second, np.where(seen, magnitude, 0.0)) / count
  square = np.where(seen, np.square(magnitude - mean[second]), 0.0)
  spread = np.where(np.bincount(second, seen) > 0, np.bincount(second, square) / count, np.inf)
  return np.argsort(spread[second], kind="stable")[:lost]


def filled(raw: np.ndarray, spec: SignalSpec, how: str) -> np.ndarray:
  """A window whose gaps are filled, as an encoder's input.

  Args:
    raw: [time, channels], NaN where missing.
    spec: of the encoder.
    how: "zero" after preprocessing, that is the mean; "linear" between neighbours; "last" value.

  Returns:
    [time, channels] float32; channels of which nothing was observed are zero.
  """
  seen = np.isfinite(raw)
  if how == "zero":
    return signals.preprocess(raw, seen, spec)
  if how == "linear":
    whole = signals.fill_gaps(np.where(seen, raw, 0), seen)
  elif how == "last":
    time = np.where(seen, np.arange(len(raw))[:, None], -1)
    last = np.maximum.accumulate(time, axis=0)
    last = np.where(last < 0, seen.argmax(axis=0), last)  # nothing before: the first one
    whole = np.take_along_axis(np.where(seen, raw, 0), last, axis=0)
  else:
    raise DistillError(f"no filling {how!r}; known: {', '.join(FILLS)}")
  return signals.preprocess(whole, np.ones(whole.shape, bool), spec)


# --- training and judging -------------------------------------------------------------------------


def run(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """Trains the student and its rival, and judges both.

  Args:
    config: with `loss.gaps` above 0; its teacher teaches both.
    folder: work folder of the config; gets complete<k>/ (the rival's own work folder), missing.json
      and plots/missing_*.

  Returns:
    What missing.json holds: set name -> {windows, curves, aims}; see `judge`.

  Raises:
    DistillError: a config without gaps, or what training refuses.
  """
  if not config.loss.gaps > 0:
    raise DistillError("distill missing compares training with gaps: give config.loss.gaps > 0")
  folder = Path(folder)
  stages.train(config, folder)
  for k in config.folds:
    stages.train(rival(config, folder, k), folder / f"complete{k}")
  found = judge(config, folder)
  (folder / RESULT).write_text(report.to_json(report.plain(found)))
  (folder / "plots").mkdir(exist_ok=True)
  for plot in plots.draw_missing(load(folder)):
    (folder / "plots" / f"{plot.name}.svg").write_text(plot.svg)
    (folder / "plots" / f"{plot.name}.png").write_bytes(plot.png)
  return found


def rival(config: ConfigDict, folder: Path, k: int) -> ConfigDict:
  """The same student and teacher, distilled on pairs without any gap."""
  other = configs.from_json(configs.to_json(config))
  with other.unlocked():
    other.name, other.folds = f"{config.name}, complete windows", (k,)
    other.loss.gaps = 0.0
    other.pair_coverage = 1.0
    other.teacher.load = str(folder / f"fold{k}" / "teacher")
    if config.teacher.load:
      other.teacher.load = config.teacher.load
  return other


def judge(config: ConfigDict, folder: Path, *, shares=SHARES) -> dict[str, Any]:
  """Scores both students of a trained folder.

  Returns:
    set -> {windows, participants, simulated, curves, aims}. A curve's points are {pattern, method,
    share, refused, <measure>, <measure>_loss}, the latter two {value, lo, hi}; an aim is {pattern,
    measure, best_fill, fill_loss, aim_loss, part, counts, holds}. Measures are "<target>_mae" and
    "top10_missed", the share of partners not among the first ten: less is better in all. A loss is
    the difference from the same student on whole windows, paired by participant.
  """
  found: dict[str, Any] = {}
  with workdir.claimed(config, folder) as place:
    folds = workdir.open_folds(config, place)
  for name in config.data.sets:
    parts = [_Judged(config, folder, fold, name, shares) for fold in folds]
    # A fold without labels of a target has no errors of it.
    measured = [
      m
      for m in next(iter(parts[0].errors.values()))
      if all(m in next(iter(part.errors.values())) for part in parts)
    ]
    errors = {
      key: {m: np.concatenate([part.errors[key][m] for part in parts]) for m in measured}
      for key in parts[0].errors
    }
    who = np.concatenate([part.participant for part in parts])
    curves = _curves(errors, who)
    found[name] = {
      "windows": len(who),
      "participants": len(np.unique(who)),
      "simulated": folds[0].sets[name][0].simulated,
      "curves": curves,
      "aims": _aims(curves),
    }
  return found


class _Judged:
  """Errors of every window of the test people of one fold, by (pattern, method, share)."""

  def __init__(self, config: ConfigDict, folder: Path, fold: Fold, name: str, shares):
    self._config, self._name, self._prepared = config, name, fold.sets[name][0]
    rows = {part: fold.rows(config, part, overlapping=False)[name] for part in PARTS}
    test = rows["test"]
    test = test.where(test.column("ppg_usable"))
    if not len(test):
      raise DistillError(f"fold {fold.k} of {name} has no test window with usable PPG to search")
    test = test.where(np.unique(np.linspace(0, len(test) - 1, WINDOWS).astype(int)))
    self.participant = np.char.add(f"{name}/", test.column("participant"))
    self._test, self._seed = test, config.seed
    self.errors: dict[tuple[str, str, float], dict[str, np.ndarray]] = {}
    raw = self._raw(test, ACC)
    given = fold.named(config.teacher.load)
    teacher = EncoderTeacher(given or folder / f"fold{fold.k}" / "teacher").encoder
    ppg = pipeline.prepare_windows(self._raw(test, PPG), teacher.spec)
    for model, place in (("aim", folder), ("complete", folder / f"complete{fold.k}")):
      stored = models.read(models.model_folder(place / f"fold{fold.k}" / "student"))
      student = _Student(stored, self._prepared.specs[ACC])
      self._fit(student, rows)
      head = objectives.load_head(stored, "teacher_head")
      see = Forward(teacher, batch_size=BATCH, rhythm=head.rhythm)
      student.gallery = np.asarray(head(jnp.asarray(see(*ppg))))
      methods = ("mask",) if model == "aim" else ("mask", *FILLS)
      with tqdm(total=len(methods) * len(PATTERNS) * len(shares), desc=f"{name}, {model}") as bar:
        for pattern in PATTERNS:
          for share in shares:
            gone = self._without(raw, pattern, share)
            for method in methods:
              key = (pattern, f"{model}_{method}", share)
              whole = self.errors.get((PATTERNS[0], key[1], 1.0))
              known = whole if share == 1.0 else None  # the same in all patterns
              self.errors[key] = known or self._score(student, gone, method)
              bar.update()

  def _raw(self, rows: pipeline.Rows, signal: str) -> np.ndarray:
    return self._prepared.windows(rows.rows)[signal]

  def _without(self, raw: np.ndarray, pattern: str, share: float) -> np.ndarray:
    """The windows with NaN in place of what is lost; the same loss for every method."""
    rate_hz, gone = self._prepared.specs[ACC].rate_hz, raw.copy()
    for i, window in enumerate(gone):
      rng = np.random.default_rng([self._seed, PATTERNS.index(pattern), round(100 * share), i])
      window[~keep(window, rate_hz, pattern, share, rng)] = np.nan
    return gone

  def _fit(self, student: "_Student", rows: Mapping[str, pipeline.Rows]) -> None:
    tables = {}
    for part in ("train", "validation"):
      columns = {n: rows[part].column(n) for n in ("participant", *self._config.evaluate.targets)}
      order = np.arange(len(rows[part]))
      chunks = (order[i : i + CHUNK] for i in range(0, len(order), CHUNK))
      vectors = [student.embed(self._raw(rows[part].where(some), ACC), "mask") for some in chunks]
      tables[part] = EmbeddingTable(np.concatenate(vectors)[:, : student.dim], columns)
    for target in self._config.evaluate.targets:
      if not all(np.isfinite(table[target]).any() for table in tables.values()):
        continue
      fit = probes.fit(tables["train"], tables["validation"], target, self._config.evaluate.alphas)
      student.probes[target] = fit

  def _score(self, student: "_Student", raw: np.ndarray, method: str) -> dict[str, np.ndarray]:
    """Error of each window by measure. A window that is refused is guessed or missed."""
    vectors = student.embed(raw, method)
    valid = np.any(vectors != 0, axis=1)
    errors = {"refused": np.where(valid, 0.0, 1.0)}
    for target, probe in student.probes.items():
      predicted = np.where(valid, probe.predict(vectors[:, : student.dim]), probe.intercept)
      errors[f"{target}_mae"] = np.abs(predicted - self._test.column(target))
    missed = np.ones(len(valid))
    if valid.any():
      query = np.asarray(student.head(vectors[valid]))
      rank, _ = ranks(query, student.gallery, Question(positive=np.flatnonzero(valid)))
      missed[valid] = rank > 10
    return errors | {"top10_missed": missed}


class _Student:
  """An encoder with its head, probes and the PPG side that its queries search."""

  def __init__(self, stored: models.ModelFolder, spec: SignalSpec):
    encoder: Encoder = models.load_encoder(stored.folder)
    if encoder.spec.shape != spec.shape:
      raise DistillError(f"the student reads {encoder.spec.shape}, the set has {spec.shape}")
    self.spec = encoder.spec
    self.head: Any = objectives.load_head(stored, "student_head")
    self.dim = encoder.dim
    self.probes: dict[str, probes.Ridge] = {}
    self.gallery = np.zeros((0, 0), np.float32)
    self._forward = Forward(encoder, batch_size=BATCH, rhythm=self.head.rhythm)

  def embed(self, raw: np.ndarray, method: str) -> np.ndarray:
    """[n, time, axes] in g, NaN where missing -> [n, dim (+ rhythm)], mask or filled."""
    if method == "mask":
      return self._forward(*pipeline.prepare_windows(raw, self.spec))
    whole = np.stack([filled(window, self.spec, method) for window in raw])
    return self._forward(whole, np.ones(whole.shape, bool))


# --- curves ---------------------------------------------------------------------------------------


def _curves(errors: Mapping[tuple[str, str, float], Any], who: np.ndarray) -> list[dict[str, Any]]:
  rows = []
  for (pattern, method, share), found in errors.items():
    row: dict[str, Any] = {"pattern": pattern, "method": method, "share": share}
    row["refused"] = float(found["refused"].mean())
    for measure, values in found.items():
      if measure != "refused":
        whole = errors[pattern, method, 1.0][measure]
        row[measure] = statistics.over_participants(values, who).to_json()
        loss = statistics.paired_difference(values, whole, who)
        row[f"{measure}_loss"] = loss.to_json()
    rows.append(row)
  return rows


def _aims(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """At half lost, where the best filling's loss exceeds its interval: at most a third of it."""
  at = {(r["pattern"], r["method"]): r for r in curves if r["share"] == AIMED_SHARE}
  measures = [name.removesuffix("_loss") for name in curves[0] if name.endswith("_loss")]
  rows = []
  for pattern in AIMED:
    for measure in measures:
      losses = {how: at[pattern, f"complete_{how}"][f"{measure}_loss"] for how in FILLS}
      best = min(losses, key=lambda how: losses[how]["value"])
      fill, aim = losses[best]["value"], at[pattern, "aim_mask"][f"{measure}_loss"]["value"]
      counts = bool(losses[best]["lo"] > 0)
      rows.append(
        {
          "pattern": pattern,
          "measure": measure,
          "best_fill": best,
          "fill_loss": fill,
          "aim_loss": aim,
          "part": aim / fill if fill else float("nan"),
          "counts": counts,
          "holds": bool(aim <= AIMED_PART * fill) if counts else None,
        }
      )
  return rows


def load(folder: str | Path) -> dict[str, Any]:
  """What `run` wrote.

  Raises:
    DistillError: nothing there.
  """
  path = Path(folder) / RESULT
  if not path.is_file():
    raise DistillError(f"no {RESULT} in {folder}; make it with: distill missing")
  return json.loads(path.read_text())


def table(found: Mapping[str, Any]) -> str:
  """The aims as text, and what each method misses at half lost."""
  lines = []
  for name, one in found.items():
    title = f"{name}{' (simulated)' if one['simulated'] else ''}"
    lines.append(f"{title}: {one['windows']} windows of {one['participants']} people, half lost")
    for row in one["aims"]:
      verdict = {True: "holds", False: "fails", None: "no loss to speak of"}[row["holds"]]
      lines.append(
        f"  {row['pattern']:9} {row['measure']:14} best filling ({row['best_fill']}) loses"
        f" {row['fill_loss']:7.3f}, with gaps trained {row['aim_loss']:7.3f}: {verdict}"
      )
  return "\n".join(lines)
