"""distill.tensorfile: every container read as tensors, nothing executed, nothing guessed."""

import collections
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from distill import tensorfile
from distill.errors import DistillError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture
def torch_names(monkeypatch):
  """Modules that carry the names a PyTorch pickle mentions, so that `pickle` can write them."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

  def _rebuild_tensor_v2(*_):
    raise AssertionError("a reader must not call this")

  _rebuild_tensor_v2.__module__ = "torch._utils"
  _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  for kind in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage"):
    setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)
  return torch


class View:
  """A tensor as PyTorch would write it: a storage and how to look at it."""

  def __init__(self, data, kind="FloatStorage", *, offset=0, size=None, stride=None):
    self.data, self.kind, self.offset = np.ascontiguousarray(data), kind, offset
    self.size = self.data.shape if size is None else size
    steps = [s // self.data.itemsize for s in self.data.strides]
    self.stride = tuple(steps) if stride is None else stride


def write_program(torch, content, *, legacy):
  """The pickle of `content` and its storages as PyTorch writes them: (program, {key: array})."""
  storages, keys = {}, {}

  class Storage:
    def __init__(self, view):
      self.view = view

  class Pickler(pickle.Pickler):
    def reducer_override(self, value):
      if not isinstance(value, View):
        return NotImplemented
      rest = (value.offset, value.size, value.stride, False, collections.OrderedDict())
      return sys.modules["torch._utils"]._rebuild_tensor_v2, (Storage(value), *rest)

    def persistent_id(self, value):
      if not isinstance(value, Storage):
        return None
      data = value.view.data
      key = keys.setdefault(id(data), str(len(keys)))
      storages[key] = data
      pid = ("storage", getattr(torch, value.view.kind), key, "cpu", data.size)
      return (*pid, None) if legacy else pid

  stream = io.BytesIO()
  Pickler(stream, protocol=2).dump(content)
  return stream.getvalue(), storages


def write_zip(path, torch, content, *, order="little"):
  program, storages = write_program(torch, content, legacy=False)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", program)
    archive.writestr("archive/byteorder", order)
    for key, data in storages.items():
      swapped = data if order == "little" else data.byteswap()
      archive.writestr(f"archive/data/{key}", swapped.tobytes())
    archive.writestr("archive/version", "3\n")
  return path


def write_legacy(path, torch, content):
  program, storages = write_program(torch, content, legacy=True)
  system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}
  parts = [pickle.dumps(part, protocol=2) for part in (MAGIC, PROTOCOL, system)]
  parts += [program, pickle.dumps(sorted(storages), protocol=2)]
  for key in sorted(storages):
    parts += [struct.pack("<q", storages[key].size), storages[key].tobytes()]
  path.write_bytes(b"".join(parts))
  return path


def weights(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "conv.weight": rng.standard_normal((4, 3, 5)).astype(np.float32),
    "conv.bias": rng.standard_normal(4).astype(np.float32),
  }


def views(arrays):
  return collections.OrderedDict((name, View(array)) for name, array in arrays.items())


def check_same(read, want):
  assert read.keys() == want.keys()
  for name in want:
    assert read[name].dtype == want[name].dtype
    np.testing.assert_array_equal(read[name], want[name])


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("wrapper", [None, "net", "model", "state_dict", "model_state_dict"])
def test_reads_both_torch_formats_and_wrappers(tmp_path, torch_names, write, wrapper):
  content = views(weights())
  if wrapper:
    optimizer = {
      "state": {0: {"exp_avg": View(np.ones(3, np.float32))}},
      "param_groups": [{"lr": 1}],
    }
    content = {wrapper: content, "optimizer": optimizer, "epoch": 3, "test_loss": 0.5}
  file = tensorfile.read(write(tmp_path / "best.pt", torch_names, content))
  check_same(file.tensors, weights())
  assert file.ignored == (("epoch", "optimizer", "test_loss") if wrapper else ())


@pytest.mark.parametrize(
  "prefix", ["module.", "student.", "module.student.", "model.", "net.module."]
)
def test_strips_prefixes(tmp_path, torch_names, prefix):
  named = {prefix + name: array for name, array in weights().items()}
  check_same(
    tensorfile.read(write_zip(tmp_path / "a.pth", torch_names, views(named))).tensors, weights()
  )
  save_file(named, tmp_path / "a.safetensors")
  check_same(tensorfile.read(tmp_path / "a.safetensors").tensors, weights())


def test_prefix_that_only_some_names_have_stays_unless_it_is_a_wrapper():
  one, two = np.zeros(1), np.ones(1)
  assert tensorfile.strip_prefixes({"model.a": one, "head.a": two}, "x").keys() == {
    "model.a",
    "head.a",
  }
  assert tensorfile.strip_prefixes({"module.a": one, "b": two}, "x").keys() == {"a", "b"}
  with pytest.raises(DistillError, match="two tensors have one name"):
    tensorfile.strip_prefixes({"module.a": one, "a": two}, "x")


def test_views_types_and_byte_order(tmp_path, torch_names):
  base = np.arange(12, dtype=np.float32)
  content = {
    "turned": View(base, size=(4, 3), stride=(1, 4)),
    "part": View(base, offset=2, size=(2, 2), stride=(5, 1)),
    "empty": View(np.zeros(0, np.float32), size=(0, 3), stride=(3, 1)),
    "scalar": View(np.array([7], np.int64), "LongStorage", size=(), stride=()),
    "half": View(np.array([1.5, -2], np.float16), "HalfStorage"),
    "brain": View(np.array([1.5, -2], ml_dtypes.bfloat16), "BFloat16Storage"),
  }
  want = {
    "turned": base.reshape(3, 4).T,
    "part": np.array([[2, 3], [7, 8]], np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
  }
  check_same(tensorfile.read(write_zip(tmp_path / "a.pt", torch_names, content)).tensors, want)
  big = {"turned": content["turned"], "half": content["half"]}
  file = tensorfile.read(write_zip(tmp_path / "b.pt", torch_names, big, order="big"))
  check_same(file.tensors, {name: want[name] for name in big})


@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_beside_and_instead_of_tensors(tmp_path, protocol):
  turned = np.arange(6).reshape(2, 3).T
  content = {"net": weights() | {"turned": turned}, "loss": np.float64(0.25), "best": turned}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
  file = tensorfile.read(tmp_path / "a.pkl")
  check_same(file.tensors, weights() | {"turned": turned})
  assert file.ignored == ("best", "loss")


def test_zip_around_a_checkpoint(tmp_path, torch_names):
  inner = write_zip(tmp_path / "inner.pth", torch_names, views(weights()))
  with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.write(inner, "run/inner.pth")
    archive.writestr("run/notes.txt", "hello")
    archive.writestr("__MACOSX/run/._inner.pth", "x")
  check_same(tensorfile.read(tmp_path / "outer.zip").tensors, weights())
  with zipfile.ZipFile(tmp_path / "outer.zip", "a") as archive:
    archive.write(inner, "run/second.pth")
  with pytest.raises(DistillError, match=r"2 checkpoint files, expected exactly one.*second\.pth"):
    tensorfile.read(tmp_path / "outer.zip")


# --- hostile and damaged files --------------------------------------------------------------------


class Evil:
  """Pickles to a call of anything."""

  def __init__(self, call, *args):
    self.call, self.args = call, args

  def __reduce__(self):
    return self.call, self.args


def hostile(mark: pathlib.Path):
  command = f"touch {mark}"
  return {
    "os": Evil(os.system, command),
    "eval": Evil(eval, f"open({str(mark)!r}, 'w')"),
    "import": Evil(__import__, "os"),
    "open": Evil(open, str(mark), "w"),
  }


@pytest.mark.parametrize("kind", ["os", "eval", "import", "open"])
@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickle_is_refused_by_name_and_not_run(tmp_path, kind, protocol):
  mark = tmp_path / "mark"
  bad = hostile(mark)[kind]
  name = {"os": "system", "eval": "builtins.eval", "import": "__import__", "open": "open"}[kind]
  program = pickle.dumps({"net": {"a": bad}}, protocol=protocol)
  with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
    archive.writestr("archive/data.pkl", program)
  (tmp_path / "bad.pkl").write_bytes(program)
  # A pickle of protocol 0 or 1 has no signature: outside a zip it is not taken for one at all.
  refusal = name if protocol >= 2 else "no checkpoint"
  with pytest.raises(DistillError, match=rf"bad\.pkl.*{refusal}|{refusal}.*bad\.pkl"):
    tensorfile.read(tmp_path / "bad.pkl")
  with pytest.raises(DistillError, match=rf"refused to read .*bad\.pt: it asks for \S*{name}"):
    tensorfile.read(tmp_path / "bad.pt")
  assert not mark.exists()


def program(*lines: bytes) -> bytes:
  return b"\x80\x02" + b"".join(lines) + b"."


@pytest.mark.parametrize(
  ("code", "said"),
  [
    # __setstate__ on a builder: {"_answer": None}, and the slot form of it
    (program(b"ctorch\nSize\n", b"}b"), "sets the state"),
    (program(b"ctorch\nSize\n", b"N}U\x07_answerNs\x86b"), "sets the state"),
    (program(b"ctorch\nFloatStorage\n", b"}b"), "sets the state"),
    (program(b"ctorch.nn\nModule\n"), "torch.nn.Module"),
    (program(b"c__torch__\nNet\n"), "__torch__.Net"),
    (program(b"ctorch.storage\n_load_from_bytes\n", b"U\x01x\x85R"), "_load_from_bytes"),
    (program(b"c_codecs\nencode\n", b"U\x01xU\x05rot13\x86R"), "rot13"),
    (program(b"U\x01xQ"), "expected a storage"),
  ],
)
def test_odd_programs_are_refused(tmp_path, code, said):
  (tmp_path / "a.pt").write_bytes(code)
  with pytest.raises(DistillError, match="refused to read") as caught:
    tensorfile.read(tmp_path / "a.pt")
  assert said in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_tensor_cannot_reach_outside_or_blow_up(tmp_path, torch_names):
  base = np.arange(4, dtype=np.float32)
  for view in (
    View(base, offset=2, size=(3,), stride=(1,)),
    View(base, size=(10**9,), stride=(0,)),
    View(base, offset=-1, size=(2,), stride=(1,)),
    View(base, size=(2,), stride=(-1,)),
  ):
    path = write_zip(tmp_path / "a.pt", torch_names, {"a": view})
    with pytest.raises(DistillError, match="reaches outside its storage"):
      tensorfile.read(path)


def test_damaged_and_foreign_files(tmp_path, torch_names):
  good = write_zip(tmp_path / "good.pt", torch_names, views(weights())).read_bytes()
  legacy = write_legacy(tmp_path / "legacy.pt", torch_names, views(weights())).read_bytes()
  save_file(weights(), tmp_path / "good.safetensors")
  safe = (tmp_path / "good.safetensors").read_bytes()
  circle: dict = {}
  circle["net"] = circle
  cases = {
    "cut.pt": good[: len(good) // 2],
    "cut_legacy.pt": legacy[:-8],
    "cut_program.pt": legacy[:40],
    "cut.safetensors": safe[:-4],
    "empty.pt": b"",
    "text.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "nothing.pkl": pickle.dumps({"epoch": 3}, protocol=2),
    "list.pkl": pickle.dumps([1, 2], protocol=2),
  }
  cases["circle.pkl"] = pickle.dumps(circle, protocol=2)
  for name, data in cases.items():
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DistillError, match=name) as caught:
      tensorfile.read(tmp_path / name)
    assert "\n" not in str(caught.value)
  with pytest.raises(DistillError, match="no checkpoint file at"):
    tensorfile.read(tmp_path / "absent.pt")


# --- files written by PyTorch itself --------------------------------------------------------------


@pytest.mark.parametrize(
  "name",
  [
    "anyppg-tiny-random/anyppg_ckpt.pth",
    "papagei-p-tiny-random/ckpt_ddp.pt",
    "papagei-s-tiny-random/ckpt_ddp.pt",
    "pulseppg-tiny-random/checkpoint_best.pkl",
  ],
)
def test_files_of_torch_equal_their_safetensors(shared_parity, name):
  path = shared_parity / name
  check_same(tensorfile.read(path).tensors, load_file(path.parent / "model.safetensors"))


def test_file_hash_and_what_lies_beside_the_weights(shared_parity):
  import hashlib

  path = shared_parity / "pulseppg-tiny-random" / "checkpoint_best.pkl"
  file = tensorfile.read(path)
  assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
  assert file.ignored == ("epoch", "optimizer", "test_loss")
