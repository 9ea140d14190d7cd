"""Recordings -> prepared sets on disk, each made once for its settings."""

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tqdm

from distill.data import datasets, pipeline, store
from distill.data.builder import PairedBuilder
from distill.errors import DistillError
from distill.spec import SignalSpec

Specs: TypeAlias = Callable[[], Sequence[SignalSpec]]


def prepare(
  data_config: Any, ready_for: Specs = tuple, *, progress: bool = True
) -> dict[str, pathlib.Path]:
  """Builds every set of the config, or finds it built with the same settings.

  A set appears whole under its final name or not at all. Recordings that cannot be used are left
  out, told on standard error and listed in the set's left_out.json. A set that was built is then
  made ready for encoders; it can be used before, and what is missing is made by the first training.

  Args:
    data_config: the config's data section.
    ready_for: asked for the specs of encoders that will train on a set when one was built; see
      `pipeline.make_ready`.
    progress: show progress bars and summaries on standard error.

  Returns:
    Set name -> folder, in the order of `data_config.sets`; open it with `store.open_set`.

  Raises:
    DistillError: an unknown set, no files, or not one usable recording.
  """
  if not data_config.sets:
    raise DistillError(
      f"data.sets is empty; name one or more of: {', '.join(sorted(datasets.DATASETS))}"
    )
  return {name: _prepare_one(name, data_config, ready_for, progress) for name in data_config.sets}


def _prepare_one(name: str, data_config: Any, ready_for: Specs, progress: bool) -> pathlib.Path:
  root = pathlib.Path(data_config.prepared_dir)
  partial = root / f".partial-{name}-{os.getpid()}"
  shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had our number
  builder = datasets.find(name)(data_config, partial, progress=progress)
  final = root / f"{name}-{builder.key()}"
  if (final / store.SET_FILE).is_file():
    return final
  try:
    _write(builder, partial)
    _move(partial, final)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  if progress:
    _summarise(builder)
  pipeline.make_ready(store.open_set(final), ready_for(), progress=progress)
  return final


def _write(builder: PairedBuilder, folder: pathlib.Path) -> None:
  records = builder.build()
  store.write_index(folder, builder.columns)
  store.write_beats(folder, builder.beats)
  (folder / store.LEFT_OUT_FILE).write_text(json.dumps(builder.left_out, indent=2))
  store.write_set(
    folder,
    name=builder.name,
    specs=builder.specs,
    simulated=builder.SIMULATED,
    same_device=builder.same_device,
    records=records,
  )


def _move(partial: pathlib.Path, final: pathlib.Path) -> None:
  try:
    partial.rename(final)
  except OSError:
    # Another process was faster with the same settings, hence with the same content.
    if not (final / store.SET_FILE).is_file():
      raise


def _summarise(builder: PairedBuilder) -> None:
  people = len({str(one["participant"][0]) for one in builder.columns})
  windows = sum(len(one["participant"]) for one in builder.columns)
  lines = [f"{builder.name}: {windows} windows of {people} participants"]
  if builder.left_out["windows"]:
    lines.append(f"  left out {builder.left_out['windows']} windows with too little observed")
  lines += [
    f"  left out {one['recording']}: {one['why']}" for one in builder.left_out["recordings"]
  ]
  for line in lines:
    tqdm.tqdm.write(line, file=sys.stderr)
