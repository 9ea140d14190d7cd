"""The training loop: resumed bit for bit, whole over devices, compiled once, stopped by NaN."""

import json
import random
import shutil
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from distill import objectives
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec
from distill.state import Step, optimiser
from distill.train import MetricsFile, data_mesh, fit
from tests import runs

BATCH = 16
SPEC = SignalSpec("acc", 8.0, 2.0, ("x", "y", "z"), "g")


def _settings(**changes):
  optim = {"learning_rate": 0.05, "warmup_steps": 2, "weight_decay": 0.0, "clip_norm": 1.0}
  fields = {"steps": 10, "batch_size": BATCH, "log_every": 2, "eval_every": 3}
  return types.SimpleNamespace(optim=types.SimpleNamespace(**optim), **(fields | changes))


class Line(objectives.Objective):
  """Least squares with noise that the run's key draws, so that a wrong key is seen."""

  def __init__(self):
    self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    self.weights = {"squared": 1.0}

  def terms(self, batch, key):
    noise = 0.01 * jax.random.normal(key, (len(batch["x"]), 1))
    return {"squared": jnp.square(self.linear(batch["x"]) + noise - batch["y"])[:, 0]}


def _batch(k: int) -> dict[str, np.ndarray]:
  x = np.random.default_rng((7, k)).normal(size=(BATCH, 3)).astype(np.float32)
  return {"x": x, "y": x @ np.float32([[1.0], [-2.0], [0.5]])}


def _batches(k: int):
  while True:
    yield _batch(k)
    k += 1


def _validate(objective) -> dict[str, float]:
  return {"val/loss": float(objective.loss(_batch(10_000), jax.random.key(0))[0])}


def _fit(folder, *, batches=_batches, validate=_validate, seed=3, identity=None, **changes):
  return fit(
    Line(),
    batches,
    validate,
    workdir=folder,
    settings=_settings(**changes),
    seed=seed,
    identity=identity or {"config": "abc", "fold": 0},
    label="line",
  )


def _kernel(objective) -> np.ndarray:
  return np.asarray(objective.linear.kernel[...])


class Killed(Exception):
  """Stands for whatever ends a process."""


def _killed_before_batch(stop: int):
  def batches(k):
    for i, batch in enumerate(_batches(k), start=k):
      if i == stop:
        raise Killed
      yield batch

  return batches


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("unbroken")
  return _kernel(_fit(folder)), (folder / "metrics.jsonl").read_bytes()


# --- going on after a stop ------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(0,), (1,), (3,), (4,), (9,), (2, 5, 5, 8)])
def test_a_run_that_was_stopped_ends_like_an_unbroken_one_bit_for_bit(tmp_path, unbroken, stops):
  for stop in stops:
    with pytest.raises(Killed):
      _fit(tmp_path, batches=_killed_before_batch(stop))
  kernel = _kernel(_fit(tmp_path))
  np.testing.assert_array_equal(kernel, unbroken[0])
  assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


def test_a_finished_run_is_not_trained_again(tmp_path, unbroken):
  _fit(tmp_path)
  kernel = _kernel(_fit(tmp_path, batches=_killed_before_batch(10)))
  np.testing.assert_array_equal(kernel, unbroken[0])
  assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


def test_a_resumed_run_draws_only_the_batches_that_are_left(tmp_path):
  drawn = []

  def batches(k):
    for i, batch in enumerate(_batches(k), start=k):
      drawn.append(i)
      yield batch

  with pytest.raises(Killed):
    _fit(tmp_path, batches=_killed_before_batch(8))
  _fit(tmp_path, batches=batches)
  assert drawn == list(range(6, 10))  # the newest checkpoint is that of step 6


def test_a_stop_while_a_checkpoint_is_written_falls_back_to_the_one_before(tmp_path, unbroken):
  with pytest.raises(Killed):
    _fit(tmp_path, batches=_killed_before_batch(7))
  (tmp_path / "checkpoints" / "6.sha256.json").unlink()  # committed, but not yet signed
  kernel = _kernel(_fit(tmp_path))
  np.testing.assert_array_equal(kernel, unbroken[0])
  assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


def test_a_line_of_metrics_cut_off_by_a_kill_is_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 2, "a": 1.0}\n{"step": 4, "a": 2.0}\n{"step": 4, "b"')
  MetricsFile(path, after=4).log(6, {"a": 3.0})
  steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
  assert steps == [2, 4, 6]


@pytest.mark.parametrize("part", ["state", "identity"])
def test_a_damaged_checkpoint_is_refused_and_named(tmp_path, part):
  with pytest.raises(Killed):
    _fit(tmp_path, batches=_killed_before_batch(7))
  step = tmp_path / "checkpoints" / "6"
  largest = max(
    (p for p in (step / part).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
  )
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  with pytest.raises(DistillError, match=rf"checkpoint {step} is damaged .*; delete that step"):
    _fit(tmp_path)


def test_deleting_the_damaged_step_goes_on_from_the_one_before(tmp_path, unbroken):
  with pytest.raises(Killed):
    _fit(tmp_path, batches=_killed_before_batch(7))
  shutil.rmtree(tmp_path / "checkpoints" / "6")
  np.testing.assert_array_equal(_kernel(_fit(tmp_path)), unbroken[0])
  assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


def test_a_checkpoint_of_another_run_is_refused_with_both_sides_named(tmp_path):
  with pytest.raises(Killed):
    _fit(tmp_path, batches=_killed_before_batch(4))
  with pytest.raises(DistillError, match=r"another run \(fold: 0 there, 1 here\); choose another"):
    _fit(tmp_path, identity={"config": "abc", "fold": 1})


def test_a_killed_training_started_again_ends_like_an_unbroken_one(smoke, tmp_path):
  """A real process, SIGKILL at a moment drawn anew by each test run."""
  words = ("train", runs.CONFIG, f"--config.data.prepared_dir={smoke.prepared}")
  words += (f"--config.teacher.load={smoke.folder}/fold0/teacher", "--config.student.depth=0")
  words += ("--config.steps=24", "--config.eval_every=2", "--config.log_every=1")
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  runs.finish(runs.start(*words, f"--workdir={whole}"))
  after = random.Random().randrange(2, 18)
  process = runs.start(*words, f"--workdir={broken}")
  try:
    _wait_for_step(broken / "fold0" / "student" / "metrics.jsonl", after, process)
    time.sleep(random.Random().uniform(0.0, 0.1))
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  place = broken / "fold0" / "student"
  assert process.returncode == -signal.SIGKILL
  assert not (place / "model").exists(), "killed too late to test anything"
  runs.finish(runs.start(*words, f"--workdir={broken}"))
  for name in ("metrics.jsonl", "model/model.safetensors", "model/spec.json"):
    same = (place / name).read_bytes() == (whole / "fold0" / "student" / name).read_bytes()
    assert same, f"{name} differs; killed after step {after}"


def _wait_for_step(path, step, process) -> None:
  end = time.monotonic() + 200
  while time.monotonic() < end and process.poll() is None:
    if path.is_file() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.005)
  raise AssertionError(f"step {step} was not reached")


# --- devices --------------------------------------------------------------------------------------


class Flat(Encoder):
  """The simplest encoder: one matrix."""

  def __init__(self):
    self.spec, self.dim = SPEC, 6
    self.linear = nnx.Linear(SPEC.samples * 3, self.dim, rngs=nnx.Rngs(1))

  def __call__(self, signal, mask=None):
    mask = self.check(signal, mask)
    return self.linear(jnp.where(mask, signal, 0.0).reshape(len(signal), -1))


def _distillation(direction=0.7):
  return objectives.Distillation(
    Flat(),
    teacher_mean=np.full(5, 0.1, np.float32),
    teacher_sd=np.full(5, 1.5, np.float32),
    hidden=8,
    dim=4,
    contrastive=1.0,
    temperature=0.1,
    direction=direction,
    regression=0.5,
    regression_kind="mse",
    rngs=nnx.Rngs(2),
  )


def _pairs(n=BATCH) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(5)
  return {
    "acc": rng.normal(size=(n, *SPEC.shape)).astype(np.float32),
    "acc_mask": rng.uniform(size=(n, *SPEC.shape)) < 0.9,
    "teacher": rng.normal(size=(n, 5)).astype(np.float32),
    "recording": np.arange(n, dtype=np.int32) // 2,
    "t0_s": (30.0 * (np.arange(n) % 2)).astype(np.float32),
  }


@pytest.fixture(name="stepped", scope="module")
def _stepped():
  """Number of devices -> (parameters after one step of plain descent, what the step reports)."""
  return {n: _one_step(jax.devices()[:n]) for n in (1, 8)}


def _one_step(devices):
  mesh = jax.sharding.Mesh(np.array(devices), ("data",))
  step = Step(_distillation(), optax.sgd(1.0))
  state = jax.device_put(step.init(0), NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put(_pairs(), NamedSharding(mesh, PartitionSpec("data")))
  state, terms = step(state, batch)
  return jax.device_get((state.params, terms))


def test_eight_devices_give_the_loss_and_the_gradient_of_one(stepped):
  assert jax.device_count() == 8
  assert stepped[8][1]["grad_norm"] > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), stepped[1], stepped[8]
  )


def test_the_contrastive_loss_is_that_of_the_whole_batch_and_not_of_the_shards(stepped):
  module = _distillation()
  contrastive = jax.jit(lambda rows: module.terms(rows, jax.random.key(0))["contrastive"].mean())
  parts = [{name: x[i : i + 2] for name, x in _pairs().items()} for i in range(0, BATCH, 2)]
  shards = np.mean([float(contrastive(part)) for part in parts])
  assert abs(shards - float(stepped[8][1]["contrastive"])) > 0.1


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(DistillError, match="batch_size 12 cannot be shared by 8 devices; choose a"):
    _fit(tmp_path / "run", batch_size=12)
  assert not (tmp_path / "run").exists()


def test_the_mesh_takes_every_device_there_is():
  assert data_mesh().size == jax.device_count()


# --- the step -------------------------------------------------------------------------------------


def test_the_step_is_traced_once_for_all_batches():
  step = Step(Line(), optimiser(_settings().optim, 10))
  state = step.init(0)
  for k in range(10):
    state, _ = step(state, jax.tree.map(jnp.asarray, _batch(k)))
  assert step.traces == 1
  assert int(state.step) == 10


def test_the_loss_of_a_solvable_problem_falls(tmp_path):
  module = _fit(tmp_path, steps=60, eval_every=20)
  first, *_, last = [
    line["val/loss"]
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    if "val/loss" in line
  ]
  assert last < 0.05 * first
  np.testing.assert_allclose(_kernel(module)[:, 0], [1.0, -2.0, 0.5], atol=0.3)


def test_the_parameters_of_the_best_validation_come_back(tmp_path):
  scores, kernels = iter([3.0, 1.0, 2.0, 4.0, 5.0]), []

  def validate(objective):
    kernels.append(_kernel(objective))
    return {"val/loss": next(scores)}

  best = _fit(tmp_path, validate=validate)
  assert len(kernels) == 5
  np.testing.assert_array_equal(_kernel(best), kernels[1])
  assert not np.array_equal(kernels[1], kernels[4])


def test_the_best_parameters_survive_a_stop(tmp_path):
  kernels = {}

  def validate(objective):
    kernels[len(kernels)] = _kernel(objective)
    return {"val/loss": 1.0 if len(kernels) == 2 else 2.0}

  with pytest.raises(Killed):
    _fit(tmp_path, validate=validate, batches=_killed_before_batch(7))
  best = _fit(tmp_path, validate=lambda _: {"val/loss": 2.0})
  np.testing.assert_array_equal(_kernel(best), kernels[1])


def test_a_loss_that_is_not_finite_stops_and_names_term_and_steps(tmp_path):
  def batches(k):
    for i, batch in enumerate(_batches(k), start=k):
      yield batch | ({"y": batch["y"] * np.float32(np.nan)} if i == 4 else {})

  with pytest.raises(DistillError, match=r"^squared became nan between steps 4 and 6; lower"):
    _fit(tmp_path, batches=batches, eval_every=100)
  named = {name for line in _lines(tmp_path) for name in line}
  assert {"train/loss", "train/squared", "train/grad_norm"} <= named


def _lines(folder):
  return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def test_a_number_that_is_not_finite_is_never_saved(tmp_path):
  def batches(k):
    for i, batch in enumerate(_batches(k), start=k):
      yield batch | ({"y": batch["y"] * np.float32(np.nan)} if i >= 4 else {})

  with pytest.raises(DistillError, match="became nan"):
    _fit(tmp_path, batches=batches)
  with pytest.raises(DistillError, match="became nan"):  # the same again, from the same checkpoint
    _fit(tmp_path, batches=batches)
  assert all(np.isfinite(value) for line in _lines(tmp_path) for value in line.values())
  np.testing.assert_array_equal(_kernel(_fit(tmp_path)), _kernel(_fit(tmp_path / "clean")))


# --- the frozen teacher ---------------------------------------------------------------------------


def test_no_gradient_reaches_the_teacher_but_its_head_learns(stepped):
  module, batch = _distillation(), jax.tree.map(jnp.asarray, _pairs())

  def loss(teacher):
    return module.loss({**batch, "teacher": teacher}, jax.random.key(0))[0]

  np.testing.assert_array_equal(jax.jit(jax.grad(loss))(batch["teacher"]), 0.0)
  before, after = Step(module, optax.sgd(1.0)).init(0).params, stepped[8][0]
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), before["teacher_head"], after["teacher_head"]
  )
  assert max(jax.tree.leaves(moved)) > 1e-4
  assert "standardise" not in after["teacher_head"]  # constants of the training people


def test_validation_says_the_loss_of_guessing_beside_the_share_found():
  module = _distillation()
  measures = jax.jit(module.measures)(jax.tree.map(jnp.asarray, _pairs()))
  assert float(measures["ln_batch"]) == pytest.approx(np.log(BATCH))
  assert 0.0 <= float(measures["top1"]) <= 1.0
