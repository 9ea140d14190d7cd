"""Windows a second and memory of the training input; prints one line of JSON.

  pip install torch  # what ours stands against; the CPU build will do
  python benchmarks/input.py --set=prepared/simulated-... --batch=128 --rounds=5

Against what a user would write instead: a PyTorch DataLoader over a Parquet file of the same
windows, one row each, row groups read in a shuffled order and their rows shuffled. Both sides
filter and normalise each window with `distill.signals`, make batches of one size, and take turns in
one run; the numbers are medians. Ours is measured twice: reading every window ("read"), as with
sets that do not fit, and once a pass has been kept ("kept"), as with sets that do. The memory is
what the process grew by while it read the whole set once without keeping it.
"""

import argparse
import importlib.util
import json
import pathlib
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.data import pipeline
from distill.data.store import PreparedSet, open_set
from students import transformer

ROW_GROUP = 256
SPEC = transformer.SPEC


def _ours(prepared: PreparedSet, batch: int, kept_bytes: int) -> Callable[[], Iterator[Any]]:
  pipeline.KEPT_BYTES = kept_bytes
  source = pipeline.TrainingSource([pipeline.Rows(prepared, np.arange(len(prepared)))], [SPEC], {})
  return lambda: pipeline.training_batches(source, seed=0, batch_size=batch, start=0)


def _to_parquet(prepared: PreparedSet, path: pathlib.Path) -> None:
  schema = pa.schema([("acc", pa.list_(pa.float32()))])
  with pq.ParquetWriter(path, schema) as writer:
    for start in range(0, len(prepared), ROW_GROUP):
      rows = range(start, min(start + ROW_GROUP, len(prepared)))
      windows = [prepared[row][SPEC.modality].ravel() for row in rows]
      writer.write_table(pa.table({"acc": windows}, schema=schema))


def _theirs(path: pathlib.Path, batch: int, workers: int) -> Callable[[], Iterator[Any]]:
  import torch
  from torch.utils import data

  class Windows(data.IterableDataset):
    def __iter__(self):
      info = data.get_worker_info()
      first, step = (info.id, info.num_workers) if info else (0, 1)
      file = pq.ParquetFile(path)
      order = np.random.default_rng(0).permutation(file.num_row_groups)[first::step]
      for group in order:
        rows = file.read_row_group(int(group), ["acc"])["acc"].combine_chunks()
        flat = rows.values.to_numpy().reshape(-1, *SPEC.shape)
        for row in np.random.default_rng(int(group)).permutation(len(flat)):
          window = pipeline.load_window(flat[row], SPEC)
          yield {name: torch.from_numpy(values) for name, values in window.items()}

  loader = data.DataLoader(Windows(), batch_size=batch, num_workers=workers, drop_last=True)

  def forever() -> Iterator[Any]:
    while True:
      yield from loader

  return forever


def _rate(batches: Iterator[Any], count: int, batch: int) -> float:
  start = time.perf_counter()
  for _ in range(count):
    next(batches)
  return count * batch / (time.perf_counter() - start)


def _peak_mib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--set", required=True, help="folder of a prepared set")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--batches", type=int, default=20, help="of each turn")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--workers", type=int, default=2, help="of the PyTorch loader")
  options = parser.parse_args()
  prepared = open_set(options.set)
  before = _peak_mib()
  whole_pass = _ours(prepared, options.batch, 0)()
  _rate(whole_pass, len(prepared) // options.batch, options.batch)
  grown = _peak_mib() - before
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "windows.parquet"
    _to_parquet(prepared, path)
    makers = {
      "read": _ours(prepared, options.batch, 0),
      "kept": _ours(prepared, options.batch, 2**40),
    }
    if importlib.util.find_spec("torch"):  # without it ours is measured alone
      makers["torch"] = _theirs(path, options.batch, options.workers)
    running = {name: make() for name, make in makers.items()}
    _rate(running["kept"], len(prepared) // options.batch + 1, options.batch)
    rates: dict[str, list[float]] = {name: [] for name in running}
    for batches in running.values():
      _rate(batches, 4, options.batch)  # starts workers and fills buffers
    for _ in range(options.rounds):
      for name, batches in running.items():
        rates[name].append(_rate(batches, options.batches, options.batch))
  medians = {name: statistics.median(some) for name, some in rates.items()}
  found: dict[str, Any] = {
    "windows": len(prepared),
    "batch": options.batch,
    "rounds": options.rounds,
    "torch_workers": options.workers,
    "machine": platform.machine(),
    "windows_per_s": {name: round(rate, 1) for name, rate in medians.items()},
    "memory_of_a_pass_mib": round(grown, 1),
  }
  if "torch" in medians:
    found["times_torch"] = {
      name: round(medians[name] / medians["torch"], 2) for name in ("read", "kept")
    }
  sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
  main()
