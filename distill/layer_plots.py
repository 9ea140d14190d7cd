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
from matplotlib.ticker import NullLocator

from distill.plots import ACCENT, INK, MID, STYLE, Plot, ends, finished, headed

Rows = Sequence[Mapping[str, Any]]
# All of the training people, and the shares below, from the largest on.
LOOKS = ((ACCENT, "o", "-"), (INK, "s", "--"), (MID, "^", "-."), (MID, "v", ":"))
# Of layers from the signal upwards, the last look for the last one: colour, marker, line, filling.
CURVE_LOOKS = (
  (MID, "v", ":", "white"),
  (INK, "s", "--", "white"),
  (MID, "^", "-.", None),
  (INK, "D", ":", None),
  (ACCENT, "o", "-", None),
)
LEVEL_LINES = (":", "--", "-", "-.")  # of what has one layer alone


def draw(task: str, rows: Rows) -> list[Plot]:
  """What there is to draw of a task: by layer, and by people where there are several numbers.

  Args:
    task: SET/COLUMN.
    rows: as `distill.layer_probe.run` gives them for the task.
  """
  drawn = [by_layer(task, rows)]
  return [*drawn, by_people(task, rows)] if len(_shares(rows)) > 1 else drawn


def _deep_and_flat(rows: Rows) -> tuple[dict[str, Rows], dict[str, Rows]]:
  """Rows by encoder: of those with several layers, and of those with one alone."""
  by_encoder: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    by_encoder.setdefault(row["encoder"], []).append(row)
  deep: dict[str, Rows] = {n: some for n, some in by_encoder.items() if len(_layers(some)) > 1}
  flat: dict[str, Rows] = {n: some for n, some in by_encoder.items() if n not in deep}
  return deep, flat


# --- by layer -------------------------------------------------------------------------------------


def by_layer(task: str, rows: Rows) -> Plot:
  """AUC by layer, a panel for each encoder, a line for each share of the training people.

  What has one layer alone, such as hand-made features, is a level line in every panel, at what it
  reaches with all people's labels. See `draw` for the arguments.
  """
  deep, flat = _deep_and_flat(rows)
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
  for dashes, (label, some) in zip(itertools.cycle(LEVEL_LINES), flat.items(), strict=False):
    axes.axhline(_auc(_best(some)), color=MID, linestyle=dashes, linewidth=1, label=label)
  axes.set_title(name, fontsize=9)
  axes.set_xticks(places, layers, rotation=90, fontsize=8)
  axes.grid(axis="y")


# --- by people ------------------------------------------------------------------------------------


def by_people(task: str, rows: Rows) -> Plot:
  """AUC by the number of labelled training people, a panel for each encoder, a line a layer.

  Encoders of one layer have the last panel, and stand in the others as thin lines without bars. See
  `draw` for the arguments.
  """
  deep, flat = _deep_and_flat(rows)
  with style.context(["default", STYLE]):
    figure = Figure(figsize=(3.1 * (len(deep) + 1) + 0.4, 5.4), layout="constrained")
    panels = figure.subplots(1, len(deep) + 1, squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, some) in zip(panels, deep.items(), strict=False):
      curves = {layer: _curve(some, layer) for layer in telling(_layers(some))}
      _curves(axes, name, curves, {label: _curve(one) for label, one in flat.items()})
    _curves(
      panels[-1],
      "one layer alone: thin lines beside",
      {label: _curve(one) for label, one in flat.items()},
      {},
    )
    panels[0].set_ylabel("AUC, mean over participants")
    figure.supxlabel(
      "training people with labels, logarithmic; bars: 95 % over participants held out", fontsize=10
    )
    first = rows[0]
    held = f"{first['n_participants']} people held out, {first['n_windows']} windows"
    headed(figure, f"{task} from few people's labels: {held}")
    return finished(
      figure,
      f"layers_{task.replace('/', '_')}_people",
      "",
      f"{task} by labelled people",
      _told_by_people(task, deep, flat),
    )


def telling(layers: Sequence[str]) -> list[str]:
  """A few layers that stand for all, from the signal upwards, whatever they score.

  The first, the second, the last convolution, the last hidden state or block, and the embedding.
  """
  picked = {*layers[:2], layers[-1]}
  for kind in ("conv", "hidden", "block"):
    picked.update([layer for layer in layers if layer.startswith(kind)][-1:])
  return [layer for layer in layers if layer in picked]


def _curve(rows: Rows, layer: str | None = None) -> list[Mapping[str, Any]]:
  """Rows of a layer, from the fewest people on."""
  own = [row for row in rows if layer is None or row["layer"] == layer]
  return sorted(own, key=_people)


def _people(row: Mapping[str, Any]) -> float:
  """Training people with labels, mean over folds."""
  return float(np.mean(row["labelled"]))


def _curves(axes: Axes, name: str, curves: Mapping[str, Rows], beside: Mapping[str, Rows]) -> None:
  for dashes, rows in zip(itertools.cycle(LEVEL_LINES), beside.values(), strict=False):
    axes.plot(
      [_people(row) for row in rows],
      [_auc(row) for row in rows],
      color=MID,
      linestyle=dashes,
      linewidth=0.9,
    )
  for place, (label, rows) in enumerate(curves.items()):
    last = place == len(curves) - 1
    color, marker, dashes, fill = CURVE_LOOKS[-1 if last else place % (len(CURVE_LOOKS) - 1)]
    if not beside:  # their own panel: the lines that they have in the others
      color, dashes = MID, LEVEL_LINES[place % len(LEVEL_LINES)]
    people, values = np.array([_people(row) for row in rows]), [_auc(row) for row in rows]
    # Bars of one number of people stand side by side, whatever the axis spans.
    aside = (people.max() / people.min()) ** (0.016 * (place - (len(curves) - 1) / 2))
    limits = np.array([ends(row["auc"], _auc(row)) for row in rows])
    axes.vlines(people * aside, *limits.T, color=color, linewidth=1)
    axes.plot(people * aside, values, color=color, marker=marker, linestyle=dashes, markersize=5,
              markerfacecolor=fill or color, linewidth=1.3, label=label)  # fmt: skip
  axes.set_xscale("log")
  every = sorted({_people(row) for rows in curves.values() for row in rows})
  axes.set_xticks(every, [f"{people:.3g}" for people in every])
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_title(name, fontsize=9)
  axes.grid(axis="y")
  axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), fontsize=8, handlelength=3.5)


def _told_by_people(task: str, deep: Mapping[str, Rows], flat: Mapping[str, Rows]) -> str:
  named = [
    (f"{n}, {layer}", _curve(some, layer))
    for n, some in deep.items()
    for layer in telling(_layers(some))
  ]
  named += [(name, _curve(some)) for name, some in flat.items()]
  people = ", ".join(f"{_people(row):.3g}" for row in named[0][1])
  values = "; ".join(f"{n} " + ", ".join(f"{_auc(row):.2f}" for row in rows) for n, rows in named)
  return f"AUC of {task} with the labels of {people} training people. {values}."
