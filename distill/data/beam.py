"""Preparing on Apache Beam: the same cutting, spread over the workers of a runner.

Apache Beam is an optional package. `data.runner` names the runner and its options: "DirectRunner"
runs in this process, "DirectRunner --direct_num_workers=8 --direct_running_mode=multi_processing"
on a machine of 8 cores. On a cluster the prepared folder must lie where all workers can write.
"""

import functools
import json
import pathlib
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distill.data.cutting import Cut, Source, cut_source, examples
from distill.data.recording import Beats
from distill.data.windows import WindowSettings
from distill.errors import DistillError

BEATS = "beats/"  # before the names of what a recording's beats are stored as
MOST_WINDOWS = (
  1 << 20
)  # of one recording; keys of TFDS are numbers, and their order is that of rows


def require() -> Any:
  """The package apache_beam.

  Raises:
    DistillError: it is not installed.
  """
  try:
    import apache_beam
  except ImportError as error:
    raise DistillError(
      "data.runner asks for Apache Beam, which is not installed; get it with:"
      " pip install 'ppg2accel[beam]', or leave data.runner empty to use data.workers processes"
    ) from error
  return apache_beam


def windows(
  sources: Sequence[Source], settings: WindowSettings, names: Sequence[str], parts: pathlib.Path
) -> Any:
  """PTransform of (key, example); the columns of recording n go to <parts>/<n>.npz or .json.

  Raises:
    DistillError: Beam is not installed.
  """
  beam = require()
  parts.mkdir(parents=True, exist_ok=True)
  cut = functools.partial(_cut, settings=settings, names=tuple(names), parts=str(parts))
  numbered = list(enumerate(sources))
  return "List" >> beam.Create(numbered) | beam.Reshuffle() | "Cut" >> beam.FlatMap(cut)


def download_config(runner: str) -> Any:
  """What TFDS needs to run its pipeline: name of a runner, then its options, as words."""
  import tensorflow_datasets as tfds
  from apache_beam.options.pipeline_options import PipelineOptions

  name, *options = shlex.split(runner)
  return tfds.download.DownloadConfig(beam_options=PipelineOptions([f"--runner={name}", *options]))


def _cut(
  numbered: tuple[int, Source], settings: WindowSettings, names: Sequence[str], parts: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  number, source = numbered
  result = cut_source(source, settings, names)
  path = pathlib.Path(parts) / f"{number}.json"
  if isinstance(result, DistillError):
    path.write_text(json.dumps({"why": str(result)}))
    return
  beats = {} if result.beats is None else vars(result.beats)
  stored = result.columns | {f"{BEATS}{name}": values for name, values in beats.items()}
  np.savez(path.with_suffix(".npz"), **stored)
  path.write_text(json.dumps({"dropped": result.dropped, "digest": result.digest}))
  for i, example in enumerate(examples(result.windows)):
    yield MOST_WINDOWS * number + i, example


def read_part(parts: pathlib.Path, number: int) -> Cut | DistillError:
  """What `windows` wrote of one recording: its columns without its windows, or what was wrong."""
  fields = json.loads((parts / f"{number}.json").read_text())
  if "why" in fields:
    return DistillError(fields["why"])
  with np.load(parts / f"{number}.npz", allow_pickle=False) as file:
    columns = {name: file[name] for name in file.files}
  beats = {n.removeprefix(BEATS): columns.pop(n) for n in list(columns) if n.startswith(BEATS)}
  known = Beats(beats["times_s"], beats["normal"], str(beats["origin"])) if beats else None
  return Cut(columns, [], fields["dropped"], fields["digest"], known)
