"""Figures of `distill layers`: what each layer tells of a class, and from how few people's labels.

Like those of the report they are drawn from numbers alone, readable in grey, and have alt text.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.plots import ACCENT, INK, MID, STYLE, Plot, ends, finished, headed

Rows = Sequence[Mapping[str, Any]]
# All of the training people, and the shares below, from the largest on.
LOOKS = ((ACCENT, "o", "-"), (INK, "s", "--"), (MID, "^", "-."), (MID, "v", ":"))


def draw(task: str, rows: Rows) -> Plot:
  """AUC by layer, a panel for each encoder, a line for each share of the training people.

  What has one layer alone, such as hand-made features, is a level line in every panel, at what it
  reaches with all people's labels.

  Args:
    task: SET/COLUMN.
    rows: as `distill.layer_probe.run` gives them for the task.
  """
  by_encoder: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    by_encoder.setdefault(row["encoder"], []).append(row)
  deep = {name: some for name, some in by_encoder.items() if len(_layers(some)) > 1}
  flat = {name: some for name, some in by_encoder.items() if name not in deep}
  widths = [2 + len(_layers(some)) for some in deep.values()]
  with style.context(["default", STYLE]):
    figure = Figure(figsize=(0.32 * sum(widths) + 1.5, 4.6), layout="constrained")
    panels = figure.subplots(1, len(deep), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axes, (name, some) in zip(panels, deep.items(), strict=True):
      _panel(axes, name, some, flat)
    panels[0].set_ylabel("AUC, mean over participants")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    first = rows[0]
    headed(
      figure, f"{task} by layer: {first['n_participants']} people, {first['n_windows']} windows"
    )
    alt = f"AUC of {task} by layer. " + "; ".join(_told(name, some) for name, some in deep.items())
    alt += "".join(f"; {name} {_auc(_best(some)):.2f}" for name, some in flat.items()) + "."
    return finished(figure, f"layers_{task.replace('/', '_')}", "", f"{task} by layer", alt)


def _layers(rows: Rows) -> list[str]:
  return list(dict.fromkeys(row["layer"] for row in rows))


def _shares(rows: Rows) -> list[float]:
  return sorted({row["share"] for row in rows}, reverse=True)


def _auc(row: Mapping[str, Any]) -> float:
  value = row["auc"]["value"]
  return float("nan") if value is None else float(value)


def _best(rows: Rows) -> Mapping[str, Any]:
  """Of the rows with all people's labels."""
  whole = [row for row in rows if row["share"] == 1.0]
  return max(whole, key=lambda row: np.nan_to_num(_auc(row)))


def _told(name: str, rows: Rows) -> str:
  best = _best(rows)
  fewer = [row for row in rows if row["layer"] == best["layer"] and row["share"] < 1.0]
  parts = [f"{_auc(row):.2f} with {100 * row['share']:g} % of the people" for row in fewer]
  return ", ".join([f"{name} is best at {best['layer']} with {_auc(best):.2f}", *parts])


def _panel(axes: Axes, name: str, rows: Rows, flat: Mapping[str, Rows]) -> None:
  layers = _layers(rows)
  places = np.arange(len(layers))
  for (color, marker, line), share in zip(itertools.cycle(LOOKS), _shares(rows), strict=False):
    of = {row["layer"]: row for row in rows if row["share"] == share}
    axes.plot(
      places,
      [_auc(of[layer]) for layer in layers],
      color=color,
      marker=marker,
      linestyle=line,
      markersize=4,
      label=f"labels of {100 * share:g} % of the training people",
    )
    if share == 1.0:
      limits = np.array([ends(of[layer]["auc"], _auc(of[layer])) for layer in layers])
      axes.fill_between(places, *limits.T, color=color, alpha=0.15, linewidth=0)
  lines = itertools.cycle((":", "--", "-", "-."))
  for dashes, (label, some) in zip(lines, flat.items(), strict=False):
    axes.axhline(_auc(_best(some)), color=MID, linestyle=dashes, linewidth=1, label=label)
  axes.set_title(name, fontsize=9)
  axes.set_xticks(places, layers, rotation=90, fontsize=8)
  axes.grid(axis="y")
