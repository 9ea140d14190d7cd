"""One training in several processes, on one or more hosts: how they meet, and who of them writes.

All of them run the same code on the same folders. Process 0 alone writes what they would all write
alike; the others wait for it. With a single process nothing here does anything.
"""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from distill.errors import DistillError

AUTO = "auto"
EXPECTED = "auto (Slurm, MPI, Kubernetes, TPU pods) or ADDRESS:PORT,COUNT,INDEX"


def join(where: str) -> None:
  """Joins the other processes; before anything else asks JAX for its devices.

  Args:
    where: "auto", where the cluster says who they are; else "ADDRESS:PORT,COUNT,INDEX" with the
      address of process 0, the number of processes and which of them this one is, from 0.

  Raises:
    DistillError: another text, or processes that did not meet.
  """
  try:
    if where == AUTO:
      jax.distributed.initialize()
      return
    address, count, index = where.split(",")
    host, port = address.rsplit(":", 1)
    jax.distributed.initialize(f"{host}:{int(port)}", int(count), int(index))
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0]
    raise DistillError(f"--processes={where}: {reason}; expected {EXPECTED}") from error


def writes() -> bool:
  """Whether this is the process that writes files and tells of progress."""
  return bool(jax.process_index() == 0)


def wait(what: str) -> None:
  """Returns when every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def one_first(what: str) -> Iterator[None]:
  """Process 0 does the body, then the others do it, and find on disk what it has made."""
  if not writes():
    wait(what)
  try:
    yield
  finally:  # the others meet the same error
    if writes():
      wait(what)
