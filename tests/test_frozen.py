"""Frozen teachers: the store, files of embeddings paired by time, several at once."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import config as configs
from distill import embeddings, fold_training, frozen, models, probes, stages, workdir
from distill.data import pipeline
from distill.data.splits import Split
from distill.embedding_store import EmbeddingStore
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.objectives import Distillation
from distill.spec import SignalSpec
from distill.workdir import Fold
from tests import runs

# --- the store ------------------------------------------------------------------------------------

VECTORS = np.random.default_rng(0).normal(size=(25, 6)).astype(np.float32)
KEY = {"teacher": "abc", "spec": {"rate_hz": 64.0}, "output": "dense"}


def _store(folder, *, key=KEY, **changes):
  return EmbeddingStore(folder, key, **({"rows": 25, "piece": 10} | changes))


def _counted(calls, stop_at=None):
  def embed(rows):
    if rows[0] == stop_at:
      raise KeyboardInterrupt
    calls.append(list(rows))
    return VECTORS[rows]

  return embed


def test_a_store_computes_every_row_once(tmp_path):
  calls = []
  first = _store(tmp_path).vectors(_counted(calls), label="t")
  np.testing.assert_array_equal(first, VECTORS)
  assert [len(rows) for rows in calls] == [10, 10, 5]
  np.testing.assert_array_equal(_store(tmp_path).vectors(_counted(calls), label="t"), VECTORS)
  assert len(calls) == 3


def test_a_killed_store_goes_on_where_it_was(tmp_path):
  calls = []
  with pytest.raises(KeyboardInterrupt):
    _store(tmp_path).vectors(_counted(calls, stop_at=20), label="t")
  (tmp_path / ".2.npy").write_bytes(b"half of a piece")
  np.testing.assert_array_equal(_store(tmp_path).vectors(_counted(calls), label="t"), VECTORS)
  assert [rows[0] for rows in calls] == [0, 10, 20]


def test_half_precision_halves_the_store_and_errs_by_half_a_unit_in_the_last_place(tmp_path):
  narrow = _store(tmp_path / "16", dtype="float16").vectors(_counted([]), label="t")
  wide = _store(tmp_path / "32").vectors(_counted([]), label="t")
  assert narrow.dtype == wide.dtype == np.float32
  assert np.max(np.abs(narrow / wide - 1)) <= 2**-11
  sizes = [np.load(tmp_path / name / "0.npy").nbytes for name in ("16", "32")]
  assert 2 * sizes[0] == sizes[1]


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
  with pytest.raises(DistillError, match=r"1e[+]05 do not fit float16.*teacher.stored=float32"):
    _store(tmp_path, dtype="float16").vectors(lambda rows: VECTORS[rows] * 0 + 1e5, label="t")


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"key": KEY | {"teacher": "abd"}}, "teacher"),
    ({"key": KEY | {"spec": {"rate_hz": 50.0}}}, "spec"),
    ({"key": KEY | {"output": "pooled"}}, "output"),
    ({"rows": 24}, "rows"),
    ({"dtype": "float16"}, "dtype"),
  ],
)
def test_a_store_of_another_teacher_is_refused(tmp_path, changes, named):
  _store(tmp_path).vectors(_counted([]), label="t")
  with pytest.raises(DistillError, match=rf"another teacher or set \(differing: {named}\); delete"):
    _store(tmp_path, **changes)


@pytest.mark.parametrize("spoil", [b"", b"no numbers", None])
def test_a_damaged_piece_stops(tmp_path, spoil):
  _store(tmp_path).vectors(_counted([]), label="t")
  if spoil is None:
    np.save(tmp_path / "1.npy", VECTORS[:3])
  else:
    (tmp_path / "1.npy").write_bytes(spoil)
  with pytest.raises(DistillError, match=r"1\.npy is damaged.*delete it"):
    _store(tmp_path).vectors(_counted([]), label="t")


def test_vectors_without_a_key_and_unknown_precisions_are_refused(tmp_path):
  np.save(tmp_path / "0.npy", VECTORS)
  with pytest.raises(DistillError, match=r"has vectors but no key\.json"):
    _store(tmp_path)
  with pytest.raises(DistillError, match="float32 or float16, not 'int8'"):
    _store(tmp_path / "new", dtype="int8")


# --- files of embeddings --------------------------------------------------------------------------

# participant, recording, t0_s of a made-up prepared set; the clock of r2 counts from 1970.
WINDOWS = [("a", "r1", 0.0), ("a", "r1", 60.0), ("a", "r2", 1.6e9 + 0.25), ("b", "r1", 0.0)]


def _columns(windows):
  who, recording, t0_s = zip(*windows)
  return {"participant": np.array(who), "recording": np.array(recording), "t0_s": np.array(t0_s)}


def _fold(*names, windows=WINDOWS):
  prepared = types.SimpleNamespace(index=_columns(windows))
  prepared = type("Set", (), {"index": prepared.index, "__len__": lambda _: len(windows)})()
  return Fold(0, None, {name: (prepared, Split((), (), ())) for name in names})


def _file(path, windows, vectors, **columns):
  embeddings.save(EmbeddingTable(vectors, _columns(windows) | columns, "embedding"), path)
  return path


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_vectors_are_paired_by_time_and_never_by_order(tmp_path, suffix):
  order = [3, 1, 0, 2]
  strangers = [("a", "r1", 30.0), ("a", "r9", 0.0), ("c", "r1", 0.0)]
  windows = [WINDOWS[i] for i in order] + strangers
  path = _file(tmp_path / f"t{suffix}", windows, VECTORS[order + [10, 11, 12]])
  found = frozen.FileTeacher(path).vectors(_fold("toy"))["toy"]
  np.testing.assert_array_equal(found, VECTORS[:4])


def test_windows_without_a_vector_are_nan_and_told(tmp_path, capsys):
  shifted = [WINDOWS[0], ("a", "r1", 60.06), ("a", "r2", 1.6e9 + 0.26)]
  path = _file(tmp_path / "t.npz", shifted, VECTORS[:3])
  found = frozen.FileTeacher(path).vectors(_fold("toy"))["toy"]
  np.testing.assert_array_equal(np.isfinite(found[:, 0]), [True, False, True, False])
  assert "toy: 2 of 4 windows have a vector" in capsys.readouterr().err


def test_a_set_column_tells_people_of_one_name_apart(tmp_path):
  sets = np.repeat(["one", "two"], 4)
  path = _file(tmp_path / "t.npz", WINDOWS * 2, VECTORS[:8], set=sets)
  found = frozen.FileTeacher(path).vectors(_fold("one", "two"))
  np.testing.assert_array_equal(np.concatenate([found["one"], found["two"]]), VECTORS[:8])


def _without(path, name):
  with np.load(path) as file:
    rest = {key: file[key] for key in file.files if key != name}
  np.savez(path, **rest)


@pytest.mark.parametrize(
  ("windows", "vectors", "expected"),
  [
    (WINDOWS[:2] + WINDOWS[1:2], VECTORS[:3], "rows 1 and 2 are both of a/r1 at 60 s"),
    (WINDOWS[:1], VECTORS[:1] * np.nan, "1 vectors are not finite, the first in row 0"),
    ([("a", "r1", np.nan)], VECTORS[:1], "'t0_s' must hold seconds in every row"),
    ([("a", "r1", 5.0)], VECTORS[:1], "it has a/r1 at 5 s, the set a/r1 at 0 s; names and start"),
    ([("A", "r1", 0.0)], VECTORS[:1], "it has A/r1 at 0 s, the set a/r1 at 0 s"),
  ],
)
def test_files_that_cannot_be_paired_are_refused(tmp_path, windows, vectors, expected):
  path = _file(tmp_path / "t.npz", windows, vectors)
  with pytest.raises(DistillError, match=expected) as caught:
    frozen.FileTeacher(path).vectors(_fold("toy"))
  assert "t.npz" in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["participant", "recording", "t0_s", "embedding"])
def test_files_without_a_column_are_refused(tmp_path, name):
  path = _file(tmp_path / "t.npz", WINDOWS, VECTORS[:4])
  _without(path, name)
  with pytest.raises(DistillError, match=name):
    frozen.open_teacher(path)


def test_projections_are_no_teacher(tmp_path):
  embeddings.save(EmbeddingTable(VECTORS[:4], _columns(WINDOWS), "projection"), tmp_path / "t.npz")
  with pytest.raises(DistillError, match="holds projections"):
    frozen.open_teacher(tmp_path / "t.npz")


def test_real_papagei_vectors_serve_as_a_teacher(shared_parity, tmp_path):
  folder = shared_parity / "papagei-ppgbp-real"
  with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
    subjects, hr_bpm = inputs["subject"], inputs["hr"]
    vectors = outputs["emb_papagei_s"].reshape(-1, 512)
  windows = [(who, "ppg-bp", 10.0 * k) for who in subjects for k in range(3)]
  order = np.random.default_rng(0).permutation(len(windows))
  path = _file(tmp_path / "papagei.parquet", [windows[i] for i in order], vectors[order])
  teacher = frozen.open_teacher(path)
  assert teacher.dim == 512
  found = teacher.vectors(_fold("ppg_bp", windows=windows))["ppg_bp"]
  np.testing.assert_array_equal(found, vectors)
  # What came through knows heart rate on people held out; paired by order it would know nothing.
  columns = {"participant": np.repeat(subjects, 3), "hr_bpm": np.repeat(hr_bpm, 3)}
  part = np.repeat(np.arange(len(subjects)) % 3, 3)
  true = columns["hr_bpm"][part == 2]
  mean = np.abs(np.mean(columns["hr_bpm"][part == 0]) - true).mean()

  def error(vectors):
    train, validation, held = (EmbeddingTable(vectors, columns).where(part == k) for k in range(3))
    probe = probes.fit(train, validation, "hr_bpm")
    return np.abs(probe.predict(held.embedding) - true).mean()

  assert error(found) < 0.9 * mean
  assert error(vectors[order]) > 0.95 * mean


# --- several at once ------------------------------------------------------------------------------


class Toy(Encoder):
  """The smallest encoder there is."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.spec, self.dim = SignalSpec("acc", 8.0, 2.0, ("x",), "g"), 5
    self.dense = nnx.Linear(self.spec.samples, self.dim, rngs=rngs)

  def __call__(self, signal, mask=None):
    return self.dense(jnp.where(self.check(signal, mask), signal, 0.0)[:, :, 0])


def _distillation(dims, weights=(), **changes):
  scales = [(np.full(dim, 0.1, np.float32), np.full(dim, 2.0, np.float32)) for dim in dims]
  settings = {"hidden": 8, "dim": 4, "contrastive": 1.0, "temperature": 0.5, "direction": 0.5}
  return Distillation(
    Toy(rngs=nnx.Rngs(0)),
    teacher_mean=scales[0][0],
    teacher_sd=scales[0][1],
    others=scales[1:],
    teacher_weights=weights,
    regression=1.0,
    regression_kind="mse",
    **settings | changes,
    rngs=nnx.Rngs(1),
  )


def _batch():
  rng = np.random.default_rng(0)
  batch = {name: rng.normal(size=(8, dim)) for name, dim in (("teacher", 6), ("teacher_2", 3))}
  batch["acc"] = rng.normal(size=(8, 16, 1))
  batch = {name: jnp.asarray(values, jnp.float32) for name, values in batch.items()}
  batch["acc_mask"] = jnp.ones((8, 16, 1), bool)
  return batch | {"recording": jnp.arange(8), "t0_s": jnp.zeros(8, jnp.float32)}


def _loss(objective, batch):
  graphdef, state = nnx.split(objective)
  return jax.jit(lambda state, batch: nnx.merge(graphdef, state).loss(batch, jax.random.key(0)))(
    state, batch
  )


def test_each_teacher_has_heads_and_terms_of_its_own():
  both, batch = _distillation((6, 3), weights=(0.5, 2.0)), _batch()
  total, terms = _loss(both, batch)
  assert set(terms) == {"contrastive", "regression", "contrastive_2", "regression_2"}
  # The second pair of heads alone, as the only teacher of the same encoder.
  alone = _distillation((3,))
  for part in ("student_head", "teacher_head", "regressor"):
    setattr(alone, part, getattr(both.others[0], part))
  _, second = _loss(alone, batch | {"teacher": batch["teacher_2"]})
  assert float(terms["contrastive_2"]) == pytest.approx(float(second["contrastive"]), rel=1e-5)
  assert float(terms["regression_2"]) == pytest.approx(float(second["regression"]), rel=1e-5)
  values = {name: float(value) for name, value in terms.items()}
  expected = 0.5 * (values["contrastive"] + values["regression"])
  expected += 2.0 * (values["contrastive_2"] + values["regression_2"])
  assert float(total) == pytest.approx(expected, rel=1e-5)


def test_one_teacher_is_what_it_was_without_the_others():
  alone = models.parameters(_distillation((6,)))
  both = models.parameters(_distillation((6, 3)))
  assert set(alone) < set(both)
  assert {name.split(".")[0] for name in set(both) - set(alone)} == {"others"}
  for name, values in alone.items():
    np.testing.assert_array_equal(values, both[name])
  assert models.pair_hash(alone) == models.pair_hash(both)


def test_no_gradient_reaches_a_teacher():
  graphdef, state = nnx.split(_distillation((6, 3)))
  batch, names = _batch(), ("teacher", "teacher_2")

  @jax.jit
  def value_and_grads(vectors):
    def loss(vectors):
      return nnx.merge(graphdef, state).loss(batch | vectors, jax.random.key(0))[0]

    return jax.value_and_grad(loss)(vectors)

  vectors = {name: batch[name] for name in names}
  value, grads = value_and_grads(vectors)
  for grad in grads.values():
    np.testing.assert_array_equal(grad, np.zeros_like(grad))
  for name in names:  # though the loss does depend on both
    assert value_and_grads(vectors | {name: -vectors[name]})[0] != value


def test_weights_that_do_not_name_every_teacher_are_refused():
  with pytest.raises(DistillError, match=r"teacher\.weights names 1 teachers, there are 2"):
    _distillation((6, 3), weights=(1.0,))


# --- on a prepared set ----------------------------------------------------------------------------


@pytest.fixture(name="fold")
def _smoke_fold(smoke, tmp_path):
  settings = _settings(smoke)
  fold = workdir.open_folds(settings, tmp_path)[0]
  return dataclasses.replace(fold, folder=tmp_path / "fold0")


def _settings(smoke, *words):
  words = (f"data.prepared_dir={smoke.prepared}", *words)
  return configs.load(runs.CONFIG.removeprefix("--config="), [f"--config.{word}" for word in words])


def test_a_teacher_says_the_same_before_and_after_a_student_learned_from_it(smoke, fold):
  teacher = frozen.open_teacher(smoke.folder / "fold0" / "teacher", rhythm=True)
  ran = dataclasses.replace(fold, folder=smoke.folder / "fold0")
  before = teacher.vectors(ran)["simulated"]  # stored by the run before its student was trained
  assert (smoke.folder / "fold0" / "student" / "model").is_dir()
  assert before.shape[1] == teacher.dim + teacher.rhythm
  assert before.std() > 0.01
  np.testing.assert_allclose(teacher.vectors(fold)["simulated"], before, rtol=1e-5, atol=1e-5)


def test_a_file_of_an_encoders_embeddings_teaches_beside_it(smoke, fold, tmp_path, monkeypatch):
  folder = smoke.folder / "fold0" / "teacher"
  before = models.read(folder / "model").tensors
  encoder = frozen.open_teacher(folder, name="alone")
  vectors = encoder.vectors(fold)["simulated"]
  prepared, _ = fold.sets["simulated"]
  names = ("participant", "recording", "t0_s")
  table = EmbeddingTable(vectors, {name: prepared.index[name] for name in names}, "embedding")
  lost = fold_training.usable(fold, _settings(smoke), "train")[0].rows[
    0
  ]  # this window has no vector
  shuffled = np.random.default_rng(0).permutation(np.delete(np.arange(len(table)), lost))
  embeddings.save(table.where(shuffled), tmp_path / "vectors.parquet")

  also = smoke.folder / "fold{fold}" / "teacher"  # the same folder, whichever the fold
  words = (f"teacher.load={tmp_path}/vectors.parquet", f"teacher.also=('{also}',)")
  config = _settings(smoke, *words)
  given = {}
  monkeypatch.setattr(
    fold_training, "train", lambda *arguments, **rest: given.update(arguments=arguments, **rest)
  )
  teachers = stages._teachers(config, tmp_path, fold)
  assert [one.name for one in teachers] == ["teacher", "teacher_2"]
  assert [one.dim for one in teachers] == [encoder.dim, encoder.dim]
  found = {one.name: one.vectors(fold) for one in teachers}
  stages._train(config, fold, teachers, found, tmp_path / "student")

  objective, sources = given["arguments"][3:5]
  assert len(objective.others) == 1
  assert [objective.rhythm, objective.others[0].rhythm] == [False, True]
  scales = [pair.teacher_head.standardise for pair in (objective, objective.others[0])]
  np.testing.assert_array_equal(scales[0].mean[...], scales[1].mean[...])
  for source in sources.values():
    every = source.batch(np.arange(len(source)))
    np.testing.assert_array_equal(every["teacher"], every["teacher_2"][:, : encoder.dim])
    assert every["teacher_2"].shape[1] == encoder.dim + 600  # a file knows no rhythm, PPG does
    assert np.isfinite(every["teacher"]).all()
  parts = fold_training.observed_enough(
    fold_training.usable(fold, config, "train"), config.pair_coverage
  )
  assert lost in parts[0].rows
  assert len(sources["train"]) == len(parts[0]) - 1
  # Frozen: what stands on disk and what it says are the same before and after.
  assert models.digest(models.read(folder / "model").tensors) == models.digest(before)

  with pytest.raises(DistillError, match="a file of embeddings: there is no encoder to pretrain"):
    stages._encoder(config, tmp_path, fold)


def test_a_teacher_in_the_step_gives_what_is_stored_and_follows_augmentation(smoke, fold, tmp_path):
  teacher = frozen.open_teacher(smoke.folder / "fold0" / "teacher")
  rows = fold_training.usable(fold, _settings(smoke), "train")[0]
  rows = rows.where(np.arange(len(rows)) < 8)
  stored = teacher.vectors(dataclasses.replace(fold, folder=tmp_path))["simulated"][rows.rows]

  def taught(*words):
    config = _settings(smoke, "teacher.in_step=True", *words)
    specs, prepare = stages._in_step(config, [teacher])
    specs = [fold_training.build(config, "student").spec, *specs]
    source = pipeline.TrainingSource([rows], specs, {})
    batch = source.batch(np.arange(8))
    found = jax.jit(prepare)(batch, jax.random.key(0))
    return batch, {name: np.asarray(value) for name, value in found.items()}

  batch, found = taught()
  np.testing.assert_allclose(found["teacher"], stored, atol=1e-4)
  np.testing.assert_array_equal(found["acc"], batch["acc"])
  _, found = taught("augment.time_warp=1.0")
  assert np.abs(found["teacher"] - stored).max() > 1e-2
  for name in ("acc", "ppg"):
    assert (found[name] != batch[name]).any(axis=(1, 2)).all()
  columns = {name: rows.column(name) for name in ("participant", "recording", "t0_s")}
  embeddings.save(EmbeddingTable(stored, columns, "embedding"), tmp_path / "vectors.npz")
  file = frozen.open_teacher(tmp_path / "vectors.npz")
  with pytest.raises(DistillError, match=r"in_step needs encoders; teacher is a file"):
    stages._in_step(_settings(smoke, "teacher.in_step=True"), [file])
