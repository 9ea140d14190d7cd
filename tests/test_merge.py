"""Interpolation of weights and feature similarity: exact ends, no order, no strangers."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import students.transformer
from distill import finetune, merge, models
from distill.data.store import open_set
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.nn.pieces import PieceEncoder, PieceNet
from distill.nn.torch_layout import BatchNorm
from distill.similarity import linear_cka
from distill.spec import SignalSpec

SMALL = {"width": 8, "depth": 1, "heads": 2, "filters": 4, "mixes": 2, "waves": 4}


def _weights(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return {
    "a.kernel": (scale * rng.normal(size=(5, 7))).astype(np.float32),
    "a.bias": np.array([0.0, -0.0, 1e-42, -3e38, 1.1], np.float32),
    "half": rng.normal(size=(3,)).astype(np.float16),
    "count": np.array([3, 4], np.int32),
  }


def _assert_bits_equal(got, expected):
  assert got.keys() == expected.keys()
  for name in expected:
    assert got[name].dtype == expected[name].dtype
    assert got[name].tobytes() == expected[name].tobytes(), name


def test_alpha_zero_and_one_are_the_models_bit_for_bit():
  # Sizes apart by more than float64 has digits: start + (tuned - start) would lose the small one.
  start, tuned = _weights(0, scale=1e30), _weights(1, scale=1e-10)
  tuned["a.bias"] = -start["a.bias"]
  _assert_bits_equal(merge.interpolate(start, [tuned], 0.0), start)
  _assert_bits_equal(merge.interpolate(start, [tuned], 1.0), tuned)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("copies", [1, 3])
def test_merging_a_model_with_itself_changes_nothing(alpha, copies):
  start = _weights(0)
  _assert_bits_equal(merge.interpolate(start, [start] * copies, alpha), start)


def test_the_order_of_the_models_does_not_matter():
  start, tuned = _weights(0), [_weights(seed, scale=10.0**seed) for seed in (1, 2, 3, 4)]
  expected = merge.interpolate(start, tuned, 0.25)
  for order in itertools.permutations(tuned):
    _assert_bits_equal(merge.interpolate(start, order, 0.25), expected)


def test_interpolation_is_the_mean_task_vector_scaled():
  start, tuned = _weights(0), [_weights(1), _weights(2)]
  got = merge.interpolate(start, tuned, 0.3)["a.kernel"]
  origin = start["a.kernel"].astype(np.float64)
  vectors = [one["a.kernel"] - origin for one in tuned]
  np.testing.assert_allclose(got, origin + 0.3 * (vectors[0] + vectors[1]) / 2, rtol=1e-6)


def _changed(**tensors):
  return {**_weights(1), **tensors}


@pytest.mark.parametrize(
  ("tuned", "message"),
  [
    (_changed(extra=np.zeros(1, np.float32)), "has 1 others \\['extra'\\]"),
    ({"a.bias": _weights(1)["a.bias"]}, "lacks 3 tensors"),
    (_changed(half=np.zeros(4, np.float16)), "half is float16 \\(4,\\)"),
    (_changed(half=np.zeros(3, np.float32)), "half is float32"),
    (_changed(count=np.array([3, 5], np.int32)), "count holds int32"),
    (_changed(half=np.full(3, np.nan, np.float16)), "half holds values that are not finite"),
  ],
)
def test_other_architectures_and_broken_weights_are_refused(tuned, message):
  with pytest.raises(DistillError, match=message):
    merge.interpolate(_weights(0), [_weights(1), tuned], 0.5)


def test_nothing_to_merge_and_a_wrong_alpha_are_refused():
  with pytest.raises(DistillError, match="at least one"):
    merge.interpolate(_weights(0), [], 0.5)
  for alpha in (-0.1, 1.5, float("nan")):
    with pytest.raises(DistillError, match="alpha"):
      merge.interpolate(_weights(0), [_weights(1)], alpha)


# --- model folders --------------------------------------------------------------------------------


class _Model(nnx.Module):
  """An encoder and the heads of a distilled pair."""

  def __init__(self, seed, **arguments):
    self.encoder = students.transformer.build(seed=seed, **arguments)
    self.student_head = nnx.Linear(self.encoder.dim, 2, rngs=nnx.Rngs(seed))
    self.teacher_head = nnx.Linear(3, 2, rngs=nnx.Rngs(seed + 1))


def _save(folder, model, arguments, **fields):
  build = "students.transformer:build"
  models.save(
    folder, model, build=build, arguments={"seed": 0, **arguments}, fields=fields, card="test"
  )
  return folder


def _finetune(model, seed):
  """Stands in for training: every parameter moves a little, the heads too."""
  rng = np.random.default_rng(seed)
  tensors = models.parameters(model)
  moved = {n: (a + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for n, a in tensors.items()}
  models.assign(model, moved, where="test")
  return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("folders")
  seen = {"people_seen": ["p1"], "simulated": True, "sets": ["one"]}
  start = _save(root / "start", _Model(0, **SMALL), SMALL, **seen)
  known = merge.lineage(models.read(start))
  for seed in (1, 2):
    tuned = _finetune(_Model(0, **SMALL), seed)
    seen = {"people_seen": [f"q{seed}"], "sets": ["two"]}
    _save(root / f"tuned{seed}" / "model", tuned, SMALL, lineage=known, **seen)
  _save(root / "stranger", _Model(9, **SMALL), SMALL)
  larger = {**SMALL, "depth": 2}
  _save(root / "larger", _Model(0, **larger), larger, lineage=known)
  return root


def test_folders_merge_encoders_and_keep_the_heads_of_the_start(folders, tmp_path):
  merge.merge(folders / "start", [folders / "tuned1", folders / "tuned2"], tmp_path, alpha=0.25)
  start, merged = models.read(folders / "start"), models.read(tmp_path)
  tuned = [models.read(folders / f"tuned{i}" / "model") for i in (1, 2)]
  for name, array in merged.tensors.items():
    if name.startswith("encoder."):
      mean = np.mean([one.tensors[name].astype(np.float64) for one in tuned], axis=0)
      expected = start.tensors[name] + 0.25 * (mean - start.tensors[name])
      np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)
    else:
      np.testing.assert_array_equal(array, start.tensors[name])
  assert merged.fields["pair"] == start.fields["pair"]
  assert merged.fields["people_seen"] == ["p1", "q1", "q2"]
  assert merged.fields["sets"] == ["one", "two"]
  assert merged.fields["simulated"] is True
  _assert_bits_equal(models.parameters(models.load_encoder(tmp_path)), merged.part("encoder"))


@pytest.mark.parametrize(("alpha", "same"), [(0.0, "start"), (1.0, "tuned1/model")])
def test_folders_at_the_ends_are_the_models(folders, tmp_path, alpha, same):
  merge.merge(folders / "start", [folders / "tuned1"], tmp_path, alpha=alpha)
  expected = models.read(folders / same).part("encoder")
  _assert_bits_equal(models.read(tmp_path).part("encoder"), expected)


def test_a_start_that_grew_out_of_the_other_is_refused(folders, tmp_path):
  with pytest.raises(DistillError, match=r"tuned1/model grew out of .*start and not the other way"):
    merge.merge(folders / "tuned1", [folders / "start"], tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_a_model_is_not_merged_into_its_own_folder(folders):
  before = models.read(folders / "start").fields["sha256"]
  with pytest.raises(DistillError, match="start is not empty; choose another folder"):
    merge.merge(folders / "start", [folders / "tuned1"], folders / "start", alpha=0.5)
  assert models.read(folders / "start").fields["sha256"] == before


def test_a_merged_model_and_siblings_are_family(folders, tmp_path):
  merge.merge(folders / "start", [folders / "tuned1"], tmp_path / "once", alpha=0.5)
  merge.merge(tmp_path / "once", [folders / "tuned2"], tmp_path / "twice", alpha=0.5)
  merge.merge(folders / "tuned1", [folders / "tuned2"], tmp_path / "siblings", alpha=0.5)
  ancestor = merge.fingerprint(models.read(folders / "start"))
  for name in ("once", "twice", "siblings"):
    assert json.loads((tmp_path / name / "spec.json").read_text())["lineage"][0] == ancestor


def test_strangers_and_other_architectures_are_refused_and_nothing_is_written(folders, tmp_path):
  with pytest.raises(DistillError, match="stranger did not grow out of"):
    merge.merge(folders / "start", [folders / "tuned1", folders / "stranger"], tmp_path / "new")
  with pytest.raises(DistillError, match=r"its arguments is .*'depth': 2"):
    merge.merge(folders / "start", [folders / "larger"], tmp_path / "new")
  with pytest.raises(DistillError, match="no model folder"):
    merge.merge(folders / "start", [folders / "absent"], tmp_path / "new")
  assert not (tmp_path / "new").exists()


# --- batch norms ----------------------------------------------------------------------------------


class _Normed(Encoder):
  """Two linear maps, each before a batch norm: the second's statistics rest on the first's."""

  spec = SignalSpec("acc", 10.0, 1.0, ("x", "y", "z"), "g")
  dim = 4

  def __init__(self, seed):
    self.first, self.second = (
      nnx.Linear(3, 5, rngs=nnx.Rngs(seed)),
      nnx.Linear(5, 4, rngs=nnx.Rngs(1)),
    )
    self.norms = nnx.List([BatchNorm(5), BatchNorm(4)])
    for norm in self.norms:
      norm.weight[...] = jnp.full(norm.weight.shape, 2.0)
      norm.bias[...] = jnp.full(norm.bias.shape, 0.5)

  def __call__(self, signal, mask=None):
    frames = jax.nn.relu(self.norms[0](self.first(signal)))
    return jnp.mean(self.norms[1](self.second(frames)), axis=1)


class _Pieces(PieceNet):
  """One batch norm on pieces of a second."""

  dim = 3

  def __init__(self):
    self.norm = BatchNorm(3)
    self.norm.weight[...] = jnp.ones(3)

  def __call__(self, piece, mask):
    return jnp.mean(jnp.square(self.norm(piece)), axis=1)


def test_pieces_of_a_long_window_are_normalised_together():
  encoder = PieceEncoder(_Normed.spec, _Pieces(), window_s=3.0)
  signal = np.random.default_rng(0).normal(2.0, 3.0, size=(20, 30, 3)).astype(np.float32)
  merge.renormalise(encoder, signal, np.ones(signal.shape, bool))
  flat = signal.reshape(-1, 3)
  np.testing.assert_allclose(encoder.net.norm.running_mean[...], flat.mean(axis=0), rtol=1e-4)
  np.testing.assert_allclose(encoder.net.norm.running_var[...], flat.var(axis=0, ddof=1), rtol=1e-4)
  np.testing.assert_allclose(np.mean(encoder(jnp.asarray(signal))), 1.0, rtol=1e-2)


def test_statistics_after_a_merge_are_those_of_the_merged_weights():
  encoder, rng = _Normed(0), np.random.default_rng(0)
  signal = rng.normal(2.0, 3.0, size=(20, 10, 3)).astype(np.float32)
  merge.renormalise(encoder, signal, np.ones(signal.shape, bool))

  def normalised(frames, norm):
    flat = frames.reshape(-1, frames.shape[2])
    np.testing.assert_allclose(norm.running_mean[...], flat.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.running_var[...], flat.var(axis=0, ddof=1), rtol=1e-4)
    return 2.0 * (frames - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-5) + 0.5

  def mapped(frames, linear):
    return frames @ np.asarray(linear.kernel[...], np.float64) + np.asarray(linear.bias[...])

  first = normalised(mapped(signal.astype(np.float64), encoder.first), encoder.norms[0])
  second = normalised(mapped(np.maximum(first, 0.0), encoder.second), encoder.norms[1])
  # From now on the statistics stand still: 200 frames make little of the unbiased variance.
  np.testing.assert_allclose(encoder(signal), second.mean(axis=1), rtol=0.01, atol=0.01)
  stored = models.parameters(encoder)
  encoder(10.0 * signal)
  _assert_bits_equal(models.parameters(encoder), stored)


def test_batch_norms_of_a_folder_are_recomputed_on_people_it_has_seen(folders, tmp_path, smoke):
  merge.merge(folders / "start", [folders / "tuned1"], tmp_path / "plain", alpha=0.5)
  assert finetune.renormalise(tmp_path / "plain", smoke.set_folder) == 0

  class Module(nnx.Module):
    def __init__(self):
      self.encoder = normed()

  prepared = open_set(smoke.set_folder)
  who = str(prepared.index["participant"][0])
  for name, seen in (("ours", [models.person_hash(f"simulated/{who}")]), ("theirs", ["x"])):
    fields = {"people_seen": seen}
    build = f"{__name__}:normed"
    models.save(tmp_path / name, Module(), build=build, arguments={}, fields=fields, card="card")
  assert finetune.renormalise(tmp_path / "ours", smoke.set_folder) == 2
  raw = np.stack(
    [prepared[int(i)]["acc"] for i in np.flatnonzero(prepared.index["participant"] == who)]
  )
  encoder = models.load_encoder(tmp_path / "ours")
  flat = np.nan_to_num(raw).reshape(-1, 3) @ np.asarray(encoder.first.kernel[...])
  np.testing.assert_allclose(encoder.norms[0].running_mean[...], flat.mean(axis=0), atol=1e-4)
  assert models.read(tmp_path / "ours").fields["people_seen"] == [
    models.person_hash(f"simulated/{who}")
  ]
  with pytest.raises(DistillError, match="nobody whom"):
    finetune.renormalise(tmp_path / "theirs", smoke.set_folder)


def normed():
  """As a config's build function."""
  encoder = _Normed(0)
  encoder.spec = SignalSpec("acc", 50.0, 60.0, ("x", "y", "z"), "g")
  return encoder


# --- feature similarity ---------------------------------------------------------------------------


def _features(rows=200, width=6, seed=0):
  return np.random.default_rng(seed).normal(size=(rows, width)) + 5.0


def _gram_cka(x, y):
  """Independent: the definition over row-by-row kernels, centred by the centring matrix."""
  n = len(x)
  centring = np.eye(n) - np.ones((n, n)) / n
  k, m = centring @ (x @ x.T) @ centring, centring @ (y @ y.T) @ centring
  return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def test_cka_equals_the_kernel_definition():
  x = _features()
  y = np.concatenate([np.tanh(x[:, :4] - 5.0), _features(width=5, seed=1)], axis=1)
  assert linear_cka(x, y) == pytest.approx(_gram_cka(x, y), rel=1e-9)
  assert 0.05 < linear_cka(x, y) < 0.95


def test_cka_does_not_see_rotation_shift_and_scale_but_does_see_order_of_rows():
  x = _features()
  rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
  assert linear_cka(x, 3.0 * x @ rotation - 7.0) == pytest.approx(1.0, abs=1e-9)
  assert linear_cka(x, x[::-1]) < 0.2


def test_cka_of_float32_tables_longer_than_one_stretch():
  x = (_features(rows=9001) + 1e3).astype(np.float32)
  y = np.maximum(x - 1005.0, 0.0)
  double = [table - table.mean(axis=0) for table in (x.astype(np.float64), y.astype(np.float64))]
  cross = np.linalg.norm(double[0].T @ double[1]) ** 2
  own = [np.linalg.norm(table.T @ table) for table in double]
  assert linear_cka(x, y) == pytest.approx(cross / (own[0] * own[1]), rel=1e-9)


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    (np.zeros((3, 2)), np.zeros((4, 2)), "same rows"),
    (np.zeros((1, 2)), np.zeros((1, 2)), "at least 2"),
    (np.zeros(3), np.zeros(3), "two tables"),
    (np.ones((3, 2)), np.eye(3), "all rows of one table are alike"),
    (np.full((3, 2), np.nan), np.eye(3), "not finite"),
  ],
)
def test_cka_refuses_what_has_no_answer(first, second, message):
  with pytest.raises(DistillError, match=message):
    linear_cka(first, second)
