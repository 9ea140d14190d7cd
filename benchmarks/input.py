"""Training input and preparing, measured side by side in one run; prints Markdown.

  pip install torch pandas  # what ours stands against; the CPU build will do
  python benchmarks/input.py > docs/benchmarks.md
  python benchmarks/input.py --windows=4096 --large=8192 --rounds=1 --hours=0.2  # a trial

Three measurements. Reading: 60 s pairs of PPG and acceleration from disk to batches on the device,
ours against a PyTorch DataLoader over .npy files (one a signal and window) and over Parquet (row
groups in a shuffled order, their rows shuffled); all make the same batches out of the same windows
with the same functions, once as they are stored and once filtered and normalised for the encoders,
and take turns. Ours reads windows that were made ready when the set was prepared for its encoders;
over a set that was prepared for others, the first pass makes them ready. Each is measured. Memory:
what a process grows by in either pass over a set, and over a ten times larger one. Preparing:
recordings as CSV, ours against the script that pandas and scipy invite to.
"""

import argparse
import concurrent.futures
import functools
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import absl.flags
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.signal
import tensorflow_datasets as tfds
import torch.utils.data
import tqdm

from distill import config as configs
from distill.data import builder, pipeline, ready, store
from distill.data.builder import PairedBuilder
from distill.data.cohort import Cohort, simulate
from distill.data.windows import WindowSettings
from distill.spec import ACC, PPG, SignalSpec

POOL = 256  # different windows; a set repeats them
ROW_GROUP = 256
SETTLE = 20  # batches of a turn that are not timed: those that were read ahead while others ran
PARTS = ("preparing", "reading", "memory")
Specs = tuple[SignalSpec, ...]


# --- the same windows in three formats ------------------------------------------------------------


def _drawn(i: int) -> dict[str, np.ndarray]:
  """Window `i`: a pulse, a still wrist, noise, and a gap in one of ten."""
  rng = np.random.default_rng(i % POOL)
  window = {}
  for name, spec in WindowSettings().specs.items():
    times_s = np.arange(spec.shape[0])[:, None] / spec.rate_hz
    wave = np.sin(2 * np.pi * rng.uniform(0.8, 2.0) * times_s) * (1.0 if name == PPG else 0.002)
    window[name] = (wave + 0.01 * rng.normal(size=spec.shape)).astype(np.float32)
    if i % 10 == 0:
      window[name][: spec.shape[0] // 6] = np.nan
  return window


class Drawn(PairedBuilder):
  """Drawn windows, written as cut ones are."""

  SOURCE = LICENCE = "drawn"
  SIMULATED = True

  def __init__(self, data_config: Any, data_dir: pathlib.Path, windows: int):
    self.windows = windows
    super().__init__(data_config, data_dir)

  def sources(self) -> list:
    """None: nothing is cut."""
    return []

  def build(self) -> pathlib.Path:
    """Writes them."""
    pathlib.Path(self.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
      self.info, builder.SHARD_WINDOWS, file_format="array_record"
    )
    writer.initialize_splits([store.SPLIT])
    known = [_drawn(i) for i in range(10 * POOL)]
    rows = []
    for start in tqdm.trange(0, self.windows, builder.WAITING_WINDOWS, desc="write", leave=False):
      examples = []
      for i in range(start, min(start + builder.WAITING_WINDOWS, self.windows)):
        names = {"participant": f"p{i // 1000}", "recording": "day", "t0_s": np.float64(60.0 * i)}
        examples.append(known[i % len(known)] | names)
        blank = {name: "" if dtype is np.str_ else 1 for name, dtype in store.COLUMNS.items()}
        rows.append(blank | names)
      writer.add_examples({store.SPLIT: examples})
    writer.close_all()
    self.columns = [store.to_columns(rows)]
    return pathlib.Path(self.data_dir)


def _ours_on_disk(folder: pathlib.Path, windows: int) -> store.PreparedSet:
  made = Drawn(configs.base().data, folder, windows)
  records = made.build()
  store.write_index(folder, made.columns)
  (folder / store.LEFT_OUT_FILE).write_text("{}")
  store.write_set(
    folder, name=made.name, specs=made.specs, simulated=True, same_device=True, records=records
  )
  return store.open_set(folder)


def _npy_on_disk(prepared: store.PreparedSet, folder: pathlib.Path) -> None:
  folder.mkdir()
  for i in tqdm.trange(len(prepared), desc="write .npy", leave=False):
    for name, values in prepared[i].items():
      np.save(folder / f"{i}_{name}.npy", values)


def _parquet_on_disk(prepared: store.PreparedSet, path: pathlib.Path) -> None:
  schema = pa.schema([(name, pa.list_(pa.float32())) for name in (PPG, ACC)])
  with pq.ParquetWriter(path, schema) as writer:
    for start in tqdm.trange(0, len(prepared), ROW_GROUP, desc="write Parquet", leave=False):
      rows = prepared.windows(np.arange(start, min(start + ROW_GROUP, len(prepared))))
      columns = {name: list(rows[name].reshape(len(rows[name]), -1)) for name in (PPG, ACC)}
      writer.write_table(pa.table(columns, schema=schema))


# --- readers --------------------------------------------------------------------------------------


def _example(raw: Mapping[str, np.ndarray], specs: Specs) -> dict[str, np.ndarray]:
  found: dict[str, np.ndarray] = {}
  for spec in specs:
    values, mask = pipeline.prepare_windows(raw[spec.modality][None], spec)
    found |= {spec.modality: values[0], spec.modality + "_mask": mask[0]}
  return found


class NpyWindows:
  """One .npy file a signal and window, as a PyTorch data set."""

  def __init__(self, folder: pathlib.Path, count: int, specs: Specs):
    self.folder, self.count, self.specs = folder, count, specs

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
    raw = {name: np.load(self.folder / f"{i}_{name}.npy") for name in (PPG, ACC)}
    return {name: torch.from_numpy(v) for name, v in _example(raw, self.specs).items()}


class ParquetWindows(torch.utils.data.IterableDataset):
  """Row groups in a shuffled order, shared by the workers; their rows shuffled."""

  def __init__(self, path: pathlib.Path, specs: Specs):
    self.path, self.specs = path, specs

  def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
    info = torch.utils.data.get_worker_info()
    first, step = (info.id, info.num_workers) if info else (0, 1)
    stored = WindowSettings().specs
    file = pq.ParquetFile(self.path)
    for group in np.random.default_rng(0).permutation(file.num_row_groups)[first::step]:
      table = file.read_row_group(int(group))
      flat = {
        name: table[name].combine_chunks().values.to_numpy().reshape(-1, *stored[name].shape)
        for name in (PPG, ACC)
      }
      for row in np.random.default_rng(int(group)).permutation(len(table)):
        raw = {name: values[row] for name, values in flat.items()}
        yield {name: torch.from_numpy(v) for name, v in _example(raw, self.specs).items()}


def _forever(make: Callable[[], Any]) -> Iterator[Any]:
  while True:
    yield from make()


def _torch_batches(data: Any, batch: int, workers: int) -> Iterator[Any]:
  shuffled = {} if isinstance(data, torch.utils.data.IterableDataset) else {"shuffle": True}
  loader = torch.utils.data.DataLoader(
    data,
    batch_size=batch,
    num_workers=workers,
    drop_last=True,
    persistent_workers=workers > 0,
    multiprocessing_context="forkserver" if workers else None,  # JAX runs threads here
    **shuffled,
  )
  return _forever(lambda: loader)


def _ours(prepared: store.PreparedSet, specs: Specs, batch: int, workers: int) -> Iterator[Any]:
  rows = [pipeline.Rows(prepared, np.arange(len(prepared)))]
  source = pipeline.TrainingSource(rows, specs, {})
  return pipeline.training_batches(source, seed=0, batch_size=batch, start=0, workers=workers)


def _later(prepared: store.PreparedSet, specs: Specs, batch: int, workers: int) -> Iterator[Any]:
  """Batches from the second pass on."""
  batches = _ours(prepared, specs, batch, workers)
  for _ in tqdm.trange(len(prepared) // batch + 1, desc="first pass", leave=False):
    next(batches)
  return batches


def _forget_ready(folder: pathlib.Path) -> None:
  shutil.rmtree(folder / ready.FOLDER, ignore_errors=True)


def _turn(batches: Iterator[Any], count: int, batch: int, put: Callable[[Any], None]) -> float:
  """Windows per second."""
  for _ in range(SETTLE):
    put(next(batches))
  start = time.perf_counter()
  for _ in range(count):
    put(next(batches))
  return count * batch / (time.perf_counter() - start)


def _first_pass(prepared: store.PreparedSet, specs: Specs, workers: int, options: Any) -> float:
  """Windows per second of a pass that is begun anew, over as many batches as one holds."""
  count = min(options.batches, len(prepared) // options.batch - SETTLE)
  batches = _ours(prepared, specs, options.batch, workers)
  return _turn(batches, count, options.batch, _to_device)


def _first_pass_unready(
  prepared: store.PreparedSet, specs: Specs, workers: int, options: Any
) -> float:
  """The same over a set that was prepared for other encoders."""
  _forget_ready(prepared.folder)
  rate = _first_pass(prepared, specs, workers, options)
  os.sync()  # or it would be written to the disk while others are timed
  return rate


def _to_device(batch: Any) -> None:
  import jax

  jax.block_until_ready(jax.device_put(batch))


def _nothing(batch: Any) -> None:
  """A tensor of a CPU is on its device."""
  del batch


# --- measurements ---------------------------------------------------------------------------------


def _medians(
  runners: Mapping[str, Callable[[], float]], rounds: int, what: str
) -> dict[str, list[float]]:
  """Values of each round, the runners taking turns."""
  found: dict[str, list[float]] = {name: [] for name in runners}
  for _ in tqdm.trange(rounds, desc=what):
    for name, run in runners.items():
      found[name].append(run())
  return found


def _reading(prepared: store.PreparedSet, folder: pathlib.Path, options: Any) -> Iterator[str]:
  import students.transformer
  import teachers.transformer

  _npy_on_disk(prepared, folder / "npy")
  _parquet_on_disk(prepared, folder / "windows.parquet")
  stored: Specs = tuple(prepared.specs.values())
  filtered = (teachers.transformer.SPEC, students.transformer.SPEC)
  # The same files under other names, to be made ready over and over.
  anew = shutil.copytree(prepared.folder, folder / "anew", copy_function=os.link)
  yield from (
    f"### Reading: windows per second, disk to device, batches of {options.batch}",
    "",
    f"{len(prepared)} windows of 60 s, PPG 64 Hz and acceleration 50 Hz. Median of"
    f" {options.rounds} rounds (least to most); ratio: ours over the better DataLoader with as many"
    " worker processes, median of the rounds. Ours reads windows that were made ready when the set"
    " was prepared; in the first pass a process also looks whether they are whole. Over a set that"
    " was prepared for other encoders, the first pass reads records, makes windows ready and writes"
    " them; its worker processes end with it. The DataLoader does the same in every pass. All files"
    " were just written, so that reads find them in the page cache as far as memory goes.",
    "",
    "| windows | workers | ours | DataLoader, .npy | DataLoader, Parquet | ratio |",
    "| --- | --- | --- | --- | --- | --- |",
  )
  for name, specs in (("as stored", stored), ("ready for the encoders", filtered)):
    pipeline.make_ready(prepared, specs, progress=True)
    os.sync()
    for workers in options.workers:
      data = {
        "npy": NpyWindows(folder / "npy", len(prepared), specs),
        "parquet": ParquetWindows(folder / "windows.parquet", specs),
      }
      turn = functools.partial(_turn, count=options.batches, batch=options.batch)
      turns = {
        "first pass": functools.partial(_first_pass, prepared, specs, workers, options),
        "first pass, set for others": functools.partial(
          _first_pass_unready, store.open_set(anew), specs, workers, options
        ),
        "later passes": functools.partial(
          turn, _later(prepared, specs, options.batch, workers), put=_to_device
        ),
      }
      for k, some in data.items():
        turns[k] = functools.partial(
          turn, _torch_batches(some, options.batch, workers), put=_nothing
        )
      rates = _medians(turns, options.rounds, f"read {name}, {workers} workers")
      theirs = [max(pair) for pair in zip(rates["npy"], rates["parquet"], strict=True)]
      for k in ("first pass", "later passes", "first pass, set for others"):
        ratio = statistics.median(a / b for a, b in zip(rates[k], theirs, strict=True))
        cells = [_spread(rates[k]), _spread(rates["npy"]), _spread(rates["parquet"])]
        yield f"| {name}, {k} | {workers} | {' | '.join(cells)} | {ratio:.2f} |"
      del turns


def _spread(values: list[float]) -> str:
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def _resident_mib() -> float:
  """What the process holds now; pages of files that it merely maps do not count. Linux."""
  _, resident, mapped, *_ = pathlib.Path("/proc/self/statm").read_text().split()
  return (int(resident) - int(mapped)) * resource.getpagesize() / 2**20


def _grown_mib(folder: pathlib.Path, batch: int) -> float:
  """MiB that a process grows by, at most, in one pass over a set; in a process of its own."""
  prepared = store.open_set(folder)
  before = _resident_mib()
  specs: Specs = tuple(prepared.specs.values())
  batches, most = _ours(prepared, specs, batch, 0), 0.0
  for _ in range(len(prepared) // batch):
    next(batches)
    most = max(most, _resident_mib())
  return most - before


def _memory(folders: Mapping[int, pathlib.Path], batch: int) -> list[str]:
  cells: dict[int, list[str]] = {}
  for count, folder in folders.items():
    _forget_ready(folder)
    for _ in ("first", "later"):
      context = multiprocessing.get_context("spawn")
      with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        grown = pool.submit(_grown_mib, folder, batch).result()
      cells.setdefault(count, []).append(f"{grown:.0f}")
  return [
    "### Memory: MiB that a process grows by, at most, in one pass, from the opened set on",
    "",
    "| windows | first pass | a later pass |",
    "| --- | --- | --- |",
    *(f"| {count} | {' | '.join(some)} |" for count, some in cells.items()),
  ]


MANIFEST = """
[[recording]]
participant = "{name}"
ppg = {{ file = "{name}_ppg.csv", column = "ppg", rate_hz = 64.0 }}
acc = {{ file = "{name}_acc.csv", columns = ["x", "y", "z"], rate_hz = {acc_hz} }}
"""


def _recordings(folder: pathlib.Path, hours: float, people: int = 4) -> None:
  """Simulated people as CSV files with a manifest; 64 Hz PPG, 32 Hz acceleration."""
  folder.mkdir()
  cohort = Cohort(
    participants=people, minutes=60 * hours / people, device="e4", amplitude=1.0, gaps=False, seed=0
  )
  text = ""
  for k in range(people):
    recording = simulate(cohort, k)
    for kind, header in ((PPG, "ppg"), (ACC, "x,y,z")):
      samples = recording.signals[kind].samples
      path = folder / f"{k}_{kind}.csv"
      np.savetxt(path, samples, "%.6f", ",", header=header, comments="")
    text += MANIFEST.format(name=k, acc_hz=recording.signals[ACC].rate_hz)
  (folder / "manifest.toml").write_text(text)


# Of its own, for workers load what the main file loads: here that would be PyTorch and pandas.
PREPARE = """
import sys, time
import students.transformer, teachers.transformer
from distill import config
from distill.data.prepare import prepare
data = config.base().data
data.sets, (_, data.source, data.prepared_dir, workers, made_ready) = ("own",), sys.argv
data.workers = int(workers)
specs = [teachers.transformer.SPEC, students.transformer.SPEC] if made_ready == "ready" else []
start = time.perf_counter()
prepare(data, lambda: specs, progress=False)
print(time.perf_counter() - start)
"""


def _prepared_by_us(folder: pathlib.Path, hours: float, workers: int, made_ready: str) -> float:
  """Recorded hours per hour; the verb `distill prepare own`, in a process of its own."""
  with tempfile.TemporaryDirectory(dir=folder.parent) as out:
    words = [sys.executable, "-c", PREPARE, str(folder), out, str(workers), made_ready]
    run = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
  return hours / (float(run.stdout) / 3600)


def _prepared_plainly(folder: pathlib.Path, hours: float) -> float:
  """Recorded hours per hour; read, resample, filter, cut, find the pulse, save: nothing else."""
  band = scipy.signal.butter(3, (0.5, 8.0), "bandpass", fs=64.0, output="sos")
  start = time.perf_counter()
  with tempfile.TemporaryDirectory(dir=folder.parent) as out:
    for path in sorted(folder.glob("*_ppg.csv")):
      ppg = pd.read_csv(path)["ppg"].interpolate(limit_direction="both").to_numpy()
      acc = pd.read_csv(str(path).replace("_ppg", "_acc")).interpolate(limit_direction="both")
      moved = scipy.signal.resample_poly(acc.to_numpy(), 25, 16, axis=0).astype(np.float32)
      clean = scipy.signal.sosfiltfilt(band, ppg)
      for i in range(len(ppg) // 3840):
        window = clean[3840 * i : 3840 * (i + 1)]
        peaks, _ = scipy.signal.find_peaks(window, distance=20, prominence=0.3 * window.std())
        np.savez(
          pathlib.Path(out) / f"{path.stem}_{i}.npz",
          ppg=window.astype(np.float32),
          acc=moved[3000 * i : 3000 * (i + 1)],
          hr_bpm=60 * 64 / np.median(np.diff(peaks)),
        )
    return hours / ((time.perf_counter() - start) / 3600)


def _preparing(folder: pathlib.Path, options: Any) -> list[str]:
  _recordings(folder, options.hours)
  runners = {
    "ours, one process": lambda: _prepared_by_us(folder, options.hours, 0, "ready"),
    "ours, one process, not made ready": lambda: _prepared_by_us(folder, options.hours, 0, ""),
    "ours, 2 workers": lambda: _prepared_by_us(folder, options.hours, 2, "ready"),
    "pandas and scipy": lambda: _prepared_plainly(folder, options.hours),
  }
  runners["pandas and scipy"]()  # what is imported and designed once
  rates = _medians(runners, options.rounds, "prepare")
  plain = rates["pandas and scipy"]
  lines = [
    "### Preparing: recorded hours per hour",
    "",
    f"{options.hours:g} h of 4 simulated people as CSV, 64 Hz PPG and 32 Hz acceleration, a window"
    " a minute. Ours also checks units and clocks, gates the PPG and its beats, labels HR, SDNN and"
    " RMSSD with a second reading each, writes ArrayRecord, and makes the windows ready for the"
    " encoders, starting its processes included; the script looks at nothing.",
    "",
    "| | hours per hour | per minute | times the script |",
    "| --- | --- | --- | --- |",
  ]
  for name, values in rates.items():
    ratio = statistics.median(a / b for a, b in zip(values, plain, strict=True))
    lines.append(
      f"| {name} | {_spread(values)} | {statistics.median(values) / 60:.3g} | {ratio:.2f} |"
    )
  return lines


def _machine() -> str:
  packages = ("jax", "grain", "tensorflow-datasets", "array_record", "numpy", "scipy")
  packages += ("torch", "pandas", "pyarrow")
  versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
  load, python = os.getloadavg()[0], platform.python_version()
  return (
    f"{os.cpu_count()} cores ({platform.machine()}), Python {python}, {versions}."
    f" Load of the machine before the run: {load:.1f}."
  )


def _say(lines: Iterable[str]) -> None:
  for line in lines:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--windows", type=int, default=10_000)
  parser.add_argument("--large", type=int, default=100_000, help="windows of the larger set")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--batches", type=int, default=20, help="timed in each turn")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="that read")
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="to measure")
  parser.add_argument("--hours", type=float, default=4.0, help="of recordings to prepare")
  parser.add_argument(
    "--scratch", metavar="DIR", help="where to write; default: a temporary folder"
  )
  options = parser.parse_args()
  if options.windows < (SETTLE + 1) * options.batch:
    parser.error(f"--windows must hold more than {SETTLE} batches, those of a turn not timed")
  absl.flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags
  tfds.disable_progress_bar()
  given = [word for word in sys.argv[1:] if not word.startswith("--scratch")]
  command = " ".join(["python", "benchmarks/input.py", *given])
  _say(["# Benchmarks", "", "## Input", "", f"`{command}` on {_machine()}"])
  with tempfile.TemporaryDirectory(dir=options.scratch) as name:
    folder = pathlib.Path(name)
    if "preparing" in options.parts:
      _say(["", *_preparing(folder / "recordings", options)])
    if set(options.parts) - {"preparing"}:
      prepared = _ours_on_disk(folder / "few", options.windows)
    if "reading" in options.parts:
      _say([""])
      _say(_reading(prepared, folder, options))
    if "memory" in options.parts:
      _ours_on_disk(folder / "many", options.large)
      sets = {options.windows: folder / "few", options.large: folder / "many"}
      _say(["", *_memory(sets, options.batch)])


if __name__ == "__main__":
  main()
