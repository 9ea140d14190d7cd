"""Base of every data set's TFDS builder: a list of recordings in, a TFDS data set of windows out.

A data set's own file says where its recordings are and how one is read; everything else is here.
Runs without TensorFlow. One recording is held at a time by each worker.
"""

import abc
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from distill.data import store
from distill.data.recording import Recording
from distill.data.windows import Window, WindowSettings, cut_recording, starts
from distill.errors import DistillError
from distill.spec import MODALITIES, SignalSpec


@dataclasses.dataclass(frozen=True)
class Source:
  """A recording that is read when it is its turn, in this process or another.

  Attributes:
    name: what messages and the summary call it, such as "S2".
    load: picklable; reads it, or raises DistillError with file and row.
  """

  name: str
  load: Callable[[], Recording]


class PairedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """TFDS builder of paired windows. A subclass gives the constants and `sources`.

  The name of the set is the class name in snake case: StressPredict is "stress_predict".

  Attributes:
    SOURCE: where the official files are to be had.
    LICENCE: in a few words.
    CITATION: the work to cite.
    SIMULATED: whether the recordings are drawn by a computer.
    SAME_DEVICE: whether both signals come from one device and clock.
    SIGNALS: what the windows hold; ("acc",) where a set has heart rate but no PPG, for probes.
    data_config: the config's data section.
    settings: how recordings are cut.
    rows: index columns of the windows written so far, in order.
    left_out: reasons of what was not written.
  """

  VERSION = tfds.core.Version("1.0.0")
  code_path = (
    None  # TFDS would look for a checksum file beside the code, with a package not required
  )
  SOURCE: ClassVar[str] = ""
  LICENCE: ClassVar[str] = ""
  CITATION: ClassVar[str] = ""
  SIMULATED: ClassVar[bool] = False
  SAME_DEVICE: ClassVar[bool] = True
  SIGNALS: ClassVar[tuple[str, ...]] = MODALITIES

  def __init__(self, config: Any, data_dir: str | pathlib.Path, *, progress: bool = True):
    self.data_config = config
    self.settings = WindowSettings.from_config(config)
    self.progress = progress
    self.rows: list[dict[str, Any]] = []
    self.left_out: dict[str, Any] = {"recordings": [], "windows": 0}
    self._names: set[tuple[str, str]] = set()
    self._owners: dict[str, str] = {}  # first window's hash -> participant
    super().__init__(data_dir=str(data_dir), file_format="array_record")

  @property
  def same_device(self) -> bool:
    """Whether both signals come from one device and clock."""
    return self.SAME_DEVICE

  @property
  def specs(self) -> dict[str, SignalSpec]:
    """What the windows hold."""
    return {name: spec for name, spec in self.settings.specs.items() if name in self.SIGNALS}

  @abc.abstractmethod
  def sources(self) -> Sequence[Source]:
    """Every recording of the set, in a fixed order, none of them read yet.

    Raises:
      DistillError: no folder, or a folder without the files of this set.
    """

  def identity(self) -> dict[str, Any]:
    """Settings of this set beyond `WindowSettings` that change what is prepared; JSON values."""
    return {"source": str(self.folder().resolve())}

  def folder(self) -> pathlib.Path:
    """Where the official files lie: <config.source>/<name>, or <config.source> itself.

    Raises:
      DistillError: no source is given, or there is no such folder.
    """
    if not self.data_config.source:
      raise DistillError(
        f"set {self.name} needs its official files: set data.source to the folder that holds"
        f" {self.name}/ (get them from {self.SOURCE})"
      )
    root = pathlib.Path(self.data_config.source)
    if not root.is_dir():
      raise DistillError(f"data.source {root} is no folder; get {self.name} from {self.SOURCE}")
    return root / self.name if (root / self.name).is_dir() else root

  def key(self) -> str:
    """Hash of all that decides what is prepared: settings, files, version of the builder."""
    fields = {
      "name": self.name,
      "format": store.FORMAT,
      "version": str(self.VERSION),
      "settings": dataclasses.asdict(self.settings),
      "recordings": [source.name for source in self.sources()],
      **self.identity(),
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

  def build(self) -> pathlib.Path:
    """Writes the windows; returns the folder of the TFDS data set.

    Raises:
      DistillError: no recording could be used.
    """
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints where only results belong
      self.download_and_prepare()
    return pathlib.Path(self.data_dir)

  # --- TFDS ---

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {
      name: tfds.features.Tensor(shape=spec.shape, dtype=np.float32, encoding="bytes")
      for name, spec in self.specs.items()
    }
    features |= {
      "participant": tfds.features.Text(),
      "recording": tfds.features.Text(),
      # A scalar float64 would come back rounded to float32; bytes are exact.
      "t0_s": tfds.features.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Paired PPG and acceleration windows of {self.name}. Licence: {self.LICENCE}",
      features=tfds.features.FeaturesDict(features),
      homepage=self.SOURCE,
      citation=self.CITATION,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager  # nothing is downloaded
    return {store.SPLIT: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    sources = self.sources()
    with tqdm.tqdm(
      total=len(sources), desc=f"prepare {self.name}", unit="recording", disable=not self.progress
    ) as bar:
      for source, result in cut_all(sources, self.settings, self.data_config.workers, self.SIGNALS):
        bar.update()
        if isinstance(result, DistillError):
          self.left_out["recordings"].append({"recording": source.name, "why": str(result)})
          continue
        windows, dropped = result
        why = self._conflict(windows)
        if why:
          self.left_out["recordings"].append({"recording": source.name, "why": why})
          continue
        self.left_out["windows"] += dropped
        for window in windows:
          yield len(self.rows), self._example(window)
    if not self.rows:
      raise DistillError(self._nothing_left(len(sources)))

  def _conflict(self, windows: list[Window]) -> str:
    """Why a recording cannot stand beside those before it; "" where it can."""
    if not windows:
      return ""
    first = windows[0]
    participant, name = (str(first.columns[key]) for key in ("participant", "recording"))
    if (participant, name) in self._names:
      return f"{participant} already has a recording {name}; is one of them another person's?"
    digest = hashlib.sha256(b"".join(one.tobytes() for one in first.signals.values())).hexdigest()
    owner = self._owners.setdefault(digest, participant)
    if owner != participant:
      return (
        f"it holds the same samples as a recording of {owner}; one person under two names would"
        " stand in training and in test"
      )
    self._names.add((participant, name))
    return ""

  def _example(self, window: Window) -> dict[str, Any]:
    self.rows.append(dict(window.columns))
    names = ("participant", "recording")
    example: dict[str, Any] = {name: window.signals[name] for name in self.SIGNALS}
    example |= {name: str(window.columns[name]) for name in names}
    return example | {"t0_s": np.float64(window.columns["t0_s"])}

  def _nothing_left(self, n: int) -> str:
    reasons = self.left_out["recordings"]
    if not reasons:
      return (
        f"set {self.name}: all {self.left_out['windows']} windows of {n} recordings have less than"
        f" data.min_coverage {self.settings.min_coverage:g} observed"
      )
    return f"set {self.name}: none of {n} recordings can be used; the first: {reasons[0]['why']}"


def cut_all(
  sources: Sequence[Source],
  settings: WindowSettings,
  workers: int,
  names: Sequence[str] = MODALITIES,
) -> Iterator[tuple[Source, tuple[list[Window], int] | DistillError]]:
  """Each recording's windows, or what was wrong with it, in the order of `sources`.

  Args:
    sources: recordings to read.
    settings: how to cut them.
    workers: processes beside this one; 0 or 1 reads and cuts here.
    names: signals of a window.

  Yields:
    (source, (windows, number dropped for too little coverage)) or (source, error).
  """
  cut = functools.partial(_cut, settings=settings, names=names)
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


def _cut(
  source: Source, settings: WindowSettings, names: Sequence[str]
) -> tuple[list[Window], int] | DistillError:
  try:
    recording = source.load()
    windows = list(cut_recording(recording, settings, names))
  except DistillError as error:
    return error
  return windows, len(starts(recording, settings, names)) - len(windows)
