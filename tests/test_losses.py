"""Losses against NumPy, finite differences, closed forms and degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from distill import losses


def _pair(n=7, d=5, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(n, d)).astype(np.float32)


def _numpy_info_nce(student, teacher, temperature, weight, overlap=None):
  s = student.astype(np.float64) / np.linalg.norm(student, axis=1, keepdims=True)
  t = teacher.astype(np.float64) / np.linalg.norm(teacher, axis=1, keepdims=True)
  values = []
  for i in range(len(s)):
    others = [j for j in range(len(s)) if overlap is None or i == j or not overlap[i, j]]
    row = np.array([s[i] @ t[j] / temperature for j in others])
    column = np.array([s[j] @ t[i] / temperature for j in others])
    own = s[i] @ t[i] / temperature
    forward = np.log(np.exp(row).sum()) - own
    backward = np.log(np.exp(column).sum()) - own
    values.append(weight * forward + (1 - weight) * backward)
  return np.array(values)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_info_nce_equals_a_loop_in_numpy(weight):
  student, teacher = _pair()
  value = losses.info_nce(student, teacher, temperature=0.2, weight=weight)
  np.testing.assert_allclose(value, _numpy_info_nce(student, teacher, 0.2, weight), rtol=2e-5)


def test_info_nce_leaves_out_overlapping_windows_of_one_recording():
  student, teacher = _pair()
  recording = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)
  t0_s = np.array([0, 10, 60, 0, 59, 0, 600], np.float32)
  overlap = (recording[:, None] == recording) & (np.abs(t0_s[:, None] - t0_s) < 60)
  value = losses.info_nce(
    student, teacher, temperature=0.2, recording=recording, t0_s=t0_s, exclude_s=60.0
  )
  expected = _numpy_info_nce(student, teacher, 0.2, 1.0, overlap)
  np.testing.assert_allclose(value, expected, rtol=2e-5)
  plain = losses.info_nce(student, teacher, temperature=0.2)
  assert np.all(np.asarray(value) <= np.asarray(plain) + 1e-6)
  assert np.any(np.asarray(value) < np.asarray(plain) - 1e-3)


def test_identical_rows_give_ln_batch():
  same = np.ones((9, 4), np.float32)
  value = losses.info_nce(same, same, temperature=0.04, weight=0.5)
  np.testing.assert_allclose(value, np.log(9), rtol=1e-5)


def test_info_nce_does_not_depend_on_scale_or_order():
  student, teacher = _pair()
  value = losses.info_nce(student, teacher, temperature=0.1, weight=0.5)
  scaled = losses.info_nce(7 * student, 0.1 * teacher, temperature=0.1, weight=0.5)
  np.testing.assert_allclose(value, scaled, rtol=1e-4)
  order = np.random.default_rng(1).permutation(len(student))
  permuted = losses.info_nce(student[order], teacher[order], temperature=0.1, weight=0.5)
  np.testing.assert_allclose(value[order], permuted, rtol=1e-5)


@pytest.mark.parametrize("degenerate", ["zero", "constant", "huge"])
def test_info_nce_is_finite_in_value_and_gradient(degenerate):
  student, teacher = _pair()
  student = {"zero": 0 * student, "constant": 0 * student + 1, "huge": 1e15 * student}[degenerate]

  def total(s):
    return jnp.sum(losses.info_nce(s, teacher, temperature=0.04, weight=0.5))

  value, gradient = jax.value_and_grad(total)(student)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_one_row_has_no_negatives():
  student, teacher = _pair(n=1)
  with pytest.raises(ValueError, match="batch of one"):
    losses.info_nce(student, teacher, temperature=0.1)


def test_shapes_that_would_broadcast_are_refused():
  with pytest.raises(ValueError, match=r"\(4, 1\)"):
    losses.regression(np.ones((4, 3), np.float32), np.ones((4, 1), np.float32), kind="mse")


def test_regression_equals_numpy():
  a, b = _pair()
  d = a - b
  np.testing.assert_allclose(losses.regression(a, b, kind="mse"), (d**2).mean(1), rtol=1e-5)
  cosine = 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
  np.testing.assert_allclose(losses.regression(a, b, kind="cosine"), cosine, rtol=1e-4, atol=1e-6)
  huber = np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5).mean(1)
  np.testing.assert_allclose(losses.regression(a, b, kind="huber"), huber, rtol=1e-5)
  with pytest.raises(ValueError, match="known: mse, cosine, huber"):
    losses.regression(a, b, kind="l1")


@pytest.mark.parametrize("kind", ["mse", "cosine", "huber"])
def test_gradients_equal_finite_differences(kind):
  a, b = (x.astype(np.float32) for x in _pair(n=3, d=4))

  def total(x):
    return jnp.sum(losses.regression(x, b, kind=kind))

  check_grads(total, (a,), order=1, modes=("rev",), atol=2e-2, rtol=2e-2)


def test_info_nce_gradient_equals_finite_differences():
  a, b = _pair(n=4, d=3)

  def total(x):
    return jnp.sum(losses.info_nce(x, b, temperature=0.5, weight=0.5))

  check_grads(total, (a,), order=1, modes=("rev",), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_unscored_samples_change_nothing(filler):
  rng = np.random.default_rng(0)
  prediction = rng.normal(size=(3, 4, 5)).astype(np.float32)
  target = rng.normal(size=(3, 4, 5)).astype(np.float32)
  scored = rng.random((3, 4, 5)) < 0.5
  scored[2] = False
  expected = [((prediction - target)[i][scored[i]] ** 2).mean() for i in range(2)] + [0.0]
  dirty = np.where(scored, target, filler).astype(np.float32)

  def total(p):
    return jnp.sum(losses.masked_reconstruction(p, dirty, scored))

  value = losses.masked_reconstruction(prediction, dirty, scored)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  gradient = np.asarray(jax.grad(total)(prediction))
  assert np.isfinite(gradient).all()
  assert (gradient[~scored] == 0).all()


def test_masked_huber_counts_known_targets_only():
  prediction = np.array([[0.0, 5.0], [1.0, 1.0], [3.0, 3.0]], np.float32)
  target = np.array([[0.5, np.nan], [1.0, 3.0], [np.nan, np.nan]], np.float32)
  np.testing.assert_allclose(losses.masked_huber(prediction, target), [0.125, 0.75, 0.0])
  gradient = jax.grad(lambda p: jnp.sum(losses.masked_huber(p, target)))(prediction)
  assert np.isfinite(np.asarray(gradient)).all()


def test_eight_devices_give_the_loss_and_gradient_of_one():
  if jax.device_count() < 8:
    pytest.skip("needs 8 devices (XLA_FLAGS=--xla_force_host_platform_device_count=8)")
  student, teacher = _pair(n=32, d=16)

  def total(s, t):
    return jnp.mean(losses.info_nce(s, t, temperature=0.04, weight=0.5))

  whole = jax.jit(jax.value_and_grad(total))
  one = jax.device_put((student, teacher), jax.devices()[0])
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  eight = jax.device_put((student, teacher), sharding)
  value_1, gradient_1 = whole(*one)
  value_8, gradient_8 = whole(*eight)
  np.testing.assert_allclose(value_1, value_8, rtol=1e-6)
  np.testing.assert_allclose(gradient_1, gradient_8, atol=1e-6)
  # What a loss within each device would give instead: a silent error of another size.
  parts = [total(student[i : i + 4], teacher[i : i + 4]) for i in range(0, 32, 4)]
  assert abs(float(np.mean(parts)) - float(value_1)) > 0.1
