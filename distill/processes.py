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
  arguments = () if where == AUTO else _parsed(where)
  try:
    jax.distributed.initialize(*arguments)
  except (RuntimeError, ValueError) as error:  # a ValueError is that of a cluster that is not there
    reason = str(error).strip().splitlines()[0]
    raise _refusal(where, f"the processes did not meet ({reason})") from error


def _parsed(where: str) -> tuple[str, int, int]:
  """(address of process 0, number of processes, index)."""
  address, *numbers = where.split(",")
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and len(numbers) == 2 and all(n.isdecimal() for n in numbers)):
    raise _refusal(where, "cannot be read")
  count, index = map(int, numbers)
  if index >= count:
    raise _refusal(where, f"there is no process {index} of {count}, they count from 0")
  return address, count, index


def _refusal(where: str, reason: str) -> DistillError:
  return DistillError(f"--processes={where}: {reason}; expected {EXPECTED}")


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
