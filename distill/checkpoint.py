"""Save and restore a train state with Orbax, whole or not at all, damage noticed.

Orbax commits a step by renaming a folder, so a kill in mid-save leaves the previous step. It does
not notice a flipped byte, so a sha256 manifest is written beside the steps after each commit and
checked before a restore. A folder holds one run: its config's hash is stored and another refused.
Several processes save into one folder, which all of them see.
"""

import hashlib
import json
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from distill import processes
from distill.errors import DistillError


class Checkpoints:
  """The checkpoints of one run; use as a context manager.

  Args:
    folder: made if it is not there.
    identity: what the run is (config, teacher hash, device count); another is refused.
    keep: newest steps to keep.
  """

  def __init__(self, folder: pathlib.Path, identity: dict[str, Any], *, keep: int = 2):
    self._folder = folder.resolve()
    self._identity = identity
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self._manager.close()

  def save(self, step: int, state: Any) -> None:
    """Commits `state` as `step`; does nothing when that step is already there."""
    if step in self._manager.all_steps():
      return
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), identity=ocp.args.JsonSave(self._identity)
    )
    self._manager.save(step, args=items)
    self._manager.wait_until_finished()
    if processes.writes():
      manifest = json.dumps(_hashes(self._folder / str(step)), indent=1)
      partial = self._manifest(step).with_suffix(".partial")
      partial.write_text(manifest)
      partial.replace(self._manifest(step))
    processes.wait(f"signed {step}")

  def restore(self, like: Any) -> Any | None:
    """The newest whole step in the structure of `like`, or None when there is none.

    A step whose manifest is missing was killed between commit and manifest; the step before it is
    taken. Raises DistillError when files do not match the manifest or the run is another one.
    """
    steps = [s for s in sorted(self._manager.all_steps()) if self._manifest(s).is_file()]
    if not steps:
      return None
    step = steps[-1]
    if _hashes(self._folder / str(step)) != json.loads(self._manifest(step).read_text()):
      raise DistillError(
        f"checkpoint {self._folder / str(step)} is damaged (its files do not match"
        f" {self._manifest(step).name}); delete that step to resume from the one before"
      )
    self._check_identity(step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    )
    for later in [s for s in self._manager.all_steps() if s > step]:
      self._manager.delete(later)
    return restored.state

  def _check_identity(self, step: int) -> None:
    stored = self._manager.restore(
      step, args=ocp.args.Composite(identity=ocp.args.JsonRestore())
    ).identity
    wanted = json.loads(json.dumps(self._identity))
    different = sorted(k for k in wanted | stored if wanted.get(k) != stored.get(k))
    if different:
      told = "; ".join(f"{k}: {stored.get(k)} there, {wanted.get(k)} here" for k in different[:3])
      raise DistillError(
        f"{self._folder} holds the checkpoints of another run ({told}); choose another --workdir"
      )

  def _manifest(self, step: int) -> pathlib.Path:
    return self._folder / f"{step}.sha256.json"


def _hashes(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


# Orbax and absl report every save at INFO; a progress bar is enough.
logging.getLogger("absl").setLevel(logging.ERROR)
