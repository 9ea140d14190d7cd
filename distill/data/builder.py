"""Base of every data set's TFDS builder: a list of recordings in, a TFDS data set of windows out.

A data set's own file says where its recordings are and how one is read; everything else is here.
Runs without TensorFlow. Recordings are cut by processes of this machine, or on Apache Beam, by the
same function; either way each worker holds one recording at a time.
"""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from distill.data import beam, download, store
from distill.data.cutting import Cut, Source, cut_all, examples
from distill.data.recording import Beats
from distill.data.windows import WindowSettings
from distill.errors import DistillError
from distill.spec import MODALITIES, SignalSpec

WAITING_WINDOWS = 256  # written at once
SHARD_WINDOWS = 4096  # of a file; 200 MB of minutes at 64 and 50 Hz


class PairedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """TFDS builder of paired windows. A subclass gives the constants and `sources`.

  The name of the set is the class name in snake case: StressPredict is "stress_predict".

  Attributes:
    SOURCE: where the official files are to be had.
    URL: of the official archive, where it is open to all; it is fetched if no source is given.
    LAYOUT: glob of what the set's folder holds, to find it in the archive.
    LICENCE: in a few words.
    CITATION: the work to cite.
    SIMULATED: whether the recordings are drawn by a computer.
    SAME_DEVICE: whether both signals come from one device and clock.
    SIGNALS: what the windows hold; ("acc",) where a set has heart rate but no PPG, for probes.
    data_config: the config's data section.
    settings: how recordings are cut.
    columns: index columns of each recording written so far, in the order of the windows.
    beats: (participant, recording) -> its reference beats, of sets that have them.
    left_out: reasons of what was not written.
  """

  VERSION = tfds.core.Version("1.0.0")
  code_path = (
    None  # TFDS would look for a checksum file beside the code, with a package not required
  )
  SOURCE: ClassVar[str] = ""
  URL: ClassVar[str] = ""
  LAYOUT: ClassVar[str] = "*"
  LICENCE: ClassVar[str] = ""
  CITATION: ClassVar[str] = ""
  SIMULATED: ClassVar[bool] = False
  SAME_DEVICE: ClassVar[bool] = True
  SIGNALS: ClassVar[tuple[str, ...]] = MODALITIES

  def __init__(self, config: Any, data_dir: str | pathlib.Path, *, progress: bool = True):
    self.data_config = config
    self.settings = WindowSettings.from_config(config)
    self.progress = progress
    self.columns: list[dict[str, np.ndarray]] = []
    self.beats: dict[tuple[str, str], Beats] = {}
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

    Without a source they are fetched into <config.prepared_dir>/downloads.

    Raises:
      DistillError: no source is given and nothing can be fetched, or there is no such folder.
    """
    if not self.data_config.source and self.URL:
      return self._downloaded
    if not self.data_config.source:
      raise DistillError(
        f"set {self.name} needs its official files: set data.source to the folder that holds"
        f" {self.name}/ (get them from {self.SOURCE})"
      )
    root = pathlib.Path(self.data_config.source)
    if not root.is_dir():
      raise DistillError(f"data.source {root} is no folder; get {self.name} from {self.SOURCE}")
    return root / self.name if (root / self.name).is_dir() else root

  @functools.cached_property
  def _downloaded(self) -> pathlib.Path:
    downloads = pathlib.Path(self.data_config.prepared_dir) / "downloads"
    try:
      return download.fetch(
        self.name, self.URL, self.LAYOUT, downloads, licence=self.LICENCE, progress=self.progress
      )
    except DistillError as error:
      raise DistillError(
        f"set {self.name}: {error}; or get it from {self.SOURCE} and set data.source to its folder"
      ) from error

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
      DistillError: no recording could be used, or `data.runner` names Beam, which is not installed.
    """
    tfds.disable_progress_bar()
    runner = self.data_config.get("runner", "")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints where only results belong
      if runner:
        self._build_on_beam(runner)
      else:
        self._build_here()
    if not self.columns:
      raise DistillError(self._nothing_left())
    return pathlib.Path(self.data_dir)

  def _build_here(self) -> None:
    """One recording at a time into the next shard: memory does not grow with the set."""
    pathlib.Path(self.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(self.info, SHARD_WINDOWS, file_format="array_record")
    writer.initialize_splits([store.SPLIT])
    sources = self.sources()
    waiting: list[dict[str, Any]] = []  # TFDS writes its notes anew with every addition
    with tqdm.tqdm(
      total=len(sources), desc=f"prepare {self.name}", unit="recording", disable=not self.progress
    ) as bar:
      for source, result in cut_all(sources, self.settings, self.data_config.workers, self.SIGNALS):
        bar.update()
        if self._accepted(source.name, result) and isinstance(result, Cut):
          waiting += examples(result.windows)
        if len(waiting) >= WAITING_WINDOWS:
          writer.add_examples({store.SPLIT: waiting})
          waiting = []
    writer.add_examples({store.SPLIT: waiting})
    writer.close_all()

  def _build_on_beam(self, runner: str) -> None:
    """TFDS's own Beam road; each recording leaves its columns in a file beside the windows."""
    sources = self.sources()
    parts = pathlib.Path(self.data_dir).parent / "parts"
    self._pipeline = beam.windows(sources, self.settings, self.SIGNALS, parts)
    self.download_and_prepare(
      download_dir=parts / "downloads", download_config=beam.download_config(runner)
    )
    for number, source in enumerate(sources):
      result = beam.read_part(parts, number)
      if self._accepted(source.name, result) or isinstance(result, DistillError):
        continue
      if len(result):  # its windows stand among the others already
        raise DistillError(
          f"{source.name}: {self.left_out['recordings'][-1]['why']}; take one away"
        )
    shutil.rmtree(parts)

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

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # `folder` has fetched what there is to fetch
    return {store.SPLIT: self._generate_examples()}

  def _generate_examples(self) -> Any:
    return self._pipeline  # only Beam comes here

  def _accepted(self, name: str, result: Cut | DistillError) -> bool:
    """Counts a recording in, or says why it is left out."""
    why = str(result) if isinstance(result, DistillError) else self._conflict(result)
    if why:
      self.left_out["recordings"].append({"recording": name, "why": why})
      return False
    if isinstance(result, Cut):
      self.left_out["windows"] += result.dropped
      if len(result):
        self.columns.append(result.columns)
        if result.beats is not None:
          participant, name = (str(result.columns[key][0]) for key in ("participant", "recording"))
          self.beats[participant, name] = result.beats
    return True

  def _conflict(self, cut: Cut) -> str:
    """Why a recording cannot stand beside those before it; "" where it can."""
    if not len(cut):
      return ""
    participant, name = (str(cut.columns[key][0]) for key in ("participant", "recording"))
    if (participant, name) in self._names:
      return f"{participant} already has a recording {name}; is one of them another person's?"
    owner = self._owners.setdefault(cut.digest, participant)
    if owner != participant:
      return (
        f"it holds the same samples as a recording of {owner}; one person under two names would"
        " stand in training and in test"
      )
    self._names.add((participant, name))
    return ""

  def _nothing_left(self) -> str:
    reasons, n = self.left_out["recordings"], len(self.sources())
    if not reasons:
      return (
        f"set {self.name}: all {self.left_out['windows']} windows of {n} recordings have less than"
        f" data.min_coverage {self.settings.min_coverage:g} observed"
      )
    return f"set {self.name}: none of {n} recordings can be used; the first: {reasons[0]['why']}"
