"""Figures of a report, drawn from its numbers alone. Readable in grey; every one has alt text.

Differences are carried by marker, line style and position first and by colour second. Nothing here
reads recordings or models: what is drawn stands in report.json or metrics.jsonl.
"""

import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from distill import numerals
from distill.retrieval import ACC_TO_PPG, PPG_TO_ACC

# Order of the rows of every table and figure: references, the student, its rivals, plain guesses.
MODEL_LABELS = {
  "teacher": "teacher (sees PPG)",
  "ppg_signal_processing": "PPG signal processing (sees PPG)",
  "student": "distilled student",
  "label_distillation": "label distillation",
  "masked": "masked student, acceleration alone",
  "contrastive": "contrastive student, acceleration alone",
  "self_supervised": "self-supervised student",
  "supervised": "supervised from scratch",
  "untrained": "untrained student",
  "acc_signal_processing": "accelerometer signal processing",
  "acc_jerk": "accelerometer jerk",
  "acc_curve": "accelerometer, traced curve",
  "motion_features": "motion features",
  "session_clock": "session clock",
  "mean": "mean of training people",
  "own_mean": "person's own mean (oracle)",
}
TARGET_LABELS = {
  "hr_bpm": ("heart rate", "bpm"),
  "sdnn_ms": ("SDNN", "ms"),
  "rmssd_ms": ("RMSSD", "ms"),
  "pnn50": ("pNN50", "%"),
  "sdnn_detrended_ms": ("SDNN, detrended", "ms"),
  "age": ("age", "years"),
  "bmi": ("BMI", "kg/m²"),
}
CONTROL_LABELS = {
  "same_participant": "same participant",
  "hr_matched": "heart rate within 2 bpm",
  "motion_matched": "motion, cadence within 10 %",
  "gap_free": "windows without gaps",
  "shuffled": "shuffled pairs",
  "still": "only still",
  "light": "only light motion",
  "moving": "only moving",
}
RHYTHM_LABELS = {
  "acceleration": "no learning: rhythm of the acceleration",
  "true_beats": "oracle: true beat times",
}
WAY_LABELS = {ACC_TO_PPG: "acceleration to PPG", PPG_TO_ACC: "PPG to acceleration"}

ACCENT, INK, MID = "#0b4f8a", "#1a1a1a", "#767676"
# White behind numbers that may stand on a line.
_BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
_known = functools.partial(numerals.number, missing="n/a")
STYLE: dict[str, Any] = {
  "font.size": 10,
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": MID,
  "axes.labelcolor": INK,
  "axes.axisbelow": True,
  "xtick.color": INK,
  "ytick.color": INK,
  "legend.frameon": False,
  "legend.fontsize": 9,
  "lines.linewidth": 1.6,
  "grid.color": "#e4e4e4",
  "grid.linewidth": 0.8,
}


@dataclasses.dataclass(frozen=True)
class Plot:
  """A drawn figure.

  Attributes:
    name: file name without suffix.
    set_name: the set it is about, "" if about the run.
    title: heading.
    alt: what it shows, in words and numbers, for those who cannot see it.
    svg: the picture as SVG text.
    png: the picture as PNG bytes.
  """

  name: str
  set_name: str
  title: str
  alt: str
  svg: str
  png: bytes


def model_label(model: str) -> str:
  """Name of a model for readers."""
  return MODEL_LABELS.get(model, model.replace("_", " "))


def marked(set_name: str, simulated: bool) -> str:
  """Name of a set, which says that it is simulated if it is."""
  return f"{set_name} (simulated)" if simulated and "simulated" not in set_name else set_name


def target_label(target: str) -> tuple[str, str]:
  """(name, unit) of a target for readers."""
  return TARGET_LABELS.get(target, (target.replace("_", " "), ""))


def ordered(models: Mapping[str, Any]) -> list[str]:
  """Models in the order of tables: the known ones by role, unknown ones after the student."""
  rank = {model: place for place, model in enumerate(MODEL_LABELS)}
  return sorted(models, key=lambda model: (rank.get(model, rank["student"] + 0.5), model))


def draw(report: Mapping[str, Any], run_folder: pathlib.Path) -> list[Plot]:
  """All figures of a report; what it holds no numbers for is not drawn.

  Args:
    report: as `distill.report.build` makes it.
    run_folder: where metrics.jsonl files are looked for.
  """
  with style.context(["default", STYLE]):
    plots = [plot for name, one in report["sets"].items() for plot in _set_plots(name, one)]
    plots += _missing_plots(run_folder)
    return plots + list(_learning_curves(run_folder))


def _set_plots(name: str, one: Mapping[str, Any]) -> Iterator[Plot]:
  mark = marked(name, one["simulated"])
  for target, table in one["probes"].items():
    yield _errors(name, mark, target, table)
  if one["retrieval"]:
    yield _retrieval(name, mark, one)
  for target, scatter in one["scatter"].items():
    if scatter:
      yield agreement(name, mark, target, scatter, one["probes"][target])
  if one.get("retention"):
    yield retention(name, one["retention"])


def finished(figure: Figure, name: str, set_name: str, title: str, alt: str) -> Plot:
  """The figure as SVG and PNG, the same bytes on every run; see `Plot` for the other fields."""
  # A salt of its own gives every figure the same ids on every run.
  with mpl.rc_context({"svg.hashsalt": name}):
    text, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    figure.savefig(pixels, format="png", dpi=150, metadata={"Software": None})
  return Plot(name, set_name, title, alt, text.getvalue(), pixels.getvalue())


def headed(figure: Figure, text: str) -> None:
  """Writes the heading of a figure."""
  figure.suptitle(text, x=0.008, ha="left", fontsize=12, fontweight="bold")


def capital(text: str) -> str:
  """The text with a capital first letter, the rest as it is; pNN50 stays what it is."""
  return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def ends(row: Mapping[str, Any], value: float) -> tuple[float, float]:
  """(lo, hi) of an interval; both the value itself where there is none."""
  lo, hi = (value if row[end] is None else row[end] for end in ("lo", "hi"))
  return lo, hi


# --- errors by model ------------------------------------------------------------------------------


def _errors(set_name: str, mark: str, target: str, table: Mapping[str, Any]) -> Plot:
  label, unit = target_label(target)
  models = ordered(table)
  figure = Figure(figsize=(7.6, 0.36 * len(models) + 1.35), layout="constrained")
  axes = figure.subplots()
  for place, model in enumerate(models):
    _error_row(axes, place, model, table[model])
  if "mean" in table:
    axes.axvline(table["mean"]["mae"]["value"], color=MID, linestyle=(0, (4, 3)), linewidth=1)
  names = [model_label(m) + (" *" if table[m]["circular"] else "") for m in models]
  axes.set_yticks(range(len(models)), names)
  for text, model in zip(axes.get_yticklabels(), models):
    text.set_fontweight("bold" if model == "student" else "normal")
  axes.set_ylim(len(models) - 0.4, -0.6)
  axes.set_xlim(left=0)
  axes.margins(x=0.12)
  axes.tick_params(axis="y", length=0)
  axes.grid(axis="x")
  starred = any(table[m]["circular"] for m in models)
  note = "\n* labels made of the same PPG: circular" if starred else ""
  axes.set_xlabel(f"mean absolute error, {unit} (95 % interval over participants){note}")
  first = table[models[0]]
  title = f"{capital(label)} error by model"
  people = f"{first['n_participants']} people, {first['n_windows']} windows"
  headed(figure, f"{capital(label)} error, {mark}: {people}")
  values = "; ".join(f"{model_label(m)} {with_interval(table[m]['mae'])}" for m in models)
  alt = f"Mean absolute error of {label} in {unit} with 95 % intervals, {mark}. {values}."
  return finished(figure, f"{set_name}_{target}_mae", set_name, title, alt)


def _error_row(axes: Axes, place: int, model: str, row: Mapping[str, Any]) -> None:
  value = row["mae"]["value"]
  lo, hi = ends(row["mae"], value)
  student, hollow = model == "student", row.get("oracle") or row["circular"]
  colour = ACCENT if student else INK
  axes.plot([lo, hi], [place, place], color=colour, linewidth=3 if student else 1.6)
  axes.plot(
    value, place, marker="D" if student else "o", markersize=8 if student else 6.5, color=colour,
    markerfacecolor="white" if hollow else colour,
  )  # fmt: skip
  axes.annotate(
    f"{value:.1f}", (hi, place), xytext=(7, 0), textcoords="offset points", va="center",
    fontsize=9, color=colour, fontweight="bold" if student else "normal", bbox=_BEHIND,
  )  # fmt: skip


def with_interval(row: Mapping[str, Any], digits: int = 1) -> str:
  """Text of {value, lo, hi}."""
  if row["value"] is None:
    return "not available"
  if row["lo"] is None:
    return f"{row['value']:.{digits}f}"
  return f"{row['value']:.{digits}f} ({row['lo']:.{digits}f} to {row['hi']:.{digits}f})"


# --- retrieval ------------------------------------------------------------------------------------


def _retrieval(set_name: str, mark: str, one: Mapping[str, Any]) -> Plot:
  curves = one["shift_curve"]
  figure = Figure(figsize=(10 if curves else 5.4, 5.6), layout="constrained")
  panels = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
  _galleries(panels[0], one)
  panels[0].set_title("Top-1 by gallery size")
  if curves:
    _shifts(panels[1], one)
    panels[1].set_title("Partner shifted in time")
  whole = one["retrieval"][ACC_TO_PPG][-1]
  people = f"{whole['n_participants']} people, {whole['n_queries']} windows"
  headed(figure, f"Cross-modal retrieval, {mark}: {people}")
  alt = (
    f"Cross-modal retrieval on {mark}. Acceleration to PPG, top-1 by gallery size: "
    + "; ".join(
      f"{r['gallery']:.0f} windows {percent(r['top1'])}" for r in one["retrieval"][ACC_TO_PPG]
    )
    + f". Chance in the whole set {percent(whole['chance_top1'])}."
  )
  for control, ways in one["controls"].items():
    row = ways[ACC_TO_PPG][0]
    alt += (
      f" {capital(CONTROL_LABELS[control])}: {percent(row['top1'])}, chance"
      f" {percent(row['chance_top1'])}."
    )
  if curves:
    shifts = "; ".join(
      f"{duration(row['shift_s'])} {percent(row['top1'])}" for row in curves[ACC_TO_PPG]
    )
    alt += f" Partner that starts later, top-1: {shifts}."
  for name, some in one.get("rhythm", {}).items():
    rows = some["retrieval"][ACC_TO_PPG]
    values = "; ".join(f"{r['gallery']:.0f} windows {percent(r['top1'])}" for r in rows)
    alt += f" {capital(RHYTHM_LABELS[name])}: {values}."
  return finished(figure, f"{set_name}_retrieval", set_name, "Cross-modal retrieval", alt)


def _galleries(axes: Axes, one: Mapping[str, Any]) -> None:
  looks: dict[str, Any] = {
    ACC_TO_PPG: {"color": ACCENT, "marker": "o", "linestyle": "-"},
    PPG_TO_ACC: {"color": MID, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
  }
  for way, rows in one["retrieval"].items():
    size, top1 = (np.array([row[key] for row in rows]) for key in ("gallery", "top1"))
    limits = np.array([ends(row, row["top1"]) for row in rows])
    if way == ACC_TO_PPG:
      axes.fill_between(size, limits[:, 0], limits[:, 1], color=ACCENT, alpha=0.15, linewidth=0)
    axes.plot(size, top1, label=WAY_LABELS[way], **looks[way])
  for (name, some), look in zip(one.get("rhythm", {}).items(), ("D-.", "*:")):
    points = [(row["gallery"], row["top1"]) for row in some["retrieval"][ACC_TO_PPG]]
    axes.plot(*zip(*points), look, color=INK, markerfacecolor="white", label=RHYTHM_LABELS[name])
  rows = one["retrieval"][ACC_TO_PPG]
  sizes = [row["gallery"] for row in rows]
  for control, marker in (("same_participant", "^"), ("hr_matched", "v"), ("shuffled", "x")):
    if control in one["controls"]:
      row = one["controls"][control][ACC_TO_PPG][0]
      sizes.append(row["gallery"])
      axes.plot(
        row["gallery"], row["top1"], marker, color=INK, markersize=8, markerfacecolor="white",
        label=f"{CONTROL_LABELS[control]} (chance {percent(row['chance_top1'])})",
      )  # fmt: skip
  span = np.geomspace(max(min(sizes), 1), max(sizes), 100)
  axes.plot(span, 1 / span, color=INK, linestyle=":", label="chance, 1 / gallery")
  log_ticks(axes, sorted({round(row["gallery"]) for row in rows}))
  share_axis(axes)
  axes.set_xlabel("candidates in the gallery, windows (log scale)")
  axes.set_ylabel("top-1")
  axes.grid(axis="y")
  _legend_below(axes)


def log_ticks(axes: Axes, sizes: Sequence[float]) -> None:
  """A logarithmic x axis with ticks at those of the sorted sizes that stand apart."""
  axes.set_xscale("log")
  apart = [sizes[-1]]
  for size in reversed(sizes[:-1]):
    if apart[0] / size >= 1.5:
      apart.insert(0, size)
  axes.set_xticks(apart)
  axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
  axes.xaxis.set_minor_locator(NullLocator())


def _shifts(axes: Axes, one: Mapping[str, Any]) -> None:
  rows = one["shift_curve"][ACC_TO_PPG]
  place = np.arange(len(rows))
  axes.plot(place, [row["top10"] for row in rows], "s--", color=MID, label="top-10")
  axes.plot(place, [row["top1"] for row in rows], "o-", color=ACCENT, label="top-1")
  chance = rows[0]["chance_top1"]
  axes.axhline(10 * chance, color=MID, linestyle=":", linewidth=1.2, label="chance, top-10")
  axes.axhline(chance, color=INK, linestyle=":", linewidth=1.2, label="chance, top-1")
  axes.set_xticks(place, [duration(row["shift_s"]) for row in rows], fontsize=8)
  share_axis(axes)
  axes.set_xlabel("acceleration to PPG that starts later by")
  axes.grid(axis="y")
  _legend_below(axes)


def share_axis(axes: Axes) -> None:
  """From 0 to what there is, which may be a few per cent, and at most 100 %."""
  axes.set_ylim(0, min(1.02, 1.02 * axes.get_ylim()[1]))
  axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _legend_below(axes: Axes) -> None:
  """Under the axis label, where no curve can run through it."""
  axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), labelspacing=0.35)


def duration(seconds: float) -> str:
  """Text of a length of time."""
  return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"


def percent(share: float) -> str:
  """Text of a share."""
  return f"{100 * share:.1f} %"


# --- predicted against true -----------------------------------------------------------------------


def agreement(
  set_name: str, mark: str, target: str, scatter: Mapping[str, Any], table: Mapping[str, Any]
) -> Plot:
  """Predicted against true and Bland-Altman of the student, from the parts of a report."""
  label, unit = target_label(target)
  true, predicted = np.array(scatter["true"]), np.array(scatter["predicted"])
  row = table[scatter["model"]]
  figure = Figure(figsize=(10, 4.2), layout="constrained")
  left, right = figure.subplots(1, 2)
  look = {"s": 13, "color": ACCENT, "alpha": 0.4, "linewidths": 0, "rasterized": True}
  left.scatter(true, predicted, **look)
  span = np.array([min(true.min(), predicted.min()), max(true.max(), predicted.max())])
  left.plot(span, span, color=INK, linewidth=1)
  left.set_xlabel(f"true {label}, {unit}")
  left.set_ylabel(f"predicted {label}, {unit}")
  margin = 0.04 * np.ptp(span)
  left.set(xlim=(span[0] - margin, span[1] + margin), ylim=(span[0] - margin, span[1] + margin))
  left.set_title(f"Predicted against true: r {_known(row['r'], 2)}, R² {_known(row['r2'], 2)}")
  right.scatter((true + predicted) / 2, predicted - true, **look)
  found = row["agreement"]
  for value, name, dashes in (
    (found["bias"]["value"], "bias", "-"),
    (found["upper"], "bias + 1.96 SD", "--"),
    (found["lower"], "bias - 1.96 SD", "--"),
  ):
    if value is None:  # one participant says nothing of people
      continue
    right.axhline(value, color=INK, linestyle=dashes, linewidth=1)
    right.annotate(
      f"{name}: {value:+.1f}", (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 5),
      textcoords="offset points", ha="right", fontsize=9, bbox=_BEHIND,
    )  # fmt: skip
  low, high = right.get_ylim()
  right.set_ylim(low, high + 0.07 * (high - low))  # space for the uppermost line's name
  right.set_xlabel(f"mean of true and predicted {label}, {unit}")
  right.set_ylabel(f"predicted - true, {unit}")
  right.set_title("Bland-Altman, SD between and within people")
  for axes in (left, right):
    axes.grid()
  title = f"{capital(label)} of the student: predicted against true, and Bland-Altman"
  people = f"{row['n_participants']} people, {row['n_windows']} windows"
  headed(figure, f"{capital(label)} of the distilled student, {mark}: {people}")
  alt = (
    f"Two scatter plots of the student's {label} on {mark}: predicted against true (r"
    f" {_known(row['r'], 2)}) and Bland-Altman (bias"
    f" {_known(found['bias']['value'], 1)} {unit}, limits of agreement"
    f" {_known(found['lower'], 1)} to {_known(found['upper'], 1)} {unit}), {len(true)} windows."
  )
  return finished(figure, f"{set_name}_{target}_agreement", set_name, title, alt)


# --- missing data ---------------------------------------------------------------------------------

PATTERN_LABELS = {
  "bursts": "bursts of 2-10 s lost",
  "long_gap": "one long gap",
  "axis": "one axis lost",
  "still": "the still part lost",
}
METHOD_LABELS = {
  "aim_mask": "trained with gaps, mask",
  "complete_mask": "trained complete, mask",
  "complete_zero": "trained complete, zero fill",
  "complete_linear": "trained complete, linear fill",
  "complete_last": "trained complete, last value",
}
_METHOD_LOOKS: dict[str, dict[str, Any]] = {
  "aim_mask": {"color": ACCENT, "marker": "o", "linestyle": "-"},
  "complete_mask": {"color": INK, "marker": "x", "linestyle": "-"},
  "complete_zero": {"color": MID, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
  "complete_linear": {"color": MID, "marker": "^", "linestyle": "-.", "markerfacecolor": "white"},
  "complete_last": {"color": MID, "marker": "v", "linestyle": ":", "markerfacecolor": "white"},
}


def _missing_plots(run_folder: pathlib.Path) -> list[Plot]:
  path = run_folder / "missing.json"
  return draw_missing(json.loads(path.read_text())) if path.is_file() else []


def draw_missing(found: Mapping[str, Any]) -> list[Plot]:
  """Curves over the observed share, one figure for each set of missing.json (`distill.missing`)."""
  with style.context(["default", STYLE]):
    return [_missing(name, one) for name, one in found.items()]


def _missing(set_name: str, one: Mapping[str, Any]) -> Plot:
  curves = one["curves"]
  measures = [name for name in curves[0] if f"{name}_loss" in curves[0]]
  patterns = [name for name in PATTERN_LABELS if any(row["pattern"] == name for row in curves)]
  figure = Figure(
    figsize=(3.0 * len(patterns) + 0.6, 2.3 * len(measures) + 1.3), layout="constrained"
  )
  panels = figure.subplots(len(measures), len(patterns), squeeze=False, sharex=True, sharey="row")
  for line, measure in enumerate(measures):
    for column, pattern in enumerate(patterns):
      _missing_panel(panels[line][column], curves, pattern, measure)
      panels[0][column].set_title(PATTERN_LABELS[pattern])
    panels[line][0].set_ylabel(_measure_label(measure))
  for axes in panels[-1]:
    axes.set_xlabel("observed, % of the time")
  figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
  mark = marked(set_name, one["simulated"])
  headed(
    figure,
    f"Less and less observed, {mark}: {one['participants']} people, {one['windows']} windows",
  )
  alt = f"Errors on {mark} as less of each window is observed. With half of the time lost: "
  alt += "; ".join(
    f"{PATTERN_LABELS[row['pattern']]}, {_measure_label(row['measure'])}: best filling loses"
    f" {row['fill_loss']:.2f}, trained with gaps {row['aim_loss']:.2f}"
    for row in one["aims"]
  )
  return finished(figure, f"missing_{set_name}", set_name, "Missing data", alt + ".")


def _missing_panel(axes: Axes, curves: Sequence[Mapping[str, Any]], pattern: str, measure: str):
  for method, look in _METHOD_LOOKS.items():
    rows = [row for row in curves if row["pattern"] == pattern and row["method"] == method]
    share = [100 * row["share"] for row in rows]
    axes.plot(
      share,
      [row[measure]["value"] for row in rows],
      label=METHOD_LABELS[method],
      markersize=4,
      **look,
    )
    if method == "aim_mask":
      limits = np.array([ends(row[measure], row[measure]["value"]) for row in rows])
      axes.fill_between(share, limits[:, 0], limits[:, 1], color=ACCENT, alpha=0.15, linewidth=0)
  axes.set_xlim(103, 7)
  axes.grid(axis="y")


def _measure_label(measure: str) -> str:
  if measure == "top10_missed":
    return "partner not in top 10"
  label, unit = target_label(measure.removesuffix("_mae"))
  return f"{label} MAE, {unit}"


# --- learning curves ------------------------------------------------------------------------------


def _learning_curves(run_folder: pathlib.Path) -> Iterator[Plot]:
  """One figure with a panel for each kind of run found under the run folder."""
  runs: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {}
  for path in sorted(run_folder.glob("**/metrics.jsonl")):
    if lines := read_metrics(path):
      name = str(path.parent.relative_to(run_folder))
      runs.setdefault(path.parent.name, []).append((name, lines))
  if not runs:
    return
  runs = {role: runs[role] for role in ordered(runs)}
  figure = Figure(figsize=(3.4 * len(runs) + 0.6, 3.4), layout="constrained")
  for axes, (role, found) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items()):
    _losses(axes, found)
    axes.set_title(model_label(role))
    axes.set_xlabel("step")
  figure.axes[0].set_ylabel("loss")
  figure.axes[0].legend()
  headed(figure, "Learning curves, one line for each fold")
  alt = "Learning curves, training and validation loss by step. " + " ".join(
    f"{name}: validation loss {_span([x['val/loss'] for x in lines if 'val/loss' in x])}."
    for found in runs.values()
    for name, lines in found
  )
  yield finished(figure, "learning_curves", "", "Learning curves", alt)


def _losses(axes: Axes, found: Sequence[tuple[str, list[dict[str, Any]]]]) -> None:
  looks: dict[str, Any] = {
    "train/loss": {"color": MID, "linestyle": "-", "linewidth": 1.1, "label": "training"},
    "val/loss": {"color": ACCENT, "marker": "o", "markersize": 4, "label": "validation"},
  }
  for number, (_, lines) in enumerate(found):
    for key, look in looks.items():
      points = [(line["step"], line[key]) for line in lines if key in line]
      if points:
        # One entry in the legend for all folds.
        axes.plot(*zip(*points), **{**look, "label": look["label"] if not number else None})
  axes.locator_params(nbins=5)
  axes.grid(axis="y")


# --- what fine-tuning keeps -----------------------------------------------------------------------


VARIANT_LABELS = {
  "start": "start",
  "plain": "plain fine-tuning",
  "early_stopping": "early stopping",
  "probe_then_tune": "probe, then fine-tuning",
  "l2_to_start": "L2 to the start",
  "lora": "low-rank adapters",
}


def variant_label(name: str, alpha: float | None) -> str:
  """Name of a way to fine-tune for readers."""
  return VARIANT_LABELS.get(name, f"Speech-FT, alpha {alpha:g}" if alpha else name)


def retention(set_name: str, one: Mapping[str, Any]) -> Plot:
  """Task against retention: one curve over alpha, one point for every rival.

  Args:
    set_name: of the set.
    one: as `distill.retention.judge` returns it.
  """
  task, points = one["task"], {}
  for name, row in one["variants"].items():
    others = [m["change"]["value"] for k, m in row["measures"].items() if k != task]
    others = [value for value in others if value is not None]
    # There is no change in per cent of an error of 0; such a point is not drawn.
    gain = np.nan if row["gain"] is None else 100 * row["gain"]
    points[name] = (gain, -100 * float(np.mean(others)) if others else np.nan)
  with style.context(["default", STYLE]):
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    _retention_points(axes, one, points)
    label = target_label(task)[0]
    axes.set_xlabel(f"{label}: error less than the start's, %  (better to the right)")
    axes.set_ylabel("other probes and retrieval: mean change, %\n(better upwards, 0 = kept)")
    title = f"What fine-tuning on {label} gains and costs"
    headed(figure, f"{title}, {marked(set_name, one['simulated'])}")
    values = "; ".join(
      f"{variant_label(name, one['variants'][name]['alpha'])}: task {_change(x)}, others"
      f" {_change(y)}"
      for name, (x, y) in points.items()
    )
    alt = f"Gain on the task against the mean change of everything else. {values}."
    return finished(figure, f"{set_name}_retention", set_name, title, alt)


def _change(percent: float) -> str:
  return "not known" if np.isnan(percent) else f"{percent:+.1f} %"


def _retention_points(
  axes: Axes, one: Mapping[str, Any], points: Mapping[str, tuple[float, float]]
) -> None:
  alphas = {name: row["alpha"] for name, row in one["variants"].items() if row["alpha"] is not None}
  curve = sorted(alphas, key=alphas.__getitem__)
  axes.axhline(0, color=MID, linewidth=1)
  axes.plot(*zip(*(points[name] for name in curve)), color=ACCENT, marker="o", label="Speech-FT")
  for name in curve:
    picked = alphas[name] == one["chosen_alpha"]
    if picked:
      axes.plot(*points[name], marker="o", markersize=13, markerfacecolor="none", color=ACCENT)
    text = f"{alphas[name]:g}" + (" (picked)" if picked else "")
    axes.annotate(
      text, points[name], xytext=(6, 6), textcoords="offset points", fontsize=9, color=ACCENT
    )
  for name, marker in zip([n for n in points if n not in alphas], "sD^vPX"):
    axes.plot(*points[name], marker=marker, markersize=8, linestyle="none", color=INK,
              markerfacecolor="white", label=variant_label(name, None))  # fmt: skip
  axes.grid()
  axes.margins(0.12)
  axes.legend()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of a metrics.jsonl; a last line that was cut off by an interruption is left out."""
  return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _span(values: Sequence[float]) -> str:
  return f"{values[0]:.3g} to {min(values):.3g} at best" if values else "not logged"
