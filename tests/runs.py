"""Runs of the shipped smoke config, in processes of their own with one device."""

import dataclasses
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Much of the time of these tests went into making machine code faster that runs for milliseconds.
COMPILE_FAST = "--xla_backend_optimization_level=0"
HUNG_S = 1800  # far beyond what a busy machine needs
CONFIG = f"--config={ROOT}/configs/quickstart.py:smoke"


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    folder: work folder.
    prepared: folder of prepared sets.
    out: what the command printed.
  """

  folder: pathlib.Path
  prepared: pathlib.Path
  out: str

  @property
  def set_folder(self) -> pathlib.Path:
    """The prepared set."""
    return next(self.prepared.glob("simulated-*"))


def start(*words: str) -> subprocess.Popen:
  """The command `distill` in a process of its own, with one device and its output piped."""
  environment = {**os.environ, "XLA_FLAGS": COMPILE_FAST, "PYTHONPATH": str(ROOT)}
  return subprocess.Popen(
    [sys.executable, "-m", "distill.cli", *words],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  )


def finish(process: subprocess.Popen) -> str:
  """Standard output of a process that must end well."""
  try:
    out, err = process.communicate(timeout=HUNG_S)
  finally:
    process.kill()
  assert process.returncode == 0, err[-2000:]
  return out


def smoke(folder: pathlib.Path, prepared: pathlib.Path) -> Run:
  """Runs the shipped smoke config from the beginning to its report."""
  words = ("run", CONFIG, f"--workdir={folder}", f"--config.data.prepared_dir={prepared}")
  return Run(folder, prepared, finish(start(*words)))
