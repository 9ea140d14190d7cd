"""Fine-tuning: what is frozen stays bit for bit, the head goes first, the best step is kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distill import cli, finetune, fold_training, merge, models, workdir
from distill import config as configs
from distill.errors import DistillError
from distill.finetune import FineTuning, Task
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec
from distill.state import Step
from tests.conftest import ROOT

SMALL = {"width": 8, "depth": 1, "heads": 2, "filters": 4, "mixes": 2, "waves": 4}


class _Start(nnx.Module):
  def __init__(self):
    import students.transformer

    self.encoder = students.transformer.build(seed=3, **SMALL)


def _config(root, *overrides):
  return configs.load(
    f"{ROOT}/configs/finetune.py:smoke",
    [
      f"--config.data.prepared_dir={root / 'prepared'}",
      f"--config.finetune.start={root / 'start'}",
      *(f"--config.finetune.{text}" for text in overrides),
    ],
  )


@pytest.fixture(name="root", scope="module")
def _root(smoke, tmp_path_factory):
  """A folder with a model to start from and the cohort of the smoke run."""
  root = tmp_path_factory.mktemp("finetune")
  (root / "prepared").symlink_to(smoke.prepared)
  models.save(
    root / "start",
    _Start(),
    build="students.transformer:build",
    arguments={"seed": 3, **SMALL},
    fields={"people_seen": ["elsewhere"], "simulated": False},
    card="test",
  )
  return root


@pytest.fixture(name="run", scope="module")
def _run(root):
  """One whole fine-tuning: the folder it left, and the module at every evaluation."""
  seen = []
  with pytest.MonkeyPatch.context() as patch:
    # Falls, rises, falls less far: the second of the three evaluations is the best.
    patch.setattr(fold_training, "validation", lambda batch: _told(seen, [3.0, 1.0, 2.0]))
    (folder,) = finetune.finetune(_config(root), root / "run")
  return folder, seen


def _told(seen, values):
  def validate(objective):
    seen.append(models.parameters(objective))
    return {"val/loss": values[len(seen) - 1]}

  return validate


def _assert_bits_equal(got, expected):
  assert got.keys() == expected.keys()
  for name in expected:
    assert got[name].tobytes() == expected[name].tobytes(), name


def _part(tensors, prefix):
  return {name: array for name, array in tensors.items() if name.startswith(prefix)}


# --- the stage ------------------------------------------------------------------------------------


def test_the_front_end_is_bit_for_bit_that_of_the_start_and_the_rest_has_moved(root, run):
  start, tuned = models.read(root / "start").tensors, run[1][-1]
  _assert_bits_equal(_part(tuned, "encoder.stem."), _part(start, "encoder.stem."))
  moved = {n: np.any(tuned[n] != start[n]) for n in _part(start, "encoder.transformer.")}
  # A bias of the keys shifts every score of a row alike: softmax does not see it.
  assert all(moved.values()), moved


def test_the_best_step_on_validation_people_is_kept(run):
  folder, seen = run
  assert len(seen) == 3
  _assert_bits_equal(models.read(folder).tensors, seen[1])
  assert np.any(seen[1]["head.kernel"] != seen[2]["head.kernel"])


def test_the_last_step_is_kept_on_request(root, tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(fold_training, "validation", lambda batch: _told(seen, [1.0, 2.0, 3.0]))
  (folder,) = finetune.finetune(_config(root, "keep=last"), tmp_path / "run")
  _assert_bits_equal(models.read(folder).tensors, seen[2])


def test_an_interrupted_run_ends_as_the_unbroken_one(root, run, tmp_path, monkeypatch):
  def killed(objective):
    if len(seen) == 2:
      raise KeyboardInterrupt
    return validate(objective)

  seen = []
  validate = _told(seen, [3.0, 1.0, 2.0])
  monkeypatch.setattr(fold_training, "validation", lambda batch: killed)
  with pytest.raises(KeyboardInterrupt):
    finetune.finetune(_config(root), tmp_path / "run")
  monkeypatch.setattr(fold_training, "validation", lambda batch: validate)
  (folder,) = finetune.finetune(_config(root), tmp_path / "run")
  _assert_bits_equal(seen[2], run[1][2])
  _assert_bits_equal(models.read(folder).tensors, models.read(run[0]).tensors)


def test_a_finished_run_is_found_and_says_where_it_came_from(root, run, capsys):
  arguments = [
    f"--config={ROOT}/configs/finetune.py:smoke",
    f"--config.data.prepared_dir={root / 'prepared'}",
    f"--config.finetune.start={root / 'start'}",
  ]
  assert cli.main(["finetune", *arguments, f"--workdir={root / 'run'}"]) == 0
  assert capsys.readouterr().out == f"{run[0]}\n"
  fields = models.read(run[0]).fields
  assert fields[merge.LINEAGE] == [merge.fingerprint(models.read(root / "start"))]
  assert "elsewhere" in fields["people_seen"]
  fold = workdir.open_folds(_config(root), root / "run")[0]
  trained_on = {models.person_hash(who) for who in fold.people("train") + fold.people("validation")}
  assert set(fields["people_seen"]) == trained_on | {"elsewhere"}
  assert fields["task"]["target"] == "hr_bpm"
  assert fields["simulated"] is True


@pytest.mark.parametrize(("alpha", "same"), [(0.0, "start"), (1.0, "tuned")])
def test_merged_back_at_the_ends_it_is_the_start_and_the_tuned_encoder(
  root, run, tmp_path, alpha, same
):
  merge.merge(root / "start", [run[0]], tmp_path / "merged", alpha=alpha)
  expected = models.read(root / "start" if same == "start" else run[0]).part("encoder")
  _assert_bits_equal(models.read(tmp_path / "merged").part("encoder"), expected)
  _assert_bits_equal(models.parameters(models.load_encoder(tmp_path / "merged")), expected)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["start="], "needs a model to start from"),
    (["target=mood"], "no column 'mood'"),
    (["target=hr_origin"], "all training labels of 'hr_origin' are simulated"),
    (["start=nowhere"], "no model folder"),
    (["head_share=1.0"], "head_share is 1.0"),
    (["keep=first"], "keep is 'first'"),
  ],
)
def test_what_cannot_be_tuned_is_refused(root, run, tmp_path, overrides, message):
  with pytest.raises(DistillError, match=message):
    finetune.finetune(_config(root, *overrides), tmp_path / "run")
  assert not (tmp_path / "run" / "fold0" / "finetuned").exists()


def test_a_start_that_has_seen_held_out_people_is_refused(root, run, tmp_path):
  config = _config(root)
  stored = models.read(root / "start")
  fold = workdir.open_folds(config, root / "run")[0]
  held = models.person_hash(fold.people("test")[0])
  models.write(tmp_path / "start", stored.tensors, {**stored.fields, "people_seen": [held]}, "")
  with pytest.raises(DistillError, match=r"the model in .* was trained on 1 participants"):
    finetune.finetune(_config(root, f"start={tmp_path / 'start'}"), tmp_path / "run")


# --- order and rates ------------------------------------------------------------------------------


def test_the_rate_rises_for_a_tenth_holds_for_four_tenths_and_falls_to_zero():
  rate = finetune.tri_stage(2.0, 100)
  steps = [0, 5, 10, 30, 50, 75, 90, 100]
  got = [float(rate(jnp.int32(k))) for k in steps]
  np.testing.assert_allclose(got, [0.0, 1.0, 2.0, 2.0, 2.0, 1.0, 0.4, 0.0], atol=1e-6)


def _settings(**changes):
  section = configs.base().finetune
  with section.unlocked():
    section.update(changes)
  return section


def test_the_head_goes_first_and_the_encoder_starts_fresh_at_the_rate_of_the_run():
  settings = _settings(steps=20, head_share=0.2, optim={"learning_rate": 0.1, "clip_norm": 10.0})
  tx = finetune.optimiser(settings)
  params = {"encoder": jnp.ones((2,)), "head": jnp.ones((2,))}
  state, rate = tx.init(params), finetune.tri_stage(0.1, 20)
  rng = np.random.default_rng(0)
  first, second, moved = 0.0, 0.0, []
  with jax.numpy_dtype_promotion("standard"):
    for k in range(7):
      gradient = rng.normal(size=2).astype(np.float32)
      updates, state = tx.update({"encoder": gradient, "head": gradient}, state, params)
      moved.append({name: np.asarray(values) for name, values in updates.items()})
      if k < 4:
        assert not np.any(moved[k]["encoder"])
        assert k == 0 or np.all(moved[k]["head"])
        continue
      # Adam, written out, with moments that know nothing of the first four gradients.
      first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
      n = k - 3
      step = (first / (1 - 0.9**n)) / (np.sqrt(second / (1 - 0.999**n)) + 1e-8)
      np.testing.assert_allclose(moved[k]["encoder"], -float(rate(k)) * step, rtol=1e-4)


class _Toy(Encoder):
  """A front end and two linear maps: compiled in no time."""

  spec = SignalSpec("acc", 4.0, 1.0, ("x", "y", "z"), "g")
  FRONT_END = "stem"
  dim = 6

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.stem = nnx.Linear(12, 5, rngs=rngs)
    self.hidden, self.out = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 6, rngs=rngs)
    self.norm = nnx.LayerNorm(7, rngs=rngs)

  def __call__(self, signal, mask=None):
    tokens = jnp.tanh(self.stem(signal.reshape(len(signal), -1)))
    return self.out(self.norm(jnp.tanh(self.hidden(tokens))))


@pytest.fixture(name="batch", scope="module")
def _batch():
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(8, 4, 3)).astype(np.float32)
  return {
    "acc": jnp.asarray(signal),
    "acc_mask": jnp.ones(signal.shape, bool),
    "target": jnp.asarray(rng.normal(size=8).astype(np.float32)),
  }


def _objective(task=None, prepare=lambda encoder: None, **changes):
  encoder = _Toy()
  prepare(encoder)
  zeros, ones = np.zeros(encoder.dim, np.float32), np.ones(encoder.dim, np.float32)
  task = task or Task("hr_bpm")
  return FineTuning(encoder, task, mean=zeros, sd=ones, rngs=nnx.Rngs(0), **changes)


def test_training_the_head_leaves_the_encoder_untouched(batch):
  objective = _objective(prepare=finetune.freeze_front_end)
  before = models.parameters(objective)
  step = Step(objective, finetune.optimiser(_settings(steps=20, head_share=0.1)))
  state = step.init(0)
  for _ in range(2):
    state, _ = step(state, batch)
  after = models.parameters(step.module(state.params))
  _assert_bits_equal(_part(after, "encoder."), _part(before, "encoder."))
  assert np.any(after["head.kernel"] != before["head.kernel"])
  state, _ = step(state, batch)
  later = models.parameters(step.module(state.params))
  _assert_bits_equal(_part(later, "encoder.stem."), _part(before, "encoder.stem."))
  assert np.any(later["encoder.hidden.kernel"] != before["encoder.hidden.kernel"])


# --- rivals ---------------------------------------------------------------------------------------


def test_adapters_start_at_nothing_train_at_low_rank_and_fold_into_the_maps(batch):
  plain = _objective()
  objective = _objective(prepare=lambda encoder: finetune.adapt(encoder, 2, rngs=nnx.Rngs(1)))
  key = jax.random.key(0)
  loss = nnx.jit(lambda one: one.loss(batch, key)[0])
  np.testing.assert_allclose(loss(objective), loss(plain), rtol=1e-6)
  step = Step(objective, optax.sgd(0.1))
  state = step.init(0)
  assert set(state.params["encoder"]) == {"hidden", "out"}
  for _ in range(3):
    state, _ = step(state, batch)
  tuned = step.module(state.params)
  adapted = loss(tuned)
  finetune.fold_adapters(tuned.encoder)
  np.testing.assert_allclose(loss(tuned), adapted, rtol=1e-5)
  before, after = models.parameters(plain.encoder), models.parameters(tuned.encoder)
  assert before.keys() == after.keys()
  for name, array in after.items():
    change = array.astype(np.float64) - before[name]
    if name in ("hidden.kernel", "out.kernel"):
      assert np.linalg.matrix_rank(change, tol=1e-6) == 2, name
    else:
      assert not np.any(change), name


def test_the_distance_from_the_start_is_half_the_sum_of_squares(batch):
  objective = _objective(prepare=finetune.freeze_front_end, l2_to_start=0.5)
  total, terms = objective.loss(batch, jax.random.key(0))
  assert float(terms["l2_to_start"]) == 0.0
  state = nnx.state(objective.encoder, nnx.Param)
  leaves = [leaf for _, leaf in nnx.to_flat_state(state)]
  before = [np.asarray(leaf[...], np.float64) for leaf in leaves]
  rng = np.random.default_rng(0)
  steps = [0.1 * rng.normal(size=one.shape) for one in before]
  for leaf, one, step in zip(leaves, before, steps, strict=True):
    leaf[...] = jnp.asarray(one + step, jnp.float32)
  total, terms = objective.loss(batch, jax.random.key(0))
  expected = 0.5 * sum(np.sum(step**2) for step in steps)
  np.testing.assert_allclose(terms["l2_to_start"], expected, rtol=1e-4)
  np.testing.assert_allclose(total, terms["task"] + 0.5 * terms["l2_to_start"], rtol=1e-6)
  assert not any("start" in name for name in models.parameters(objective))


def test_classes_are_scored_by_cross_entropy(batch):
  task = Task.of("activity", np.array(["walking", "lying", "sitting", "lying"]))
  assert task.classes == ("lying", "sitting", "walking")
  labels = np.array(["walking", "lying", "sitting", "lying"] * 2)
  objective = _objective(task)
  batch = {**batch, "target": jnp.asarray(task.encode(labels))}
  embedding = np.asarray(objective.encoder(batch["acc"], batch["acc_mask"]), np.float64)
  logits = embedding @ np.asarray(objective.head.kernel[...]) + np.asarray(objective.head.bias[...])
  chosen = logits[np.arange(8), [2, 0, 1, 0] * 2]
  expected = np.log(np.exp(logits).sum(axis=1)) - chosen
  got = objective.terms(batch, jax.random.key(0))["task"]
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  accuracy = np.mean(logits.argmax(axis=1) == [2, 0, 1, 0] * 2)
  assert float(objective.measures(batch)["accuracy"]) == pytest.approx(accuracy)
  np.testing.assert_array_equal(
    task.known(np.array(["lying", "cycling", ""])), [True, False, False]
  )


def test_numbers_are_standardised_over_training_labels():
  labels = np.array([60.0, 80.0, 100.0, 80.0])
  task = Task.of("hr_bpm", labels)
  assert (task.mean, task.sd) == (80.0, pytest.approx(np.sqrt(200.0)))
  np.testing.assert_allclose(task.encode(labels), (labels - 80) / np.sqrt(200), rtol=1e-6)
  np.testing.assert_array_equal(task.known(np.array([70.0, np.nan])), [True, False])
  assert json.loads(json.dumps(dataclasses.asdict(task)))["target"] == "hr_bpm"


def test_an_encoder_without_a_front_end_is_refused():
  encoder = _Toy()
  encoder.FRONT_END = ""
  with pytest.raises(DistillError, match="freeze_front_end=False"):
    finetune.freeze_front_end(encoder)


def test_speech_encoders_freeze_their_convolutions():
  from teachers import speech

  architecture = {
    "conv_dim": (4, 4),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "width": 8,
    "depth": 1,
    "heads": 2,
    "mlp_width": 8,
    "position_kernel": 7,
    "position_groups": 2,
  }
  encoder = speech.build(architecture=architecture, output="last")
  finetune.freeze_front_end(encoder)
  trained = {
    ".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(encoder, nnx.Param))
  }
  assert trained == {n for n in models.parameters(encoder) if "feature_extractor" not in n}
