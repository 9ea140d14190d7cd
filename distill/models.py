"""Model folders: encoder weights, the heads of a distilled pair, spec and model card.

    model.safetensors   "encoder.*", and for a distilled student "student_head.*", "teacher_head.*",
                        and what else its objective trained
    spec.json           build function and its arguments, SignalSpec, hashes
    README.md           model card

Loading is strict: every tensor used, shapes equal, or it stops. A missing or partly loaded model
never becomes a random one.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from distill import registry
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.nn.layers import Constant

STORED = (nnx.Param, Constant)
WEIGHTS, SPEC, CARD = "model.safetensors", "spec.json", "README.md"


def parameters(module: nnx.Module) -> dict[str, np.ndarray]:
  """Dotted name -> array of every parameter and stored constant."""
  flat = nnx.to_flat_state(nnx.state(module, STORED))
  return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def assign(module: nnx.Module, tensors: Mapping[str, np.ndarray], *, where: str) -> None:
  """Puts `tensors` in place of every parameter of `module`.

  Raises:
    DistillError: a parameter without a tensor, a tensor without a parameter, or another shape.
  """
  flat = dict(nnx.to_flat_state(nnx.state(module, STORED)))
  names = {".".join(map(str, path)): leaf for path, leaf in flat.items()}
  missing, unused = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
  if missing or unused:
    raise DistillError(
      f"{where} does not fit the model: {len(missing)} missing tensors {missing[:3]},"
      f" {len(unused)} unused tensors {unused[:3]}"
    )
  for name, leaf in names.items():
    if leaf.shape != tensors[name].shape:
      raise DistillError(f"{where}: {name} is {tensors[name].shape}, the model needs {leaf.shape}")
    leaf[...] = jnp.asarray(tensors[name], leaf.dtype)


def digest(tensors: Mapping[str, np.ndarray]) -> str:
  """sha256 over names, shapes, types and values, in the order of names."""
  total = hashlib.sha256()
  for name in sorted(tensors):
    array = np.ascontiguousarray(tensors[name])
    total.update(f"{name} {array.dtype} {array.shape}\n".encode())
    total.update(array.tobytes())
  return total.hexdigest()


def pair_hash(tensors: Mapping[str, np.ndarray]) -> str:
  """Hash of an aligned pair of heads: projections compare only under the same pair."""
  heads = {n: a for n, a in tensors.items() if n.startswith(("student_head.", "teacher_head."))}
  return digest(heads)[:16] if heads else ""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
  """A model folder read back.

  Attributes:
    folder: where it lies.
    fields: spec.json.
    tensors: every tensor of model.safetensors.
  """

  folder: pathlib.Path
  fields: dict[str, Any]
  tensors: dict[str, np.ndarray]

  def part(self, name: str) -> dict[str, np.ndarray]:
    """The tensors under "name.", without that prefix."""
    prefix = name + "."
    return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save(
  folder: pathlib.Path,
  module: Any,
  *,
  build: str,
  arguments: Mapping[str, Any],
  fields: Mapping[str, Any],
  card: str,
) -> None:
  """Writes a model folder.

  Args:
    folder: made if it is not there.
    module: has an `encoder` and whatever else belongs to it.
    build: "package.module:name" that makes the encoder from `arguments`.
    arguments: of `build`.
    fields: further entries of spec.json (participants seen, teacher hash, metrics, ...).
    card: text of the model card.
  """
  tensors = parameters(module)
  encoder: Encoder = module.encoder
  spec = {
    "build": build,
    "arguments": dict(arguments),
    "signal": encoder.spec.to_json(),
    "dim": encoder.dim,
    "rhythm": encoder.rhythm,
    **fields,
  }
  write(folder, tensors, spec, card)


def check_free(folder: str | pathlib.Path) -> None:
  """Refuses a folder for a new model that holds something, which would be lost.

  Raises:
    DistillError: it is a file, or not empty.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise DistillError(f"{folder} is not empty; choose another folder for the model")


def write(
  folder: pathlib.Path, tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any], card: str
) -> None:
  """Writes a model folder from tensors that are already named, with their hashes in spec.json.

  Args:
    folder: made if it is not there.
    tensors: "encoder.*" and whatever else belongs to the model.
    fields: spec.json but for its hashes.
    card: text of the model card.
  """
  folder.mkdir(parents=True, exist_ok=True)
  spec = {**fields, "sha256": digest(tensors), "pair": pair_hash(tensors)}
  save_file(dict(tensors), folder / WEIGHTS)
  (folder / CARD).write_text(card)
  (folder / SPEC).write_text(json.dumps(spec, indent=2, default=list))


def person_hash(who: str) -> str:
  """Of a participant, "set/name", so that judging can refuse people that a model has seen."""
  return hashlib.sha256(who.encode()).hexdigest()[:16]


def learnt_from(*fields: Mapping[str, Any]) -> dict[str, Any]:
  """Whom and what a model has learnt from that grew out of others: sets, simulated, people_seen.

  Args:
    fields: spec.json of each model that it grew out of, and the same of its own training.
  """
  return {
    "sets": list(dict.fromkeys(name for one in fields for name in one.get("sets", []))),
    "simulated": any(one.get("simulated", False) for one in fields),
    "people_seen": sorted({who for one in fields for who in one.get("people_seen", [])}),
  }


def read(folder: str | pathlib.Path) -> ModelFolder:
  """Reads and checks a model folder.

  Raises:
    DistillError: a missing file, unreadable content, or weights that do not match their hash.
  """
  folder = pathlib.Path(folder)
  for name in (WEIGHTS, SPEC):
    if not (folder / name).is_file():
      raise DistillError(f"{folder} is no model folder: {name} is missing")
  try:
    fields = dict(json.loads((folder / SPEC).read_text()))
    tensors = load_file(folder / WEIGHTS)
  except Exception as error:  # safetensors raises its own types for a broken file
    raise DistillError(f"{folder} cannot be read: {error}") from error
  if digest(tensors) != fields.get("sha256"):
    raise DistillError(
      f"{folder / WEIGHTS} does not match the sha256 in {SPEC}: damaged or changed"
    )
  return ModelFolder(folder, fields, tensors)


def model_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """The folder itself, or its model/ when it is the folder of a training."""
  folder = pathlib.Path(folder)
  return folder / "model" if (folder / "model" / SPEC).is_file() else folder


def shipped(root: pathlib.Path, name_or_folder: str | pathlib.Path) -> pathlib.Path:
  """The folder under `root` of a model that is shipped by name, else the folder that is given."""
  found = root / str(name_or_folder)
  if not pathlib.Path(name_or_folder).exists() and (found / SPEC).is_file():
    return found
  return pathlib.Path(name_or_folder)


def find(name_or_folder: str | pathlib.Path, *, side: str) -> pathlib.Path:
  """A model folder, or the one that the package `side` ships under a name, such as "ours".

  Args:
    name_or_folder: a name, a model folder, or the folder of a training; folders go first.
    side: "teachers" or "students".

  Raises:
    DistillError: neither a name nor a model folder.
  """
  root = registry.resolve(f"{side}:WEIGHTS", key=side)
  found = shipped(root, name_or_folder)
  if not found.exists():
    names = sorted(one.parent.name for one in root.glob(f"*/{SPEC}"))
    raise DistillError(
      f"{name_or_folder} is no model folder: {WEIGHTS} is missing; the {side} package ships"
      f" {', '.join(names)}"
    )
  return model_folder(found)


def load_encoder(folder: str | pathlib.Path) -> Encoder:
  """The encoder of a model folder, or of a run folder that holds one under model/.

  Raises:
    DistillError: see `read`; or the weights do not fit the build function.
  """
  folder = model_folder(folder)
  stored = read(folder)
  build = registry.resolve(stored.fields["build"], key="build")
  registry.check_arguments(build, stored.fields["arguments"], key="arguments")
  encoder = build(**stored.fields["arguments"])
  assign(encoder, stored.part("encoder"), where=str(folder / WEIGHTS))
  return encoder
