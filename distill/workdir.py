"""The work folder of a run: who it belongs to, its folds on prepared sets, and its clock.

config.json, versions.json, timing.json
prepared sets lie under config.data.prepared_dir, outside, and are shared by runs, as are windows
made ready for encoders (<prepared set>/ready/, which may be deleted)
fold<k>/teacher/         run folder: metrics.jsonl, checkpoints/, model/
fold<k>/student/         likewise; its model holds the encoder and both heads
fold<k>/supervised/      likewise; supervised_10/ by 10 % of the training people
fold<k>/label_distillation/, pretrained/, joint/   likewise, where the config asks for them
fold<k>/embeddings/<set>/<model>.parquet
report.json, report.html, plots/
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from distill import config as configs
from distill import processes
from distill.config import ConfigDict
from distill.data import pipeline, splits
from distill.data.prepare import Specs, prepare
from distill.data.store import PreparedSet, open_set
from distill.errors import DistillError

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None  # type: ignore[assignment]

CONFIG, VERSIONS, TIMING = "config.json", "versions.json", "timing.json"
LOCK = ".lock"  # holds the number of the process that has the folder
_HELD: set[pathlib.Path] = set()  # by this process
FOLD = "{fold}"  # in a path of the config: the number of the fold


def of_fold(place: str, k: int) -> str:
  """A path of the config in fold `k`."""
  return place.replace(FOLD, str(k))


@dataclasses.dataclass(frozen=True)
class Fold:
  """One held-out fold of every set of a config.

  Attributes:
    k: index of the fold.
    folder: where its results go.
    sets: set name -> (prepared set, split).
    external: the same of sets that are judged and not trained on; everybody is a test person.
  """

  k: int
  folder: pathlib.Path
  sets: Mapping[str, tuple[PreparedSet, splits.Split]]
  external: Mapping[str, tuple[PreparedSet, splits.Split]] = dataclasses.field(default_factory=dict)

  def named(self, place: str) -> str:
    """A path of the config, "{fold}" in it being the number of this fold."""
    return of_fold(place, self.k)

  def people(self, part: str) -> list[str]:
    """The participants of one part as "set/participant", over all sets."""
    return [
      f"{name}/{who}" for name, (_, split) in self.sets.items() for who in getattr(split, part)
    ]

  @property
  def held_out(self) -> list[str]:
    """Everybody who is tested as "set/participant", those of external sets too."""
    away = [f"{name}/{who}" for name, (_, split) in self.external.items() for who in split.test]
    return self.people("test") + away

  def rows(self, config: ConfigDict, part: str, *, overlapping: bool) -> dict[str, pipeline.Rows]:
    """Set name -> rows of one part."""
    found = {
      name: pipeline.select(
        prepared, split, part, overlapping=overlapping, min_coverage=config.data.min_coverage
      )
      for name, (prepared, split) in self.sets.items()
    }
    if part == "train" and config.data.train_minutes:
      return {
        name: pipeline.within(rows, config.data.train_minutes) for name, rows in found.items()
      }
    return found

  @property
  def simulated(self) -> bool:
    """Whether any of the sets is."""
    return any(prepared.simulated for prepared, _ in self.sets.values())


@contextlib.contextmanager
def claimed(config: ConfigDict, workdir: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder as the work folder of a config, new or resumed.

  Bad input that is found before there is any result leaves a new work folder as it was, so that the
  mended command can use it.

  Raises:
    DistillError: the folder holds another run, or files that are no run.
  """
  workdir = pathlib.Path(workdir)
  was_there = workdir.is_dir()
  with processes.one_first("claimed"):
    _claim(config, workdir)
  with _locked(workdir):
    try:
      yield workdir
    except DistillError:
      if processes.writes() and all(
        path.name in (CONFIG, VERSIONS, TIMING, LOCK) for path in workdir.iterdir()
      ):
        for path in workdir.iterdir():
          path.unlink()
        if not was_there:
          workdir.rmdir()
      raise


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
  """Waits while another process has the work folder, in which two would write the same files.

  The lock ends with the process, however that ends. This process may claim a folder again while it
  has it. Where the system has no such locks (Windows) nobody waits.
  """
  place = workdir.resolve()
  if fcntl is None or place in _HELD or not processes.writes():
    yield
    return
  with open(workdir / LOCK, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      told = f"{workdir} is in use by process {file.read()}: waiting until that is done"
      tqdm.write(told, file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _HELD.add(place)
    try:
      yield
    finally:
      _HELD.discard(place)


def _claim(config: ConfigDict, workdir: pathlib.Path) -> None:
  if (workdir / CONFIG).is_file():
    here = json.loads(configs.to_json(config))
    there = _read_json(workdir / CONFIG)
    for key, old, new in _differences(there, here):
      if key in configs.FREE:
        continue
      raise DistillError(
        f"{workdir} already holds another run: config.{key} is {old!r} there and {new!r} here;"
        " choose another --workdir, or delete that folder"
      )
    return
  partial = workdir / (CONFIG + ".partial")
  ours = (partial.name, VERSIONS, LOCK)  # of a claim that was killed
  if workdir.exists() and not (
    workdir.is_dir() and all(path.name in ours for path in workdir.iterdir())
  ):
    raise DistillError(
      f"{workdir} is not empty and holds no run (no {CONFIG}); choose another --workdir"
    )
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / VERSIONS).write_text(json.dumps(configs.versions(), indent=2))
  partial.write_text(configs.to_json(config))
  partial.replace(workdir / CONFIG)


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise DistillError(f"{path} is damaged: {error}; choose another --workdir") from error


def _differences(there: Any, here: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
  if isinstance(there, dict) and isinstance(here, dict):
    for key in sorted(set(there) | set(here)):
      yield from _differences(there.get(key), here.get(key), f"{prefix}{key}.")
  elif there != here:
    yield prefix.rstrip("."), there, here


def read_config(workdir: str | pathlib.Path) -> ConfigDict:
  """The config of a work folder.

  Raises:
    DistillError: the folder holds no run.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.is_file():
    raise DistillError(f"{workdir} holds no run (no {CONFIG}); start one with --config=FILE")
  try:
    return configs.from_json(path.read_text())
  except DistillError as error:
    raise DistillError(f"{path}: {error}") from error


def open_folds(config: ConfigDict, workdir: pathlib.Path, ready_for: Specs = tuple) -> list[Fold]:
  """The held-out folds that the config names, on prepared sets; prepares what is not yet.

  Args:
    config: of the run.
    workdir: its folder.
    ready_for: see `distill.data.prepare.prepare`; of the sets that are trained on.

  Raises:
    DistillError: a fold that the split files do not have, a participant in two parts.
  """
  with clock(workdir, "prepare"), processes.one_first("prepared"):
    folders = prepare(config.data, ready_for)
    prepared = {name: open_set(folder) for name, folder in folders.items()}
    external = _external(config)
  folds = {name: _folds(config, name, one) for name, one in prepared.items()}
  return [
    Fold(
      k,
      workdir / f"fold{k}",
      {name: (prepared[name], _split(config, folds[name], k)) for name in prepared},
      external if k == config.folds[0] else {},
    )
    for k in config.folds
  ]


def _split(config: ConfigDict, folds: splits.Folds, k: int) -> splits.Split:
  people = config.data.train_people
  return folds.split(k).fewer(people) if people else folds.split(k)


def _external(config: ConfigDict) -> dict[str, tuple[PreparedSet, splits.Split]]:
  if not config.data.external:
    return {}
  data = config.data.copy_and_resolve_references()
  data.sets = tuple(config.data.external)
  found = {}
  for name, folder in prepare(data).items():
    one = open_set(folder)
    everybody = tuple(sorted(set(one.index["participant"].tolist())))
    found[name] = (one, splits.Split((), (), everybody))
  return found


def _folds(config: ConfigDict, name: str, prepared: PreparedSet) -> splits.Folds:
  if config.data.splits and not pathlib.Path(config.data.splits).is_dir():
    raise DistillError(f"config.data.splits is {config.data.splits}, which is no folder")
  if config.data.splits and not prepared.simulated:  # simulated people are always told by name
    return splits.load(pathlib.Path(config.data.splits) / f"{name}.txt")
  return splits.assign(sorted(set(prepared.index["participant"].tolist())))


@contextlib.contextmanager
def clock(workdir: pathlib.Path, stage: str) -> Iterator[None]:
  """Adds the seconds of the body to a stage; an interrupted run's seconds add up over restarts."""
  start = time.perf_counter()
  try:
    yield
  finally:
    if processes.writes():
      seconds = read_timing(workdir)
      seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 3)
      partial = workdir / (TIMING + ".partial")
      partial.write_text(json.dumps(seconds, indent=2))
      partial.replace(workdir / TIMING)


def read_timing(workdir: pathlib.Path) -> dict[str, float]:
  """Stage -> seconds so far."""
  path = workdir / TIMING
  return json.loads(path.read_text()) if path.is_file() else {}


def read_versions(workdir: pathlib.Path) -> dict[str, str]:
  """Package -> version that the run was started with."""
  return json.loads((workdir / VERSIONS).read_text())
