"""Runs side by side: from the reports of a grid's cells to one summary of numbers.

A cell is one config under several seeds. Its reports are averaged over seeds, person by person, and
intervals are taken over participants; two cells that were judged on the same people are compared
person by person. Nothing here trains, judges or draws: input are report.json dictionaries.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import plots, report, statistics
from distill.errors import DistillError, nearest
from distill.retrieval import ACC_TO_PPG

# Rows that see the PPG or the true labels: what no cell is about.
REFERENCES = ("teacher", "ppg_signal_processing", "own_mean")
# Parts of a config's data section that say who is tested.
COHORT = (
  *("sets", "source", "splits"),
  *("simulated.participants", "simulated.seed", "simulated.first"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One row of a benchmark.

  Attributes:
    name: of its work folder and its row.
    config: config file, or FILE:VARIANT.
    overrides: "key=value", such as "data.simulated.amplitude=0.5".
  """

  name: str
  config: str
  overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Curve:
  """Cells along an axis.

  Attributes:
    name: of its figure.
    x: dotted key of the cells' configs, or one of FACTS.
    label: of the axis, with its unit.
    lines: what a panel is about -> its cells.
    log: the axis is logarithmic.
  """

  name: str
  x: str
  label: str
  lines: Mapping[str, tuple[str, ...]]
  log: bool = False


# What is counted in a cell's first fold.
FACTS = ("train_people", "train_minutes", "student_parameters", "teacher_parameters")


@dataclasses.dataclass(frozen=True)
class Grid:
  """What a benchmark runs and compares.

  Attributes:
    name: of the grid.
    cells: in the order of the tables.
    seeds: every cell is run under each.
    reference: the cell that the others are compared with, and that is shown closely.
    curves: figures along an axis.
    trials: factors on the learning rate of every cell's model, the same for all cells. They are
      tried under the first seed; the one with the smallest error on validation people is run under
      the others and shown.

  Raises:
    DistillError: no cell, seed or trial, a name that is used twice or that no cell has.
  """

  name: str
  cells: tuple[Cell, ...]
  seeds: tuple[int, ...]
  reference: str
  curves: tuple[Curve, ...] = ()
  trials: tuple[float, ...] = (1.0,)

  def __post_init__(self):
    names = [cell.name for cell in self.cells]
    if not names or not self.seeds:
      raise DistillError(f"benchmark {self.name!r} needs at least one cell and one seed")
    if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
      raise DistillError(f"benchmark seeds are {self.seeds}; expected different whole numbers")
    if len(set(self.trials)) < max(1, len(self.trials)) or not all(x > 0 for x in self.trials):
      raise DistillError(
        f"benchmark trials are {self.trials}; expected different factors above 0 on the learning"
        " rate, such as (0.5, 1.0, 2.0)"
      )
    for name in names:
      if names.count(name) > 1:
        raise DistillError(f"benchmark {self.name!r} has two cells named {name!r}")
      if not name or not set(name) <= set("-_.") | set(map(chr, range(48, 58))) | _LETTERS:
        raise DistillError(f"cell name {name!r}; expected letters, digits and -_. alone")
    meant = {self.reference: "reference"}
    for curve in self.curves:
      meant |= {one: f"curve {curve.name}" for some in curve.lines.values() for one in some}
    for name, where in meant.items():
      if name not in names:
        raise DistillError(f"{where} names no cell {name!r}{nearest(name, names)}")

  def only(self, names: Sequence[str]) -> "Grid":
    """The same grid of some of its cells alone, the reference among them; see `__post_init__`.

    Raises:
      DistillError: a name that no cell has, or the reference left out.
    """
    known = [cell.name for cell in self.cells]
    for name in names:
      if name not in known:
        raise DistillError(f"benchmark {self.name!r} has no cell {name!r}{nearest(name, known)}")
    curves = []
    for curve in self.curves:
      lines = {about: tuple(n for n in some if n in names) for about, some in curve.lines.items()}
      lines = {about: some for about, some in lines.items() if some}
      curves += [dataclasses.replace(curve, lines=lines)] if lines else []
    cells = tuple(cell for cell in self.cells if cell.name in names)
    return dataclasses.replace(self, cells=cells, curves=tuple(curves))


_LETTERS = {chr(base + k) for base in (65, 97) for k in range(26)}


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished cell under one seed.

  Attributes:
    report: its report.json.
    facts: FACTS of its first fold; None where there is no such thing.
    losses: [steps, 2] step and validation loss of its subject's training, first fold.
    atlas: see `distill.benchmark.atlas`; empty if not made.
    trials: factor on the learning rate -> error on validation people, of those that were tried
      under this seed.
    trial: the factor that was chosen.
  """

  report: Mapping[str, Any]
  facts: Mapping[str, float | None]
  losses: Sequence[Sequence[float]] = ()
  atlas: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trials: Mapping[float, float] = dataclasses.field(default_factory=dict)
  trial: float = 1.0


def summarise(
  grid: Grid, results: Mapping[str, Mapping[int, Result]], failed: Mapping[str, str]
) -> dict[str, Any]:
  """Everything that tables and figures show, as plain JSON values.

  Args:
    grid: what was asked.
    results: cell -> seed -> what came out; cells that never finished are left out.
    failed: "<cell>-seed<k>" -> why.

  Returns:
    name, seeds, reference, simulated, failed, versions; cells: name -> {overrides, seeds, facts,
    seconds, losses, trials, trial, sets: set -> part of a report averaged over seeds, with
    `differences` of the cell's `subject` from each other model, seed_sd: set -> {target or "top1":
    SD over seeds of the subject's}}; differences: set -> cell -> {target or "top1": {mae: {value,
    lo, hi}, relative, n_participants}}, cell minus reference, paired by participant; curves: with
    x of every cell; atlas: of the reference.
  """
  cells = {one.name: _cell(one, results[one.name]) for one in grid.cells if results.get(one.name)}
  configs = {name: next(iter(results[name].values())).report["config"] for name in cells}
  first = [result for some in results.values() for result in some.values()][:1]
  atlas = next((r.atlas for r in results.get(grid.reference, {}).values() if r.atlas), {})
  return report.plain(
    {
      "name": grid.name,
      "seeds": grid.seeds,
      "reference": grid.reference,
      "simulated": any(
        one["simulated"] for cell in cells.values() for one in cell["sets"].values()
      ),
      "cells": cells,
      "differences": _differences(grid.reference, cells, configs),
      "curves": [_curve(curve, cells, configs) for curve in grid.curves],
      "atlas": atlas,
      "failed": failed,
      "versions": first[0].report["versions"] if first else {},
    }
  )


# --- one cell under several seeds -----------------------------------------------------------------


def _cell(cell: Cell, results: Mapping[int, Result]) -> dict[str, Any]:
  first = next(iter(results.values()))
  sets = {}
  for name in first.report["sets"]:
    sets[name] = averaged([one.report["sets"][name] for one in results.values()])
  return {
    "overrides": cell.overrides,
    "seeds": list(results),
    "facts": first.facts,
    "seconds": sum(sum(one.report["timing"].values()) for one in results.values()),
    "losses": first.losses,
    "trials": first.trials,
    "trial": first.trial,
    "sets": sets,
    "seed_sd": {
      name: _seed_sd([one.report["sets"][name] for one in results.values()]) for name in sets
    },
  }


def averaged(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """One set's part of the reports of several seeds, averaged.

  Every number is the mean over seeds. MAE and differences have 95 % t intervals over participants
  of the participants' means over seeds; the ends of other intervals are averaged, which is never
  narrower. Points of scatter plots are those of the first seed.

  Args:
    seeds: the same set of reports that differ in nothing but their seed.
  """
  found = _mean([{k: v for k, v in one.items() if k != "scatter"} for one in seeds])
  found["scatter"] = seeds[0]["scatter"]
  for part in (found, *found.get("by_share", {}).values()):
    for target, table in part["people"]["mae"].items():
      errors = {model: _array(values) for model, values in table.items()}
      for model, values in errors.items():
        part["probes"][target][model]["mae"] = statistics.t_interval(values).to_json()
      own = subject(table)
      part["differences"][target] = {
        model: _paired(errors[own], values) for model, values in errors.items() if model != own
      }
  return found


def subject(table: Mapping[str, Any]) -> str:
  """The row that a cell is about: the distilled student, else the first that sees no PPG."""
  return next(model for model in plots.ordered(table) if model not in REFERENCES)


def _mean(values: Sequence[Any]) -> Any:
  """Leaf by leaf; what is no number is that of the first, or all of them where they differ."""
  first = values[0]
  if isinstance(first, Mapping):
    keys = [key for key in first if all(key in one for one in values)]
    return {key: _mean([one[key] for one in values]) for key in keys}
  if isinstance(first, list) and all(len(one) == len(first) for one in values):
    return [_mean(some) for some in zip(*values)]
  if all(one == first for one in values):
    return first
  if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
    return float(np.mean(values))
  if any(one is None for one in values):
    return None
  return "+".join(sorted(set(map(str, values))))


def _array(values: Sequence[float | None]) -> np.ndarray:
  return np.array([np.nan if one is None else one for one in values], np.float64)


def _paired(values: np.ndarray, others: np.ndarray) -> dict[str, Any]:
  """Mean of values - others over participants who have both."""
  both = np.isfinite(values) & np.isfinite(others)
  interval = statistics.t_interval((values - others)[both])
  base = float(others[both].mean()) if both.any() else np.nan
  relative = interval.value / base if base > 0 else np.nan
  return {"mae": interval.to_json(), "relative": relative, "n_participants": interval.n}


def _seed_sd(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """SD over seeds of the subject's MAE and of top-1; NaN of a single one."""
  values = {
    target: [one["probes"][target][subject(table)]["mae"]["value"] for one in seeds]
    for target, table in seeds[0]["probes"].items()
  }
  if seeds[0]["retrieval"]:
    values["top1"] = [one["retrieval"][ACC_TO_PPG][-1]["top1"] for one in seeds]
  return {k: float(np.std(v, ddof=1)) if len(v) > 1 else np.nan for k, v in values.items()}


# --- cells against each other ---------------------------------------------------------------------


def _differences(
  reference: str, cells: Mapping[str, Any], configs: Mapping[str, Any]
) -> dict[str, Any]:
  """Set -> cell -> measure -> the cell's subject minus that of the reference."""
  found: dict[str, Any] = {}
  if reference not in cells:
    return found
  for name, cell in cells.items():
    if name == reference or not same_people(configs[name], configs[reference]):
      continue
    for set_name in sorted(set(cell["sets"]) & set(cells[reference]["sets"])):
      pair = cell["sets"][set_name], cells[reference]["sets"][set_name]
      found.setdefault(set_name, {})[name] = between(*pair)
  return found


def same_people(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Whether two configs hold out the same people."""

  def cohort(config: Mapping[str, Any]) -> list[Any]:
    return [config["folds"], *(_value(config["data"], key) for key in COHORT)]

  return cohort(one) == cohort(other)


def _value(config: Any, key: str) -> Any:
  """The value of a dotted key; None where there is no such key."""
  for word in key.split("."):
    config = config.get(word) if isinstance(config, Mapping) else None
  return config


def between(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
  """The subjects of two cells on one set, paired by participant; negative MAE: `one` is better.

  Args:
    one: a set's part of a report, averaged or not.
    other: the same of another cell that was judged on the same people.

  Returns:
    target, and "top1" where both searched galleries of one size -> {mae: {value, lo, hi}, relative,
    n_participants}; participants that only one of them has are left out.
  """
  names = sorted(set(one["people"]["participant"]) & set(other["people"]["participant"]))

  def picked(part: Mapping[str, Any], values: Sequence[float | None]) -> np.ndarray:
    place = {name: k for k, name in enumerate(part["people"]["participant"])}
    return _array(values)[[place[name] for name in names]]

  found = {}
  for target, table in one["people"]["mae"].items():
    against = other["people"]["mae"].get(target)
    if against is not None:
      found[target] = _paired(
        picked(one, table[subject(table)]), picked(other, against[subject(against)])
      )
  parts = [part for part in (one, other) if "top1" in part["people"] and part["retrieval"]]
  if len(parts) == 2 and len({part["retrieval"][ACC_TO_PPG][-1]["gallery"] for part in parts}) == 1:
    found["top1"] = _paired(*(picked(part, part["people"]["top1"]) for part in parts))
  return found


def _curve(curve: Curve, cells: Mapping[str, Any], configs: Mapping[str, Any]) -> dict[str, Any]:
  lines: dict[str, list[dict[str, Any]]] = {}
  for line, names in curve.lines.items():
    points = [{"cell": name, "x": _x(curve, cells[name], configs[name])} for name in names
              if name in cells]  # fmt: skip
    lines[line] = sorted(points, key=lambda point: point["x"])
  return {**dataclasses.asdict(curve), "lines": lines}


def _x(curve: Curve, cell: Mapping[str, Any], config: Mapping[str, Any]) -> float:
  value = cell["facts"].get(curve.x) if curve.x in FACTS else _value(config, curve.x)
  if not isinstance(value, int | float):
    raise DistillError(
      f"curve {curve.name}: {curve.x} is {value!r} in a cell; expected a dotted key of its config"
      f" that holds a number, or one of: {', '.join(FACTS)}"
    )
  return value


# --- reading a summary ----------------------------------------------------------------------------


def set_names(summary: Mapping[str, Any]) -> list[str]:
  """The sets of all cells, in the order of their first cell."""
  return list(dict.fromkeys(name for cell in summary["cells"].values() for name in cell["sets"]))


def on_set(summary: Mapping[str, Any], set_name: str) -> dict[str, Any]:
  """Cell -> its part of the report on one set."""
  return {
    name: cell["sets"][set_name]
    for name, cell in summary["cells"].items()
    if set_name in cell["sets"]
  }


def targets_of(summary: Mapping[str, Any], set_name: str) -> list[str]:
  """The targets that any cell was probed for on one set."""
  return list(dict.fromkeys(t for one in on_set(summary, set_name).values() for t in one["probes"]))
