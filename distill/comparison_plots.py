"""Figures of a benchmark, drawn from its summary alone. Readable in grey; every one has alt text.

Cells are told apart by marker, line style and position first and by colour second.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill import plots
from distill.comparison import on_set, set_names, subject, targets_of
from distill.plots import Plot, capital, marked, model_label, target_label
from distill.retrieval import ACC_TO_PPG
from distill.spec import TARGETS

OWN = "the cell's model"
# What stands in every figure, and its look; OWN is the subject of a cell, whatever it is.
MODELS: dict[str, dict[str, Any]] = {
  OWN: {"color": plots.ACCENT, "marker": "D", "linestyle": "-", "zorder": 5},
  "supervised": {"color": plots.INK, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
  "untrained": {"color": plots.INK, "marker": "o", "linestyle": "-.", "markerfacecolor": "white"},
  "motion_features": {
    "color": plots.MID, "marker": "^", "linestyle": ":", "markerfacecolor": "white",
  },
  "mean": {"color": plots.MID, "marker": "x", "linestyle": (0, (1, 3))},
  "teacher": {"color": plots.MID, "marker": "*", "linestyle": (0, (6, 2, 1, 2)), "markersize": 9},
}  # fmt: skip
_CELL_MARKERS = "vP<>dXhp"  # none of MODELS
_CELL_LINES = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))


def draw(summary: Mapping[str, Any]) -> list[Plot]:
  """All figures of a benchmark; what there are no numbers for is not drawn.

  Args:
    summary: as `distill.comparison.summarise` returns it.
  """
  drawn: list[Plot] = []
  with style.context(["default", plots.STYLE]):
    for name in set_names(summary):
      drawn += _set_plots(summary, name)
    drawn += _learning(summary)
  return drawn


def _drawn(summary: Mapping[str, Any], set_name: str) -> list[str]:
  """The targets that stand side by side in a figure: the main ones where there are any."""
  targets = targets_of(summary, set_name)
  return [target for target in targets if target in TARGETS] or targets


def _set_plots(summary: Mapping[str, Any], set_name: str) -> Iterator[Plot]:
  cells = on_set(summary, set_name)
  mark = marked(set_name, next(iter(cells.values()))["simulated"])
  for target in targets_of(summary, set_name):
    yield _errors(summary, set_name, mark, target)
  if any(one["retrieval"] for one in cells.values()):
    yield _retrieval(summary, set_name, mark)
  for curve in summary["curves"]:
    if any(point["cell"] in cells for points in curve["lines"].values() for point in points):
      yield _curve(summary, curve, set_name, mark)
  if any(one.get("by_share") for one in cells.values()):
    yield _label_efficiency(summary, set_name, mark)
  shown = cells.get(summary["reference"])
  if shown:
    for target, scatter in shown["scatter"].items():
      if scatter:
        yield plots.agreement(set_name, mark, target, scatter, shown["probes"][target])
  if set_name in summary["atlas"]:
    yield _atlas(summary["atlas"][set_name], set_name, mark, summary["reference"])


# --- errors by cell -------------------------------------------------------------------------------


def _errors(summary: Mapping[str, Any], set_name: str, mark: str, target: str) -> Plot:
  label, unit = target_label(target)
  cells = on_set(summary, set_name)
  tables = {n: _shown(one["probes"][target]) for n, one in cells.items() if target in one["probes"]}
  figure = Figure(figsize=(8.4, 0.42 * len(tables) + 1.9), layout="constrained")
  axes = figure.subplots()
  for model in MODELS:
    for place, table in enumerate(tables.values()):
      if model in table:
        named = _label(model) in axes.get_legend_handles_labels()[1]
        _point(axes, place, model, table[model]["mae"], label=None if named else _label(model))
  axes.set_yticks(range(len(tables)), list(tables))
  for text, name in zip(axes.get_yticklabels(), tables):
    text.set_fontweight("bold" if name == summary["reference"] else "normal")
  axes.set_ylim(len(tables) - 0.5, -0.5)
  axes.set_xlim(left=0)
  axes.margins(x=0.06)
  axes.tick_params(axis="y", length=0)
  axes.grid()
  axes.set_xlabel(f"mean absolute error, {unit} (95 % interval over participants)")
  figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
  plots.headed(figure, f"{capital(label)} error by cell, {mark}")
  told = "; ".join(
    f"{name}: "
    + ", ".join(f"{_label(m)} {plots.with_interval(row['mae'])}" for m, row in table.items())
    for name, table in tables.items()
  )
  alt = f"Mean absolute error of {label} in {unit} by cell of the benchmark, {mark}. {told}."
  title = f"{capital(label)} error by cell"
  return plots.finished(figure, f"{set_name}_{target}_cells", set_name, title, alt)


def _shown(table: Mapping[str, Any]) -> dict[str, Any]:
  """The rows of MODELS, the subject as OWN."""
  own = subject(table)
  return {OWN: table[own], **{m: table[m] for m in MODELS if m in table and m != own}}


def _label(model: str) -> str:
  return model if model == OWN else model_label(model)


def _point(axes: Axes, place: int, model: str, mae: Mapping[str, Any], label: str | None) -> None:
  look = {"markersize": 7, **MODELS[model], "linestyle": "none"}
  if model == OWN:
    lo, hi = plots.ends(mae, mae["value"])
    axes.plot([lo, hi], [place, place], color=plots.ACCENT, linewidth=3, zorder=1.5)
  axes.plot(mae["value"], place, **look, label=label)


# --- retrieval by cell ----------------------------------------------------------------------------


def _looks(summary: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """A marker and a line style for each cell; the reference is solid and coloured."""
  looks: dict[str, dict[str, Any]] = {}
  others = [name for name in names if name != summary["reference"]]
  for k, name in enumerate(others):
    looks[name] = {
      "color": (plots.INK, plots.MID)[k % 2],
      "marker": _CELL_MARKERS[k % len(_CELL_MARKERS)],
      "linestyle": _CELL_LINES[k % len(_CELL_LINES)],
      "markerfacecolor": "white",
      "linewidth": 1.2,
      "markersize": 6,
    }
  looks[summary["reference"]] = {"color": plots.ACCENT, "marker": "D", "linestyle": "-"}
  return looks


def _retrieval(summary: Mapping[str, Any], set_name: str, mark: str) -> Plot:
  cells = {name: one for name, one in on_set(summary, set_name).items() if one["retrieval"]}
  looks = _looks(summary, list(cells))
  figure = Figure(figsize=(11, max(4.6, 0.32 * len(cells) + 3.0)), layout="constrained")
  left, right = figure.subplots(1, 2)
  sizes: set[int] = set()
  for name, one in cells.items():
    rows = one["retrieval"][ACC_TO_PPG]
    sizes |= {round(row["gallery"]) for row in rows}
    left.plot([r["gallery"] for r in rows], [r["top1"] for r in rows], label=name, **looks[name])
  span = np.geomspace(max(min(sizes), 1), max(max(sizes), 2), 100)
  left.plot(span, 1 / span, color=plots.INK, linestyle=":", label="chance, 1 / gallery")
  plots.log_ticks(left, sorted(sizes))
  plots.share_axis(left)
  left.set_xlabel("candidates in the gallery, windows (log scale)")
  left.set_ylabel("top-1, acceleration to PPG")
  left.set_title("By gallery size")
  left.grid(axis="y")
  _controls(right, summary, cells)
  figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
  plots.headed(figure, f"Cross-modal retrieval by cell, {mark}")
  told = "; ".join(
    f"{name} {plots.percent(one['retrieval'][ACC_TO_PPG][-1]['top1'])} of"
    f" {one['retrieval'][ACC_TO_PPG][-1]['gallery']:.0f}"
    + (f", same participant {plots.percent(same[0]['top1'])}" if (same := _same(one)) else "")
    for name, one in cells.items()
  )
  alt = f"Top-1 from acceleration to PPG by cell, {mark}, in the whole held-out set: {told}."
  return plots.finished(
    figure, f"{set_name}_retrieval_cells", set_name, "Retrieval by cell and gallery size", alt
  )


def _same(one: Mapping[str, Any]) -> list[dict[str, Any]]:
  return one["controls"].get("same_participant", {}).get(ACC_TO_PPG, [])


def _controls(axes: Axes, summary: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
  """Same-participant top-1 of every cell, with its interval and its chance."""
  named = False
  for place, one in enumerate(cells.values()):
    rows = _same(one)
    if not rows:
      continue
    row = rows[0]
    axes.plot(plots.ends(row, row["top1"]), [place, place], color=plots.ACCENT, linewidth=3)
    label = None if named else "top-1"
    axes.plot(row["top1"], place, "D", color=plots.ACCENT, markersize=7, label=label)
    label = None if named else "chance"
    axes.plot(row["chance_top1"], place, "|", color=plots.INK, markersize=14, label=label)
    named = True
  axes.set_yticks(range(len(cells)), list(cells))
  for text, name in zip(axes.get_yticklabels(), cells):
    text.set_fontweight("bold" if name == summary["reference"] else "normal")
  axes.set_ylim(len(cells) - 0.5, -0.5)
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter(plots.PercentFormatter(1.0))
  axes.set_xlabel("top-1 among the same participant's windows (95 % interval)")
  axes.set_title("Same participant")
  axes.grid(axis="x")
  axes.legend(loc="best")


# --- along an axis --------------------------------------------------------------------------------


def _curve(summary: Mapping[str, Any], curve: Mapping[str, Any], set_name: str, mark: str) -> Plot:
  cells = on_set(summary, set_name)
  targets = _drawn(summary, set_name)
  lines = {
    name: [point for point in points if point["cell"] in cells]
    for name, points in curve["lines"].items()
  }
  figure = Figure(
    figsize=(3.3 * (len(targets) + 1) + 0.4, 2.7 * len(lines) + 1.2), layout="constrained"
  )
  panels = figure.subplots(len(lines), len(targets) + 1, squeeze=False, sharex=True, sharey="col")
  told = []
  for row, (line, points) in enumerate(lines.items()):
    for column, target in enumerate(targets):
      label, unit = target_label(target)
      _error_lines(panels[row][column], cells, points, target)
      panels[row][column].set_ylabel(f"{line}\nMAE, {unit}" if column == 0 else f"MAE, {unit}")
      panels[0][column].set_title(capital(label))
    _top1_lines(panels[row][-1], cells, points)
    panels[0][-1].set_title("Top-1, whole set")
    told += [_told(line, cells, point, targets) for point in points]
  panels[-1][len(targets) // 2].set_xlabel(curve["label"])
  values = sorted({point["x"] for points in lines.values() for point in points})
  if curve["log"]:
    plots.log_ticks(panels[0][0], values)
  elif len(values) <= 7:
    panels[0][0].set_xticks(values, [f"{value:g}" for value in values])
  handles: dict[str, Any] = {}
  for axes in panels[0]:
    handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
  figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
  plots.headed(figure, f"By {curve['label']}, {mark}")
  alt = f"Errors and top-1 by {curve['label']}, {mark}. {'; '.join(told)}."
  return plots.finished(
    figure, f"{set_name}_curve_{curve['name']}", set_name, f"By {curve['label']}", alt
  )


def _told(line: str, cells: Mapping[str, Any], point: Mapping[str, Any], targets) -> str:
  one = cells[point["cell"]]
  values = [
    f"{target_label(t)[0]} {plots.with_interval(_shown(one['probes'][t])[OWN]['mae'])}"
    for t in targets
    if t in one["probes"]
  ]
  if one["retrieval"]:
    values.append(f"top-1 {plots.percent(one['retrieval'][ACC_TO_PPG][-1]['top1'])}")
  return f"{line} at {point['x']:g}: {', '.join(values)}"


def _error_lines(axes: Axes, cells: Mapping[str, Any], points, target: str) -> None:
  tables = [
    (point["x"], _shown(cells[point["cell"]]["probes"][target]))
    for point in points
    if target in cells[point["cell"]]["probes"]
  ]
  for model, look in MODELS.items():
    rows = [(x, table[model]["mae"]) for x, table in tables if model in table]
    if rows:
      _line(axes, rows, _label(model), look, band=model == OWN)
  axes.set_ylim(bottom=0)
  axes.grid(axis="y")


def _top1_lines(axes: Axes, cells: Mapping[str, Any], points) -> None:
  found = [(point["x"], cells[point["cell"]]) for point in points]
  rows = [(x, one["retrieval"][ACC_TO_PPG][-1]) for x, one in found if one["retrieval"]]
  if rows:
    x = [x for x, _ in rows]
    _band(axes, x, [plots.ends(row, row["top1"]) for _, row in rows])
    axes.plot(x, [row["top1"] for _, row in rows], label=OWN, markersize=5, **MODELS[OWN])
    axes.plot(x, [row["chance_top1"] for _, row in rows], ":", color=plots.INK, label="chance")
  plots.share_axis(axes)
  axes.grid(axis="y")


def _line(axes: Axes, rows: Sequence[tuple[float, Any]], label: str, look, *, band: bool) -> None:
  """MAE along x, with the interval as a band."""
  x = [x for x, _ in rows]
  if band:
    _band(axes, x, [plots.ends(mae, mae["value"]) for _, mae in rows])
  axes.plot(x, [mae["value"] for _, mae in rows], label=label, **{"markersize": 5, **look})


def _band(axes: Axes, x: Sequence[float], ends: Sequence[tuple[float, float]]) -> None:
  lo, hi = zip(*ends)
  axes.fill_between(x, lo, hi, color=plots.ACCENT, alpha=0.15, linewidth=0)


# --- label efficiency -----------------------------------------------------------------------------


def _label_efficiency(summary: Mapping[str, Any], set_name: str, mark: str) -> Plot:
  """MAE by share of the training people whose labels are used, a line for each cell's model."""
  cells = {name: one for name, one in on_set(summary, set_name).items() if one.get("by_share")}
  targets = _drawn(summary, set_name)
  looks = _looks(summary, list(cells))
  width = max(3.6 * len(targets) + 0.4, 7.6)
  figure = Figure(figsize=(width, 4.4), layout="constrained")
  panels = figure.subplots(1, len(targets), squeeze=False, sharex=True)[0]
  told = []
  for axes, target in zip(panels, targets):
    label, unit = target_label(target)
    for name, one in cells.items():
      shares = {**one["by_share"], "100": one}
      known = {float(s): part["probes"] for s, part in shares.items() if target in part["probes"]}
      rows = [(share, _shown(known[share][target])) for share in sorted(known)]
      own = [(share, table[OWN]["mae"]) for share, table in rows]
      _line(axes, own, name, looks[name], band=name == summary["reference"])
      told += [f"{name}, {label} at {s:g} % {plots.with_interval(mae)}" for s, mae in own]
      if name == summary["reference"]:
        for model in ("supervised", "untrained"):
          some = [(share, table[model]["mae"]) for share, table in rows if model in table]
          _line(axes, some, f"{_label(model)} ({name})", MODELS[model], band=False)
    axes.set_title(capital(label))
    axes.set_ylabel(f"MAE, {unit}")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
  shares_of = {float(share) for one in cells.values() for share in one["by_share"]}
  plots.log_ticks(panels[0], sorted(shares_of | {100.0}))
  panels[len(targets) // 2].set_xlabel("labelled training people, % (log scale)")
  figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
  plots.headed(figure, f"Label efficiency, {mark}")
  alt = f"Mean absolute error by share of labelled training people, {mark}: {'; '.join(told)}."
  return plots.finished(figure, f"{set_name}_labels", set_name, "Label efficiency", alt)


# --- where the embeddings lie ---------------------------------------------------------------------


def _atlas(atlas: Mapping[str, Any], set_name: str, mark: str, cell: str) -> Plot:
  label, unit = target_label(atlas["target"])
  figure = Figure(figsize=(10, 4.6), layout="constrained")
  panels = figure.subplots(1, 2, sharex=True, sharey=True)
  values = np.array(atlas["values"], float)
  for axes, (side, name) in zip(
    panels, (("teacher", "PPG, teacher"), ("student", "Acceleration, distilled student"))
  ):
    points = np.array(atlas[side])
    drawn = axes.scatter(
      *points.T, c=values, cmap="cividis", s=16, edgecolors=plots.MID, linewidths=0.3,
      rasterized=True,
    )  # fmt: skip
    axes.set_title(name)
    axes.set_xlabel(f"first axis ({100 * atlas['explained'][0]:.0f} % of the teacher's spread)")
  panels[0].set_ylabel(f"second axis ({100 * atlas['explained'][1]:.0f} %)")
  figure.colorbar(drawn, ax=panels, label=f"true {label}, {unit} (dark is low)")
  plots.headed(figure, f"Projections on the teacher's first two principal axes, {mark}, {cell}")
  alt = (
    f"Two maps of the same {len(values)} held-out windows of {mark}, cell {cell}, on the first two"
    f" principal axes of the teacher's projections, shaded by {label}. Correlation between both"
    f" maps: first axis {atlas['r'][0]:.2f}, second {atlas['r'][1]:.2f}."
  )
  return plots.finished(figure, f"{set_name}_atlas", set_name, "Embedding map", alt)


# --- learning curves ------------------------------------------------------------------------------


def _learning(summary: Mapping[str, Any]) -> Iterator[Plot]:
  losses = {name: cell["losses"] for name, cell in summary["cells"].items() if cell["losses"]}
  if not losses:
    return
  looks = _looks(summary, list(losses))
  figure = Figure(figsize=(8.4, 4.6), layout="constrained")
  axes = figure.subplots()
  for name, points in losses.items():
    axes.plot(*zip(*points), label=name, **looks[name])
  axes.set_xlabel("step")
  axes.set_ylabel("validation loss of the cell's model, each its own")
  axes.grid(axis="y")
  figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
  plots.headed(
    figure, "Learning curves, first seed and fold: different losses have different scales"
  )
  told = "; ".join(
    f"{name} {points[0][1]:.3g} to {min(value for _, value in points):.3g} at best"
    for name, points in losses.items()
  )
  alt = f"Validation loss by step, one line a cell: {told}."
  yield plots.finished(figure, "learning_cells", "", "Learning curves by cell", alt)
