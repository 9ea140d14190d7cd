"""Train state and the pure, compiled step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from distill.augment import Prepare
from distill.objectives import Objective

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a checkpoint holds and a step maps to its next value.

  Attributes:
    step: int32 scalar; also the index of the next batch, so it is the position in the data.
    params: trainable arrays.
    opt_state: of optax.
    target: moving average of `params` for objectives with momentum, else empty.
    key: random key of the run; folded with the step, so that a resumed run draws the same.
    best_params: params at the best validation so far.
    best: that validation's value, lower is better; inf before the first.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  target: Params
  key: jax.Array
  best_params: Params
  best: jax.Array


def optimiser(settings: Any, steps: int) -> optax.GradientTransformation:
  """AdamW with linear warm-up, cosine decay to zero at `steps` and clipping by global norm."""
  warmup = min(settings.warmup_steps, max(1, steps // 2))
  rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, warmup, max(steps, 2))
  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm),
    optax.adamw(rate, b2=0.98, weight_decay=settings.weight_decay),
  )


class Step:
  """The compiled step of one objective.

  Args:
    objective: the module; its structure is read once, its arrays live in the state.
    tx: the optimiser.
    prepare: (batch, key) -> what the objective gets of a batch; augmentation.
  """

  def __init__(
    self,
    objective: Objective,
    tx: optax.GradientTransformation,
    prepare: Prepare | None = None,
  ):
    # The types of nnx.split know one filter only.
    split: Any = nnx.split(objective, nnx.Param, ...)
    self._graphdef, self._params, self._rest = split
    self._tx, self._prepare = tx, prepare
    self._momentum = objective.momentum
    self._step: Callable = jax.jit(self._update, donate_argnums=0)
    self.traces = 0

  def init(self, seed: int) -> TrainState:
    """State at step 0."""
    params = nnx.to_pure_dict(self._params)
    copy = jax.tree.map(jnp.copy, params)
    return TrainState(
      step=jnp.int32(0),
      params=jax.tree.map(jnp.copy, params),
      opt_state=self._tx.init(params),
      target={} if self._momentum is None else jax.tree.map(jnp.copy, params),
      key=jax.random.key(seed),
      best_params=copy,
      best=jnp.float32(jnp.inf),
    )

  def module(self, params: Params) -> Objective:
    """The objective with these parameters in place."""
    state = nnx.clone(self._params)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(self._graphdef, state, self._rest)

  def __call__(
    self, state: TrainState, batch: dict[str, jax.Array]
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; the old state's buffers are given away."""
    return self._step(state, batch)

  def _update(self, state, batch):
    self.traces += 1
    key = jax.random.fold_in(state.key, state.step)
    if self._prepare is not None:
      key, drawn = jax.random.split(key)
      batch = self._prepare(batch, drawn)
    if self._momentum is not None:
      batch = {**batch, **self.module(state.target).targets(batch)}

    def loss(params):
      return self.module(params).loss(batch, key)

    (total, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in int32
      updates, opt_state = self._tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = dataclasses.replace(
      state,
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      target=self._moved(state.target, params),
    )
    return new, {"loss": total, "grad_norm": optax.tree.norm(grads), **terms}

  def _moved(self, target: Params, params: Params) -> Params:
    """The moving average after a step."""
    if self._momentum is None:
      return target
    keep = self._momentum
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, target, params)
