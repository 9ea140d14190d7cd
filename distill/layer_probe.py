"""What each layer of an encoder knows of a class of windows; `distill layers`.

Frozen encoders, one logistic probe a layer, participants held out. Speech networks are taken layer
by layer (arXiv 2509.00221) and stand beside our own encoders, hand-made features and a guess. The
speech network that is built here is at random and called so: checkpoints are the user's, imported
with `distill import-teacher` and named in `config.layers.encoders`.
"""

import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from scipy import stats
from tqdm import tqdm

from distill import (
  baselines,
  layer_plots,
  models,
  probes,
  registry,
  report,
  signals,
  stages,
  workdir,
)
from distill import config as configs
from distill.config import ConfigDict
from distill.data import labelled, pipeline, splits
from distill.data.store import PreparedSet
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.spec import ACC, PPG
from distill.workdir import Fold, clock

Path = pathlib.Path
FILE = "layers.json"
BATCH = 64
ARRHYTHMIA = "arrhythmia"  # a target that is read from the beats of the simulated cohort
GUESS = "guess"
Features = dict[tuple[str, str], np.ndarray]  # (encoder, layer) -> [n, width]
Windows = Mapping[str, np.ndarray]  # by signal, or by layer
Reader = Callable[[Windows], Windows]  # raw windows -> layer -> [n, width]
Parts = Sequence[np.ndarray]  # of every window its part, fold by fold
AnySet = PreparedSet | labelled.LabelledSet


def run(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """Probes every layer of every encoder for every task; writes layers.json, layers.md and plots/.

  Args:
    config: of the run; `layers` says encoders, tasks and shares of the training people.
    folder: work folder; claimed for this config, or resumed.

  Returns:
    task -> list of rows {"encoder", "layer", "share", "labelled", "dim", "strengths", **scores};
    "labelled" is the number of training people whose labels were used, fold by fold.

  Raises:
    DistillError: a task of an unknown set or column, or an encoder that has seen held-out people.
  """
  with workdir.claimed(config, folder) as folder:
    folds = workdir.open_folds(config, folder) if config.data.sets else []
    found = {}
    with clock(folder, "layers"):
      for task in config.layers.tasks:
        found[task] = _probe_task(config, folds, task)
    partial = folder / (FILE + ".partial")
    partial.write_text(report.to_json(report.plain(found)))
    partial.replace(folder / FILE)
    draw(folder)
  return load(folder)


def draw(folder: str | Path) -> None:
  """layers.md with the tables and plots/layers_<task>*.(svg|png), from layers.json alone."""
  folder = Path(folder)
  drawn = [plot for task, rows in load(folder).items() for plot in layer_plots.draw(task, rows)]
  report.write_plots(folder / "plots", drawn)
  report.replace(folder / "layers.md", markdown(folder))


def load(folder: str | Path) -> dict[str, Any]:
  """layers.json of a work folder.

  Raises:
    DistillError: there is none.
  """
  path = Path(folder) / FILE
  if not path.is_file():
    raise DistillError(f"no {FILE} in {folder}; make it with: distill layers")
  found: dict[str, Any] = json.loads(path.read_text())
  return found


# --- what is embedded -----------------------------------------------------------------------------


def _features(config: ConfigDict, prepared: AnySet, rows: np.ndarray) -> list[Features]:
  """Every layer of every encoder, and hand-made features, of the windows at `rows`, fold by fold.

  What is the same in all folds is embedded once; encoders named with {fold} are others in each.
  """
  modalities, named = tuple(prepared.specs), config.layers.encoders
  fixed = {f"speech, random ({one})": _random(config, one) for one in modalities}
  fixed |= _opened([given for given in named if workdir.FOLD not in given], modalities)
  readers = {name: _layers(encoder, prepared, name) for name, encoder in fixed.items()}
  rates = {name: spec.rate_hz for name, spec in prepared.specs.items()}
  if ACC in modalities:
    motion = baselines.motion_features
    readers["hand-made (acc)"] = lambda raw: {"motion": motion(raw[ACC], rates[ACC])}
  if PPG in modalities:
    readers["hand-made (ppg)"] = lambda raw: {"rhythm": rhythm_features(raw[PPG], rates[PPG])}
  readers[GUESS] = lambda raw: {"": np.zeros((len(raw[modalities[0]]), 1), np.float32)}
  shared, found = _embed(prepared, rows, readers), []
  of_folds = [given for given in named if workdir.FOLD in given]
  for k in config.folds:
    own = _opened([workdir.of_fold(given, k) for given in of_folds], modalities)
    of_fold = {name: _layers(encoder, prepared, name) for name, encoder in own.items()}
    found.append(shared | (_embed(prepared, rows, of_fold) if of_fold else {}))
  return found


def _random(config: ConfigDict, modality: str) -> Encoder:
  section, window_s = config.layers.random, config.data.window_s
  build = registry.resolve(section.build, key="layers.random.build")
  arguments = configs.build_arguments(section)
  encoder: Encoder = build(seed=config.seed, modality=modality, window_s=window_s, **arguments)
  return encoder


def _opened(given: Sequence[str], modalities: Sequence[str]) -> dict[str, Encoder]:
  """Name -> encoder, of those of NAME=MODEL_FOLDER that read one of the signals."""
  found = {name: models.load_encoder(place) for name, place in map(_named, given)}
  return {name: one for name, one in found.items() if one.spec.modality in modalities}


def _named(given: str) -> tuple[str, str]:
  name, equals, place = given.partition("=")
  if not equals:
    raise DistillError(f"config.layers.encoders holds {given!r}; expected NAME=MODEL_FOLDER")
  return name, place


def _check_unseen(config: ConfigDict, folds: Sequence[Fold]) -> None:
  for fold in folds:
    for given in config.layers.encoders:
      stored = models.read(models.model_folder(fold.named(_named(given)[1])))
      stages.check_unseen(fold, stored, "model")


def _layers(encoder: Encoder, prepared: AnySet, who: str) -> Reader:
  pipeline.check_spec(prepared, encoder.spec, who=who)  # type: ignore[arg-type]
  graphdef, state = nnx.split(encoder)
  forward = jax.jit(lambda state, x, m: nnx.merge(graphdef, state).by_layer(x, m))

  def read(raw: Windows) -> Windows:
    x, m = pipeline.prepare_windows(raw[encoder.spec.modality], encoder.spec)
    pad = [(0, BATCH - len(x)), (0, 0), (0, 0)]
    found = forward(state, np.pad(x, pad), np.pad(m, pad))
    return {layer: np.asarray(found[layer])[: len(x)] for layer in encoder.layer_names}

  return read


def _embed(prepared: AnySet, rows: np.ndarray, readers: Mapping[str, Reader]) -> Features:
  parts: dict[tuple[str, str], list[np.ndarray]] = {}
  with tqdm(total=len(rows), desc=f"embed {prepared.name}", unit="window", mininterval=1.0) as bar:
    for start in range(0, len(rows), BATCH):
      some = rows[start : start + BATCH]
      raw = prepared.windows(some)
      for name, read in readers.items():
        for layer, values in read(raw).items():
          parts.setdefault((name, layer), []).append(values)
      bar.update(len(some))
  return {key: np.concatenate(some) for key, some in parts.items()}


def rhythm_features(wave: np.ndarray, rate_hz: float) -> np.ndarray:
  """What a reader would try first on a pulse wave.

  The columns: strongest pulse rate; its spread over six parts of the window; log power in eight
  bands from 0.1 to 8 Hz, relative to all of them; skewness, kurtosis; height and lag of the second
  peak of the autocorrelation (0.3 to 2 s), over the window and at its least over the six parts.

  Args:
    wave: [n, time, 1] any unit; NaN where missing.
    rate_hz: samples per second.

  Returns:
    [n, 16] float32, finite.
  """
  filled = signals.fill_gaps(wave.astype(np.float64), np.isfinite(wave))[:, :, 0]
  centred = filled - filled.mean(axis=1, keepdims=True)
  sd = centred.std(axis=1, keepdims=True)
  centred = np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-12)
  parts = np.stack(np.split(centred[:, : centred.shape[1] // 6 * 6], 6, axis=1), axis=1)
  rate = baselines.ppg_heart_rate(wave, rate_hz)
  own = np.stack([baselines.pulse_rate(parts[:, k], rate_hz) for k in range(6)], axis=1)
  power = np.abs(np.fft.rfft(centred, axis=1)) ** 2
  frequency = np.fft.rfftfreq(centred.shape[1], 1 / rate_hz)
  edges = np.geomspace(0.1, 8.0, 9)
  bands = [
    power[:, (frequency >= a) & (frequency < b)].sum(axis=1) for a, b in itertools.pairwise(edges)
  ]
  share = np.stack(bands, axis=1) / np.maximum(np.sum(bands, axis=0), 1e-12)[:, None]
  height, lag = _second_peak(centred, rate_hz)
  heights = np.stack([_second_peak(parts[:, k], rate_hz)[0] for k in range(6)], axis=1)
  columns = [
    rate, own.std(axis=1), *np.log(share + 1e-6).T, stats.skew(centred, axis=1),
    stats.kurtosis(centred, axis=1), height, lag, heights.min(axis=1), heights.std(axis=1),
  ]  # fmt: skip
  return np.nan_to_num(np.stack(columns, axis=1)).astype(np.float32)


def _second_peak(wave: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
  """Height and lag, seconds, of the largest autocorrelation between 0.3 and 2 s."""
  size = 2 * wave.shape[1]
  spectrum = np.abs(np.fft.rfft(wave - wave.mean(axis=1, keepdims=True), size, axis=1)) ** 2
  auto = np.fft.irfft(spectrum, axis=1)
  auto = auto / np.maximum(auto[:, :1], 1e-12)
  first, last = int(0.3 * rate_hz), int(2.0 * rate_hz) + 1
  place = auto[:, first:last].argmax(axis=1)
  return auto[np.arange(len(auto)), first + place], (first + place) / rate_hz


# --- what is told apart ---------------------------------------------------------------------------


def _probe_task(config: ConfigDict, folds: Sequence[Fold], task: str) -> list[dict[str, Any]]:
  name, slash, target = task.partition("/")
  if not slash:
    raise DistillError(f"config.layers.tasks holds {task!r}; expected SET/COLUMN")
  prepared, split_of = _open(config, folds, name)
  label = _label(prepared, target)
  rows = np.flatnonzero(label != "")
  columns = {"participant": prepared.index["participant"][rows], target: label[rows]}
  features = _features(config, prepared, rows)
  parts = [split_of(k).part_of(columns["participant"]) for k in config.folds]
  by_share = _fewer_labels(config, task, columns["participant"], columns[target], parts)
  found = []
  for encoder, layer in tqdm(features[0], desc=f"probe {task}", unit="layer"):
    tables = [EmbeddingTable(of_fold[encoder, layer], columns) for of_fold in features]
    for share, parts_then in by_share.items():
      scores = _pooled(tables, target, parts_then)
      found.append({"encoder": encoder, "layer": layer, "share": share} | scores)
  return found


def _fewer_labels(
  config: ConfigDict, task: str, participant: np.ndarray, label: np.ndarray, parts: Parts
) -> dict[float, Parts]:
  """Share -> part of every window, fold by fold, "" for training people without labels.

  The people of a share are the same for every layer, and lie within those of a larger one. A share
  that leaves a fold less than two people, or one class alone, is left out, aloud; all people stay.
  """
  found: dict[float, Parts] = {}
  for share in sorted({*config.layers.shares, 1.0}):
    of_folds, people, classes = [], [], []
    for part in parts:
      training = np.unique(participant[part == "train"]).tolist()
      kept = splits.labelled(training, share, config.seed)
      own = np.where((part != "train") | np.isin(participant, kept), part, "")
      of_folds.append(own)
      people.append(len(kept))
      classes.append(len(np.unique(label[own == "train"])))
    if share < 1 and (min(people) < 2 or min(classes) < 2):
      few = "are less than two participants" if min(people) < 2 else "have one class alone"
      told = f"{100 * share:g} % of the training people {few} in a fold; left out"
      tqdm.write(f"{task}: {told}", file=sys.stderr)
      continue
    found[share] = of_folds
  return found


def _open(
  config: ConfigDict, folds: Sequence[Fold], name: str
) -> tuple[AnySet, Callable[[int], splits.Split]]:
  """The set, and fold -> split."""
  if name in config.data.sets:
    _check_unseen(config, folds)
    of = {fold.k: fold.sets[name][1] for fold in folds}
    return folds[0].sets[name][0], of.__getitem__
  if name in labelled.READERS:
    prepared = labelled.open_set(name, config.data)
    assigned = splits.assign(sorted(set(prepared.index["participant"].tolist())))
    return prepared, assigned.split
  known = ", ".join([*config.data.sets, *labelled.READERS])
  raise DistillError(f"config.layers.tasks names the set {name!r}; there are: {known}")


def _label(prepared: AnySet, target: str) -> np.ndarray:
  if target == ARRHYTHMIA and isinstance(prepared, PreparedSet) and prepared.simulated:
    return prepared.arrhythmia(np.arange(len(prepared)))
  if target not in prepared.index or prepared.index[target].dtype.kind != "U":
    known = sorted(n for n, values in prepared.index.items() if values.dtype.kind == "U")
    raise DistillError(f"set {prepared.name} has no classes {target!r}; it has: {', '.join(known)}")
  return prepared.index[target]


def _pooled(tables: Sequence[EmbeddingTable], target: str, parts: Parts) -> dict[str, Any]:
  """Scores of the test windows of all folds, each told by a probe that never saw the person."""
  folds = [
    {name: table.where(part == name) for name in PARTS}
    for table, part in zip(tables, parts, strict=True)
  ]
  told = probes.tell_classes(folds, target)
  return told.score() | {
    "labelled": list(told.labelled),
    "dim": tables[0].embedding.shape[1],
    "strengths": [model.strength for model in told.models],
  }


# --- the table ------------------------------------------------------------------------------------


def markdown(folder: str | Path) -> str:
  """The tables of a work folder as Markdown."""
  return (
    "\n\n".join(report.classes_markdown(task, rows) for task, rows in load(folder).items()) + "\n"
  )


def text(folder: str | Path) -> str:
  """The tables of a work folder for a terminal."""
  return "\n\n".join(report.classes_text(task, rows) for task, rows in load(folder).items())
