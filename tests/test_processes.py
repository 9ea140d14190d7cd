"""distill.processes: what two real processes train together is what one process trains."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from distill import cli
from tests import runs

# Stopped before batch 7, and gone on with.
FIT = """
import os, pathlib, sys
import jax
import numpy as np
from distill import processes
if len(sys.argv) > 2:
  processes.join(sys.argv[2])
import pytest
from distill.train import data_mesh
from tests.test_train import BATCH, Killed, _batches, _fit, _kernel
assert data_mesh().size == 2
count = BATCH // jax.process_count()
share = slice(jax.process_index() * count, (jax.process_index() + 1) * count)
def batches(k, stop=99):
  for i, batch in enumerate(_batches(k), start=k):
    if i == stop:
      raise Killed
    yield {name: rows[share] for name, rows in batch.items()}
folder = pathlib.Path(sys.argv[1])
with pytest.raises(Killed):
  _fit(folder, batches=lambda k: batches(k, 7))
kernel = _kernel(_fit(folder, batches=batches))
np.save(folder.with_name(f"{folder.name}{jax.process_index()}.npy"), kernel)
"""


def _fit(folder, *where: str, devices: int) -> subprocess.Popen:
  environment = {**os.environ, "XLA_FLAGS": runs.COMPILE_FAST, "PYTHONPATH": str(runs.ROOT)}
  return subprocess.Popen(
    [sys.executable, "-c", FIT, str(folder), *where],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**environment, "JAX_NUM_CPU_DEVICES": str(devices)},
  )


def _both(start) -> list[str]:
  """What each of two processes prints that are started with where they meet."""
  with socket.socket() as found:
    found.bind(("localhost", 0))
    port = found.getsockname()[1]
  with contextlib.ExitStack() as stack:
    processes = [start(f"localhost:{port},2,{index}") for index in range(2)]
    for process in processes:
      stack.callback(process.kill)
    return [runs.finish(process) for process in processes]


def _same_metrics(one, two) -> None:
  lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, two)]
  for line, other in zip(*lines, strict=True):
    assert json.loads(other) == pytest.approx(json.loads(line), rel=1e-4)


def test_two_processes_fit_and_resume_like_one_of_two_devices_bit_for_bit(tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  alone = _fit(one, devices=2)
  _both(lambda where: _fit(two, where, devices=1))
  runs.finish(alone)
  expected = np.load(tmp_path / "one0.npy")
  for index in range(2):
    np.testing.assert_array_equal(np.load(tmp_path / f"two{index}.npy"), expected)
  _same_metrics(one, two)


def test_two_processes_distil_the_student_of_one(smoke, tmp_path):
  words = ("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}")
  words += (f"--config.teacher.load={smoke.folder}/fold0/teacher", f"--workdir={tmp_path / 'run'}")
  told = _both(lambda where: runs.start(*words, f"--processes={where}"))
  assert all("student of" in text for text in told)
  # Of one device: Adam turns rounding into steps where a gradient is next to nothing.
  student = pathlib.Path("fold0") / "student"
  _same_metrics(smoke.folder / student, tmp_path / "run" / student)
  assert (tmp_path / "run" / student / "model").is_dir()
  assert not list(tmp_path.rglob("*partial*"))


EXPECTED = "expected auto (Slurm, MPI, Kubernetes, TPU pods) or ADDRESS:PORT,COUNT,INDEX"


@pytest.mark.parametrize(
  ("where", "why"),
  [
    ("somewhere", "cannot be read"),
    ("localhost,2,0", "cannot be read"),
    ("localhost:1,2", "cannot be read"),
    ("localhost:x,2,0", "cannot be read"),
    ("localhost:1,2,-1", "cannot be read"),
    ("localhost:1,2,2", "there is no process 2 of 2, they count from 0"),
  ],
)
def test_processes_that_cannot_meet(where, why, tmp_path, capsys):
  words = ("train", runs.CONFIG, f"--workdir={tmp_path / 'run'}", f"--processes={where}")
  assert cli.main(words) == 2
  assert capsys.readouterr().err == f"distill: --processes={where}: {why}; {EXPECTED}\n"
  assert not (tmp_path / "run").exists()


def test_a_machine_that_is_no_cluster_is_told(tmp_path):
  words = ("train", runs.CONFIG, f"--workdir={tmp_path / 'run'}", "--processes=auto")
  process = runs.start(*words)  # of its own: JAX must not be in use
  _, told = process.communicate(timeout=runs.HUNG_S)
  assert process.returncode == 2
  assert told.startswith(
    "distill: --processes=auto: the processes did not meet (coordinator_address"
  )
  assert told.rstrip().endswith(EXPECTED)
  assert not (tmp_path / "run").exists()
