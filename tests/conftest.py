"""Strict numerics for every test, the shared smoke run, and the real recordings that may stand
beside the checkout."""

import fcntl
import os
import pathlib
import tempfile

from tests import runs

# Before jax is imported: eight devices on one CPU, so that data parallelism is tested for real.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {runs.COMPILE_FAST}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import absl.flags
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling is most of the time of a small run: runs of the same shapes share it, also those in
# processes of their own and in the other processes of pytest, which inherit the environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
for _name, _value in (
  ("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]),
  ("jax_persistent_cache_min_compile_time_secs", 0.0),
  ("jax_persistent_cache_min_entry_size_bytes", -1),
):
  jax.config.update(_name, _value)
  os.environ[_name.upper()] = str(_value)

absl.flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> pathlib.Path:
  folder = SHARED / name
  if not folder.is_dir():
    pytest.skip(f"no {folder.name} folder beside the checkout (expected at ../shared/{name})")
  return folder


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """Folder of real recordings, one sub-folder a set."""
  return _shared("data")


@pytest.fixture(scope="session")
def shared_parity() -> pathlib.Path:
  """Folder of parity cases for public encoders."""
  return _shared("parity")


@pytest.fixture(scope="session")
def shared_weights() -> pathlib.Path:
  """Folder of public weights."""
  return _shared("weights")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> runs.Run:
  """The finished run of configs/quickstart.py:smoke; copy what is to be changed."""
  base = tmp_path_factory.getbasetemp()
  # Processes of pytest have folders of their own below a common one, in which one of them makes it.
  folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
  folder.mkdir(exist_ok=True)
  with open(folder / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    out = folder / "out.txt"
    if not out.is_file():
      out.write_text(runs.smoke(folder / "run", folder / "prepared").out)
  return runs.Run(folder / "run", folder / "prepared", out.read_text())
