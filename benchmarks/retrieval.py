"""Time and memory of exact retrieval ranks; prints a section of docs/benchmarks.md.

  pip install faiss-cpu  # what ours stands against
  python benchmarks/retrieval.py --size=100000 --rounds=3

N queries against N candidates of 256 dimensions, float32. Ours counts for every query how many
candidates are as near as its partner or nearer (exact ranks, ties against the model). Plain NumPy
does the same in the same blocks. faiss' flat inner-product index finds the ten nearest, which gives
no rank beyond the tenth and breaks ties as they come: less than ours, from the same products. All
take turns in one process, after one smaller pass each; the times are medians. The rates of the bare
matrix product are measured in the same turns, on blocks of several shapes, of which the best counts
(PRODUCTS): ours may take smaller ones than the product likes best. CPU seconds are those of
all cores, and tell of a machine that others use as well. Peak memory is that of a process of its
own for each, libraries and data included.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill import ranking

DIM = 256
TOP = 10
PRODUCT_S = 3.0  # of every turn of a bare product
PRODUCTS = ((1024, 2048), (4096, 4096))  # rows of bare products, beside those of our blocks
Ranker = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _vectors(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Queries whose partner in the same row is near, but not always the nearest."""
  rng = np.random.default_rng(0)
  gallery = rng.standard_normal((size, DIM), np.float32)
  queries = rng.standard_normal((size, DIM), np.float32)
  queries *= 3.0
  queries += gallery
  for vectors in (queries, gallery):
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return queries, gallery


def _ours(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  return ranking.ranks(queries, gallery)[0] == 1


def _numpy(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  rows, columns = ranking.default_block()
  near = np.einsum("nd,nd->n", queries, gallery) - np.float32(ranking.TIE)
  ahead = np.zeros(len(queries), np.int64)
  for start in range(0, len(queries), rows):
    part = slice(start, start + rows)
    for first in range(0, len(gallery), columns):
      cosine = queries[part] @ gallery[first : first + columns].T
      ahead[part] += np.count_nonzero(cosine >= near[part, None], axis=1)
  return ahead == 1


def _faiss(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  import faiss

  index = faiss.IndexFlatIP(DIM)
  index.add(gallery)
  _, found = index.search(queries, TOP)
  return found[:, 0] == np.arange(len(queries))


RANKERS: dict[str, Ranker] = {"ours": _ours, "faiss": _faiss, "numpy": _numpy}
LABELS = {
  "ours": "`distill.ranking.ranks`",
  "faiss": f"faiss `IndexFlatIP`, top {TOP}",
  "numpy": "NumPy, the same counts",
}


def _product_rates(queries: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
  """GFLOP/s of the bare product, of JAX and of NumPy, in the shape that is best for each."""
  rates: dict[str, float] = {}
  for rows, columns in (ranking.default_block(), *PRODUCTS):
    for name, rate in _rates_of(queries[:rows], gallery[:columns]).items():
      rates[name] = max(rate, rates.get(name, 0.0))
  return rates


def _rates_of(q: np.ndarray, g: np.ndarray) -> dict[str, float]:
  """GFLOP/s of one product."""
  jitted = jax.jit(lambda a, b: jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST))
  on_device = jnp.asarray(q), jnp.asarray(g)
  products: dict[str, Callable[[], Any]] = {
    "jax": lambda: jitted(*on_device).block_until_ready(),
    "numpy": lambda: q @ g.T,
  }
  rates = {}
  for name, product in products.items():
    product()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < PRODUCT_S:
      product()
      count += 1
    rates[name] = count * _flop(len(q), len(g)) / (time.perf_counter() - start) / 1e9
  return rates


def _flop(rows: int, columns: int) -> float:
  return 2.0 * rows * columns * DIM


def _alone(name: str, size: int) -> float:
  """Peak memory in GB of a process that does nothing else."""
  command = [sys.executable, __file__, f"--size={size}", f"--alone={name}"]
  root = str(pathlib.Path(__file__).resolve().parent.parent)
  paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
  done = subprocess.run(
    command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
  )
  return float(json.loads(done.stdout)["peak_gb"])


def _machine() -> str:
  cpu = platform.processor() or platform.machine()
  path = pathlib.Path("/proc/cpuinfo")
  if path.is_file():
    names = [x.partition(":")[2] for x in path.read_text().splitlines() if "model name" in x]
    cpu = names[0].strip() if names else cpu
  devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "numpy"))
  load = f"{os.getloadavg()[0]:.1f} processes waiting for them before it began"
  return f"{cpu}, {os.cpu_count()} cores, {load}; JAX on {devices}; {versions}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", type=int, default=100_000, help="queries, and candidates")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--alone", choices=RANKERS, help="run one of them and print its peak memory")
  options = parser.parse_args()
  if options.alone:
    RANKERS[options.alone](*_vectors(options.size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(json.dumps({"peak_gb": peak}) + "\n")
    return
  try:
    faiss_version = importlib.metadata.version("faiss-cpu")
  except importlib.metadata.PackageNotFoundError:
    sys.exit("benchmarks/retrieval.py needs faiss: pip install faiss-cpu")
  machine = _machine()
  peaks = {name: _alone(name, options.size) for name in RANKERS}
  queries, gallery = _vectors(options.size)
  small = min(options.size, 2 * max(ranking.default_block()))
  for rank in RANKERS.values():
    rank(queries[:small], gallery[:small])
  seconds: dict[str, list[float]] = {name: [] for name in RANKERS}
  busy: dict[str, list[float]] = {name: [] for name in RANKERS}
  rates: dict[str, list[float]] = {"jax": [], "numpy": []}
  first: dict[str, np.ndarray] = {}
  for _ in range(options.rounds):
    for name, rank in RANKERS.items():
      start, used = time.perf_counter(), time.process_time()
      first[name] = rank(queries, gallery)
      seconds[name].append(time.perf_counter() - start)
      busy[name].append(time.process_time() - used)
    for name, rate in _product_rates(queries, gallery).items():
      rates[name].append(rate)
  # A partner that ties with another to 1e-6 is no first place of ours, and may be one of faiss.
  same = {name: float(np.mean(first[name] == first["ours"])) for name in RANKERS}
  product = {name: statistics.median(some) for name, some in rates.items()}
  medians = {name: statistics.median(some) for name, some in seconds.items()}
  lines = [
    f"## Exact retrieval ranks: {options.size} queries, {options.size} candidates,"
    f" {DIM} dimensions",
    "",
    f"`python benchmarks/retrieval.py --size={options.size} --rounds={options.rounds}`;"
    f" {machine}, faiss-cpu {faiss_version}. Medians of {options.rounds} turns. Bare matrix"
    f" product, best of {1 + len(PRODUCTS)} shapes: JAX {product['jax']:.0f} GFLOP/s, NumPy"
    f" {product['numpy']:.0f} GFLOP/s. faiss finds the ten nearest only, the others every rank,"
    " ties against the model.",
    "",
    "| | seconds (least to most) | times ours | CPU seconds | GFLOP/s | of JAX's product |"
    " of NumPy's product | peak GB | same first places |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
  ]
  for name in RANKERS:
    rate = _flop(options.size, options.size) / medians[name] / 1e9
    span = f"{medians[name]:.1f} ({min(seconds[name]):.1f} to {max(seconds[name]):.1f})"
    lines.append(
      f"| {LABELS[name]} | {span} | {medians[name] / medians['ours']:.2f} |"
      f" {statistics.median(busy[name]):.1f} | {rate:.0f} |"
      f" {100 * rate / product['jax']:.0f} % | {100 * rate / product['numpy']:.0f} % |"
      f" {peaks[name]:.2f} | {100 * same[name]:.3f} % |"
    )
  sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
  main()
