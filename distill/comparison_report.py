"""Tables, Markdown and HTML of a benchmark, all made of one summary (`distill.comparison`)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill import numerals, plots, report
from distill.comparison import FACTS, REFERENCES, on_set, set_names, subject, targets_of
from distill.plots import CONTROL_LABELS, RHYTHM_LABELS, capital, model_label, ordered, target_label
from distill.report import Table
from distill.retrieval import ACC_TO_PPG


def set_tables(summary: Mapping[str, Any], set_name: str) -> Iterator[Table]:
  """The tables of one set: errors by model, rivals, retrieval, motion, cells against each other."""
  cells = on_set(summary, set_name)
  for target in targets_of(summary, set_name):
    probed = {name: one for name, one in cells.items() if target in one["probes"]}
    yield _error_table(summary, set_name, target, probed)
    yield _rival_table(target, probed)
  searched = {name: one for name, one in cells.items() if one["retrieval"]}
  if searched:
    yield _retrieval_table(summary, set_name, searched)
  yield _motion_table(cells)
  shown = cells.get(summary["reference"])
  for table in report.group_tables(shown) if shown else ():
    yield dataclasses.replace(table, title=f"{table.title}, {summary['reference']}", brief=(0,))
  if summary["differences"].get(set_name):
    yield _difference_table(summary, set_name)


def _error_table(summary, set_name: str, target: str, cells: Mapping[str, Any]) -> Table:
  label, unit = target_label(target)
  models = ordered({model: None for one in cells.values() for model in one["probes"][target]})
  header = ("cell", "its model", f"MAE, {unit}", "95 %", "SD over seeds", "people", "labels")
  rows = []
  for name, one in cells.items():
    table = one["probes"][target]
    row = table[subject(table)]
    told = row["label_origin"] + ("" if row["measurable"] is not False else ", not measurable")
    rows.append(
      (
        name,
        model_label(subject(table)),
        numerals.number(row["mae"]["value"]),
        numerals.span(row["mae"]["lo"], row["mae"]["hi"]),
        numerals.number(summary["cells"][name]["seed_sd"][set_name].get(target)),
        str(row["n_participants"]),
        told or "unknown",
        *(
          numerals.number(table[model]["mae"]["value"]) if model in table else ""
          for model in models
        ),
      )
    )
  tables = [one["probes"][target] for one in cells.values()]
  circular = any(row["circular"] for table in tables for row in table.values())
  note = (
    "MAE is the mean over participants of their MAE, averaged over seeds, with a 95 % t interval"
    " over participants."
  )
  note += report.pulse_note(target, "+".join(one["label_origin"] for one in _subjects(tables)))
  if circular:
    note += " The labels were made of the PPG: what reads the PPG is circular here."
  return Table(
    f"{capital(label)}: error of every model, {unit}",
    (*header, *map(model_label, models)),
    rows,
    note,
    brief=(0, 1, 2, 3, 4, 5),
  )


def _subjects(tables: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
  """The row that each cell is about."""
  yield from (table[subject(table)] for table in tables)


def _rival_table(target: str, cells: Mapping[str, Any]) -> Table:
  label, unit = target_label(target)
  models = ordered({model: None for one in cells.values() for model in one["differences"][target]})
  rows = []
  for name, one in cells.items():
    found = [one["differences"][target].get(model) for model in models]
    rows.append((name, *(difference(row) if row else "" for row in found)))
  note = (
    "Paired by participant, with a 95 % t interval; negative: the cell's model is better. In"
    " brackets per cent of the other model's error."
  )
  rivals = [model for model in models if model not in REFERENCES]
  brief = [models.index(model) + 1 for model in rivals if model != "student"]
  return Table(
    f"{capital(label)}: the cell's model minus each other one, {unit}",
    ("cell", *map(model_label, models)),
    rows,
    note,
    brief=(0, *brief[:3]),
  )


def _retrieval_table(summary, set_name: str, cells: Mapping[str, Any]) -> Table:
  controls = list(dict.fromkeys(name for one in cells.values() for name in one["controls"]))
  sizes = sorted({round(row["gallery"]) for one in cells.values()
                  for row in one["retrieval"][ACC_TO_PPG][:-1]})  # fmt: skip
  beside = {name: _beside(one) for name, one in cells.items()}
  others = list(dict.fromkeys(label for rows in beside.values() for label in rows))
  header = (
    *("cell", "candidates", "top-1 %", "95 %", "SD over seeds", "chance %", "top-10 %", "MRR"),
    *(f"top-1 % of {size}" for size in sizes),
    *(f"{CONTROL_LABELS.get(name, name)}: top-1 (chance) %" for name in controls),
    *others,
  )
  rows = []
  for name, one in cells.items():
    ways = one["retrieval"][ACC_TO_PPG]
    whole, by_size = ways[-1], {round(row["gallery"]): row for row in ways[:-1]}
    found = [one["controls"].get(control, {}).get(ACC_TO_PPG) for control in controls]
    sd = summary["cells"][name]["seed_sd"][set_name].get("top1")
    rows.append(
      (
        name,
        numerals.number(whole["gallery"], 0),
        numerals.percent(whole["top1"]),
        numerals.span(whole["lo"], whole["hi"], scale=100),
        numerals.percent(sd),
        numerals.percent(whole["chance_top1"], 2),
        numerals.percent(whole["top10"]),
        numerals.number(whole["mrr"], 3),
        *(numerals.percent(by_size[size]["top1"]) if size in by_size else "" for size in sizes),
        *(_with_chance(row[0]) if row else "" for row in found),
        *(beside[name].get(label, "") for label in others),
      )
    )
  note = (
    "Acceleration to PPG, cosine of projections, ties count against the model; the whole held-out"
    " set first, then random galleries, controls, what needs no learning and what knows the truth"
    " (rhythms in galleries of their own, chance in brackets)."
  )
  return Table("Retrieval", header, rows, note, brief=(0, 1, 2, 3, 5, 6))


def _beside(one: Mapping[str, Any]) -> dict[str, str]:
  """Header -> cell, of the rival that has learnt nothing and of the oracles."""
  found = {}
  for name, some in one.get("rhythm", {}).items():
    row = some["retrieval"][ACC_TO_PPG][-1]
    found[f"{RHYTHM_LABELS[name]}: top-1 (chance) %"] = _with_chance(row)
  found |= {
    f"{label}: top-1 %": numerals.percent(row["top1"]) for label, row in report.oracle_rows(one)
  }
  return found


def _with_chance(row: Mapping[str, Any]) -> str:
  return f"{numerals.percent(row['top1'])} ({numerals.percent(row['chance_top1'])})"


def _motion_table(cells: Mapping[str, Any]) -> Table:
  """Heart rate, or the first target there is, and top-1 by motion level."""
  target = next((t for one in cells.values() for t in one["probes"]), "")
  label, unit = target_label(target)
  levels = list(dict.fromkeys(level for one in cells.values() for level in one["probes_by_motion"]))
  header = ["cell"]
  for level in levels:
    header += [f"{level}: windows", f"MAE, {unit}", "95 %", f"mean, {unit}", "top-1 (chance) %"]
  rows = []
  for name, one in cells.items():
    row = [name]
    for level in levels:
      table = one["probes_by_motion"].get(level, {}).get(target, {})
      ranks = one["by_motion"].get(level, {}).get(ACC_TO_PPG)
      own, mean = table[subject(table)] if table else None, table.get("mean")
      row += [
        str(one["windows"][level]["n_windows"]),
        numerals.number(own["mae"]["value"]) if own else "",
        numerals.span(own["mae"]["lo"], own["mae"]["hi"]) if own else "",
        numerals.number(mean["mae"]["value"]) if mean else "",
        _with_chance(ranks[0]) if ranks else "",
      ]
    rows.append(tuple(row))
  note = "Levels by SD of the acceleration; over several seeds the ends of intervals are averaged."
  title = f"By motion: {label} and retrieval"
  return Table(title, tuple(header), rows, note, brief=(0,))


def _difference_table(summary: Mapping[str, Any], set_name: str) -> Table:
  found = summary["differences"][set_name]
  measures = list(dict.fromkeys(m for row in found.values() for m in row))
  labels = {m: ", ".join(filter(None, target_label(m))) for m in measures if m != "top1"}
  header = ("cell", *(labels.get(m, "top-1, percentage points") for m in measures), "people")
  rows = []
  for name, row in found.items():
    cells = [
      difference(row[m], scale=100 if m == "top1" else 1) if m in row else "" for m in measures
    ]
    people = max((one["n_participants"] for one in row.values()), default=0)
    rows.append((name, *cells, str(people)))
  note = (
    "The model of each cell minus that of the reference on the same held-out people, paired by"
    " participant, with a 95 % t interval; of errors, negative is better than the reference. In"
    " brackets per cent of the reference."
  )
  return Table(
    f"Each cell against {summary['reference']}", header, rows, note, brief=tuple(range(len(header)))
  )


def cells_table(summary: Mapping[str, Any]) -> Table:
  """What each cell is: what it changes, its seeds, its size, its time."""
  header = (
    *("cell", "changes", "seeds", "training people", "training minutes", "student parameters"),
    *("teacher parameters", "learning rate, times the config's", "minutes of work"),
  )
  rows = []
  for name, cell in summary["cells"].items():
    rows.append(
      (
        name,
        ", ".join(cell["overrides"]) or "none",
        " ".join(map(str, cell["seeds"])),
        *(numerals.number(cell["facts"].get(fact), 0) for fact in FACTS),
        _trials(cell),
        numerals.number(cell["seconds"] / 60, 1),
      )
    )
  note = (
    "People, minutes and parameters are counted in the first fold. A teacher or supervised student"
    " that is the same in two cells is trained once, in the first of them, and its time is told"
    " there."
  )
  return Table("The cells", header, rows, note, brief=(0, 2, 3, 4, 5, 7, 8))


def _trials(cell: Mapping[str, Any]) -> str:
  """The factor on the learning rate, and the errors on validation people it was chosen by."""
  tried = ", ".join(
    f"{float(one):g}: {numerals.number(error)}" for one, error in cell["trials"].items()
  )
  return f"{cell['trial']:g} of {tried}" if len(cell["trials"]) > 1 else f"{cell['trial']:g}"


# --- text -----------------------------------------------------------------------------------------


def text(summary: Mapping[str, Any]) -> str:
  """The tables as fixed-width text for a terminal."""
  parts = [report.as_text([cells_table(summary)])]
  for name in set_names(summary):
    one = next(iter(on_set(summary, name).values()))
    mark = "   *** SIMULATED ***" if one["simulated"] else ""
    short = [table for table in set_tables(summary, name) if len(table.brief) > 1]
    parts.append(f"Set {name}{mark}\n\n{report.as_text(short)}")
  return "\n\n".join(parts) + "\n"


def introduction(summary: Mapping[str, Any]) -> str:
  """What was run, in one paragraph."""
  seeds = ", ".join(map(str, summary["seeds"]))
  several = len(summary["seeds"]) > 1
  return (
    f"Benchmark {summary['name']}: {len(summary['cells'])} cells, seed{'s' if several else ''}"
    f" {seeds}. Every number is of people whom no model had seen."
    + ("" if several else " One seed: chance of the training is not in the intervals.")
    + _tuning(summary)
  )


def _tuning(summary: Mapping[str, Any]) -> str:
  """How many trials every cell had to be tuned."""
  counts = {len(cell["trials"]) for cell in summary["cells"].values()}
  if max(counts) <= 1:
    return " No cell was tuned: each has the learning rate that its config gives."
  return (
    f" Every cell had {' or '.join(map(str, sorted(counts)))} trials: learning rates, chosen under"
    " the first seed by the error on validation people in the first target."
  )


def markdown(summary: Mapping[str, Any], drawn: Sequence[plots.Plot], images: str) -> str:
  """The tables and figures as Markdown.

  Args:
    summary: as `summarise` returns it.
    drawn: figures; each is shown as <images>/<name>.svg with its alt text.
    images: folder of the figures, as seen from the Markdown file.
  """
  parts = [f"# Benchmark: {summary['name']}", introduction(summary)]
  if summary["simulated"]:
    parts.append("**Simulated** numbers are not results on people.")
  parts += [_failures(summary)] if summary["failed"] else []
  parts.append(report.as_markdown([cells_table(summary)]))
  for name in set_names(summary):
    one = next(iter(on_set(summary, name).values()))
    parts.append(f"## {plots.marked(name, one['simulated'])}\n\n{report.summary_text(one)}")
    parts += [_image(plot, images) for plot in drawn if plot.set_name == name]
    parts.append(report.as_markdown(list(set_tables(summary, name))))
  parts += [_image(plot, images) for plot in drawn if not plot.set_name]
  versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
  return "\n\n".join([*parts, f"{versions}."]) + "\n"


def _image(plot: plots.Plot, images: str) -> str:
  alt = plot.alt.replace("[", "(").replace("]", ")")
  return f"![{alt}]({images}/{plot.name.replace(' ', '%20')}.svg)"


def _failures(summary: Mapping[str, Any]) -> str:
  lines = [f"- {name}: {why}" for name, why in summary["failed"].items()]
  return "\n".join(["Cells that failed and are missing below:", "", *lines])


def html(summary: Mapping[str, Any], drawn: Sequence[plots.Plot]) -> str:
  """The benchmark as one HTML page that needs no other file and no network."""
  sections = [
    {
      "name": plots.marked(name, one["simulated"]),
      "summary": report.summary_text(one),
      "plots": [plot for plot in drawn if plot.set_name == name],
      "tables": list(set_tables(summary, name)),
    }
    for name in set_names(summary)
    for one in [next(iter(on_set(summary, name).values()))]
  ]
  return report.page(
    "benchmark.html",
    summary=summary,
    introduction=introduction(summary),
    cells=cells_table(summary),
    sections=sections,
    other_plots=[plot for plot in drawn if not plot.set_name],
  )


def difference(row: Mapping[str, Any], scale: float = 1) -> str:
  """Text of a paired difference: value, interval, share of the other's error."""
  mae = row["mae"]
  if mae["value"] is None:
    return ""
  digits = 1 if scale == 100 else 2
  told = f"{scale * mae['value']:+.{digits}f}"
  if mae["lo"] is not None:
    told += f", {scale * mae['lo']:+.{digits}f} to {scale * mae['hi']:+.{digits}f}"
  return told if row["relative"] is None else f"{told} ({100 * row['relative']:+.0f} %)"
