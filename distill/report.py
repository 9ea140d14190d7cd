"""report.json, report.html, plots/ and the tables of a run, all made of one dictionary.

report.json is a contract that other programs read: report.schema.json lays it down, and
SCHEMA_VERSION changes with it (the part before the dot when a reader would break). Nothing here
computes a result; `distill.evaluate` does.
"""

import base64
import dataclasses
import json
import math
import pathlib
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from distill import numerals, plots
from distill.errors import DistillError
from distill.plots import CONTROL_LABELS, WAY_LABELS, model_label, ordered, target_label
from distill.retrieval import ACC_TO_PPG

SCHEMA_VERSION = "1.8"
RETENTION = "retention.json"
SCHEMA = pathlib.Path(__file__).with_name("report.schema.json")


@dataclasses.dataclass(frozen=True)
class Table:
  """One table for readers; the terminal, Markdown and HTML show the same cells.

  Attributes:
    title: what it is about.
    header: column names with units.
    rows: cells as text; the first column is a name, the others are numbers.
    note: what a reader must know to read it.
    brief: the columns that fit a terminal.
  """

  title: str
  header: tuple[str, ...]
  rows: list[tuple[str, ...]]
  note: str = ""
  brief: tuple[int, ...] = ()


def build(
  sets: Mapping[str, Any],
  *,
  timing: Mapping[str, float],
  versions: Mapping[str, str],
  config: Mapping[str, Any],
  seed: int,
) -> dict[str, Any]:
  """The report as plain JSON values; numbers that do not exist become None.

  Args:
    sets: as `distill.evaluate.evaluate` returns them.
    timing: stage -> seconds.
    versions: package -> version.
    config: the resolved config.
    seed: of the run.
  """
  report = {
    "schema_version": SCHEMA_VERSION,
    "simulated": any(one["simulated"] for one in sets.values()),
    "sets": sets,
    "timing": timing,
    "versions": versions,
    "config": config,
    "seed": seed,
  }
  return plain(report)


def plain(value: Any) -> Any:
  """JSON values of nested mappings, sequences and NumPy arrays; NaN and infinity become None."""
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value


def to_json(report: Mapping[str, Any]) -> str:
  """Strictly valid JSON text of a report (null instead of NaN)."""
  return json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write(run_folder: str | pathlib.Path, report: Mapping[str, Any]) -> pathlib.Path:
  """Writes plots/, report.html and, last, report.json; each appears whole or not at all.

  Args:
    run_folder: of the run; its metrics.jsonl files give the learning curves.
    report: as `build` makes it.

  Returns:
    Path of report.html.
  """
  run_folder = pathlib.Path(run_folder)
  run_folder.mkdir(parents=True, exist_ok=True)
  drawn = plots.draw(report, run_folder)
  write_plots(run_folder / "plots", drawn)
  replace(run_folder / "report.html", html(report, drawn))
  replace(run_folder / "report.json", to_json(report))
  return run_folder / "report.html"


def write_plots(folder: pathlib.Path, drawn: Sequence[plots.Plot]) -> None:
  """Replaces a folder by one that holds <name>.svg and <name>.png of every figure."""
  partial = folder.with_name(folder.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for plot in drawn:
    (partial / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
    (partial / f"{plot.name}.png").write_bytes(plot.png)
  shutil.rmtree(folder, ignore_errors=True)
  partial.rename(folder)


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file that appears whole or not at all."""
  partial = path.with_name(path.name + ".partial")
  partial.write_text(text, encoding="utf-8")
  partial.replace(path)


def load(run_folder: str | pathlib.Path) -> dict[str, Any]:
  """Reads report.json of a run folder.

  Raises:
    DistillError: no report there, damaged, or written for another version of the schema.
  """
  path = pathlib.Path(run_folder) / "report.json"
  if not path.is_file():
    raise DistillError(f"no report at {path}; make one with: distill run or distill report")
  try:
    report = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise DistillError(
      f"{path} is not valid JSON ({error}); delete it and run: distill report"
    ) from error
  version = str(report.get("schema_version", "none")) if isinstance(report, dict) else "none"
  if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
    raise DistillError(
      f"{path} has schema_version {version}, this program reads {SCHEMA_VERSION}; judge the run"
      " again"
    )
  return report


def html(report: Mapping[str, Any], drawn: Sequence[plots.Plot]) -> str:
  """The report as one HTML page that needs no other file and no network."""
  sections = [
    {
      "name": plots.marked(name, one["simulated"]),
      "summary": summary_text(one),
      "plots": [plot for plot in drawn if plot.set_name == name],
      "tables": list(_set_tables(one)),
    }
    for name, one in report["sets"].items()
  ]
  return page(
    "report.html",
    report=report,
    sections=sections,
    run_plots=[plot for plot in drawn if not plot.set_name],
    config=json.dumps(report["config"], indent=2),
    duration=numerals.seconds,
  )


def page(template: str, **fields: Any) -> str:
  """A template of distill/templates/ filled in; `data_uri` turns a plot into an address."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("distill"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  return environment.get_template(template).render(data_uri=_data_uri, **fields)


def _data_uri(plot: plots.Plot) -> str:
  return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()


# --- tables ---------------------------------------------------------------------------------------


def retrieval_text(one: Mapping[str, Any]) -> str:
  """The retrieval tables of one set as fixed-width text."""
  tables = [_retrieval_table(one, brief=True)]
  return as_text([*tables, *([_shift_table(one)] if one["shift_curve"] else [])])


def probe_text(one: Mapping[str, Any], target: str) -> str:
  """The probe table of one set and target as fixed-width text."""
  return _fixed_width(_probe_table(one, target, one["probes"][target]))


def table(report: Mapping[str, Any]) -> str:
  """The tables as fixed-width text for a terminal."""
  parts = []
  for name, one in report["sets"].items():
    mark = "   *** SIMULATED ***" if one["simulated"] else ""
    parts.append(f"Set {name}{mark}\n{textwrap.fill(summary_text(one), 100)}")
    parts += [_fixed_width(some) for some in _set_tables(one, brief=True)]
  return "\n\n".join(parts) + "\n"


def markdown(report: Mapping[str, Any]) -> str:
  """The tables as Markdown, with the seed, the times and the versions that they rest on."""
  parts = []
  for name, one in report["sets"].items():
    parts.append(f"## {plots.marked(name, one['simulated'])}\n\n{summary_text(one)}")
    parts += [_pipes(some) for some in _set_tables(one)]
  timing = ", ".join(f"{stage} {numerals.seconds(s)}" for stage, s in report["timing"].items())
  versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
  parts.append(f"Seed {report['seed']}. Wall time: {timing or 'not recorded'}. {versions}.")
  return "\n\n".join(parts) + "\n"


def summary_text(one: Mapping[str, Any]) -> str:
  """One paragraph: how much was held out, how much of it is labelled and usable."""
  windows = one["windows"]["all"]
  text = (
    f"{windows['n_windows']} held-out windows of {windows['n_participants']} participants,"
    f" {one['folds']} fold{'s' if one['folds'] != 1 else ''}."
  )
  if one.get("external"):
    text += " External: no model and no probe was fitted to any recording of this set."
  labelled = ", ".join(
    f"{target_label(target)[0]} {numerals.percent(share)} %"
    for target, share in windows["labelled"].items()
  )
  if labelled:
    text += f" Labelled: {labelled}."
  usable = [
    f"{level} {numerals.percent(counts['ppg_usable'])} % of {counts['n_windows']}"
    for level, counts in one["windows"].items()
    if level != "all" and counts.get("ppg_usable") is not None
  ]
  if usable:
    text += f" PPG passes the quality gate: {', '.join(usable)}."
  if one.get("rest", {}).get("stretches"):
    text += _rest_text(one["rest"], one["simulated"])
  for target, reason in one["skipped"].items():
    text += f" {target_label(target)[0]} is left out: {reason}."
  return text


def _rest_text(rest: Mapping[str, Any], simulated: bool) -> str:
  """The check that a simulated wrist is as noisy as a recorded one, told of every set."""
  low, middle, high = rest["in_band_mg"]
  text = (
    f" At rest ({rest['stretches']:.0f} stretches of 8 s) a wrist has {middle:.1f} mg RMS per axis"
    f" in 4-15 Hz ({low:.1f} to {high:.1f}, 10th to 90th percentile)"
  )
  if simulated:
    text += "; recorded ones have 4 to 7 mg on an Empatica E4 and 3 to 4 mg in BAMI-1, standing"
  if rest["windows"]:
    close = numerals.percent(rest["hr_close"])
    text += (
      f". There the envelope of the acceleration errs by {rest['hr_mae_bpm']:.1f} bpm in"
      f" {rest['windows']:.0f} windows, {close} % of them within 5 bpm; their own mean errs by"
      f" {rest['hr_mean_mae_bpm']:.1f}"
    )
  return text + "."


def _set_tables(one: Mapping[str, Any], *, brief: bool = False) -> Iterator[Table]:
  if one["retrieval"]:
    yield _retrieval_table(one, brief)
    if one["shift_curve"]:
      yield _shift_table(one)
  for target, rows in one["probes"].items():
    yield _probe_table(one, target, rows)
  if one["probes_by_motion"] and not brief:
    yield _motion_table(one)
  if not brief:
    yield from group_tables(one)
    for part in ("classes", "traits"):
      for target, rows in one.get(part, {}).items():
        yield _trait_table(target, rows, part)
  if one.get("by_share"):
    yield _share_table(one)
  if one.get("effective_rank") and not brief:
    yield _rank_table(one)
  if one.get("retention"):
    yield _retained_table(one["retention"])


def _retrieval_table(one: Mapping[str, Any], brief: bool) -> Table:
  header = (
    "queries to gallery", "candidates", "top-1 %", "95 %", "top-3 %", "top-5 %", "top-10 %",
    "mean rank", "median rank", "MRR", "chance top-1 %", "queries", "people",
  )  # fmt: skip
  rows = []
  for way, galleries in one["retrieval"].items():
    rows += [_retrieval_row(WAY_LABELS[way], row) for row in galleries]
  for name, ways in [*one["controls"].items(), *one["by_motion"].items()]:
    rows += [
      _retrieval_row(f"  {CONTROL_LABELS[name]}, {WAY_LABELS[way]}", row)
      for way, galleries in ways.items()
      if way == ACC_TO_PPG or not brief
      for row in galleries
    ]
  rows += [_retrieval_row(f"  {label}", row) for label, row in oracle_rows(one)]
  for name, some in one.get("rhythm", {}).items():
    rows += _rhythm_rows(plots.RHYTHM_LABELS[name], some, brief)
  note = (
    "Cosine of projections, ties count against the model. Controls are indented: same participant,"
    " heart rate within 2 bpm, motion within 10 %, windows without gaps, shuffled pairs, and one"
    " motion level at a time. An oracle knows the true labels to 1 bpm and 5 ms and guesses among"
    " the windows that it cannot tell apart."
  )
  if one.get("rhythm"):
    note += (
      " Without learning, windows are ranked by the cross-correlation of the acceleration's 4-11 Hz"
      " envelope with the PPG, the oracle by that of the true beats with the PPG, at the best lag"
      " from 0 to 0.8 s."
    )
  if one.get("not_scored"):
    told = "; ".join(f"{name.replace('_', ' ')} ({why})" for name, why in one["not_scored"].items())
    note += f" Not scored: {told}."
  return Table("Retrieval", header, rows, note, brief=(0, 1, 2, 3, 6, 7, 10))


def _shift_table(one: Mapping[str, Any]) -> Table:
  """Ranks of a partner that starts later, acceleration to PPG."""
  header = (
    "partner later by",
    "top-1 %",
    "95 %",
    "top-10 %",
    "chance top-1 %",
    "queries",
    "people",
  )
  rows: list[tuple[str, ...]] = [
    (
      plots.duration(row["shift_s"]),
      numerals.percent(row["top1"]),
      numerals.span(row["lo"], row["hi"], scale=100),
      numerals.percent(row["top10"]),
      numerals.percent(row["chance_top1"]),
      str(row["n_queries"]),
      str(row["n_participants"]),
    )
    for row in one["shift_curve"][ACC_TO_PPG]
  ]
  note = (
    "Acceleration to the PPG of the same recording that starts later; candidates share no second"
    " with the query. The floor is the level within the same participant, not chance."
  )
  title = "Retrieval of a partner shifted in time"
  return Table(title, header, rows, note, brief=tuple(range(len(header))))


def _rhythm_rows(label: str, some: Mapping[str, Any], brief: bool) -> list[tuple[str, ...]]:
  """Of the acceleration to PPG direction; the other one where there is space for it."""
  rows = []
  for way, galleries in some["retrieval"].items():
    if way == ACC_TO_PPG or not brief:
      rows += [_retrieval_row(f"  {label}, {WAY_LABELS[way]}", row) for row in galleries]
  more = some["controls"] | ({} if brief else some["by_motion"])
  for name, ways in more.items():
    rows += [
      _retrieval_row(f"  {label}, {CONTROL_LABELS[name]}", row) for row in ways.get(ACC_TO_PPG, [])
    ]
  return rows


def oracle_rows(one: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
  """(what it knows, its ranks) of the oracles that know labels."""
  names = {"hr": "heart rate", "hr_and_hrv": "heart rate, SDNN, RMSSD"}
  return [(f"oracle: true {names.get(name, name)}", row) for name, row in one["oracles"].items()]


def _retrieval_row(label: str, row: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    label,
    numerals.number(row["gallery"], 0),
    numerals.percent(row["top1"]),
    numerals.span(row["lo"], row["hi"], scale=100),
    numerals.percent(row["top3"]),
    numerals.percent(row["top5"]),
    numerals.percent(row["top10"]),
    numerals.number(row["mean_rank"], 1),
    numerals.number(row["median_rank"], 1),
    numerals.number(row["mrr"], 3),
    numerals.percent(row["chance_top1"]),
    str(row["n_queries"]),
    str(row["n_participants"]),
  )


def _probe_table(one: Mapping[str, Any], target: str, rows: Mapping[str, Any]) -> Table:
  label, unit = target_label(target)
  octave = target == "hr_bpm"
  header = (
    "model", f"MAE {unit}", "95 %", f"pooled MAE {unit}", "r", "r within person", "R2",
    f"SD of predictions {unit}", *(("half / double rate %",) if octave else ()),
    f"bias {unit}", "limits of agreement", f"90 % interval +- {unit}", "covers %", "95 %",
    f"student - model {unit}", "95 %",
  )  # fmt: skip
  cells = []
  for model in ordered(rows):
    row = rows[model]
    difference = one["differences"].get(target, {}).get(model)
    cells.append(
      (
        model_label(model) + (" (circular)" if row["circular"] else ""),
        numerals.number(row["mae"]["value"], 2),
        numerals.span(row["mae"]["lo"], row["mae"]["hi"]),
        numerals.number(row["mae_pooled"], 2),
        numerals.number(row["r"], 2),
        numerals.number(row["r_within"], 2),
        numerals.number(row["r2"], 2),
        numerals.number(row["sd_predicted"], 1),
        *(
          (f"{numerals.percent(row['half_rate'])} / {numerals.percent(row['double_rate'])}",)
          if octave
          else ()
        ),
        numerals.number(row["agreement"]["bias"]["value"], 2, sign=True),
        numerals.span(row["agreement"]["lower"], row["agreement"]["upper"]),
        *_conformal_cells(row.get("conformal")),
        numerals.number(difference["mae"]["value"], 2, sign=True) if difference else "",
        numerals.span(difference["mae"]["lo"], difference["mae"]["hi"]) if difference else "",
      )
    )
  any_row = next(iter(rows.values()))
  title = (
    f"{', '.join(filter(None, (plots.capital(label), unit)))}: {any_row['n_windows']} windows of"
    f" {any_row['n_participants']} participants, labels {any_row['label_origin'] or 'unknown'}"
  )
  if any_row["measurable"] is False:
    title += "; NOT MEASURABLE, its labels err by more than half of their spread"
  doubt = any_row["label_error_sd"]
  known = (
    f", that of their own error {numerals.number(doubt, 1)} {unit} (two readings)" if doubt else ""
  )
  note = (
    f"SD of the labels {numerals.number(any_row['sd_true'], 1)} {unit}{known}. MAE is the mean over"
    " participants of their MAE with a 95 % t interval; differences are paired by participant,"
    " negative means that the student is better. Limits of agreement: bias +- 1.96 SD, between and"
    " within people. The 90 % interval is calibrated on validation people (split conformal, nine at"
    " least); covers: mean over participants of the share of their windows inside."
  )
  note += pulse_note(target, any_row["label_origin"])
  if any(row["circular"] for row in rows.values()):
    note += " Circular: the labels were made of the same PPG that this model sees."
  last = len(header) - 1
  return Table(title, header, cells, note, brief=(0, 1, 2, 4, 6, last - 1, last))


def pulse_note(target: str, origin: str) -> str:
  """What must be said where beats were read from pulses; "" elsewhere."""
  if target == "hr_bpm" or "ppg" not in origin.split("+"):
    return ""
  return " Labels that were read from pulses are of pulse-rate variability, not of the heart's own."


def _conformal_cells(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
  if row is None:
    return "", "", ""
  found = row["coverage"]
  covered = numerals.span(found["lo"], found["hi"], scale=100)
  return numerals.number(row["width"], 1), numerals.percent(found["value"]), covered


GROUP_LABELS = {"age": "age group", "sex": "sex", "skin_tone": "skin tone"}
GROUP_LABELS |= {"label_origin": "origin of the labels"}


def group_tables(one: Mapping[str, Any]) -> Iterator[Table]:
  """Errors by age group, sex, skin tone and origin of the labels, as far as they are known."""
  for group in one.get("probes_by_group", {}):
    yield _group_table(one, group)


def _group_table(one: Mapping[str, Any], group: str) -> Table:
  """MAE of every model and target by the values of a column."""
  values = one["probes_by_group"][group]
  columns = [(v, t) for t in one["probes"] for v in values if t in values[v]]
  people = [next(iter(values[v][t].values()))["n_participants"] for v, t in columns]
  header = ("model",) + tuple(
    f"{target_label(t)[0]}, {v} (n {n}), {target_label(t)[1]}" for (v, t), n in zip(columns, people)
  )
  rows = []
  for model in ordered({model: None for table in one["probes"].values() for model in table}):
    found = [values[v][t].get(model) for v, t in columns]
    cells = (numerals.number(row["mae"]["value"], 2) if row else "" for row in found)
    rows.append((model_label(model), *cells))
  note = "The same probes, fitted to everybody; n counts participants."
  return Table(f"MAE by {GROUP_LABELS.get(group, group)}", header, rows, note)


def trait_text(one: Mapping[str, Any], target: str) -> str:
  """The table of a class of windows or of a trait of people as fixed-width text."""
  part = "classes" if target in one.get("classes", {}) else "traits"
  return _fixed_width(_trait_table(target, one[part][target], part))


def _trait_table(target: str, rows: Mapping[str, Any], part: str) -> Table:
  """Classes of windows, or traits of people; numbers have MAE, names AUC, F1 and accuracy."""
  first = next(iter(rows.values()))
  unit = target_label(target)[1]
  header: tuple[str, ...]
  cells: list[tuple[str, ...]]
  if "mae" in first:
    header = ("model", f"MAE {unit}", "95 %", "r", "R2")
    cells = [
      (
        model_label(model),
        numerals.number(rows[model]["mae"]["value"], 2),
        numerals.span(rows[model]["mae"]["lo"], rows[model]["mae"]["hi"]),
        numerals.number(rows[model]["r"], 2),
        numerals.number(rows[model]["r2"], 2),
      )
      for model in ordered(rows)
    ]
  else:
    header = ("model", "AUC", "95 %", "pooled AUC", "F1", "accuracy %", "95 %")
    cells = [
      (
        model_label(model),
        numerals.number(rows[model]["auc"]["value"], 3),
        numerals.span(rows[model]["auc"]["lo"], rows[model]["auc"]["hi"]),
        numerals.number(rows[model]["auc_pooled"], 3),
        numerals.number(rows[model]["f1_pooled"], 3),
        numerals.percent(rows[model]["accuracy"]["value"]),
        numerals.span(rows[model]["accuracy"]["lo"], rows[model]["accuracy"]["hi"], scale=100),
      )
      for model in ordered(rows)
    ]
  people = first["n_participants"]
  title = f"{plots.capital(target_label(target)[0])}: "
  if part == "classes":
    title += f"{first['n_windows']} windows of {people} participants"
    note = (
      "Logistic probes; AUC (of participants with more than one class) and accuracy are means over"
      " participants, pooled AUC and F1 are over all windows."
    )
  else:
    title += f"{people} participants, one mean embedding each"
    if not first["claim"]:
      title += "; NO CLAIM below 50"
    note = "One row a person; the mean row knows the training people's labels alone."
  return Table(title, header, cells, note, brief=tuple(range(len(header))))


def _motion_table(one: Mapping[str, Any]) -> Table:
  """MAE of every model and target by motion level."""
  columns = [
    (level, target) for target in one["probes"] for level in one["probes_by_motion"]
    if target in one["probes_by_motion"][level]
  ]  # fmt: skip
  header = ("model",) + tuple(
    f"{target_label(target)[0]}, {level}, {target_label(target)[1]}" for level, target in columns
  )
  models = ordered({model: None for rows in one["probes"].values() for model in rows})
  rows = []
  for model in models:
    found = [one["probes_by_motion"][level][target].get(model) for level, target in columns]
    cells = (numerals.number(row["mae"]["value"], 2) if row else "" for row in found)
    rows.append((model_label(model), *cells))
  counts = ", ".join(
    f"{level} {one['windows'][level]['n_windows']} windows" for level in one["probes_by_motion"]
  )
  return Table("MAE by motion", header, rows, f"Motion levels by SD of the acceleration: {counts}.")


def _share_table(one: Mapping[str, Any]) -> Table:
  """MAE of every model and target by share of the training people who are labelled."""
  shares = {**one["by_share"], "100": one}
  columns = [(share, target) for target in one["probes"] for share in shares]
  header = ("model",) + tuple(
    f"{target_label(target)[0]}, {share} %, {target_label(target)[1]}" for share, target in columns
  )
  rows = []
  for model in ordered({model: None for table in one["probes"].values() for model in table}):
    found = [shares[share]["probes"].get(target, {}).get(model) for share, target in columns]
    cells = (numerals.number(row["mae"]["value"], 2) if row else "" for row in found)
    rows.append((model_label(model), *cells))
  people = ", ".join(
    f"{share} % are {' + '.join(map(str, some['labelled']))}"
    for share, some in one["by_share"].items()
  )
  note = (
    "The same training people are labelled for every probe and for the supervised student:"
    f" {people} of each fold."
  )
  return Table("MAE by share of the training people", header, rows, note)


def read_retention(run_folder: str | pathlib.Path) -> dict[str, Any]:
  """retention.json of a work folder: set name -> its comparison; empty where there is none."""
  path = pathlib.Path(run_folder) / RETENTION
  found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
  return found


def retention_text(name: str, one: Mapping[str, Any]) -> str:
  """The table of what fine-tuning gains and costs on one set as fixed-width text."""
  mark = "   *** SIMULATED ***" if one["simulated"] else ""
  return f"Set {name}{mark}\n{_fixed_width(_retained_table(one))}"


def retention_markdown(name: str, one: Mapping[str, Any]) -> str:
  """The same as Markdown, with its note."""
  return f"## {plots.marked(name, one['simulated'])}\n\n{_pipes(_retained_table(one))}"


def _retained_table(one: Mapping[str, Any]) -> Table:
  task, variants = one["task"], one["variants"]
  others = [m for m in next(iter(variants.values()))["measures"] if m != task]
  layers = list(next(iter(variants.values()))["cka"])
  header = (
    "fine-tuning", f"{target_label(task)[0]} error", "95 %", "gain %", "of plain's %",
    *(f"{target_label(m)[0]} error, change %" for m in others), "kept",
    "validation: error", "kept there", *(f"CKA {layer}" for layer in layers),
  )  # fmt: skip
  rows = []
  for name, row in variants.items():
    own = row["measures"][task]["error"]
    measures = row["measures"]
    chosen = " *" if row["alpha"] == one["chosen_alpha"] else ""
    rows.append(
      (
        plots.variant_label(name, row["alpha"]) + chosen,
        numerals.number(own["value"], 2),
        numerals.span(own["lo"], own["hi"]),
        numerals.percent(row["gain"]),
        numerals.percent(row["gain_share"]),
        *(_change(measures[m]["change"]) for m in others),
        f"{sum(measures[m]['kept'] for m in others)} of {len(others)}",
        numerals.number(row["validation"], 2),
        _kept_there(row, others),
        *(numerals.number(row["cka"][layer], 3) for layer in layers),
      )
    )
  note = (
    "* alpha picked on validation people, by the task's error and what is kept there. Errors are"
    " means over participants; a change is paired by participant, in per cent of the start's error,"
    " with its 95 % interval; negative is better."
    " Kept: measures whose interval excludes the loss allowed. Retrieval's error is 1 - 1/rank over"
    " all test windows, that of classes the share of wrong windows. CKA: likeness of a layer to"
    " that of the start."
  )
  title = f"Fine-tuned on {target_label(task)[0]}: task and what else is kept"
  return Table(title, header, rows, note, brief=tuple(range(len(header))))


def _kept_there(row: Mapping[str, Any], others: Sequence[str]) -> str:
  """Blank for comparisons of before 1.8, which did not look."""
  kept = row.get("validation_kept")
  return "" if kept is None else f"{len(set(kept) & set(others))} of {len(others)}"


def _change(row: Mapping[str, Any]) -> str:
  if row["value"] is None:
    return ""
  ends = "" if row["lo"] is None else f" ({100 * row['lo']:+.1f} to {100 * row['hi']:+.1f})"
  return f"{100 * row['value']:+.1f}{ends}"


def _rank_table(one: Mapping[str, Any]) -> Table:
  """Effective rank of every model's embeddings."""
  ranks = one["effective_rank"]
  rows: list[tuple[str, ...]] = [
    (model_label(model), numerals.number(ranks[model]["rank"], 1), str(ranks[model]["dim"]))
    for model in ordered(ranks)
  ]
  note = (
    "How many directions the embeddings of held-out windows use: exp of the entropy of their"
    " singular values (RankMe). One of few means that they have collapsed."
  )
  return Table("Smooth effective rank", ("model", "effective rank", "dimensions"), rows, note)


def classes_text(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
  """The table of class probes by layer as fixed-width text."""
  return _fixed_width(_classes_table(task, rows))


def classes_markdown(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
  """The same as Markdown, with its note."""
  return _pipes(_classes_table(task, rows))


def _classes_table(task: str, rows: Sequence[Mapping[str, Any]]) -> Table:
  """One row a layer; shares of the training people side by side."""
  shares = sorted({row["share"] for row in rows}, reverse=True)
  header = ["encoder, layer", "dim", "AUC", "95 %", "F1", "95 %", "pooled AUC", "pooled F1"]
  people = {row["share"]: _from_to(row["labelled"]) for row in rows}
  header += [f"AUC, {100 * share:g} % ({people[share]} people)" for share in shares[1:]]
  found: dict[tuple[str, str], dict[float, Mapping[str, Any]]] = {}
  for row in rows:
    found.setdefault((row["encoder"], row["layer"]), {})[row["share"]] = row
  cells: list[tuple[str, ...]] = []
  for (encoder, layer), by_share in found.items():
    one = by_share[shares[0]]
    cells.append(
      (
        f"{encoder}, {layer}" if layer else encoder,
        str(one["dim"]),
        numerals.number(one["auc"]["value"], 3),
        numerals.span(one["auc"]["lo"], one["auc"]["hi"]),
        numerals.number(one["f1"]["value"], 3),
        numerals.span(one["f1"]["lo"], one["f1"]["hi"]),
        numerals.number(one["auc_pooled"], 3),
        numerals.number(one["f1_pooled"], 3),
        *(numerals.number(by_share[share]["auc"]["value"], 3) for share in shares[1:]),
      )
    )
  first = rows[0]
  title = f"{task}: {first['n_windows']} windows of {first['n_participants']} participants"
  note = (
    f"Logistic probes on the labels of {people[shares[0]]} training people, in the last columns of"
    f" fewer. AUC and macro F1 are means over participants ({first['n_auc']} have more than one"
    " class and so an AUC) with 95 % t intervals; chance is an AUC of 0.5."
  )
  return Table(title, tuple(header), cells, note, brief=tuple(range(len(header))))


def as_text(tables: Sequence[Table]) -> str:
  """Tables as fixed-width text, the columns of `brief` alone."""
  return "\n\n".join(map(_fixed_width, tables))


def as_markdown(tables: Sequence[Table]) -> str:
  """Tables as Markdown, with their notes."""
  return "\n\n".join(map(_pipes, tables))


def _fixed_width(some: Table) -> str:
  rows = [[row[column] for column in some.brief] for row in (some.header, *some.rows)]
  widths = [max(map(len, column)) for column in zip(*rows)]
  rows.insert(1, ["-" * width for width in widths])
  lines = [
    "  ".join(
      cell.ljust(width) if place == 0 else cell.rjust(width)
      for place, (cell, width) in enumerate(zip(row, widths))
    ).rstrip()
    for row in rows
  ]
  return "\n".join([some.title, *lines])


def _pipes(some: Table) -> str:
  lines = [
    "| " + " | ".join(cell.strip() for cell in row) + " |" for row in (some.header, *some.rows)
  ]
  lines.insert(1, "|" + " --- |" + " ---: |" * (len(some.header) - 1))
  return "\n".join([f"### {some.title}", "", *lines, "", some.note])


def _from_to(counts: Sequence[int]) -> str:
  low, high = min(counts), max(counts)
  return str(low) if low == high else f"{low} to {high}"
