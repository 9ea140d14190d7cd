"""Puts an encoder on a device: files that run without this package; `distill export`.

Each file is one function from raw windows, NaN where a sample is missing, to named outputs; the
preprocessing of the spec is part of it (`distill.nn.preprocess`), so that nobody writes it again.
Every file is loaded back and compared with the encoder before its folder appears.

    model.stablehlo   `jax.export`, any batch; on CPU, GPU and TPU
    model.onnx        jax2onnx, any batch
    model.tflite      jax2tf and the LiteRT converter, one window at a time, built-in operations
    signature.json    inputs, outputs, units, hashes, versions, sizes, and what was measured
    example.npz       windows and what must come out
    README.md         how to run each file
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export
from tqdm import tqdm

from distill import config as configs
from distill import finetune, merge, models, objectives, signals
from distill.errors import DistillError, nearest
from distill.nn import pulse
from distill.nn.encoder import Encoder
from distill.nn.preprocess import preprocess
from distill.spec import PPG, SignalSpec

INPUT = "windows"
EMBEDDING, PROJECTION, RHYTHM, COVERAGE = "embedding", "projection", "rhythm", "coverage"
SIGNATURE, EXAMPLE, README = "signature.json", "example.npz", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
# Of the largest expected value of an output, and at least of 1. Float32 leaves some 1e-6; ours.
TOLERANCE = 1e-4
TIMED, TIMED_S = 21, 5.0  # calls, and seconds after which there are no more
UNITS = {"bpm": "bpm", "ms": "ms", "hz": "Hz", "g": "g", "pct": "%"}  # endings of names of targets

Arrays = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Mapping[str, Any]]


# --- the function ---------------------------------------------------------------------------------


class OnDevice(nnx.Module):
  """An encoder and what stands on it, from raw windows to named outputs.

  Args:
    stored: model folder.
    encoder: of that folder.

  Raises:
    DistillError: a head that does not fit the encoder.
  """

  def __init__(self, stored: models.ModelFolder, encoder: Encoder):
    self.encoder, self.task = encoder, finetune.load_task(stored)
    side = "teacher_head" if encoder.spec.modality == PPG else "student_head"
    self.head = objectives.load_head(stored, side) if stored.part(side) else None
    rows: dict[str, Any] = {EMBEDDING: {"meaning": "zeros: observed too little"}}
    if self.head is not None:
      rows[PROJECTION] = {"meaning": "for retrieval, by cosine"}
    if encoder.rhythm:
      rows[RHYTHM] = {"meaning": "when the beats came", "rate_hz": pulse.RHYTHM_HZ}
    rows[COVERAGE] = {"unit": "share", "meaning": "of the samples that were observed"}
    if self.task is not None:
      rows |= self._task_row(self.task.task, rows)
    self.rows = rows

  @staticmethod
  def _task_row(task: finetune.Task, taken: Mapping[str, Any]) -> dict[str, Any]:
    if task.target in (*taken, INPUT):
      raise DistillError(f"the task of this folder is called {task.target!r}, as another output is")
    if task.classes:
      meaning = {"classes": list(task.classes), "meaning": "logits; NaN: observed too little"}
      return {task.target: meaning}
    unit = UNITS.get(task.target.rpartition("_")[2], "")
    return {task.target: {"unit": unit, "meaning": "NaN: observed too little"}}

  def choose(self, outputs: Sequence[str]) -> tuple[str, ...]:
    """The names that were asked for; if none were, all but projection and rhythm.

    Raises:
      DistillError: one that this model does not have.
    """
    for name in outputs:
      if name not in self.rows:
        raise DistillError(f"this model has no output {name!r}{nearest(name, self.rows)}")
    usual = (name for name in self.rows if name not in (PROJECTION, RHYTHM))
    return tuple(dict.fromkeys(outputs or usual))

  def read(self, signal: jax.Array, mask: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
    """Prepared windows and their mask, both [batch, time, channels], to outputs by name."""
    dim, head, task = self.encoder.dim, self.head, self.task
    beats = head is not None and head.rhythm  # the projection carries them
    both = RHYTHM in names or (beats and PROJECTION in names)
    if set(names) != {COVERAGE}:  # a file holds nothing of what it does not give
      wide = self.encoder.with_rhythm(signal, mask) if both else self.encoder(signal, mask)
    found: dict[str, Callable[[], jax.Array]] = {
      EMBEDDING: lambda: wide[:, :dim],
      RHYTHM: lambda: wide[:, dim:],
      COVERAGE: lambda: jnp.mean(mask.astype(jnp.float32), axis=(1, 2)),
    }
    if head is not None:
      found[PROJECTION] = lambda: head(wide if beats else wide[:, :dim])
    if task is not None:
      found[task.task.target] = lambda: task(wide[:, :dim])
    return {name: found[name]() for name in names}

  def __call__(self, windows: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
    """[batch, time, channels] raw windows, NaN where missing, to outputs by name."""
    return self.read(*preprocess(windows, self.encoder.spec), names)


def examples(spec: SignalSpec, seed: int = 0) -> np.ndarray:
  """Raw windows to compare with: [5, time, channels] float32, drawn and not recorded.

  A pulse and noise on a level, with nothing missing; with a dozen short gaps; with the second
  quarter missing; with the first channel lost in the second half; and with nothing observed.
  """
  rng = np.random.default_rng(seed)
  samples, channels = spec.shape
  turn = 2 * np.pi * 72 / 60 * np.arange(samples)[:, None] / spec.rate_hz
  level, size = rng.normal(size=(2, 4, 1, channels))
  pulses = np.sin(turn) + 0.4 * np.sin(2 * turn + 1.0)
  windows = level + 0.02 * (size * pulses + rng.normal(size=(4, samples, channels)))
  for start in rng.integers(0, samples, size=12):
    windows[1, start : start + samples // 200, rng.integers(channels)] = np.nan
  windows[2, samples // 4 : samples // 2] = np.nan
  windows[3, samples // 2 :, 0] = np.nan
  return np.concatenate([windows, np.full((1, samples, channels), np.nan)]).astype(np.float32)


def expected(model: OnDevice, windows: np.ndarray, names: Sequence[str]) -> Arrays:
  """What must come out: the preprocessing of `distill.signals`, then the encoder."""
  mask = np.isfinite(windows)
  prepared = signals.preprocess(windows, mask, model.encoder.spec)
  found = jax.jit(lambda x, m: model.read(x, m, names))(prepared, mask)
  return {name: np.asarray(values) for name, values in found.items()}


# --- formats --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Format:
  """A kind of file.

  Attributes:
    file: its name.
    packages: modules that writing and checking it need, beside those of this package.
    versions: distributions whose versions are told.
    write: (function of windows, names of outputs, spec, path) -> None.
    load: path -> function of windows.
    usage: Python that runs it, after `example` was read.
    install: what that needs.
  """

  file: str
  packages: tuple[str, ...]
  versions: tuple[str, ...]
  write: Callable[[Callable, tuple[str, ...], SignalSpec, pathlib.Path], None]
  load: Callable[[pathlib.Path], Run]
  usage: str
  install: str


def _write_stablehlo(
  function: Callable, names: tuple[str, ...], spec: SignalSpec, path: pathlib.Path
) -> None:
  del names
  (batch,) = jax_export.symbolic_shape("batch")
  shape = jax.ShapeDtypeStruct((batch, *spec.shape), jnp.float32)
  path.write_bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(shape).serialize())


def _load_stablehlo(path: pathlib.Path) -> Run:
  return jax.jit(jax_export.deserialize(bytearray(path.read_bytes())).call)


def _write_onnx(
  function: Callable, names: tuple[str, ...], spec: SignalSpec, path: pathlib.Path
) -> None:
  to_onnx = importlib.import_module("jax2onnx").to_onnx
  logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of what onnxruntime finds out
  # What it puts in place of JAX's functions while it traces promotes as it likes.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    to_onnx(
      lambda windows: tuple(function(windows)[name] for name in names),
      [("batch", *spec.shape)],
      model_name="encoder",
      input_names=[INPUT],
      output_names=list(names),
      return_mode="file",
      output_path=str(path),
      export_mode="web",  # one file, weights inside
    )


def _load_onnx(path: pathlib.Path) -> Run:
  onnxruntime = importlib.import_module("onnxruntime")
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # errors: what it tidies up on loading concerns nobody
  session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
  names = [output.name for output in session.get_outputs()]
  return lambda windows: dict(zip(names, session.run(names, {INPUT: windows}), strict=True))


def _write_litert(
  function: Callable, names: tuple[str, ...], spec: SignalSpec, path: pathlib.Path
) -> None:
  del names
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  tf = importlib.import_module("tensorflow")
  jax2tf = importlib.import_module("jax.experimental.jax2tf")
  module = tf.Module()
  module.encode = tf.function(
    jax2tf.convert(function, with_gradient=False, native_serialization_platforms=("cpu",)),
    input_signature=[tf.TensorSpec((1, *spec.shape), tf.float32, name=INPUT)],
    autograph=False,
  )
  with tempfile.TemporaryDirectory() as folder:
    tf.saved_model.save(module, folder, signatures={"encode": module.encode})
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["encode"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(converter.convert())


def _load_litert(path: pathlib.Path) -> Run:
  module = importlib.import_module("ai_edge_litert.interpreter")
  encode = module.Interpreter(model_path=str(path)).get_signature_runner("encode")

  def run(windows: np.ndarray) -> Arrays:
    rows = [encode(**{INPUT: windows[i : i + 1]}) for i in range(len(windows))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

  return run


FORMATS = {
  "stablehlo": Format(
    "model.stablehlo",
    (),
    ("jax", "jaxlib"),
    _write_stablehlo,
    _load_stablehlo,
    """\
from jax import export

with open("model.stablehlo", "rb") as file:
  model = export.deserialize(bytearray(file.read()))
outputs = model.call(example["windows"])
""",
    "pip install jax flatbuffers",
  ),
  "onnx": Format(
    "model.onnx",
    ("jax2onnx", "onnxruntime"),
    ("jax2onnx", "onnx", "onnxruntime"),
    _write_onnx,
    _load_onnx,
    """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {"windows": example["windows"]})))
""",
    "pip install numpy onnxruntime",
  ),
  "litert": Format(
    "model.tflite",
    ("tensorflow", "ai_edge_litert"),
    ("tensorflow-cpu", "ai-edge-litert"),
    _write_litert,
    _load_litert,
    """\
from ai_edge_litert.interpreter import Interpreter

encode = Interpreter(model_path="model.tflite").get_signature_runner("encode")
rows = [encode(windows=window[None]) for window in example["windows"]]  # one at a time
outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
""",
    "pip install numpy ai-edge-litert",
  ),
}


# --- the verb -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Written:
  """A file that was written, loaded back and compared.

  Attributes:
    path: of the file.
    size_bytes: of it.
    max_difference: output -> largest difference to the encoder on the example windows.
    ms_per_window: median of single windows on this machine.
  """

  path: pathlib.Path
  size_bytes: int
  max_difference: dict[str, float]
  ms_per_window: float


def export(
  model: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  formats: Sequence[str] = ("stablehlo",),
  outputs: Sequence[str] = (),
  side: str = "students",
) -> list[Written]:
  """Writes the files of a model for a device, each loaded back and compared with the encoder.

  Args:
    model: model folder, folder of a training, or the name of a shipped model.
    out: folder to write; must not hold anything yet. It appears whole or not at all.
    formats: of `FORMATS`.
    outputs: "embedding", "projection", "rhythm", "coverage", or the task of a fine-tuned folder, by
      its target; () = embedding, coverage and the task.
    side: "students" or "teachers", whose model a name means.

  Returns:
    What was written, one for each format.

  Raises:
    DistillError: a model that cannot be read, an unknown format or output, a package that is
      missing, a folder with something in it, a converter that gives up, or a file that does not
      compute what the encoder does.
  """
  out = pathlib.Path(out)
  _check_formats(formats)
  models.check_free(out)
  stored, encoder = find(model, side)
  device = OnDevice(stored, encoder)
  names = device.choose(outputs)
  with _appearing(out) as folder, jax.default_matmul_precision("highest"):
    windows = examples(encoder.spec)
    wanted = expected(device, windows, names)
    written = []
    with tqdm(formats, desc="export", unit="file") as bar:
      for name in bar:
        bar.set_postfix_str(name)
        written.append(_write(name, device, names, folder, windows, wanted))
    example: dict[str, Any] = {INPUT: windows, **wanted}
    np.savez(folder / EXAMPLE, **example)
    signature = _signature(stored, device, names, dict(zip(formats, written)), wanted)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=2))
    (folder / README).write_text(_readme(signature, formats))
  return [dataclasses.replace(one, path=out / one.path.name) for one in written]


def _check_formats(formats: Sequence[str]) -> None:
  if not formats:
    raise DistillError(f"export needs a format; known: {', '.join(FORMATS)}")
  for name in formats:
    if name not in FORMATS:
      raise DistillError(f"no format {name!r}{nearest(name, FORMATS)}")
    missing = [one for one in FORMATS[name].packages if importlib.util.find_spec(one) is None]
    if missing:
      raise DistillError(
        f"format {name} needs {' and '.join(missing)}, not installed here: make an environment of"
        f" its own (python -m venv) and there pip install 'ppg2accel[{name}]'; beside the pinned"
        " versions it does not fit, as jax2onnx holds an older Orbax and TensorFlow is large"
      )


def find(model: str | pathlib.Path, side: str) -> tuple[models.ModelFolder, Encoder]:
  """The folder and the encoder of a model.

  Raises:
    DistillError: see `export`.
  """
  folder = models.find(model, side=side)
  inside = sorted(folder.glob(f"fold*/student/model/{models.SPEC}"))
  if inside and not (folder / models.SPEC).is_file():
    raise DistillError(
      f"{folder} is a work folder; export a model of it, such as {inside[0].parents[1]}"
    )
  return models.read(folder), models.load_encoder(folder)


@contextlib.contextmanager
def _appearing(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder that takes its place when the body ends well, and else leaves nothing."""
  partial = out.with_name(out.name + ".partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  except OSError as error:
    raise DistillError(f"cannot write {out}: {error.strerror}; choose another --out") from error
  try:
    yield partial
    if out.is_dir():
      out.rmdir()
    partial.rename(out)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write(
  name: str,
  device: OnDevice,
  names: tuple[str, ...],
  folder: pathlib.Path,
  windows: np.ndarray,
  wanted: Arrays,
) -> Written:
  kind = FORMATS[name]
  path = folder / kind.file
  try:
    kind.write(lambda raw: device(raw, names), names, device.encoder.spec, path)
    run = kind.load(path)
    got = {output: np.asarray(values) for output, values in run(windows).items()}
  except Exception as error:  # converters raise what they like, and each knows other operations
    reason = (str(error) or type(error).__name__).splitlines()[0]
    other = "" if name == "stablehlo" else "; --format=stablehlo takes every encoder"
    raise DistillError(f"{name}: the converter cannot take this model: {reason}{other}") from error
  difference = _compared(name, got, wanted)
  return Written(path, path.stat().st_size, difference, _milliseconds(run, windows[:1]))


def _compared(name: str, got: Arrays, wanted: Arrays) -> dict[str, float]:
  """Output -> largest difference.

  Raises:
    DistillError: it is above the tolerance, or NaN stands elsewhere.
  """
  found = {}
  for output, values in wanted.items():
    known = np.isfinite(values)
    there = got.get(output, np.zeros(0))
    if there.shape != values.shape or not np.array_equal(known, np.isfinite(there)):
      raise DistillError(f"{name}: output {output} is another than the encoder's; nothing written")
    found[output] = float(np.max(np.abs(there - values)[known], initial=0.0))
    limit = TOLERANCE * max(1.0, float(np.max(np.abs(values[known]), initial=0.0)))
    if not found[output] <= limit:
      raise DistillError(
        f"{name}: output {output} differs from the encoder's by {found[output]:.2g}, more than"
        f" {limit:.2g}; nothing written"
      )
  return found


def _milliseconds(run: Run, window: np.ndarray) -> float:
  jax.block_until_ready(run(window))  # also compiles
  seconds: list[float] = []
  while not seconds or (len(seconds) < TIMED and sum(seconds) < TIMED_S):
    start = time.perf_counter()
    jax.block_until_ready(run(window))
    seconds.append(time.perf_counter() - start)
  return round(1e3 * float(np.median(seconds)), 3)


# --- what stands beside the files -----------------------------------------------------------------


def _signature(
  stored: models.ModelFolder,
  device: OnDevice,
  names: tuple[str, ...],
  written: Mapping[str, Written],
  wanted: Arrays,
) -> dict[str, Any]:
  spec, fields = device.encoder.spec, stored.fields
  described = {
    name: {
      "shape": ["batch", *wanted[name].shape[1:]],
      "dtype": "float32",
      **device.rows[name],
    }
    for name in names
  }
  versions = configs.versions()
  for kind in written:
    versions |= {package: metadata.version(package) for package in FORMATS[kind].versions}
  return {
    "input": {
      "name": INPUT,
      "shape": ["batch", *spec.shape],
      "dtype": "float32",
      "modality": spec.modality,
      "channels": list(spec.channels),
      "unit": spec.unit,
      "rate_hz": spec.rate_hz,
      "window_s": spec.window_s,
      "missing": "NaN",
      "preprocessing": "inside the file: give raw windows",
    },
    "outputs": described,
    "model": {
      "sha256": fields["sha256"],
      "encoder_sha256": merge.fingerprint(stored),
      "build": fields["build"],
      "pair": fields.get("pair", ""),
      "simulated": fields.get("simulated", False),
      "licence": fields.get("licence", "that of the data it was trained on"),
    },
    "files": {
      kind: {
        "file": one.path.name,
        "size_bytes": one.size_bytes,
        "batch": 1 if kind == "litert" else "any",
        "max_difference": one.max_difference,
        "ms_per_window": one.ms_per_window,
      }
      for kind, one in written.items()
    },
    "checked": {
      "windows": f"{EXAMPLE}: {len(wanted[names[0]])} drawn with seed 0, four with gaps",
      "tolerance": f"{TOLERANCE:g} of an output's largest value, at least of 1",
      "timed": f"median of up to {TIMED} single windows on {jax.default_backend()},"
      f" {os.cpu_count()} CPU cores",
    },
    "versions": versions,
  }


def _readme(signature: Mapping[str, Any], formats: Sequence[str]) -> str:
  given = signature["input"]
  lines = [
    "# An encoder for a device",
    "",
    f"Input `{INPUT}`: float32 {_shape(given['shape'])}, {given['modality']} in {given['unit']} at"
    f" {given['rate_hz']:g} Hz, {given['window_s']:g} s, channels {', '.join(given['channels'])},"
    " NaN where a sample is missing. Nothing else needs to be done to it.",
    "",
  ]
  for name, row in signature["outputs"].items():
    words = [row.get("unit", ""), row["meaning"], ", ".join(row.get("classes", []))]
    lines.append(f"- `{name}` {_shape(row['shape'])}: {'; '.join(w for w in words if w)}")
  for name in formats:
    kind = FORMATS[name]
    lines += ["", f"## {kind.file}", "", f"Needs: `{kind.install}`", "", "```python"]
    lines += ["import numpy as np", "", f'example = np.load("{EXAMPLE}")', kind.usage.rstrip()]
    lines += ["for name, values in outputs.items():"]
    lines += ["  np.testing.assert_allclose(values, example[name], rtol=1e-4, atol=1e-4)", "```"]
  lines += ["", f"More in `{SIGNATURE}`. Not a medical device.", ""]
  return "\n".join(lines)


def _shape(shape: Sequence[Any]) -> str:
  return f"[{', '.join(map(str, shape))}]"
