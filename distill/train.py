"""The one training loop, for every objective.

Order in each turn: evaluate and save with the current state, then draw the next batch, then step.
So step k of a resumed run sees batch k and the state that the unbroken run had. Several processes
(`distill.processes`) hold one state, whole in each, and share every batch.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from distill import processes
from distill.augment import Prepare
from distill.checkpoint import Checkpoints
from distill.errors import DistillError
from distill.objectives import Objective
from distill.state import Step, TrainState, optimiser

HostBatch = dict[str, np.ndarray]
# Validation of the current module: metrics to log, of which "val/loss" (lower is better) selects.
Validate = Callable[[Objective], dict[str, float]]


def data_mesh() -> jax.sharding.Mesh:
  """The devices of all processes along one axis, "data"."""
  return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def fit(
  objective: Objective,
  batches: Callable[[int], Iterator[HostBatch]],
  validate: Validate,
  *,
  workdir: pathlib.Path,
  settings: Any,
  seed: int,
  identity: dict[str, Any],
  label: str,
  tx: optax.GradientTransformation | None = None,
  keep: str = "best",
  prepare: Prepare | None = None,
) -> Objective:
  """Trains to the end, from the newest checkpoint if there is one.

  Args:
    objective: freshly initialised.
    batches: k -> iterator over this process's rows of batches k, k + 1, ...; the same for every k.
    validate: called every `settings.eval_every` steps and at the end.
    workdir: gets checkpoints/ and metrics.jsonl; one folder for all processes.
    settings: steps, batch_size, log_every, eval_every and optim of the config.
    seed: of the random key of the run.
    identity: what the run is; a checkpoint of another is refused.
    label: name on the progress bar.
    tx: the optimiser; None makes the one that `settings.optim` describes.
    keep: "best" validation or "last" step.
    prepare: see `Step`.

  Returns:
    The objective with the parameters of the best validation, or of the last step.

  Raises:
    DistillError: a batch that the devices cannot share, a loss that is not finite, a work folder of
      another run.
  """
  mesh = data_mesh()
  if settings.batch_size % mesh.size:
    raise DistillError(
      f"batch_size {settings.batch_size} cannot be shared by {mesh.size} devices;"
      f" choose a multiple of {mesh.size}"
    )
  step = Step(objective, tx or optimiser(settings.optim, settings.steps), prepare)
  state = _everywhere(step.init(seed), mesh)
  workdir.mkdir(parents=True, exist_ok=True)
  with Checkpoints(workdir / "checkpoints", identity) as checkpoints:
    state = checkpoints.restore(state) or state
    metrics = MetricsFile(workdir / "metrics.jsonl", after=int(state.step))
    source = batches(int(state.step))
    try:
      state = _loop(step, state, source, validate, checkpoints, metrics, settings, mesh, label)
    finally:
      if hasattr(source, "close"):
        source.close()  # ends the processes that read ahead
  return step.module(_here(state.best_params if keep == "best" else state.params))


def _everywhere(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """The values, the same in every process, as arrays that are whole on every device of the mesh."""
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.jit(lambda same: same, out_shardings=whole)(tree)


def _here(tree: Any) -> Any:
  """This process's copy: what is computed from it concerns no other process."""
  return jax.tree.map(lambda x: x if x.is_fully_addressable else x.addressable_data(0), tree)


def _loop(step, state, source, validate, checkpoints, metrics, settings, mesh, label) -> TrainState:
  sharded = NamedSharding(mesh, PartitionSpec("data"))
  start = int(state.step)
  pending: list[dict[str, jax.Array]] = []
  bar = tqdm(
    total=settings.steps,
    initial=start,
    desc=label,
    unit="step",
    mininterval=1.0,
    disable=not processes.writes(),
  )
  with bar:
    for k in range(start, settings.steps + 1):
      last = k == settings.steps
      # A resumed run has already evaluated and saved the step that it starts from.
      pause = (last or k % settings.eval_every == 0) and not k == start > 0
      if pending and (pause or k % settings.log_every == 0):
        bar.set_postfix(metrics.log(k, _mean_finite(pending, k)), refresh=False)
        pending = []
      if pause:
        state = _evaluate(step, state, validate, metrics, mesh, k)
        checkpoints.save(k, state)
      if last:
        return state
      # Each process brings its own rows of the one global batch.
      batch = jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharded, rows), next(source)
      )
      state, terms = step(state, batch)
      pending.append(terms)
      bar.update()
  return state


def _evaluate(
  step: Step, state: TrainState, validate: Validate, metrics, mesh, k: int
) -> TrainState:
  """Logs validation and keeps the best parameters."""
  values = validate(step.module(_here(state.params)))
  metrics.log(k, values)
  # Hosts may differ in the last bit of it, and must not disagree on which parameters are the best.
  loss = multihost_utils.broadcast_one_to_all(np.float32(values["val/loss"]))
  if loss < float(state.best):
    best_params = jax.tree.map(jnp.copy, state.params)
    state = dataclasses.replace(state, best_params=best_params, best=_everywhere(loss, mesh))
  return state


def _mean_finite(pending: list[dict[str, jax.Array]], k: int) -> dict[str, float]:
  means = {}
  # The terms first: total and gradient are not finite because one of them is not.
  for name in sorted(pending[0], key=lambda name: name in ("loss", "grad_norm")):
    values = [float(terms[name]) for terms in pending]
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
      raise DistillError(
        f"{name} became {bad[0]} between steps {k - len(pending)} and {k}; lower"
        " optim.learning_rate or look at the data of that range"
      )
    means[f"train/{name}"] = sum(values) / len(values)
  return means


class MetricsFile:
  """Metrics as JSON lines; lines after the restored step are dropped, so none stands twice.

  Process 0 alone writes them.
  """

  def __init__(self, path: pathlib.Path, *, after: int):
    self._path = path
    if not processes.writes():
      return
    lines = path.read_text().splitlines() if path.is_file() and after > 0 else []
    whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= after]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in whole))
    partial.replace(path)

  def log(self, step: int, values: dict[str, float]) -> dict[str, str]:
    """Appends one line; returns the values shortened for a progress bar."""
    if processes.writes():
      with open(self._path, "a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")
    return {name.split("/")[-1]: f"{value:.3g}" for name, value in values.items()}
