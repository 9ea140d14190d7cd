"""Exported files compute what the encoder does, preprocessing included, and run without us."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import students.axes
import students.day
import students.transformer
import teachers.efficientnet
import teachers.gaps
import teachers.transformer
from distill import cli, export, models, objectives, signals
from distill.errors import DistillError
from distill.finetune import FineTuning, Task
from distill.nn import preprocess as device
from distill.nn.encoder import Forward
from distill.spec import SignalSpec
from tests import runs

TINY = {"seed": 1, "width": 8, "depth": 1, "heads": 2, "patch": 300}
SMALL = {"width": 8, "depth": 1, "heads": 2, "filters": 4, "mixes": 2, "waves": 4, "rhythm": 4}
ACC = SignalSpec("acc", 50.0, 4.0, ("x", "y", "z"), "g")
PPG = SignalSpec("ppg", 64.0, 6.0, ("green",), "au", (0.5, 8.0), "zscore")
SPECS = {
  "none": ACC,
  "gravity": dataclasses.replace(ACC, normalisation="gravity"),
  "zscore": dataclasses.replace(ACC, normalisation="zscore", sd_floor=0.005),
  "band": PPG,
  "band3": dataclasses.replace(PPG, band_filter="butterworth3", normalisation="none"),
  "band_of_three": dataclasses.replace(ACC, band_hz=(0.4, 15.0), normalisation="gravity"),
  "pyppg": dataclasses.replace(PPG, rate_hz=125.0, band_hz=(0.5, 12.0), band_filter="pyppg"),
  "pyppg_none": dataclasses.replace(PPG, band_filter="pyppg", normalisation="none"),
}


@pytest.fixture(name="briefly", autouse=True, scope="module")
def _briefly():
  """Times one call: here it is compiled to run slowly."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export, "TIMED", 1)
    yield


def _npz(path):
  with np.load(path) as file:
    return dict(file)


# --- preprocessing --------------------------------------------------------------------------------


@pytest.fixture(name="compiled", scope="module")
def _compiled():
  return {
    name: jax.jit(lambda raw, spec=spec: device.preprocess(raw, spec))
    for name, spec in SPECS.items()
  }


def _assert_same_preprocessing(compiled, name, raw):
  spec, mask = SPECS[name], np.isfinite(raw)
  wanted = signals.preprocess(raw, mask, spec)
  got, seen = map(np.asarray, compiled[name](raw))
  np.testing.assert_array_equal(seen, mask)
  assert np.all(got[~mask] == 0)
  # Float32 rounds what comes in to 6e-8 of its size; what that is of the result depends on by how
  # much the result is smaller, and on what it is divided by.
  raw = np.where(mask, raw, 0.0).astype(np.float64)
  size = np.abs(raw - raw.sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1)).max()
  size += 1e-2 * np.abs(raw).max()  # what a mean of float32 values keeps of a level
  if spec.normalisation == "none":
    size += np.abs(raw).max()
  if spec.normalisation == "zscore":
    loose = signals.preprocess(raw, mask, dataclasses.replace(spec, normalisation="gravity"))
    sd = np.sqrt((loose.astype(np.float64) ** 2).sum(1) / np.maximum(mask.sum(1), 1))
    size /= np.maximum(sd, spec.sd_floor).min()
  np.testing.assert_allclose(got, wanted, rtol=3e-6, atol=3e-6 * size)


@st.composite
def _windows(draw, spec):
  """[2, time, channels]: noise and a wave of any size on any level, with any gaps."""
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  level, size = (10.0 ** draw(st.integers(low, 3)) for low in (-6, -2))
  time_s = np.arange(spec.samples)[:, None] / spec.rate_hz
  shape = (2, *spec.shape)
  wave = np.sin(2 * np.pi * draw(st.floats(0.1, 10.0)) * time_s) + rng.normal(size=shape)
  raw = (level * rng.normal(size=(2, 1, shape[2])) + size * wave).astype(np.float32)
  for _ in range(draw(st.integers(0, 3))):
    start, stop = sorted(draw(st.tuples(*[st.integers(0, spec.samples)] * 2)))
    raw[draw(st.integers(0, 1)), start:stop, draw(st.integers(0, shape[2] - 1))] = np.nan
  scattered = draw(st.sampled_from([0.0, 0.0, 0.1, 0.9, 0.999]))
  raw[rng.random(shape) < scattered] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
  return raw


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_prepares_windows_as_signals_does(compiled, name):
  @hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
  @hypothesis.given(_windows(SPECS[name]))
  def check(raw):
    _assert_same_preprocessing(compiled, name, raw)

  check()


@pytest.mark.parametrize("name", SPECS)
def test_whole_windows_lost_axes_and_nothing_observed(compiled, name):
  raw = np.concatenate([export.examples(SPECS[name], seed=s) for s in range(2)])
  for i in range(0, 10, 2):
    _assert_same_preprocessing(compiled, name, raw[i : i + 2])
  assert not np.any(compiled[name](raw[4:5].repeat(2, 0))[0])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(hnp.arrays(bool, (3, 13, 2)), st.integers(0, 99))
def test_gaps_are_bridged_alike(mask, seed):
  values = np.random.default_rng(seed).normal(size=mask.shape).astype(np.float32)
  got = device.fill_gaps(jnp.asarray(values), jnp.asarray(mask))
  np.testing.assert_allclose(got, signals.fill_gaps(values, mask), atol=2e-6)


def test_the_band_of_a_whole_minute_costs_no_accuracy():
  spec = dataclasses.replace(PPG, window_s=60.0, band_hz=(0.4, 8.0))
  rng = np.random.default_rng(0)
  wander = 1000 + 0.3 * np.cumsum(rng.normal(size=(2, *spec.shape)), axis=1)
  raw = (wander + np.sin(np.arange(spec.samples) / 8)[:, None]).astype(np.float32)
  wanted = signals.preprocess(raw, np.ones(raw.shape, bool), spec)
  got = jax.jit(lambda x: device.preprocess(x, spec)[0])(raw)
  assert np.abs(got - wanted).max() < 2e-4  # the input's own rounding: 6e-5 of a pulse of size 1
  centred = (raw - raw.mean(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
  wanted = signals.preprocess(centred, np.ones(raw.shape, bool), spec)
  got = jax.jit(lambda x: device.preprocess(x, spec)[0])(centred)
  assert np.abs(got - wanted).max() < 5e-6


def test_windows_of_another_shape_are_refused():
  with pytest.raises(DistillError, match=r"expected \[batch, 200, 3\]"):
    device.preprocess(jnp.zeros((1, 199, 3)), ACC)


def test_a_frame_is_seen_if_every_sample_under_its_filters_is():
  stem = students.transformer.build(seed=0, **SMALL).stem
  mask = np.random.default_rng(0).random((2, 3000, 3)) > 0.002
  seen = np.pad(mask.all(axis=2), ((0, 0), (12, 12)), constant_values=True)
  wanted = [seen[:, 5 * f : 5 * f + 29].all(axis=1) for f in range(600)]
  np.testing.assert_array_equal(stem.frames_observed(jnp.asarray(mask)), np.transpose(wanted))


# --- model folders --------------------------------------------------------------------------------


class _Holder(nnx.Module):
  def __init__(self, encoder):
    self.encoder = encoder


def _save(folder, module, build, arguments, **fields):
  models.save(folder, module, build=build, arguments=arguments, fields=fields, card="test")
  return folder


def _student(folder, **fields):
  """A distilled student whose projections carry a rhythm."""
  encoder = students.transformer.build(seed=1, **SMALL)
  zeros, ones = np.zeros(5, np.float32), np.ones(5, np.float32)
  sizes = {"hidden": 8, "dim": 6, "rngs": nnx.Rngs(2), "rhythms": (True,)}
  rest = {"contrastive": 1.0, "temperature": 0.1, "direction": 0.5, "regression": 0.0}
  module = objectives.Distillation(
    encoder, teacher_mean=zeros, teacher_sd=ones, regression_kind="mse", **sizes, **rest
  )
  return _save(folder, module, "students.transformer:build", {"seed": 1, **SMALL}, **fields)


def finetuned(folder, task):
  """Of the smallest encoder: what is tested with it lies beyond the encoder."""
  encoder = students.axes.build_patches(**TINY)
  rng = np.random.default_rng(0)
  mean, sd = rng.normal(size=encoder.dim), 1 + rng.random(encoder.dim)
  module = FineTuning(encoder, task, mean=mean, sd=sd, rngs=nnx.Rngs(3))
  fields = {"task": dataclasses.asdict(task), "role": "finetuned"}
  return _save(folder, module, "students.axes:build_patches", TINY, **fields)


@pytest.fixture(name="student", scope="module")
def _student_folder(tmp_path_factory):
  return _student(tmp_path_factory.mktemp("student") / "model")


@pytest.fixture(name="small", scope="module")
def _small_folder(tmp_path_factory):
  return finetuned(tmp_path_factory.mktemp("small") / "model", Task("hr_bpm", mean=72.0, sd=11.0))


@pytest.fixture(name="done", scope="module")
def _done(tmp_path_factory, student):
  """The student with all outputs, written once."""
  out = tmp_path_factory.mktemp("export") / "device"
  names = ("embedding", "projection", "rhythm", "coverage")
  (written,) = export.export(student, out, outputs=names)
  return out, written


def _read(out):
  """(outputs of the file for any windows, signature, example)."""
  run = export.FORMATS["stablehlo"].load(out / "model.stablehlo")
  return run, json.loads((out / "signature.json").read_text()), _npz(out / "example.npz")


def _prepared(encoder, windows):
  mask = np.isfinite(windows)
  return signals.preprocess(windows, mask, encoder.spec), mask


def test_a_student_gives_its_vectors_heads_and_rhythm(done, student):
  out, written = done
  assert sorted(path.name for path in out.iterdir()) == [
    *("README.md", "example.npz", "model.stablehlo", "signature.json"),
  ]
  run, signature, example = _read(out)
  encoder, stored = models.load_encoder(student), models.read(student)
  for windows in (example["windows"], export.examples(encoder.spec, seed=7)):
    got = {name: np.asarray(values) for name, values in run(windows).items()}
    wide = Forward(encoder, batch_size=5, rhythm=True)(*_prepared(encoder, windows))
    head = objectives.load_head(stored, "student_head")
    np.testing.assert_allclose(got["embedding"], wide[:, : encoder.dim], atol=1e-4)
    np.testing.assert_allclose(got["rhythm"], wide[:, encoder.dim :], atol=1e-4)
    np.testing.assert_allclose(got["projection"], head(jnp.asarray(wide)), atol=1e-4)
    np.testing.assert_allclose(got["coverage"], np.isfinite(windows).mean(axis=(1, 2)), atol=1e-6)
  assert not np.any(example["embedding"][4])
  assert np.all(np.any(example["embedding"][:4] != 0, axis=1))
  given = signature["input"]
  assert (given["unit"], given["rate_hz"], given["window_s"]) == ("g", 50.0, 60.0)
  assert signature["model"]["sha256"] == stored.fields["sha256"]
  shapes = {name: row["shape"] for name, row in signature["outputs"].items()}
  assert shapes["rhythm"] == ["batch", 600]
  assert shapes == {name: ["batch", *example[name].shape[1:]] for name in shapes}
  file = signature["files"]["stablehlo"]
  assert file["size_bytes"] == (out / "model.stablehlo").stat().st_size == written.size_bytes
  assert file["ms_per_window"] > 0
  assert max(file["max_difference"].values()) < 1e-4


def _blocks(out):
  return re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)


def test_the_readme_runs_where_this_package_and_flax_are_refused(done):
  out, _ = done
  (code,) = _blocks(out)
  refuse = """
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("distill", "flax", "students", "teachers", "scipy.signal"):
      raise AssertionError(name + " is imported")
sys.meta_path.insert(0, Refuse())
"""
  environment = {**os.environ, "XLA_FLAGS": runs.COMPILE_FAST}
  environment.pop("PYTHONPATH", None)
  end = "\nprint(sorted(outputs))"
  words = [sys.executable, "-c", refuse + code + end]
  told = subprocess.run(words, cwd=out, env=environment, capture_output=True, text=True)
  assert told.returncode == 0, told.stderr
  assert told.stdout.strip() == "['coverage', 'embedding', 'projection', 'rhythm']"


def test_a_task_comes_in_its_own_unit(small, tmp_path):
  export.export(small, tmp_path / "device")
  run, signature, example = _read(tmp_path / "device")
  assert list(signature["outputs"]) == ["embedding", "coverage", "hr_bpm"]
  assert signature["outputs"]["hr_bpm"]["unit"] == "bpm"
  assert signature["outputs"]["hr_bpm"]["shape"] == ["batch"]
  encoder, tensors = models.load_encoder(small), models.read(small).tensors
  embedding = np.asarray(encoder(*_prepared(encoder, example["windows"])))
  standard = (embedding - tensors["standardise.mean"]) / tensors["standardise.sd"]
  wanted = 72.0 + 11.0 * (standard @ tensors["head.kernel"] + tensors["head.bias"])[:, 0]
  for rows in (slice(0, 5), slice(1, 5)):
    got = np.asarray(run(example["windows"][rows])["hr_bpm"])
    np.testing.assert_allclose(got[:-1], wanted[rows][:-1], rtol=1e-4)
    assert np.isnan(got[-1]), "nothing was observed: no heart rate"


def test_classes_come_as_logits_with_their_names(tmp_path):
  folder = finetuned(tmp_path / "model", Task("activity", classes=("rest", "run", "walk")))
  export.export(folder, tmp_path / "device", outputs=("activity",))
  _, signature, example = _read(tmp_path / "device")
  assert signature["outputs"]["activity"]["classes"] == ["rest", "run", "walk"]
  assert list(signature["outputs"]) == ["activity"]
  assert example["activity"].shape == (5, 3)
  assert "rest, run, walk" in (tmp_path / "device" / "README.md").read_text()


BUILDS = {
  "axes": lambda: students.axes.build(seed=0, width=8, depth=1, heads=2, filters=4, waves=4),
  "patches": lambda: students.axes.build_patches(seed=0, width=8, depth=1, heads=2),
  "profile": lambda: students.transformer.build(seed=0, profile=True, **SMALL),
  "day": lambda: students.day.build(seed=0, width=8, depth=1, heads=2, patch=60),
  "teacher": lambda: teachers.transformer.build(seed=0, width=8, depth=1, heads=2),
  "gaps": lambda: teachers.gaps.build(seed=0, width=8, depth=1, heads=2),
  "efficientnet": lambda: teachers.efficientnet.build(seed=0, widths=(8, 8), depths=(1, 1)),
}


@pytest.mark.parametrize("name", BUILDS)
def test_every_family_of_ours_becomes_a_file_for_any_batch_and_device(name, tmp_path):
  encoder, path = BUILDS[name](), tmp_path / "model.stablehlo"
  function = lambda raw: {"all": encoder.with_rhythm(*device.preprocess(raw, encoder.spec))}  # noqa: E731
  kind = export.FORMATS["stablehlo"]
  kind.write(function, ("all",), encoder.spec, path)
  read = jax.export.deserialize(bytearray(path.read_bytes()))
  assert read.platforms == ("cpu", "cuda", "tpu")
  assert [str(one.shape[0]) for one in (*read.in_avals, *read.out_avals)] == ["batch", "batch"]
  if name not in ("patches", "teacher"):
    return  # to compile the others takes long, and the encoder is the same
  windows = export.examples(encoder.spec)[[0, 4, 1, 3]]
  wide = Forward(encoder, batch_size=4, rhythm=True)(*_prepared(encoder, windows))
  np.testing.assert_allclose(kind.load(path)(windows)["all"], wide, atol=2e-4)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(name="refused")
def _refused(capsys):
  def run(*words):
    assert cli.main(["export", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1].removeprefix("distill: ")

  return run


def test_the_shipped_student_in_one_command(tmp_path, capsys):
  assert cli.main(["export", "ours", f"--out={tmp_path}/device", "--outputs=coverage"]) == 0
  captured = capsys.readouterr()
  assert re.match(r".*model\.stablehlo: 0\.0\d MB, .* ms a window here, within", captured.out)
  assert "export" in captured.err
  assert os.listdir(tmp_path) == ["device"]


def test_what_cannot_be_exported_is_told_and_leaves_nothing(refused, small, tmp_path):
  out = f"--out={tmp_path}/device"
  assert "no model folder: model.safetensors is missing" in refused("absent", out)
  assert "no format 'onx'; did you mean 'onnx'?" in refused(small, out, "--format=onx")
  told = refused(small, out, "--outputs=embeding")
  assert "this model has no output 'embeding'; did you mean 'embedding'?" in told
  assert "has no output 'rmssd_ms'" in refused(small, out, "--outputs=rmssd_ms")
  (tmp_path / "file").write_text("mine")
  assert "is not empty; choose another folder" in refused(small, f"--out={tmp_path}/file")
  assert f"cannot write {tmp_path}/file/x" in refused(small, f"--out={tmp_path}/file/x")
  assert "is not empty; choose another folder" in refused(small, f"--out={tmp_path}")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
  assert "--out" in refused(small)


def test_a_work_folder_names_its_student(refused, tmp_path):
  _student(tmp_path / "run" / "fold0" / "student" / "model")
  told = refused(tmp_path / "run", f"--out={tmp_path}/device")
  assert f"is a work folder; export a model of it, such as {tmp_path}/run/fold0/student" in told


def test_a_missing_package_is_told_with_what_to_install(refused, small, tmp_path, monkeypatch):
  found = export.importlib.util.find_spec
  gone = ("jax2onnx", "tensorflow")
  monkeypatch.setattr(
    export.importlib.util, "find_spec", lambda name: None if name in gone else found(name)
  )
  for name, package in (("onnx", "jax2onnx"), ("litert", "tensorflow")):
    told = refused(small, f"--out={tmp_path}/device", f"--format=stablehlo,{name}")
    assert f"format {name} needs {package}" in told
    assert f"pip install 'ppg2accel[{name}]'" in told
  assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_stops_it(refused, small, tmp_path, monkeypatch):
  kind = export.FORMATS["stablehlo"]

  def spoilt(change):
    def load(path):
      run = kind.load(path)
      return lambda windows: {name: change(name, value) for name, value in run(windows).items()}

    return dataclasses.replace(kind, load=load)

  for change, expected in (
    (lambda name, value: value + 1e-3 * (name == "coverage"), "output coverage differs from"),
    (lambda name, value: value[:, :3] if name == "embedding" else value, "is another than"),
    (lambda name, value: jnp.where(value == 0, jnp.nan, value), "is another than"),
  ):
    monkeypatch.setitem(export.FORMATS, "stablehlo", spoilt(change))
    assert expected in refused(small, f"--out={tmp_path}/device")
    assert not list(tmp_path.iterdir())

  def gives_up(*_):
    raise NotImplementedError("no such operation\nand more")

  monkeypatch.setitem(export.FORMATS, "stablehlo", dataclasses.replace(kind, write=gives_up))
  told = refused(small, f"--out={tmp_path}/device")
  assert told == "stablehlo: the converter cannot take this model: no such operation"
  assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_a_killed_export_is_cleared(small, tmp_path):
  (tmp_path / "device").mkdir()
  (tmp_path / "device.partial").mkdir()
  (tmp_path / "device.partial" / "old").write_text("")
  export.export(small, tmp_path / "device", outputs=("coverage",))
  assert os.listdir(tmp_path) == ["device"]
  assert "old" not in os.listdir(tmp_path / "device")


# --- converters that are installed elsewhere ------------------------------------------------------


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_optional_formats(name, student, small, tmp_path):
  for package in export.FORMATS[name].packages:
    pytest.importorskip(package, reason=f"pip install 'ppg2accel[{name}]', in an environment apart")
  outputs = ("embedding", "projection", "rhythm", "coverage")
  (written,) = export.export(student, tmp_path / "device", formats=[name], outputs=outputs)
  assert max(written.max_difference.values()) < 1e-3
  example = _npz(tmp_path / "device" / "example.npz")
  space = {}
  here = os.getcwd()
  os.chdir(tmp_path / "device")
  try:
    exec(_blocks(tmp_path / "device")[0], space)
  finally:
    os.chdir(here)
  assert set(space["outputs"]) == set(outputs)
  np.testing.assert_allclose(space["outputs"]["rhythm"], example["rhythm"], atol=1e-4)
  export.export(small, tmp_path / "task", formats=[name])
  assert np.isnan(_npz(tmp_path / "task" / "example.npz")["hr_bpm"][4]), "nothing was observed"
  # The band-pass of a teacher is part of the file as well.
  encoder = teachers.transformer.build(seed=0, width=8, depth=1, heads=2)
  teacher = _save(
    tmp_path / "teacher",
    _Holder(encoder),
    "teachers.transformer:build",
    {"seed": 0, "width": 8, "depth": 1, "heads": 2},
  )
  export.export(teacher, tmp_path / "other", formats=[name], outputs=("embedding", "rhythm"))
