"""Prepared sets -> rows of one split -> preprocessed windows -> batches.

Training reads overlapping windows through Grain, shuffled, forever; judging reads non-overlapping
ones, every one of them, in order. Both go through `prepare_windows`: there is one preprocessing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
import tqdm
from absl import flags

from distill import signals
from distill.data import ready
from distill.data.ready import ReadyWindows
from distill.data.splits import Split
from distill.data.store import PreparedSet
from distill.errors import DistillError
from distill.spec import PPG, SignalSpec


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows picked from one prepared set.

  Attributes:
    prepared: the set.
    rows: [n] int64 indices into it.
  """

  prepared: PreparedSet
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def column(self, name: str) -> np.ndarray:
    """One index column of these rows."""
    return self.prepared.index[name][self.rows]

  def where(self, mask: np.ndarray) -> "Rows":
    """The rows where `mask` [n] is True."""
    return Rows(self.prepared, self.rows[mask])


def select(
  prepared: PreparedSet, split: Split, part: str, *, overlapping: bool, min_coverage: float
) -> Rows:
  """Rows of the participants of one part of a split.

  Args:
    prepared: the set.
    split: participants by part.
    part: "train", "validation" or "test".
    overlapping: every stored window (training), or only windows that share no sample (judging).
    min_coverage: share of each signal that must be observed.

  Raises:
    DistillError: the set has a participant that the split does not know, or no row is left.
  """
  index = prepared.index
  known = {*split.train, *split.validation, *split.test, *split.unused}
  strangers = sorted(set(index["participant"]) - known)
  if strangers:
    raise DistillError(
      f"participants {strangers[:3]} of set {prepared.name} stand in no part of the split; add them"
      " to the split file"
    )
  mask = np.isin(index["participant"], getattr(split, part))
  for name in prepared.specs:
    mask &= index[f"{name}_coverage"] >= min_coverage
  rows = np.flatnonzero(mask)
  if not overlapping:
    rows = rows[_apart(index, rows, prepared.specs["acc"].window_s)]
  if not len(rows):
    raise DistillError(
      f"set {prepared.name} has no {part} window with coverage {min_coverage:g} or more"
    )
  return Rows(prepared, rows)


def within(rows: Rows, minutes: float) -> Rows:
  """The windows that lie in the first minutes of their recording, counted from its first window.

  Raises:
    DistillError: no window is that early.
  """
  index, window_s = rows.prepared.index, rows.prepared.specs["acc"].window_s
  names = np.char.add(np.char.add(index["participant"], "/"), index["recording"])
  code = np.unique(names, return_inverse=True)[1]
  first = np.full(code.max() + 1, np.inf)
  np.minimum.at(first, code, index["t0_s"])
  end_s = (index["t0_s"] - first[code] + window_s)[rows.rows]
  kept = rows.where(end_s <= 60 * minutes + 1e-3)
  if not len(kept):
    raise DistillError(
      f"set {rows.prepared.name} has no training window in the first {minutes:g} minutes of a"
      " recording; raise data.train_minutes, or give 0 for all"
    )
  return kept


def _apart(index: Mapping[str, np.ndarray], rows: np.ndarray, window_s: float) -> np.ndarray:
  """[n] bool: greedily, the windows that start after the last kept one of their recording ended."""
  keep = np.zeros(len(rows), bool)
  ends: dict[tuple[str, str], float] = {}
  order = np.lexsort((index["t0_s"][rows], index["recording"][rows], index["participant"][rows]))
  for i in order:
    row = rows[i]
    where = (index["participant"][row], index["recording"][row])
    t0_s = index["t0_s"][row]
    if t0_s >= ends.get(where, -np.inf) - 1e-6:
      keep[i] = True
      ends[where] = t0_s + window_s
  return keep


def check_pairs(prepared: PreparedSet) -> None:
  """Refuses a set that holds no pairs of one wrist and clock, for distillation and retrieval.

  Raises:
    DistillError: the set has no PPG, or its two signals come from different devices.
  """
  if PPG not in prepared.specs:
    raise DistillError(
      f"set {prepared.name} has acceleration but no PPG: it serves probes, not distillation or"
      " retrieval; take it out of data.sets"
    )
  if not prepared.same_device:
    raise DistillError(
      f"PPG and acceleration of set {prepared.name} come from different devices and clocks: it"
      " serves probes, not distillation or retrieval; take it out of data.sets"
    )


FITTING = ("rate_hz", "window_s", "unit")  # and the number of channels


def _fits(prepared: PreparedSet, spec: SignalSpec) -> bool:
  stored = prepared.specs.get(spec.modality)
  return (
    stored is not None
    and all(getattr(stored, field) == getattr(spec, field) for field in FITTING)
    and len(stored.channels) == len(spec.channels)
  )


def check_spec(prepared: PreparedSet, spec: SignalSpec, *, who: str) -> None:
  """Refuses a set whose windows an encoder was not made for.

  Raises:
    DistillError: rate, length, channels or unit differ; the message says how to prepare it right.
  """
  stored = prepared.specs[spec.modality]
  for field in FITTING:
    there, wanted = getattr(stored, field), getattr(spec, field)
    if there != wanted:
      key = f"{spec.modality}_{field}" if field == "rate_hz" else field
      raise DistillError(
        f"the {who} expects {spec.modality} with {field} {wanted}, set {prepared.name} was prepared"
        f" with {there}; prepare it with --config.data.{key}={wanted}, or resample with"
        f" distill.signals.resample(samples, {stored.rate_hz:g}, {spec.rate_hz:g})"
      )
  if len(stored.channels) != len(spec.channels):
    raise DistillError(
      f"the {who} expects {len(spec.channels)} {spec.modality} channels, set {prepared.name} has"
      f" {len(stored.channels)}"
    )


THREADS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)  # that read batches
MADE_TOGETHER = 256  # windows that preparing reads, filters and writes at once
# Windows that are filtered at once: enough to share the calls, few enough for the cache.
TOGETHER = 16


def prepare_windows(raw: np.ndarray, spec: SignalSpec) -> tuple[np.ndarray, np.ndarray]:
  """Stored windows [n, time, channels], NaN where missing, as an encoder's input and mask."""
  values, mask = np.empty(raw.shape, np.float32), np.isfinite(raw)
  for start in range(0, len(raw), TOGETHER):
    some = slice(start, start + TOGETHER)
    values[some] = signals.preprocess(raw[some], mask[some], spec)
  return values, mask


class Source(Protocol):
  """Training examples by number, a batch of them at a time."""

  def __len__(self) -> int: ...

  def batch(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """The examples `numbers` [n], stacked: name -> [n, ...]."""

  def kept(self, numbers: np.ndarray) -> np.ndarray:
    """[n] bool: which of them any process just reads from disk; the others have to be made."""


@functools.lru_cache
def _fingerprint(spec: SignalSpec) -> str:
  """Of what `prepare_windows` makes of noise with gaps: other code, other bits, another hash."""
  raw = np.random.default_rng(0).normal(size=(3, *spec.shape)).astype(np.float32)
  raw[1, spec.samples // 3 : spec.samples // 2, 0] = np.nan
  raw[2, : spec.samples // 4] = np.nan
  return hashlib.sha256(prepare_windows(raw, spec)[0].tobytes()).hexdigest()


def ready_windows(prepared: PreparedSet, spec: SignalSpec) -> ReadyWindows:
  """The file of the windows of a set, ready for a spec; its name is of all that decides them."""
  key = json.dumps([ready.FORMAT, prepared.digest, spec.to_json(), _fingerprint(spec)])
  name = f"{spec.modality}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
  return ReadyWindows(prepared.folder / ready.FOLDER, name, len(prepared), spec.shape)


class TrainingSource:
  """The windows of some rows as training examples, each of them read and filtered once.

  Training passes over the same windows many times; see `distill.data.ready` for where they stay.

  Args:
    parts: rows of one or more sets; rows of different sets are different recordings.
    specs: signals to load, preprocessed for these specs.
    extra: name -> [total rows] array, one value a row in the order of `parts`.
  """

  def __init__(
    self, parts: Sequence[Rows], specs: Sequence[SignalSpec], extra: Mapping[str, np.ndarray]
  ):
    self._parts, self._specs, self._extra = tuple(parts), tuple(specs), dict(extra)
    self._stops = np.cumsum([len(part) for part in parts])
    self._recording = _recording_ids(parts)
    self._t0_s = np.concatenate([part.column("t0_s") for part in parts])
    # float32 keeps 0.01 s only below a day: count from each recording's own first window.
    first = np.full(self._recording.max() + 1, np.inf)
    np.minimum.at(first, self._recording, self._t0_s)
    self._t0_s = (self._t0_s - first[self._recording]).astype(np.float32)
    self._ready = [{s.modality: ready_windows(part.prepared, s) for s in specs} for part in parts]

  def __len__(self) -> int:
    return int(self._stops[-1])

  def kept(self, numbers: np.ndarray) -> np.ndarray:
    """See `Source`."""
    found = np.empty(len(numbers), bool)
    for k, rows, places in self._by_part(numbers):
      found[places] = np.logical_and.reduce([file.has(rows) for file in self._ready[k].values()])
    return found

  def batch(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """See `Source`: signals, their masks, `extra`, recording (a number) and t0_s."""
    found = {name: values[numbers] for name, values in self._extra.items()}
    found |= {"recording": self._recording[numbers], "t0_s": self._t0_s[numbers]}
    windows = {s.modality: _aligned((len(numbers), *s.shape), np.float32) for s in self._specs}
    for k, rows, places in self._by_part(numbers):
      self._fill(k, rows, windows, places)
    for name, values in windows.items():
      mask = np.isfinite(values, out=_aligned(values.shape, bool))
      np.copyto(values, 0, where=~mask)
      found |= {name: values, name + "_mask": mask}
    return found

  def _by_part(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(part, rows of its set, where they stand among `numbers`), of each part that has some."""
    which = np.searchsorted(self._stops, numbers, side="right")
    for k in np.unique(which):
      places = np.flatnonzero(which == k)
      local = numbers[places] - (self._stops[k] - len(self._parts[k]))
      yield k, self._parts[k].rows[local], places

  def _fill(
    self, k: int, rows: np.ndarray, out: Mapping[str, np.ndarray], places: np.ndarray
  ) -> None:
    """Windows of part `k` into `out` at `places`, NaN where missing."""
    files = self._ready[k]
    there = [file.read(rows, out[name], places) for name, file in files.items()]
    absent = ~np.logical_and.reduce(there)
    if not absent.any():
      return
    raw = self._parts[k].prepared.windows(rows[absent])
    for spec in self._specs:
      values, mask = prepare_windows(raw[spec.modality], spec)
      values[~mask] = np.nan
      out[spec.modality][places[absent]] = values
      files[spec.modality].write(rows[absent], values)


def make_ready(prepared: PreparedSet, specs: Sequence[SignalSpec], *, progress: bool) -> None:
  """Keeps the windows that training may read ready for those of the specs that fit the set.

  They are the ones with usable PPG, whoever wears it: which people train differs from fold to fold.
  Ends, with one line on standard error, where they cannot be kept.

  Args:
    prepared: the set.
    specs: of encoders; where rate, length, channels or unit differ, training says so.
    progress: show a progress bar on standard error.
  """
  specs = [spec for spec in specs if _fits(prepared, spec)]
  rows = np.flatnonzero(prepared.index["ppg_usable"])
  if not specs or not len(rows):
    return
  source = TrainingSource([Rows(prepared, rows)], specs, {})
  label = f"make {prepared.name} ready"
  with tqdm.tqdm(total=len(rows), desc=label, unit="window", disable=not progress) as bar:
    for some in np.split(np.arange(len(rows)), range(MADE_TOGETHER, len(rows), MADE_TOGETHER)):
      source.batch(some)
      if not source.kept(some).all():
        return
      bar.update(len(some))


def _recording_ids(parts: Sequence[Rows]) -> np.ndarray:
  names = np.concatenate(
    [
      np.char.add(
        np.char.add(f"{k}/", part.column("participant")), np.char.add("/", part.column("recording"))
      )
      for k, part in enumerate(parts)
    ]
  )
  return np.unique(names, return_inverse=True)[1].astype(np.int32)


def _aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
  """Not filled yet. What lies on 64 bytes JAX takes for the CPU as it is; the rest it copies."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  memory = np.empty(size + 64, np.uint8)
  start = -memory.ctypes.data % 64
  return memory[start : start + size].view(dtype).reshape(shape)


# Of the pass that is read and of the next, of which a batch may take some: 16 bytes a window.
@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, number: int) -> np.ndarray:
  """[count] the examples of pass `number` in its order."""
  return np.random.default_rng([seed, number]).permutation(count)


@dataclasses.dataclass(frozen=True)
class _Shuffled:
  """Numbers of the examples of batch k of an endless order; part `share` of each batch.

  A pass is shuffled at once: Grain's shuffle makes its keys anew for every number and holds the
  interpreter's lock meanwhile, which slows the threads that read. NumPy keeps a generator's stream
  within a version, not for ever: the processes of one training share one, as they share one JAX.
  """

  count: int
  seed: int
  batch_size: int
  share: slice

  def __len__(self) -> int:
    return sys.maxsize // self.batch_size

  def __getitem__(self, k: Any) -> np.ndarray:
    places = np.arange(k * self.batch_size, (k + 1) * self.batch_size)[self.share]
    passes, places = np.divmod(places, self.count)
    numbers = np.empty(len(places), np.int64)
    for number in np.unique(passes).tolist():
      here = passes == number
      numbers[here] = _order(self.count, self.seed, number)[places[here]]
    return numbers


class _MakeReady:
  """What a reading process does of a batch: makes what is not kept yet.

  It hands on numbers, as the disk is the fastest way from one process to another: to read a kept
  window takes less time than to copy it through shared memory. What cannot be kept it hands on.
  """

  def __init__(self, source: Source):
    self._source = source

  def __call__(self, numbers: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
    if self._source.kept(numbers).all():
      return numbers
    batch = self._source.batch(numbers)
    return numbers if self._source.kept(numbers).all() else batch


def check_batch(windows: int, batch_size: int) -> None:
  """Refuses a batch that is larger than the windows there are to train on.

  Raises:
    DistillError: saying how many there are.
  """
  if windows < batch_size:
    raise DistillError(
      f"{windows} training windows are fewer than one batch of {batch_size}; lower batch_size"
      " or prepare more windows (a smaller data.hop_s overlaps them)"
    )


def training_batches(
  source: Source,
  *,
  seed: int,
  batch_size: int,
  start: int,
  shard: int = 0,
  shards: int = 1,
  workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Endless shuffled batches `start`, `start + 1`, ...; reshuffled each pass.

  The position in the data is the batch index: slicing before the iterator is made gives the same
  batches for any number of threads and workers, and on resume. The order is one for all shards:
  batch k of all of them, one after the other, is batch k of a single one, row by row.

  Args:
    source: of examples.
    seed: of the order.
    batch_size: of all shards together.
    start: index of the first batch.
    shard: which of `shards` this process reads, as `jax.process_index()`.
    shards: number of reading processes, as `jax.process_count()`.
    workers: processes that make windows ready ahead, until all are kept; 0: threads of this one.

  Raises:
    DistillError: fewer rows than one batch, or a batch that the shards cannot share evenly.
  """
  check_batch(len(source), batch_size)
  if batch_size % shards:
    raise DistillError(
      f"a batch of {batch_size} cannot be shared evenly by {shards} processes; choose a multiple"
    )
  count = batch_size // shards
  share = slice(shard * count, (shard + 1) * count)
  # Numbers are batched, not examples: one read for each batch.
  order = _Shuffled(len(source), seed, batch_size, share)
  numbers = grain.MapDataset.source(order)[start:]
  if workers and not source.kept(np.arange(len(source))).all():
    return _made_ahead(source, numbers, workers, batches_of_a_pass=-(-len(source) // batch_size))
  return iter(numbers.map(source.batch).to_iter_dataset(THREADS))


def _made_ahead(
  source: Source, numbers: grain.MapDataset, workers: int, batches_of_a_pass: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batches that processes make ahead, until a pass has left all examples kept."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's, which nobody here sets
  made = numbers.map(_MakeReady(source)).to_iter_dataset(THREADS)
  made = made.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2))
  batches = made.map(lambda one: one if isinstance(one, dict) else source.batch(one))
  ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=4)
  with contextlib.closing(iter(ahead)) as found:
    for done, batch in enumerate(found, start=1):
      yield batch
      if done % batches_of_a_pass == 0 and source.kept(np.arange(len(source))).all():
        break
  yield from numbers[done:].map(source.batch).to_iter_dataset(THREADS)
