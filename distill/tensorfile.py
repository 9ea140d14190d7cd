"""Tensors out of other people's checkpoint files, without PyTorch and without executing anything.

    .safetensors                      as it is
    .pt .pth .pkl .mdl .bin .ckpt     PyTorch's zip format (1.6 on) and the pickle stream before it
    .zip                              one of those inside

A pickle is a program. Here it may only name the handful of things in `_KNOWN`, and each of them is
answered by an inert stand-in of ours; anything else is refused by name. Tensors are read when the
state dict is known, so that optimizer states cost nothing. This file does not know any model.
"""

import dataclasses
import hashlib
import io
import math
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from distill.errors import DistillError

SUFFIXES = (".safetensors", ".pt", ".pth", ".pkl", ".mdl", ".bin", ".ckpt")
# Where a training script puts the weights inside its checkpoint; the first that is there is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "trained_net", "module", "student")
# Wrappers in front of every name (module: data parallel; _orig_mod: torch.compile).
ANYWHERE = ("module", "student", "_orig_mod")
COMMON = ("model", "net", "state_dict")

_STORAGES = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Damaged(Exception):
  """Bytes that contradict themselves."""


_BROKEN = (_Damaged, zipfile.BadZipFile, zlib.error, KeyError, struct.error, SafetensorError)


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """The state dict of a checkpoint file.

  Attributes:
    path: the file read.
    sha256: of that file.
    tensors: name -> array, wrappers such as "module." taken off the names.
    ignored: what else the file held beside the state dict (optimizer, epoch, ...), sorted.
  """

  path: pathlib.Path
  sha256: str
  tensors: dict[str, np.ndarray]
  ignored: tuple[str, ...]


def read(path: str | pathlib.Path) -> TensorFile:
  """The tensors of a checkpoint file of any of the kinds above.

  Raises:
    DistillError: no such file, a damaged or unknown one, one that asks for anything but tensors,
      or one without a state dict.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise DistillError(f"no checkpoint file at {path}; pass the file with the weights")
  data = path.read_bytes()
  try:
    content = _content(data, str(path))
    state, ignored = _state_dict(content, str(path))
    tensors = {name: _array(value) for name, value in state.items()}
  except _BROKEN as error:
    raise DistillError(f"{path} is damaged or cut short ({error}); fetch it again") from error
  tensors = strip_prefixes(tensors, str(path))
  return TensorFile(path, hashlib.sha256(data).hexdigest(), tensors, ignored)


def _content(data: bytes, where: str) -> Any:
  """What the bytes hold: for PyTorch files, containers with `_Tensor` leaves."""
  if data[:4] == b"PK\x03\x04":
    return _zip(zipfile.ZipFile(io.BytesIO(data)), where)
  if len(data) > 8 and data[8:9] == b"{":
    return load_safetensors(data)
  if data[:1] == b"\x80":
    return _pickle_stream(data, where)
  raise DistillError(
    f"{where} is no checkpoint this program reads; expected {', '.join(SUFFIXES)} or a .zip of one"
  )


def _zip(archive: zipfile.ZipFile, where: str) -> Any:
  names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
  programs = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
  if programs:
    return _torch_zip(archive, programs[0], where)
  inside = [name for name in names if name.endswith(SUFFIXES)]
  if len(inside) != 1:
    raise DistillError(
      f"{where} holds {len(inside)} checkpoint files, expected exactly one: unpack it and pass the"
      f" file itself; inside: {', '.join((inside or names)[:5])}"
    )
  return _content(archive.read(inside[0]), f"{where}:{inside[0]}")


def _torch_zip(archive: zipfile.ZipFile, program: str, where: str) -> Any:
  root = program.removesuffix("data.pkl")
  big = f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big"

  def storage(kind: str, key: str, numel: int) -> _Storage:
    return _Storage(kind, numel, lambda: archive.read(f"{root}data/{key}"), big)

  return _unpickle(io.BytesIO(archive.read(program)), storage, where)


def _pickle_stream(data: bytes, where: str) -> Any:
  """PyTorch before 1.6: magic, protocol, system, object, storage keys, then the storages' bytes."""
  stream = io.BytesIO(data)
  first = _unpickle(stream, None, where)
  if first != _LEGACY_MAGIC:
    return first  # a plain pickle of arrays
  _unpickle(stream, None, where)
  system = _unpickle(stream, None, where)
  big = isinstance(system, dict) and system.get("little_endian") is False
  found: dict[str, bytes] = {}
  itemsizes: dict[str, int] = {}

  def storage(kind: str, key: str, numel: int) -> _Storage:
    made = _Storage(kind, numel, lambda: found[key], big)
    itemsizes[key] = made.dtype.itemsize
    return made

  content = _unpickle(stream, storage, where)
  for key in _unpickle(stream, None, where):
    (numel,) = struct.unpack("<q", stream.read(8))
    found[key] = stream.read(numel * itemsizes[key])
  return content


# --- the unpickler ------------------------------------------------------------------------------


class _Inert:
  """Base of the stand-ins: built from arguments of ours, and nothing a pickle does alters one."""

  def __setstate__(self, state: Any) -> None:
    raise DistillError("it sets the state of an object that has none")


class _Call(_Inert):
  """A name a pickle may call. No type and no function, so it cannot be subclassed or patched."""

  __slots__ = ("_answer",)
  _answer: Callable[..., Any]

  def __init__(self, answer: Callable[..., Any]):
    object.__setattr__(self, "_answer", answer)

  def __setattr__(self, name: str, value: Any) -> None:
    raise DistillError(f"it patches {name!r} of a builder")

  def __call__(self, *args: Any) -> Any:
    return self._answer(*args)


class _Name(_Inert):
  """A name a pickle may mention and not call: a storage type."""

  __slots__ = ("name",)

  def __init__(self, name: str):
    self.name = name


class _Dict(dict):
  """OrderedDict's stand-in; the `_metadata` that PyTorch hangs on it is let go."""

  def __setstate__(self, state: Any) -> None:
    del state


class _Storage(_Inert):
  """A stretch of memory that tensors are views of, read when asked for."""

  def __init__(self, kind: str, numel: int, data: Callable[[], bytes], big_endian: bool):
    self.dtype = np.dtype(_STORAGES[kind])
    self.numel, self._data, self._big = numel, data, big_endian

  def read(self) -> np.ndarray:
    data = self._data()
    if len(data) != self.numel * self.dtype.itemsize:
      raise _Damaged(f"a storage of {len(data)} bytes, not {self.numel} x {self.dtype.itemsize}")
    array = np.frombuffer(data, self.dtype)
    return array.byteswap() if self._big else array


class _Tensor(_Inert):
  """A view of a storage: offset, size and stride in elements."""

  def __init__(self, storage: _Storage, offset: int, size: Iterable[int], stride: Iterable[int]):
    self.storage, self.offset = storage, offset
    self.size, self.stride = tuple(size), tuple(stride)

  def read(self) -> np.ndarray:
    flat = self.storage.read()
    reach = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
    negative = min((self.offset, *self.size, *self.stride)) < 0
    # A stride of 0 could blow a small file up to any size: no view larger than what it views.
    if negative or math.prod(self.size) > len(flat) or (0 not in self.size and reach >= len(flat)):
      raise _Damaged(f"a tensor of shape {self.size} reaches outside its storage")
    strides = [s * flat.itemsize for s in self.stride]
    view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, strides)
    return np.ascontiguousarray(view).reshape(self.size)


class _NumpyType(_Inert):
  """numpy.dtype, for the NumPy numbers that training scripts leave beside the weights."""

  def __init__(self, code: str, *_: Any):
    self.dtype = np.dtype(code)
    if self.dtype.kind not in "fiub":
      raise DistillError(f"it holds a NumPy array of type {code!r}, expected numbers")

  def __setstate__(self, state: tuple) -> None:
    self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray(_Inert):
  """numpy.ndarray, filled by the state that follows it in a pickle."""

  def __init__(self, *_: Any):
    self.array = np.zeros(0)

  def __setstate__(self, state: tuple) -> None:
    _, shape, kind, fortran, data = state
    array = np.frombuffer(data, kind.dtype)
    self.array = array.reshape(shape, order="F" if fortran else "C")

  def read(self) -> np.ndarray:
    return np.ascontiguousarray(self.array)


def _numpy_scalar(kind: _NumpyType, data: bytes) -> float:
  return np.frombuffer(data, kind.dtype)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
  """_codecs.encode, which is how pickles of protocol 2 write bytes."""
  if encoding != "latin1":
    raise DistillError(f"it encodes text as {encoding!r}, expected 'latin1'")
  return text.encode("latin1")


def _rebuild_tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> _Tensor:
  return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
  return tensor


_KNOWN: dict[str, _Inert] = {
  "collections.OrderedDict": _Call(_Dict),
  "collections.defaultdict": _Call(lambda *_: _Dict()),
  "builtins.set": _Call(set),
  "_codecs.encode": _Call(_latin1),
  "torch.Size": _Call(tuple),
  "torch.device": _Call(lambda *args: ":".join(map(str, args))),
  "torch._utils._rebuild_tensor": _Call(_rebuild_tensor),
  "torch._utils._rebuild_tensor_v2": _Call(_rebuild_tensor),
  "torch._utils._rebuild_parameter": _Call(_rebuild_parameter),
  "numpy.dtype": _Call(_NumpyType),
  "numpy.ndarray": _Name("ndarray"),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
  _KNOWN[f"{_module}.scalar"] = _Call(_numpy_scalar)
  _KNOWN[f"{_module}._reconstruct"] = _Call(_NumpyArray)
for _kind in _STORAGES:
  _KNOWN[f"torch.{_kind}"] = _Name(_kind)


class _Unpickler(pickle.Unpickler):
  def __init__(self, stream: io.BytesIO, storage: Callable[..., _Storage] | None):
    super().__init__(stream, encoding="utf-8")
    self._storage = storage
    self._storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> _Inert:
    module = {"__builtin__": "builtins"}.get(module, module)  # Python 2's name
    if f"{module}.{name}" not in _KNOWN:
      raise DistillError(f"it asks for {module}.{name}, which is no tensor")
    return _KNOWN[f"{module}.{name}"]

  def persistent_load(self, pid: tuple) -> _Storage:
    if self._storage is None or not isinstance(pid, tuple) or pid[0] != "storage":
      raise DistillError(f"it refers to {str(pid)[:60]!r}, expected a storage")
    _, kind, key, _, numel, *view = pid
    if any(view):
      raise DistillError("it holds views of storages, as PyTorch wrote before 0.4")
    if key not in self._storages:
      self._storages[key] = self._storage(kind.name, key, numel)
    return self._storages[key]


def _unpickle(stream: io.BytesIO, storage: Callable[..., _Storage] | None, where: str) -> Any:
  try:
    return _Unpickler(stream, storage).load()
  except DistillError as error:
    raise DistillError(
      f"refused to read {where}: {error}; nothing of it was executed. If you trust its origin, save"
      " the plain state dict of the model and pass that"
    ) from error
  except Exception as error:  # a broken pickle makes the unpickler raise almost anything
    raise _Damaged(f"its pickle cannot be read: {error!r}") from error


# --- from content to named tensors ----------------------------------------------------------------


def _array(value: Any) -> np.ndarray:
  return value.read() if isinstance(value, _Tensor | _NumpyArray) else np.asarray(value)


def _is_tensor(value: Any) -> bool:
  return isinstance(value, _Tensor | _NumpyArray | np.ndarray)


def _state_dict(content: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
  """The mapping of names to tensors inside `content`, and the names of everything else."""
  ignored: list[str] = []
  for _ in WRAPPERS:  # bounded: a pickle may hold itself
    inner = content if isinstance(content, Mapping) else {}
    wrapper = next((w for w in WRAPPERS if isinstance(inner.get(w), Mapping)), None)
    if wrapper is None:
      break
    ignored += [str(name) for name in content if name != wrapper]
    content = content[wrapper]
  held = dict(content) if isinstance(content, Mapping) else {}
  tensors = {str(name): value for name, value in held.items() if _is_tensor(value)}
  if not tensors:
    raise DistillError(
      f"{where} holds no state dict, also not under {', '.join(WRAPPERS)}; found"
      f" {', '.join(map(str, list(held)[:5])) or type(content).__name__}"
    )
  return tensors, tuple(sorted(ignored + [str(n) for n in held if str(n) not in tensors]))


def strip_prefixes(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
  """Names without the wrappers of `ANYWHERE`, and without those of `COMMON` that all names share.

  Raises:
    DistillError: two names become one.
  """
  named = dict(tensors)
  while True:
    short = {_without(name, ANYWHERE) for name in named}
    heads = {name.partition(".")[0] for name in short}
    shared = tuple(heads) if len(heads) == 1 and heads <= set(COMMON) else ()
    renamed = {_without(_without(name, ANYWHERE), shared): value for name, value in named.items()}
    if len(renamed) != len(named):
      raise DistillError(f"{where}: two tensors have one name once 'module.' and the like are gone")
    if renamed.keys() == named.keys():
      return renamed
    named = renamed


def _without(name: str, heads: Iterable[str]) -> str:
  head, dot, rest = name.partition(".")
  return rest if dot and head in heads else name
