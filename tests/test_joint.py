"""Both encoders learn together: the loss is NumPy's, both get gradients, both halves load again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import config as configs
from distill import fold_training, models, stages, workdir
from distill.errors import DistillError
from distill.joint import Joint
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec
from tests import runs

ACC = SignalSpec("acc", 4.0, 2.0, ("x", "y", "z"), "g")
PPG = SignalSpec("ppg", 8.0, 2.0, ("green",), "au")
HEADS = {"hidden": 8, "dim": 4, "contrastive": 1.0, "temperature": 0.5, "direction": 0.3}
REST = {"regression": 0.0, "regression_kind": "mse"}


class Flat(Encoder):
  def __init__(self, spec, seed):
    self.spec, self.dim = spec, 5
    count = spec.samples * len(spec.channels)
    self.linear = nnx.Linear(count, self.dim, rngs=nnx.Rngs(seed))

  def __call__(self, signal, mask=None):
    mask = self.check(signal, mask)
    return self.linear(jnp.where(mask, signal, 0.0).reshape(len(signal), -1))


def _objective():
  return Joint(Flat(ACC, 0), Flat(PPG, 1), **HEADS, **REST, rngs=nnx.Rngs(2))


def _batch(n=6):
  rng = np.random.default_rng(0)
  batch = {"recording": np.arange(n, dtype=np.int32), "t0_s": np.zeros(n, np.float32)}
  for spec in (ACC, PPG):
    batch[spec.modality] = rng.normal(size=(n, *spec.shape)).astype(np.float32)
    batch[spec.modality + "_mask"] = np.ones((n, *spec.shape), bool)
  return batch


def test_the_loss_is_that_of_numpy_and_both_encoders_get_gradients():
  graphdef, params, rest = nnx.split(_objective(), nnx.Param, ...)
  batch = _batch()

  def loss(params):
    one = nnx.merge(graphdef, params, rest)
    acc = one.student_head(one.encoder(batch["acc"], batch["acc_mask"]))
    ppg = one.teacher_head(one.ppg_encoder(batch["ppg"], batch["ppg_mask"]))
    return one.loss(batch, jax.random.key(0))[0], (one.measures(batch), acc, ppg)

  (value, (measures, *sides)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  acc, ppg = (np.asarray(side, np.float64) for side in sides)
  acc, ppg = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (acc, ppg))
  cosine = acc @ ppg.T
  expected = 0.0
  for share, some in ((0.3, cosine / 0.5), (0.7, cosine.T / 0.5)):
    expected += share * np.mean(np.log(np.exp(some).sum(axis=1)) - np.diagonal(some))
  assert float(value) == pytest.approx(expected, rel=1e-4)
  nearest = np.mean(cosine.argmax(axis=1) == np.arange(len(cosine)))
  assert float(measures["top1"]) == pytest.approx(nearest)
  grads = nnx.to_pure_dict(grads)
  for part in ("encoder", "ppg_encoder", "student_head", "teacher_head"):
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads[part])) > 1e-6, part


def _config(smoke, *words):
  tiny = ("student.width=8", "student.heads=2", "student.filters=4", "student.mixes=2")
  tiny += ("student.waves=4", "teacher.width=8", "teacher.heads=2")
  words = (f"data.prepared_dir={smoke.prepared}", "method=joint", *tiny, *words)
  path = runs.CONFIG.removeprefix("--config=")
  return configs.load(path, [f"--config.{word}" for word in words])


def test_what_was_trained_jointly_is_shared_out_as_a_distilled_run_leaves_it(smoke, tmp_path):
  config = _config(smoke, "loss.regression=0.0")
  with workdir.claimed(config, tmp_path / "run"):
    (fold,) = workdir.open_folds(config, tmp_path / "run")
  student, ppg = (fold_training.build(config, side) for side in ("student", "teacher"))
  ppg.transformer.norm.scale[...] = 3.0 * ppg.transformer.norm.scale[...]
  joint = Joint(student, ppg, **config.head, **config.loss, rngs=nnx.Rngs(5))
  fields = {"people_seen": [], "teachers": []}
  arguments = {"seed": 0, **configs.build_arguments(config.student)}
  saved = {"build": config.student.build, "arguments": arguments, "fields": fields, "card": ""}
  models.save(fold.folder / "joint" / "model", joint, **saved)

  (trained,) = stages.train(config, tmp_path / "run")
  stored = {name: models.read(fold.folder / name / "model") for name in ("student", "teacher")}
  for name, one in (("student", student), ("teacher", ppg)):
    loaded = models.load_encoder(fold.folder / name)
    assert loaded.spec == one.spec
    assert models.digest(models.parameters(loaded)) == models.digest(models.parameters(one))
    assert stored[name].fields["role"] == name
  for part in ("encoder", "student_head", "teacher_head"):
    assert stored["student"].part(part)
  assert not stored["student"].part("ppg_encoder")
  assert stored["student"].fields["pair"] == models.pair_hash(models.parameters(trained)) != ""
  again = {name: (fold.folder / name / "model").stat().st_mtime_ns for name in stored}
  stages.train(config, tmp_path / "run")
  assert again == {name: (fold.folder / name / "model").stat().st_mtime_ns for name in stored}


@pytest.mark.parametrize("words", [(), ("loss.regression=0.0", "teacher.load=somewhere")])
def test_a_joint_run_has_nothing_to_regress_on_and_takes_no_teacher(smoke, words):
  with pytest.raises(DistillError, match=r"method=joint trains its own PPG encoder"):
    _config(smoke, *words)
