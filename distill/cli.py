"""The one console command, `distill`, and its verbs.

Each verb is a call that a notebook makes in the same words (`distill.stages`, `distill.retrieval`,
`distill.probes`, `distill.merge`, `teachers`). Bad input ends in one line on standard error and
exit code 2; results go to standard output, progress to standard error.
"""

import argparse
import errno
import json
import logging
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill.errors import DistillError, nearest

if TYPE_CHECKING:  # verbs import what they need: processes that prepare load this file as well
  from distill.config import ConfigDict

DESCRIPTION = "Teach an accelerometer encoder to see what a frozen PPG encoder sees."
EPILOG = """\
Training verbs take --config=FILE (or FILE:VARIANT) and dotted overrides:
  distill run   --config=configs/quickstart.py --workdir=runs/demo
  distill train --config=configs/quickstart.py --config.optim.learning_rate=3e-4 --workdir=runs/a
A work folder that already holds a run is resumed; --config may then be left out.
"""
# What a place on the disk is to blame for, and no fault of ours.
UNUSABLE = (
  *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
  *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = list(sys.argv[1:] if argv is None else argv)
  try:
    options, overrides = _parse(arguments)
    options.act(options, overrides)
    sys.stdout.flush()
  except DistillError as error:
    print(f"distill: {error}", file=sys.stderr)  # noqa: T201
    return 2
  except KeyboardInterrupt:
    run = any(word.startswith("--workdir") for word in arguments)
    more = "; the same command goes on from the last checkpoint" if run else ""
    print(f"distill: stopped{more}", file=sys.stderr)  # noqa: T201
    return 130
  except BrokenPipeError:
    # The reader (head, less) has left; without this Python complains again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    if error.errno not in UNUSABLE:
      raise
    print(f"distill: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)  # noqa: T201
    return 2
  return 0


class _Parser(argparse.ArgumentParser):
  """argparse that reports through DistillError, so that every bad input looks the same."""

  def error(self, message: str) -> Any:
    raise DistillError(f"{message}; see {self.prog} --help")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = _parser()
  if arguments and not arguments[0].startswith("-") and arguments[0] not in _verbs(parser):
    raise DistillError(f"no verb {arguments[0]!r}{nearest(arguments[0], _verbs(parser))}")
  options, rest = parser.parse_known_args(arguments)
  overrides = [word for word in rest if word.startswith("--config.")]
  unknown = [word for word in rest if word not in overrides]
  if unknown:
    name = unknown[0].partition("=")[0]
    if name.startswith("--"):
      hint = nearest(name, _flags(parser, options.verb))
      raise DistillError(f"{options.verb} knows no option {name}{hint}")
    raise DistillError(f"{options.verb} cannot place {unknown[0]!r}; see distill {options.verb} -h")
  if overrides and not hasattr(options, "config"):
    raise DistillError(f"{options.verb} takes no config, so no {overrides[0]}")
  return options, overrides


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
  group = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
  return group.choices


def _flags(parser: argparse.ArgumentParser, verb: str) -> list[str]:
  """Long options of one verb."""
  return [flag for flag in _verbs(parser)[verb]._option_string_actions if flag.startswith("--")]


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    "distill",
    description=DESCRIPTION,
    epilog=EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
  _training_verbs(verbs)
  _judging_verbs(verbs)
  _model_verbs(verbs)
  return parser


def _verb(verbs, name: str, act, text: str) -> argparse.ArgumentParser:
  parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
  parser.set_defaults(act=act)
  return parser


def _say(text: str) -> None:
  print(text)  # noqa: T201


# --- from recordings to a report ------------------------------------------------------------------


def _training_verbs(verbs) -> None:
  for name, act, text in (
    ("prepare", _prepare, "recordings -> paired, labelled windows on disk"),
    ("pretrain", _pretrain, "pretrain the PPG teacher by masked autoencoding"),
    ("train", _train, "distil the accelerometer student from the frozen teacher"),
    ("run", _run, "everything, from recordings to the report"),
    ("missing", _missing, "what a student loses as less of each minute is observed"),
    ("day", _day, "whole days with gaps: AIM against the same encoder without it"),
    ("finetune", _finetune, "fine-tune a model folder on a labelled task, front end frozen"),
    ("retention", _retention, "what fine-tuning gains and what it costs: Speech-FT and rivals"),
    ("layers", _layers, "probe every layer of frozen encoders for classes, people held out"),
  ):
    parser = _verb(verbs, name, act, text)
    if name == "prepare":
      parser.add_argument("sets", nargs="*", metavar="SET", help="in place of a config: data sets")
      parser.add_argument("--source", metavar="DIR", help="where the files of those sets lie")
    _config_options(parser, workdir=name != "prepare")
    if name in ("pretrain", "train"):
      parser.add_argument(
        "--processes",
        metavar="WHERE",
        help="this is one of several processes that train one model, all on the same folders: auto"
        " (Slurm, MPI, Kubernetes, TPU pods) or ADDRESS:PORT,COUNT,INDEX, the address of process 0",
      )

  parser = _verb(
    verbs, "benchmark", _benchmark, "a grid of runs side by side: tables, intervals, figures"
  )
  parser.add_argument(
    "--config",
    metavar="FILE",
    required=True,
    help="grid, such as configs/benchmark.py:smoke; --config.KEY=VALUE goes to every cell",
  )
  parser.add_argument("--workdir", metavar="DIR", required=True, help="cells, page and figures")
  parser.add_argument(
    "--cells", metavar="NAMES", help="run and compare these alone, joined by commas"
  )
  parser.add_argument("--out", metavar="FILE.md", help="Markdown file to write as well")
  parser.add_argument("--json", action="store_true", help="print the summary as JSON, no table")

  parser = _verb(verbs, "inspect", _inspect, "what lies in a folder, and what is wrong with it")
  parser.add_argument("folder", metavar="DIR", help="official files, or your own with a manifest")
  parser.add_argument("--set", metavar="NAME", default="", help="read it as this set")
  parser.add_argument("--picture", metavar="FILE", help="PNG of which minutes are there and usable")
  parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _config_options(parser: argparse.ArgumentParser, *, workdir: bool) -> None:
  parser.add_argument(
    "--config", metavar="FILE", help="config file, or FILE:VARIANT; --config.KEY=VALUE overrides"
  )
  if workdir:
    parser.add_argument("--workdir", metavar="DIR", required=True, help="work folder of the run")


def _config(options: argparse.Namespace, overrides: list[str]) -> "ConfigDict":
  from distill import config as configs

  if options.config:
    return configs.load(options.config, overrides)
  workdir = getattr(options, "workdir", None)
  if workdir is None or overrides:
    raise DistillError("give --config=FILE; the shipped ones are in configs/")
  from distill.workdir import read_config

  return read_config(workdir)


def _prepare(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import config as configs
  from distill import stages
  from distill.data.prepare import prepare

  if not options.sets:
    if options.source:
      raise DistillError("--source belongs to named sets: distill prepare SET --source=DIR")
    config = _config(options, overrides)
  else:
    config = configs.load(options.config or "", overrides)
    config.data.sets = tuple(options.sets)
    config.data.source = options.source or config.data.source
  for name, folder in (stages.prepare(config) if options.config else prepare(config.data)).items():
    _say(f"{name}: {folder}")


def _inspect(options: argparse.Namespace, _: list[str]) -> None:
  from distill import config as configs
  from distill.data.inspect import inspect, picture

  if options.picture and pathlib.Path(options.picture).suffix != ".png":
    raise DistillError(f"--picture is {options.picture}; expected a name that ends in .png")
  found = inspect(options.folder, configs.base().data, set_name=options.set, progress=True)
  _say(json.dumps(found.to_json(), indent=1) if options.json else found.to_text())
  if options.picture:
    picture(found, options.picture)


def _pretrain(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import processes, stages

  if options.processes:
    processes.join(options.processes)
  config = _config(options, overrides)
  where = "teacher" if config.pretrain.side == "teacher" else "pretrained"
  for k, encoder in zip(config.folds, stages.pretrain(config, options.workdir)):
    _say(
      f"fold {k}: {config.pretrain.side} of {encoder.dim} dimensions in"
      f" {options.workdir}/fold{k}/{where}"
    )


def _train(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import processes, stages

  if options.processes:
    processes.join(options.processes)
  config = _config(options, overrides)
  for k, distilled in zip(config.folds, stages.train(config, options.workdir)):
    dim = distilled.encoder.dim
    _say(f"fold {k}: student of {dim} dimensions in {options.workdir}/fold{k}/student")


def _run(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import report, stages

  made = stages.run(_config(options, overrides), options.workdir)
  _say(report.table(made))
  _say(f"report: {pathlib.Path(options.workdir) / 'report.html'}")


def _missing(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import missing

  _say(missing.table(missing.run(_config(options, overrides), options.workdir)))


def _day(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import day

  _say(day.table(day.run(_config(options, overrides), options.workdir)))


def _finetune(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import finetune

  for folder in finetune.finetune(_config(options, overrides), options.workdir):
    _say(str(folder))


def _retention(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import retention

  retention.compare(_config(options, overrides), options.workdir)
  _say(retention.text(options.workdir))


def _layers(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import layer_probe

  layer_probe.run(_config(options, overrides), options.workdir)
  _say(layer_probe.text(options.workdir))


def _benchmark(options: argparse.Namespace, overrides: list[str]) -> None:
  from distill import benchmark, comparison_report, report

  if options.out and pathlib.Path(options.out).suffix != ".md":
    raise DistillError(f"--out is {options.out}; expected a name that ends in .md")
  grid = benchmark.load(options.config)
  if options.cells is not None:
    grid = grid.only(options.cells.split(","))
  summary = benchmark.run(grid, options.workdir, overrides=overrides, out=options.out)
  if options.json:
    _say(report.to_json(summary).rstrip())
  else:
    _say(comparison_report.text(summary))
    _say(f"page: {pathlib.Path(options.workdir) / benchmark.PAGE}")
  benchmark.check(summary)


# --- embedding and judging ------------------------------------------------------------------------


def _judging_verbs(verbs) -> None:
  parser = _verb(
    verbs, "embed", _embed, "embed a run's windows, or any prepared set with any model folder"
  )
  _config_options(parser, workdir=False)
  parser.add_argument("--workdir", metavar="DIR", help="work folder: embed its windows, all models")
  parser.add_argument("--model", metavar="DIR", help='model folder, or "ours" (with --out)')
  parser.add_argument("--set", metavar="DIR", help="prepared set, as `distill prepare` names it")
  parser.add_argument("--recording", metavar="FILE", help="embed this raw recording instead")
  parser.add_argument("--rate-hz", type=float, help="of the recording, samples per second")
  parser.add_argument("--columns", metavar="NAMES", help="of the recording: x,y,z in g, or ppg")
  parser.add_argument(
    "--time", metavar="NAME", default="", help="its time column, in place of --rate-hz"
  )
  parser.add_argument(
    "--time-unit", choices=("s", "ms", "us", "ns", "iso"), default="s", help="of that column"
  )
  parser.add_argument(
    "--student", metavar="DIR", help='"ours" or the folder of a distilled student (with --source)'
  )
  parser.add_argument("--source", metavar="DIR", help="recordings never seen, in any known layout")
  parser.add_argument("--layout", metavar="SET", default="", help="layout of --source, if unclear")
  parser.add_argument(
    "--out", metavar="PATH", help=".parquet or .npz to write; with --source a folder (embeddings)"
  )
  parser.add_argument(
    "--space",
    choices=("embedding", "projection"),
    default="embedding",
    help="before the head (for probes) or after it (for retrieval)",
  )
  parser.add_argument(
    "--teacher",
    metavar="DIR",
    help="embed this teacher's side and project it with the heads of --model or --student",
  )

  parser = _verb(verbs, "retrieve", _retrieve, "cross-modal retrieval, with controls")
  parser.add_argument("workdir", nargs="?", metavar="RUN", help="a judged work folder, or:")
  parser.add_argument("--query", metavar="FILE", help="embeddings of the acceleration side")
  parser.add_argument("--gallery", metavar="FILE", help="embeddings of the PPG side, same windows")
  parser.add_argument("--window-s", type=float, default=60.0, help="length of a window, seconds")
  parser.add_argument("--force", action="store_true", help="compare files never aligned")
  parser.add_argument("--json", action="store_true", help="print JSON and nothing else")

  parser = _verb(verbs, "probe", _probe, "linear probe on embeddings, people held out")
  parser.add_argument("workdir", nargs="?", metavar="RUN", help="a judged work folder, or:")
  parser.add_argument("--embeddings", metavar="FILE", help=".parquet or .npz")
  parser.add_argument(
    "--target", metavar="COLUMN", default="hr_bpm", help="label column to predict"
  )
  parser.add_argument("--json", action="store_true", help="print JSON and nothing else")

  parser = _verb(verbs, "report", _report, "judge a run's embeddings and show the report")
  parser.add_argument("workdir", metavar="RUN", help="work folder")
  shown = parser.add_mutually_exclusive_group()
  shown.add_argument("--json", action="store_true", help="print report.json and nothing else")
  shown.add_argument("--markdown", action="store_true", help="print the tables as Markdown")


def _embed(options: argparse.Namespace, overrides: list[str]) -> None:
  _one_source(options, "model", "set", "recording", "student", "source", "out")
  if options.workdir:
    from distill import stages

    config = _config(options, overrides)
    stages.check_trained(config, options.workdir)
    for folder in stages.embed(config, options.workdir):
      _say(str(folder))
    return
  if options.student or options.source:
    _embed_outside(options)
    return
  if not (options.model and options.out and (options.set or options.recording)):
    raise DistillError(
      "embed needs --workdir, or --student and --source, or --model, --set (or --recording) and"
      " --out"
    )
  from distill import embeddings, models, tables

  embeddings.check_free(options.out)  # before hours of work
  if options.recording:
    table = _embed_recording(options)
  else:
    model = models.find(options.model, side="students")
    teacher = models.find(options.teacher, side="teachers") if options.teacher else None
    projected = options.space == "projection"
    made = tables.embed_set(model, options.set, projected=projected, teacher=teacher)
    table = made[options.space]
  embeddings.save(table, options.out)
  refused = len(table) - int(table.valid.sum())
  _say(
    f"{options.out}: {len(table)} {table.space}s of {table.embedding.shape[1]} dimensions"
    + (f"; {refused} windows were observed too little and are not valid" if refused else "")
  )


def _embed_recording(options: argparse.Namespace) -> Any:
  from distill import models, tables
  from distill.data import clocks
  from distill.data import tables as files

  if not ((options.rate_hz or options.time) and options.columns):
    raise DistillError(
      "embed --recording needs --rate-hz (or --time) and --columns, such as --columns=x,y,z"
    )
  if options.space != "embedding" or options.teacher:
    raise DistillError("embed --recording writes embeddings of --model alone")
  path = pathlib.Path(options.recording)
  columns = options.columns.split(",")
  read = files.read(path, columns, time=options.time, time_unit=options.time_unit)
  samples, rate_hz = read.values, options.rate_hz
  if options.time:
    where, first = str(path), read.first_row
    signal, _ = clocks.even(
      read.stamps_s, samples, unit="", where=where, rate_hz=rate_hz, first_row=first
    )
    samples, rate_hz = signal.samples, signal.rate_hz
  elif unread := files.time_column(files.names(path)):
    if unread in columns:
      raise DistillError(f"column {unread!r} of {path} is its clock; give it as --time={unread}")
    told = f"{path}: column {unread!r} is not read, so lost rows would go unseen; add"
    print(f"distill: {told} --time={unread}", file=sys.stderr)  # noqa: T201
  model = models.find(options.model, side="students")
  return tables.embed_recording(model, samples, rate_hz=rate_hz, where=str(path))


def _embed_outside(options: argparse.Namespace) -> None:
  from distill import outside

  if not (options.student and options.source):
    raise DistillError("embed needs --student and --source together, such as --student=ours")
  out = options.out or "embeddings"
  written = outside.embed(
    options.student, options.source, out, layout=options.layout, teacher=options.teacher or ""
  )
  for path in written.values():
    _say(str(path))
  _say(f"next: distill probe --embeddings={written['student']}")
  if "teacher_projection" in written:
    query, gallery = written["student_projection"], written["teacher_projection"]
    _say(f"      distill retrieve --query={query} --gallery={gallery}")


def _judged_file(path: str) -> Any:
  """An embedding file; people whom its model has seen are told, for they make it look good."""
  from distill import embeddings

  table = embeddings.load(path, strict=True)
  seen = table.columns.get("seen")
  if seen is not None and seen.any():
    told = f"{path}: the model has seen the people of {int(seen.sum())} of {len(table)} windows"
    print(f"{told} in training (column seen)", file=sys.stderr)  # noqa: T201
  return table


def _one_source(options: argparse.Namespace, *files: str) -> None:
  """Refuses a work folder beside files: one of them would be left unread."""
  given = [f"--{name}" for name in files if getattr(options, name)]
  if options.workdir and given:
    raise DistillError(
      f"{options.verb} was given the work folder {options.workdir} and {given[0]}; give one of them"
    )


def _retrieve(options: argparse.Namespace, _: list[str]) -> None:
  from distill import report, retrieval

  _one_source(options, "query", "gallery")
  if options.workdir:
    sets = report.load(options.workdir)["sets"]
    found = {
      name: {part: one.get(part, {}) for part in (*retrieval.PARTS, "simulated")}
      for name, one in sets.items()
    }
  elif options.query and options.gallery:
    if not 0 < options.window_s < float("inf"):
      raise DistillError(
        f"--window-s is {options.window_s:g}; give the length of a window, seconds"
      )
    pair = (_judged_file(options.query), _judged_file(options.gallery))
    _check_two_files(options)
    judged = retrieval.retrieve([pair], window_s=options.window_s, force=options.force)
    simulated = any(table.simulated for table in pair)
    found = {pathlib.Path(options.query).stem: judged | {"simulated": simulated}}
  else:
    raise DistillError("retrieve needs a work folder, or --query and --gallery")
  if options.json:
    _say(report.to_json(report.plain(found)).rstrip())
    return
  for name, one in report.plain(found).items():
    _say(f"{_titled(name, one)}\n{report.retrieval_text(one)}")
    for what, why in one["not_scored"].items():
      _say(f"not scored: {what.replace('_', ' ')} ({why})")


def _check_two_files(options: argparse.Namespace) -> None:
  query, gallery = pathlib.Path(options.query), pathlib.Path(options.gallery)
  if query.resolve() == gallery.resolve() and not options.force:
    raise DistillError(
      f"--query and --gallery are both {query}: everything would find itself; give the"
      " projections of acceleration and those of PPG, or --force"
    )


def _titled(name: str, one: dict[str, Any]) -> str:
  """The heading of a set's results; those of a computer's people are always called that."""
  return f"{name} (simulated)" if one["simulated"] else name


def _probe(options: argparse.Namespace, _: list[str]) -> None:
  from distill import evaluate, report

  _one_source(options, "embeddings")
  target = options.target
  if options.workdir:
    sets = report.load(options.workdir)["sets"]
    found = {name: one for name, one in sets.items() if _probed(one, target)}
    if not found:
      known = {name for one in sets.values() for part in _PROBES for name in one.get(part, {})}
      hint = nearest(target, known)
      raise DistillError(f"{options.workdir} holds no probe of {target!r}{hint}")
  elif options.embeddings:
    table = _judged_file(options.embeddings)
    name = pathlib.Path(options.embeddings).stem
    judged = evaluate.probe_table(table, target) | {"simulated": table.simulated}
    found = {name: report.plain(judged)}
  else:
    raise DistillError("probe needs a work folder, or --embeddings")
  if options.json:
    rows = {name: one[_probed(one, target)][target] for name, one in found.items()}
    _say(report.to_json(rows).rstrip())
    return
  for name, one in found.items():
    text = report.probe_text if _probed(one, target) == "probes" else report.trait_text
    _say(f"{_titled(name, one)}\n{text(one, target)}")


_PROBES = ("probes", "classes", "traits")


def _probed(one: dict[str, Any], target: str) -> str:
  """The part of a set's results that holds a target; "" if none does."""
  return next((part for part in _PROBES if target in one.get(part, {})), "")


def _report(options: argparse.Namespace, _: list[str]) -> None:
  from distill import report

  folder = pathlib.Path(options.workdir)
  if not (folder / "report.json").is_file():
    from distill import stages, workdir

    if not any(folder.glob("fold*/embeddings")):
      _refuse_other_results(folder)
    stages.judge(workdir.read_config(folder), folder)
  made = report.load(folder)
  if options.json:
    _say(report.to_json(made).rstrip())
  elif options.markdown:
    _say(report.markdown(made))
  else:
    _say(report.table(made))
    _say(f"report: {folder / 'report.html'}")


# What other verbs leave in their work folders, to be read.
RESULTS = {
  "benchmark.html": "benchmark",
  "day.json": "day",
  "layers.md": "layers",
  "missing.json": "missing",
  "retention.md": "retention",
}


def _refuse_other_results(folder: pathlib.Path) -> None:
  for tuned in sorted(folder.glob("fold*/finetuned/model")):
    raise DistillError(
      f"{folder} holds no embeddings to judge; it was made by `distill finetune`, whose model is"
      f" {tuned}: embed a set with it (distill embed --model) and probe that, or compare ways to"
      " fine-tune with: distill retention"
    )
  for file, verb in RESULTS.items():
    if (folder / file).is_file():
      raise DistillError(
        f"{folder} holds no embeddings to judge; it was made by `distill {verb}`, whose results are"
        f" in {folder / file}"
      )


# --- models ---------------------------------------------------------------------------------------


def _model_verbs(verbs) -> None:
  parser = _verb(verbs, "teachers", _teachers, "list the public encoders that can be imported")
  parser.add_argument("--json", action="store_true", help="print JSON and nothing else")

  parser = _verb(
    verbs, "import-teacher", _import_teacher, "public checkpoint -> model folder, loadable offline"
  )
  parser.add_argument("family", help="as `distill teachers` lists it")
  parser.add_argument("checkpoint", help="file or folder as published")
  parser.add_argument("--out", metavar="DIR", required=True, help="model folder to write")
  parser.add_argument("--window-s", type=float, help="length of a window; default: the family's")
  parser.add_argument("--output", help="which of the family's vectors is the embedding")

  parser = _verb(verbs, "merge", _merge, "interpolate a model and what was fine-tuned from it")
  parser.add_argument("start", help="model folder that the others grew out of")
  parser.add_argument("finetuned", nargs="+", help="one or more fine-tuned model folders")
  parser.add_argument("--alpha", type=float, default=0.25, help="0 is START, 1 the fine-tuned mean")
  parser.add_argument(
    "--set", metavar="DIR", help="prepared set: recompute batch-norm statistics, if there are any"
  )
  parser.add_argument("--out", metavar="DIR", required=True, help="model folder to write")

  parser = _verb(verbs, "export", _export, "a model for a device: files that run without this")
  parser.add_argument("model", metavar="MODEL", help='model folder, a run\'s student, or "ours"')
  parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
  parser.add_argument(
    "--format",
    metavar="NAME",
    action="append",
    help="stablehlo (default), onnx or litert; may be given several times, or joined by commas",
  )
  parser.add_argument(
    "--outputs",
    metavar="NAMES",
    default="",
    help="of embedding, projection, rhythm, coverage and a fine-tuned task's target (hr_bpm);"
    " default: embedding, coverage and the task",
  )
  parser.add_argument(
    "--side",
    choices=("students", "teachers"),
    default="students",
    help='whose model a name such as "ours" means',
  )


def _families() -> dict[str, Any]:
  """Public encoders of both sides by name, found through the registry."""
  from distill import registry

  sides = ("teachers:families", "students:families")
  found = [registry.resolve(side, key="families")() for side in sides]
  return {family.name: (side, family) for side, some in zip(sides, found) for family in some}


def _teachers(options: argparse.Namespace, _: list[str]) -> None:
  rows = [
    {
      "name": family.name,
      "side": side.partition(":")[0],
      "input": family.input,
      "embedding": family.embedding,
      "licence": family.licence,
      "commercial": family.commercial,
      "weights": family.weights,
    }
    for side, family in _families().values()
  ]
  if options.json:
    _say(json.dumps(rows, indent=1))
    return
  for row in rows:
    _say(f"{row['name']} ({row['side']}): {row['input']} -> {row['embedding']}")
    _say(f"  licence: {row['licence']}; commercial use: {row['commercial']}")
    _say(f"  weights: {row['weights']}")


def _import_teacher(options: argparse.Namespace, _: list[str]) -> None:
  from distill import published

  known = _families()
  families = {name: family for name, (_, family) in known.items()}
  logging.getLogger("distill.published").setLevel(logging.ERROR)  # its notice is printed below
  done = published.import_to(
    published.find(families, options.family),
    options.checkpoint,
    options.out,
    window_s=options.window_s,
    output=options.output,
  )
  dropped = ""
  if done.dropped:
    some = ", ".join(done.dropped[:3]) + (", ..." if len(done.dropped) > 3 else "")
    dropped = f"; knowingly dropped: {len(done.dropped)} tensors, listed in spec.json ({some})"
  _say(f"{done.folder}: sha256 of the checkpoint {done.sha256}{dropped}\n{done.notice}")


def _merge(options: argparse.Namespace, _: list[str]) -> None:
  from distill import merge

  merge.merge(options.start, options.finetuned, options.out, alpha=options.alpha)
  _say(f"{options.out}: {options.start} moved by {options.alpha:g}")
  if options.set:
    from distill import finetune

    count = finetune.renormalise(options.out, options.set)
    _say(f"statistics of {count} batch norms recomputed")


def _export(options: argparse.Namespace, _: list[str]) -> None:
  from distill import export

  formats = ",".join(options.format or ["stablehlo"]).split(",")
  written = export.export(
    options.model,
    options.out,
    formats=tuple(dict.fromkeys(formats)),
    outputs=[name for name in options.outputs.split(",") if name],
    side=options.side,
  )
  for one in written:
    largest = max(one.max_difference.values())
    _say(
      f"{one.path}: {one.size_bytes / 1e6:.2f} MB, {one.ms_per_window:.1f} ms a window here,"
      f" within {largest:.1g} of the encoder"
    )
  _say(f"how to run it: {pathlib.Path(options.out) / export.README}")


if __name__ == "__main__":
  sys.exit(main())
