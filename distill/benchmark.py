"""`distill benchmark`: a grid of runs from one config, resumed where it stopped, and compared.

WORKDIR/cells/<cell>-seed<k>/    an ordinary work folder (`distill.stages.run`)
WORKDIR/benchmark.json           the summary (`distill.comparison`)
WORKDIR/benchmark.(md|html)      its tables and figures
WORKDIR/plots/

A cell whose report.json was made of the wanted config is not run again. Prepared sets are shared as
those of any runs; a teacher, and a student trained on labels alone, is copied from an earlier cell
where nothing that decides it differs. A cell that fails is told and the others still run.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from distill import (
  comparison,
  comparison_plots,
  comparison_report,
  models,
  plots,
  report,
  stages,
  tables,
  workdir,
)
from distill import config as configs
from distill.comparison import FACTS, Cell, Curve, Grid, Result
from distill.config import ConfigDict
from distill.errors import DistillError
from distill.retrieval import ACC_TO_PPG

Path = pathlib.Path
CELLS, SUMMARY, PAGE, TEXT, ERROR = (
  "cells",
  "benchmark.json",
  "benchmark.html",
  "benchmark.md",
  "error.txt",
)
ATLAS_POINTS = 600
_TOLD = ("untrained", "supervised", "mean", "teacher")
# Parts of a config that do not decide what a training gives; all others do. Amplitude is a factor
# on acceleration alone (`distill.data.cohort`), which no teacher reads.
_NEVER = (
  *("name", "finetune", "retention", "layers", "day", "data.prepared_dir", "data.external"),
  *configs.FREE,
)
_STUDENT = (
  *(
    "start",
    "steps",
    "batch_size",
    "pair_coverage",
    "shuffled_pairs",
    "head",
    "loss",
    "optim",
    "log_every",
  ),
  "eval_every",
)
ROLES = {"teacher": "teacher", "supervised": "supervised*"}  # role -> folders of a fold
INDIFFERENT = {
  "report": configs.FREE,
  "teacher": (
    *(*_NEVER, *_STUDENT, "augment", "student", "supervised", "evaluate", "pretrain.check_probe"),
    *("teacher.also", "teacher.weights", "teacher.stored", "teacher.in_step"),
    "data.simulated.amplitude",
  ),
  "supervised": (
    *(*_NEVER, *_STUDENT, "teacher", "pretrain"),
    *("evaluate.galleries", "evaluate.repeats", "evaluate.alphas", "evaluate.shares"),
    *("evaluate.seed", "supervised.label_distillation"),
  ),
}


def load(path: str | Path) -> Grid:
  """The grid of a file; its `get_config()` returns plain values of the fields of `Grid`.

  Cells are (name, config file, overrides) and curves name -> {x, label, lines, log}; a line is
  (what its panel is about, its cells).

  Args:
    path: file, or FILE:VARIANT.

  Raises:
    DistillError: no such file, or no such grid.
  """
  found = configs.read(path).to_dict()
  known = list(Grid.__dataclass_fields__)
  missing = [name for name in ("name", "cells", "seeds", "reference") if name not in found]
  unknown = sorted(set(found) - set(known))
  if missing or unknown:
    wrong = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
    raise DistillError(
      f"{path} is no benchmark: it {wrong}; expected {', '.join(known)}, as configs/benchmark.py"
    )
  try:
    found["cells"] = tuple(Cell(*row) for row in found["cells"])
    found["curves"] = tuple(
      Curve(name, **{**one, "lines": dict(one["lines"])})
      for name, one in found.get("curves", {}).items()
    )
  except (TypeError, ValueError, KeyError) as error:
    raise DistillError(
      f"{path} is no benchmark: {error}; write cells and curves as configs/benchmark.py does"
    ) from error
  return Grid(**found)


def run(
  grid: Grid,
  folder: str | Path,
  *,
  overrides: Sequence[str] = (),
  out: str | Path | None = None,
) -> dict[str, Any]:
  """Runs what is not done yet and writes the summary, the tables and the figures.

  With several trials, all of them run under the first seed, and the chosen one under the others.

  Args:
    grid: cells and seeds.
    folder: work folder of the benchmark.
    overrides: "--config.KEY=VALUE", for every cell, after its own.
    out: further place for the Markdown file; its figures go into a folder of its name beside it.

  Returns:
    The summary (`distill.comparison.summarise`); `failed` holds what went wrong.

  Raises:
    DistillError: a cell's config that cannot be resolved, or a work folder of a single run, before
      anything runs; or no cell could be finished.
  """
  jobs = [(cell, seed) for seed in grid.seeds for cell in grid.cells]
  for cell, seed in jobs:
    _config(cell, seed, overrides)  # what cannot be resolved stops before anything runs
  folder = Path(folder)
  if folder.is_file() or (folder / workdir.CONFIG).is_file():
    raise DistillError(f"{folder} is a file or a single run; choose another --workdir")
  results: dict[str, dict[int, Result]] = {}
  failed: dict[str, str] = {}
  done: list[tuple[dict[str, Any], Path]] = []

  def finish(cell: Cell, seed: int, trial: float) -> Result | None:
    """One run, made or found; None if it fails."""
    name = f"{cell.name}{'' if trial == 1 else f'-rate{trial:g}'}-seed{seed}"
    bar.set_postfix_str(name)
    place, config = folder / CELLS / name, _config(cell, seed, overrides, trial)
    try:
      fresh = _finished(config, place) is None
      made = _run(config, place, done) if fresh else report.load(place)
      found = result(config, place, made, trial)
    except Exception as error:  # whatever it is, hours of other cells must not be lost to it
      failed[name] = _reason(error, place)
      tqdm.write(f"{name}: FAILED: {failed[name]}", file=sys.stderr)
      return None
    finally:
      bar.update()
    done.append((_plain(config), place))
    tqdm.write(f"{name}: {line(made)}{'' if fresh else ' (was there)'}", file=sys.stderr)
    return found

  trials = dict.fromkeys((cell.name for cell in grid.cells), grid.trials)
  runs = len(jobs) + len(grid.cells) * (len(grid.trials) - 1)
  with tqdm(total=runs, desc=f"benchmark {grid.name}", unit="run") as bar:
    for cell, seed in jobs:
      tried = {trial: finish(cell, seed, trial) for trial in trials[cell.name]}
      best = chosen({trial: found for trial, found in tried.items() if found is not None})
      if best is not None:
        results.setdefault(cell.name, {})[seed] = best
        trials[cell.name] = (best.trial,)
  if not results:
    raise DistillError(f"no cell could be finished; {_told(failed)}")
  summary = comparison.summarise(grid, results, failed)
  write(folder, summary, out)
  return summary


def check(summary: Mapping[str, Any]) -> None:
  """Stops where cells have failed.

  Raises:
    DistillError: naming them.
  """
  if summary["failed"]:
    raise DistillError(_told(summary["failed"]))


def write(folder: Path, summary: Mapping[str, Any], out: str | Path | None = None) -> None:
  """Writes benchmark.json, plots/, benchmark.md and benchmark.html, and the Markdown to `out`."""
  drawn = comparison_plots.draw(summary)
  report.write_plots(folder / "plots", drawn)
  report.replace(folder / TEXT, comparison_report.markdown(summary, drawn, "plots"))
  report.replace(folder / PAGE, comparison_report.html(summary, drawn))
  report.replace(folder / SUMMARY, report.to_json(summary))
  if out is not None:
    out = Path(out)
    images = out.with_suffix("")
    images.mkdir(parents=True, exist_ok=True)
    for plot in drawn:
      report.replace(images / f"{plot.name}.svg", plot.svg)
    report.replace(out, comparison_report.markdown(summary, drawn, images.name))


def line(made: Mapping[str, Any]) -> str:
  """One line on a finished cell: errors, top-1, time."""
  parts = []
  for name, one in made["sets"].items():
    target = next(iter(one["probes"]), None)
    if target:
      label, unit = plots.target_label(target)
      values = ", ".join(
        f"{model.replace('_', ' ')} {one['probes'][target][model]['mae']['value']:.2f}"
        for model in dict.fromkeys((comparison.subject(one["probes"][target]), *_TOLD))
        if model in one["probes"][target]
      )
      parts.append(f"{name} {label} {unit}: {values}")
    if one["retrieval"]:
      whole = one["retrieval"][ACC_TO_PPG][-1]
      parts.append(f"top-1 {100 * whole['top1']:.1f} % of {whole['gallery']:.0f}")
  return "; ".join([*parts, f"{sum(made['timing'].values()) / 60:.1f} min"])


# --- cells ----------------------------------------------------------------------------------------


def chosen(tried: Mapping[float, Result]) -> Result | None:
  """The trial with the smallest error on validation people, which knows of the others; the first
  where no error is known, None of none."""
  errors = {trial: found.trials[trial] for trial, found in tried.items()}
  if not errors:
    return None
  known = {trial: error for trial, error in errors.items() if np.isfinite(error)}
  best = min(known, key=known.__getitem__) if known else next(iter(errors))
  return dataclasses.replace(tried[best], trials=errors, trial=best)


def _config(cell: Cell, seed: int, overrides: Sequence[str], trial: float = 1.0) -> ConfigDict:
  """The config of a cell; a trial is a factor on the learning rate of what the cell is about."""
  words = [f"--config.{text}" for text in cell.overrides]
  try:
    config = configs.load(cell.config, [*words, *overrides])
  except DistillError as error:
    raise DistillError(f"cell {cell.name}: {error}") from error
  with config.unlocked():
    config.name, config.seed = cell.name, seed
    sections = [config]  # of distillation, joint training and label distillation
    if config.method == "rivals":
      sections += [config.supervised]
      sections += [config.pretrain] if config.pretrain.side == "student" else []
    for section in sections:
      section.optim.learning_rate *= trial
  return config


def _plain(config: ConfigDict) -> dict[str, Any]:
  found: dict[str, Any] = json.loads(configs.to_json(config))
  return found


def _finished(config: ConfigDict, place: Path) -> dict[str, Any] | None:
  """The report of a cell that was made of this config."""
  try:
    made = report.load(place)
  except DistillError:
    return None
  same = decides("report", made["config"]) == decides("report", _plain(config))
  return made if same else None


def _run(
  config: ConfigDict, place: Path, done: Sequence[tuple[dict[str, Any], Path]]
) -> dict[str, Any]:
  with workdir.claimed(config, place):
    for role in ROLES:
      _take_over(role, config, place, done)
  made = stages.run(config, place)
  (place / ERROR).unlink(missing_ok=True)
  return made


def _take_over(
  role: str, config: ConfigDict, place: Path, done: Sequence[tuple[dict[str, Any], Path]]
) -> None:
  """Copies the model of one role from the first cell that decided it in the same way.

  A PPG encoder that learns together with the student depends on all that the student does.
  """
  if role == "teacher" and config.method == "joint":
    return
  wanted = decides(role, _plain(config))
  for other, folder in done:
    if decides(role, other) != wanted:
      continue
    for k in config.folds:
      for there in sorted((folder / f"fold{k}").glob(ROLES[role])):
        _copy(there, place / f"fold{k}" / there.name)
    return


def _copy(there: Path, here: Path) -> None:
  """The model and the learning curve of a finished training, whole or not at all."""
  if here.exists() or not (there / "model").is_dir():
    return
  partial = here.with_name(here.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  shutil.copy(there / "metrics.jsonl", partial)
  shutil.copytree(there / "model", partial / "model")
  partial.rename(here)


def decides(role: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """Dotted key -> value of all that decides what the training of one role, or a report, gives.

  Args:
    role: "teacher", "supervised" or "report".
    config: plain values, as `config.json` holds them.
  """

  def leaves(some: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in some.items():
      key = prefix + name
      if key in INDIFFERENT[role]:
        continue
      if isinstance(value, Mapping):
        yield from leaves(value, key + ".")
      else:
        yield key, value

  return dict(leaves(config, ""))


def _reason(error: Exception, place: Path) -> str:
  """One line; the whole story of what is no bad input is kept in the cell's folder."""
  if isinstance(error, DistillError):
    return str(error)
  place.mkdir(parents=True, exist_ok=True)
  (place / ERROR).write_text(traceback.format_exc())
  first = (str(error).strip().splitlines() or [""])[0]
  return f"{type(error).__name__}: {first} (see {place / ERROR})"


def _told(failed: Mapping[str, str]) -> str:
  name, why = next(iter(failed.items()))
  count = f"{len(failed)} cell{'s' if len(failed) > 1 else ''} failed"
  return f"{count}: {name}: {why}; the same command tries again what is not finished"


# --- what is taken from a cell's folder -----------------------------------------------------------


def result(config: ConfigDict, place: Path, made: Mapping[str, Any], trial: float = 1.0) -> Result:
  """What the comparison needs of a finished cell."""
  fold = place / f"fold{config.folds[0]}"
  lines = plots.read_metrics(_trained(fold) / "metrics.jsonl")
  losses = [[row["step"], row["val/loss"]] for row in lines if "val/loss" in row]
  maps = {name: atlas(fold / "embeddings" / name, config) for name in made["sets"]}
  atlases = {k: v for k, v in maps.items() if v}
  trials = {trial: validation_error(made)}
  return Result(made, facts(fold, config), losses, atlases, trials=trials, trial=trial)


def validation_error(made: Mapping[str, Any]) -> float:
  """Mean over sets and folds of the error on validation people of what a run is about.

  Of the first target that a set is probed for; NaN where no report tells it.
  """
  errors = []
  for one in made["sets"].values():
    for table in list(one["probes"].values())[:1]:
      errors.append(np.mean(table[comparison.subject(table)].get("validation_mae", np.nan)))
  return float(np.mean(errors)) if errors else np.nan


def facts(fold: Path, config: ConfigDict) -> dict[str, float | None]:
  """FACTS of one fold."""
  people, minutes = 0, 0.0
  for name in config.data.sets:
    place = fold / "embeddings" / name
    fields = json.loads((place / tables.TABLE).read_text())
    rows = pq.read_table(place / f"{fields['models'][0]}.parquet", columns=["split", "participant"])
    train = np.array(rows["split"]) == "train"
    people += len(set(np.array(rows["participant"])[train]))
    minutes += train.sum() * fields["window_s"] / 60
  sizes = (_parameters(folder / "model") for folder in (_trained(fold), fold / "teacher"))
  return dict(zip(FACTS, (people, float(minutes), *sizes), strict=True))


def _trained(fold: Path) -> Path:
  """Folder of the training that a cell is about: of the student, or of what stands for it."""
  roles = ("joint", "student", "pretrained", "label_distillation", "supervised")
  return next(fold / role for role in roles if (fold / role).is_dir())


def _parameters(folder: Path) -> int | None:
  """Of the encoder of a model folder; None where there is none (a given teacher)."""
  if not folder.is_dir():
    return None
  return sum(values.size for values in models.read(folder).part("encoder").values())


def atlas(folder: Path, config: ConfigDict) -> dict[str, Any]:
  """Held-out windows on the first two principal axes of the teacher's projections.

  Args:
    folder: tables of one set and fold.
    config: of the run; its first target shades the map.

  Returns:
    target, values: [n] labels; teacher, student: [n, 2]; explained: shares of the teacher's
    variance; r: correlation of both maps on each axis. Empty where less than three windows have a
    label.
  """
  projections, target = tables.read(folder).projections, config.evaluate.targets[0]
  if not {"teacher", "student"} <= set(projections):
    return {}
  sides = {name: projections[name] for name in ("teacher", "student")}
  if target not in sides["teacher"].columns:
    return {}
  values = np.asarray(sides["teacher"][target], np.float64)
  kept = np.flatnonzero(np.isfinite(values) & sides["teacher"].valid & sides["student"].valid)
  if len(kept) < 3:
    return {}
  rows = kept[np.unique(np.linspace(0, len(kept) - 1, ATLAS_POINTS).astype(int))]
  unit = {}
  for name, table in sides.items():
    vectors = table.embedding.astype(np.float64)
    unit[name] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
  centre = unit["teacher"][kept].mean(axis=0)
  _, spread, axes = np.linalg.svd(unit["teacher"][kept] - centre, full_matrices=False)
  placed = {name: (vectors - centre) @ axes[:2].T for name, vectors in unit.items()}
  return {
    "target": target,
    "values": np.round(values[rows], 2),
    **{name: np.round(points[rows], 4) for name, points in placed.items()},
    "explained": (spread[:2] ** 2 / np.sum(spread**2)).tolist(),
    "r": [
      float(np.corrcoef(placed["teacher"][kept, k], placed["student"][kept, k])[0, 1])
      for k in (0, 1)
    ],
  }
