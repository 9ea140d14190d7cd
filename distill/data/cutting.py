"""Recordings -> windows, in this process or others: what the builders do to every recording.

A source is small and picklable; it is read where it is cut, so that only windows travel.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distill.data import store
from distill.data.recording import Beats, Recording
from distill.data.windows import Window, WindowSettings, cut_recording, starts
from distill.errors import DistillError
from distill.spec import MODALITIES


@dataclasses.dataclass(frozen=True)
class Source:
  """A recording that is read when it is its turn, in this process or another.

  Attributes:
    name: what messages and the summary call it, such as "S2".
    load: picklable; reads it, or raises DistillError with file and row.
  """

  name: str
  load: Callable[[], Recording]


@dataclasses.dataclass(frozen=True)
class Cut:
  """The windows of one recording.

  Attributes:
    columns: index columns, each [windows].
    windows: the windows themselves; empty where they are written already.
    dropped: number left out for too little coverage.
    digest: of the first window, to tell one recording under two names; "" without one.
    beats: of the recording, where they were not read from its PPG.
  """

  columns: dict[str, np.ndarray]
  windows: list[Window]
  dropped: int
  digest: str
  beats: Beats | None = None

  def __len__(self) -> int:
    return len(self.columns["participant"])


def examples(windows: Sequence[Window]) -> list[dict[str, Any]]:
  """What TFDS stores of windows."""
  texts = ("participant", "recording")
  return [
    dict(window.signals)
    | {name: str(window.columns[name]) for name in texts}
    | {"t0_s": np.float64(window.columns["t0_s"])}
    for window in windows
  ]


def cut_all(
  sources: Sequence[Source],
  settings: WindowSettings,
  workers: int,
  names: Sequence[str] = MODALITIES,
) -> Iterator[tuple[Source, Cut | DistillError]]:
  """Each recording's windows, or what was wrong with it, in the order of `sources`.

  Args:
    sources: recordings to read.
    settings: how to cut them.
    workers: processes beside this one; 0 or 1 reads and cuts here.
    names: signals of a window.

  Yields:
    (source, its windows) or (source, what was wrong with it).
  """
  cut = functools.partial(cut_source, settings=settings, names=names)
  if workers <= 1 or len(sources) <= 1:
    for source in sources:
      yield source, cut(source)
    return
  # Not fork: JAX may already run threads in this process.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
    waiting: collections.deque = collections.deque()
    for source in sources:
      waiting.append((source, pool.submit(cut, source)))
      if len(waiting) > workers:  # one ahead each, so that memory stays flat
        done, future = waiting.popleft()
        yield done, future.result()
    for done, future in waiting:
      yield done, future.result()


def cut_source(
  source: Source, settings: WindowSettings, names: Sequence[str] = MODALITIES
) -> Cut | DistillError:
  """Reads and cuts one recording, in whatever process."""
  try:
    recording = source.load()
    windows = list(cut_recording(recording, settings, names))
  except DistillError as error:
    return error
  return Cut(
    columns=store.to_columns([window.columns for window in windows]),
    windows=windows,
    dropped=len(starts(recording, settings, names)) - len(windows),
    digest=digest(windows[0]) if windows else "",
    beats=recording.beats,
  )


def digest(window: Window) -> str:
  """Hash of a window's samples."""
  return hashlib.sha256(b"".join(one.tobytes() for one in window.signals.values())).hexdigest()
