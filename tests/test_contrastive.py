"""Participant-contrastive pretraining: pairs, KoLeo, the moving average, and its encoder."""

import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads

import teachers.efficientnet
from distill import losses
from distill.contrastive import ParticipantContrastive
from distill.data import pairs, pipeline
from distill.errors import DistillError
from distill.nn.encoder import Encoder, Forward
from distill.spec import SignalSpec
from distill.state import Step
from distill.train import fit

SPEC = SignalSpec("ppg", 8.0, 2.0, ("green",), "au")


class Linear(Encoder):
  """The smallest encoder there is."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.spec, self.dim = SPEC, 6
    self.dense = nnx.Linear(SPEC.samples, self.dim, rngs=rngs)

  def __call__(self, signal, mask=None):
    mask = self.check(signal, mask)
    return self.dense(jnp.where(mask, signal, 0.0)[:, :, 0])


def _objective(**changes: Any) -> ParticipantContrastive:
  settings = {"temperature": 0.5, "hidden": 8, "dim": 4} | changes
  return ParticipantContrastive(Linear(rngs=nnx.Rngs(0)), **settings, rngs=nnx.Rngs(1))


def _batch(people: list[int], seed: int = 0, noise: float = 0.3) -> dict[str, np.ndarray]:
  """Windows around one shape for each person."""
  rng = np.random.default_rng(seed)
  shapes = np.random.default_rng(99).normal(size=(max(people) + 1, *SPEC.shape))
  batch: dict[str, np.ndarray] = {"participant": np.array(people, np.int32)}
  for view in ("", pairs.OTHER):
    drawn = rng.normal(size=(len(people), *SPEC.shape))
    batch[view + "ppg"] = (shapes[people] + noise * drawn).astype(np.float32)
    batch[view + "ppg_mask"] = np.ones((len(people), *SPEC.shape), bool)
  return batch


# --- KoLeo ----------------------------------------------------------------------------------------


def test_koleo_is_minus_log_of_the_distance_to_the_nearest_row():
  rows = np.random.default_rng(0).normal(size=(9, 5))
  units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  far = np.linalg.norm(units[:, None] - units[None], axis=2) + 10 * np.eye(9)
  np.testing.assert_allclose(
    losses.koleo(jnp.asarray(rows, jnp.float32)), -np.log(far.min(axis=1)), rtol=1e-5
  )
  scaled = losses.koleo(jnp.asarray(1000 * rows, jnp.float32))
  np.testing.assert_allclose(scaled, -np.log(far.min(axis=1)), rtol=1e-5)


def test_koleo_gradient_is_that_of_finite_differences():
  rows = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
  check_grads(
    lambda x: jnp.sum(losses.koleo(x)), (rows,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2
  )


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.ones((3, 4)), np.eye(4)[[0, 0, 1]]])
def test_koleo_is_finite_where_rows_coincide(rows):
  value, grad = jax.value_and_grad(lambda x: jnp.sum(losses.koleo(x)))(jnp.asarray(rows, "float32"))
  assert np.isfinite(value)
  assert np.isfinite(grad).all()


def test_koleo_of_one_row_is_refused():
  with pytest.raises(ValueError, match="no other row"):
    losses.koleo(jnp.ones((1, 3)))


# --- the objective and its moving average ---------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
  """(its parameters, keys of (params, batch), loss of (params, batch)), without KoLeo, compiled."""
  graphdef, params = nnx.split(_objective(koleo=0.0))

  def targets(params, batch):
    return nnx.merge(graphdef, params).targets(batch)

  def loss(params, batch):
    return nnx.merge(graphdef, params).loss(batch, jax.random.key(0))[0]

  return params, jax.jit(targets), jax.jit(loss)


def test_loss_is_that_of_numpy(plain):
  params, targets, loss = plain
  batch = _batch([0, 1, 2, 0])
  keys = {name: np.asarray(value, float) for name, value in targets(params, batch).items()}
  views = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in keys.values()]
  allowed = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)
  expected = []
  for query, keys in (views, views[::-1]):
    logits = query @ keys.T / 0.5
    total = np.log(np.sum(np.where(allowed, np.exp(logits), 0.0), axis=1))
    expected.append(np.mean(total - np.diagonal(logits)))
  assert float(loss(params, batch | targets(params, batch))) == pytest.approx(
    np.mean(expected), rel=1e-4
  )


def test_no_gradient_passes_through_the_moving_average(plain):
  params, targets, loss = plain
  batch = _batch([0, 1, 2, 3])
  fixed = batch | targets(params, batch)
  # The keys are made of the very parameters that are differentiated.
  grad = jax.jit(jax.grad(lambda params: loss(params, batch | targets(params, batch))))(params)
  rng = np.random.default_rng(0)
  step = jax.tree.map(lambda x: 2e-3 * rng.normal(size=x.shape).astype(np.float32), params)
  along = sum(jax.tree.leaves(jax.tree.map(lambda g, s: float(np.vdot(g, s)), grad, step)))
  up = jax.tree.map(lambda x, s: x + s, params, step)
  down = jax.tree.map(lambda x, s: x - s, params, step)
  held = (loss(up, fixed) - loss(down, fixed)) / 2
  moving = (loss(up, batch | targets(up, batch)) - loss(down, batch | targets(down, batch))) / 2
  assert along == pytest.approx(float(held), rel=0.02)
  assert abs(along - float(moving)) > 0.1 * abs(along)  # a leak would show


def test_the_moving_average_keeps_its_share_of_every_step():
  step = Step(_objective(momentum=0.75), optax.sgd(0.1))
  state = step.init(0)
  before = jax.tree.map(np.asarray, state.params)
  for k in range(2):
    target = jax.tree.map(np.asarray, state.target)
    state, _ = step(state, jax.device_put(_batch([0, 1, 2, 3], seed=k)))
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, target, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), state.target, expected)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, state.params)
  assert max(jax.tree.leaves(moved)) > 1e-3
  assert step.traces == 1


def test_windows_of_one_person_are_no_negatives(plain):
  params, targets, loss = plain
  apart, same = _batch([0, 1, 2, 3]), _batch([0, 1, 2, 3])
  same["participant"] = np.zeros(4, np.int32)
  keys = targets(params, apart)
  assert float(loss(params, same | keys)) == pytest.approx(0.0, abs=1e-6)
  assert float(loss(params, apart | keys)) > 0.1


def test_finite_when_all_windows_are_silent_or_alike():
  objective, batch = _objective(), _batch([0, 1, 2, 3])
  for name in ("ppg_mask", "other_ppg_mask"):
    batch[name] = np.zeros_like(batch[name])
  step = Step(objective, optax.sgd(0.1))
  state, terms = step(step.init(0), jax.device_put(batch))
  assert all(np.isfinite(float(value)) for value in terms.values())
  assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))


def test_it_learns_who_is_who():
  people = [0, 1, 2, 3, 4, 5, 6, 7]
  step = Step(_objective(), optax.adam(1e-2))
  state = step.init(0)

  @jax.jit
  def top1(params, batch):
    module = step.module(params)
    return module.measures(batch | module.targets(batch))["top1"]

  def unseen(params):
    seeds = range(1000, 1016)
    return np.mean([float(top1(params, _batch(people, seed, noise=1.0))) for seed in seeds])

  before = unseen(state.params)
  for k in range(150):
    state, _ = step(state, jax.device_put(_batch(people, seed=k, noise=1.0)))
  assert unseen(state.params) > before + 0.15


def test_a_resumed_run_has_the_same_moving_average(tmp_path):
  optim = {"learning_rate": 1e-2, "warmup_steps": 1, "weight_decay": 0.0, "clip_norm": 1.0}
  settings = types.SimpleNamespace(
    steps=4, batch_size=8, log_every=2, eval_every=2, optim=types.SimpleNamespace(**optim)
  )

  def run(folder, stop=None):
    def batches(start):
      for k in range(start, 100):
        if k == stop:
          raise KeyboardInterrupt
        yield _batch(list(range(8)), seed=k)

    def validate(objective):
      return {"val/loss": -float(jnp.sum(objective.encoder.dense.kernel[...]))}

    arguments = {"workdir": folder, "settings": settings, "seed": 0, "identity": {}, "label": "t"}
    trained = fit(_objective(momentum=0.5), batches, validate, **arguments)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(trained, nnx.Param))]

  whole = run(tmp_path / "whole")
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "broken", stop=3)
  for a, b in zip(whole, run(tmp_path / "broken"), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("changes", [{"momentum": 1.0}, {"momentum": -0.1}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(changes):
  with pytest.raises(DistillError, match=f"objective.{next(iter(changes))} is"):
    _objective(**changes)


# --- pairs ----------------------------------------------------------------------------------------


class _Set:
  """A prepared set of windows that hold their own row number."""

  def __init__(self, rows):
    who, recording, t0_s = zip(*rows)
    self.index = {"participant": np.array(who), "recording": np.array(recording)}
    self.index["t0_s"] = np.array(t0_s, float)
    self.folder, self.digest = pathlib.Path("nowhere"), ""  # no ready windows are kept

  def __len__(self):
    return len(self.index["t0_s"])

  def windows(self, rows):
    return {"ppg": np.broadcast_to(rows[:, None, None], (len(rows), *SPEC.shape)).astype(float)}


def _rows(rows):
  return pipeline.Rows(_Set(rows), np.arange(len(rows)))


# Person a: two windows that overlap and one that does not; b: two recordings; c: one window.
ROWS = [("a", "r", 0.0), ("a", "r", 1.0), ("a", "r", 2.0), ("b", "r", 0.0), ("b", "s", 0.5)]
ROWS += [("c", "r", 0.0)]


def test_pairs_are_other_windows_of_the_same_participant():
  source = pairs.PairSource([_rows(ROWS)], [SPEC], seed=0, draws=20)
  every = source.batch(np.arange(len(source)))
  first, other = (every[name][:, 0, 0].astype(int).tolist() for name in ("ppg", "other_ppg"))
  found = set(zip(first, other, strict=True))
  assert [ROWS[row][0] for row in first] == ["ab"[who] for who in every["participant"]]
  # Window 1 of a overlaps both others of its recording (2 s windows at 0, 1 and 2 s).
  assert found == {(0, 2), (2, 0), (3, 4), (4, 3)}
  assert len(source) == 4 * 20


def test_the_same_names_in_two_sets_are_different_people():
  rows = [("a", "r", 0.0), ("a", "r", 2.0)]
  source = pairs.PairSource([_rows(rows), _rows(rows)], [SPEC], seed=0)
  assert source.batch(np.arange(4))["participant"].tolist() == [0, 0, 1, 1]


def test_draws_depend_on_seed_and_index_alone():
  rows = [("a", "r", 2.0 * k) for k in range(8)] + [("b", "r", 0.0), ("b", "r", 2.0)]

  def drawn(seed):
    source = pairs.PairSource([_rows(rows)], [SPEC], seed=seed, draws=8)
    return source.batch(np.arange(len(source)))["other_ppg"][:, 0, 0].tolist()

  assert drawn(0) == drawn(0)
  assert drawn(0) != drawn(1)


def test_too_few_people_to_compare_are_refused():
  with pytest.raises(DistillError, match="1 participants have two windows"):
    pairs.PairSource([_rows(ROWS[:3] + ROWS[5:])], [SPEC], seed=0)


# --- the encoder ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def efficientnet():
  return teachers.efficientnet.build(seed=0, widths=(4, 8), depths=(1, 1), expand=2, dim=8)


@pytest.fixture(scope="module")
def forward(efficientnet):
  return Forward(efficientnet, batch_size=3)


def test_what_lies_in_a_gap_changes_nothing_and_silence_is_zero(efficientnet, forward):
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(3, *efficientnet.spec.shape)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[1, 500:1900], mask[2] = False, False
  clean = forward(np.where(mask, signal, 0.0).astype(np.float32), mask)
  for filler in (np.nan, np.inf, 1e30):
    dirty = forward(np.where(mask, signal, filler).astype(np.float32), mask)
    np.testing.assert_array_equal(clean, dirty)
  assert (clean[2] == 0).all()
  assert np.abs(clean[:2]).sum(axis=1).min() > 0
  full = forward(signal, np.ones_like(mask))
  np.testing.assert_allclose(full[0], clean[0], atol=1e-6)  # neighbours do not matter
  assert np.abs(full[1] - clean[1]).max() > 1e-3


@pytest.mark.parametrize(
  ("time", "stride", "taps"), [(12, 1, 5), (13, 2, 5), (12, 2, 3), (7, 2, 4)]
)
def test_depthwise_filter_is_a_grouped_convolution(time, stride, taps):
  layer = teachers.efficientnet.Depthwise(3, taps, stride, rngs=nnx.Rngs(0))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, time, 3)), jnp.float32)
  count, left = -(-time // stride), (taps - 1) // 2
  expected = jax.lax.conv_general_dilated(
    x,
    layer.kernel[...][:, None, :],
    (stride,),
    [(left, (count - 1) * stride + taps - time - left)],
    dimension_numbers=("NWC", "WIO", "NWC"),
    feature_group_count=3,
  )
  assert expected.shape[1] == count
  np.testing.assert_allclose(layer(x), expected, atol=1e-6)


def test_stages_of_different_lengths_are_refused():
  with pytest.raises(DistillError, match="must name the same stages"):
    teachers.efficientnet.build(seed=0, widths=(4, 8), depths=(1,))
