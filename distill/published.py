"""Public pretrained encoders: what a family is, how its checkpoint becomes an encoder or a folder.

A family says how its network is built from the shapes in its checkpoint, which tensors it leaves
out knowingly, and under which licence its weights are. This file knows no family: `teachers` and
`students` list theirs. Nothing is ever downloaded, and a checkpoint that does not fit to the last
tensor is an error, never a partly random encoder.
"""

import dataclasses
import inspect
import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from distill import models, registry, tensorfile
from distill.errors import DistillError, nearest
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec

Tensors = dict[str, np.ndarray]
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder
COUNTERS = r"(.*\.)?num_batches_tracked"  # training counters of PyTorch's batch norm


@dataclasses.dataclass(frozen=True)
class Family:
  """A family of public encoders.

  Attributes:
    name: what `load` calls it.
    build: "package.module:name"; takes the arguments that `convert` finds, `window_s`, `output` and
      what further options there are.
    spec: the signal it was trained on; its window is one piece.
    convert: tensors of the checkpoint (and the content of `config`) -> arguments of `build`, read
      from their shapes, and the tensors under the names of the parameters; may stack tensors.
    dropped: patterns of tensors in the checkpoint that the embedding does not use.
    outputs: which vectors can be the embedding; the first is the default.
    embedding: size of the published model's embedding, in words.
    licence: of code and weights, in words.
    commercial: "yes", "no" or "unclear": may the weights be used commercially.
    weights: where they are published.
    reference: paper or repository the description follows.
    config: for families published as Hugging Face folders, the JSON file beside the weights that
      `convert` takes as its second argument; "" = a checkpoint is one file and its shapes tell all.
  """

  name: str
  build: str
  spec: SignalSpec
  convert: Callable[..., tuple[dict[str, Any], Tensors]]
  dropped: tuple[str, ...]
  outputs: tuple[str, ...]
  embedding: str
  licence: str
  commercial: str
  weights: str
  reference: str
  config: str = ""

  @property
  def input(self) -> str:
    """The signal it expects, in one line."""
    spec = self.spec
    band = "no filter" if spec.band_hz is None else f"{spec.band_hz[0]:g}-{spec.band_hz[1]:g} Hz"
    return f"{spec.modality}, {spec.rate_hz:g} Hz, {spec.window_s:g} s, {band}, {spec.unit}"

  @property
  def notice(self) -> str:
    """What to say about the licence whenever weights of this family are taken in."""
    said = {
      "yes": "commercial use is allowed",
      "no": "COMMERCIAL USE IS FORBIDDEN",
      "unclear": "COMMERCIAL USE IS NOT CLEARED: ask the authors first",
    }
    return f"{self.name}: {self.licence}; {said[self.commercial]}. Weights: {self.weights}"


@dataclasses.dataclass(frozen=True)
class Imported:
  """What `import_to` did.

  Attributes:
    folder: the model folder written.
    sha256: of the checkpoint.
    dropped: tensors knowingly left out.
    notice: licence note to show.
  """

  folder: pathlib.Path
  sha256: str
  dropped: tuple[str, ...]
  notice: str


def count(tensors: Tensors, pattern: str) -> int:
  """How many different numbers `pattern`, a regular expression, finds at the start of the names."""
  return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def find(families: Mapping[str, Family], name: str) -> Family:
  """The family of that name.

  Raises:
    DistillError: there is none.
  """
  if name not in families:
    raise DistillError(f"no public encoder family is called {name!r}{nearest(name, families)}")
  return families[name]


def load(
  families: Mapping[str, Family],
  name_or_folder: str | pathlib.Path,
  path: str | pathlib.Path | None = None,
  *,
  window_s: float | None = None,
  output: str | Sequence[str] | None = None,
  weights: pathlib.Path | None = None,
  **options: Any,
) -> Encoder:
  """An encoder: of a model folder, or of a family and its checkpoint.

  Args:
    families: what is known by name.
    name_or_folder: a model folder or run folder, or the name of a shipped model; with `path`, the
      name of a family.
    path: checkpoint of that family, as published: a file, or for some a folder.
    window_s: seconds a window of the encoder lasts; None = what the family was trained on. Longer
      windows are cut into the family's pieces and their embeddings averaged.
    output: which of the family's vectors is the embedding; None = its default. Some families take
      several and join them.
    weights: folder of the models that are shipped by name.
    **options: what else the family's `build` takes, such as the rate factor of a speech encoder.

  Raises:
    DistillError: unknown name, no such file or folder, or a checkpoint that does not fit.
  """
  if path is not None:
    family = find(families, str(name_or_folder))
    logging.getLogger(__name__).warning(family.notice)
    return _convert(family, path, {"window_s": window_s, "output": output, **options}).encoder
  if window_s is not None or output is not None or options:
    given = ", ".join(["window_s", "output", *options])
    raise DistillError(f"{given} are fixed in a model folder; give them at its import")
  if str(name_or_folder) in families and not pathlib.Path(name_or_folder).exists():
    family = families[str(name_or_folder)]
    raise DistillError(
      f"{family.name} needs the path of its checkpoint: load({family.name!r}, path); published at"
      f" {family.weights}"
    )
  return models.load_encoder(models.shipped(weights or pathlib.Path(), name_or_folder))


def import_to(
  family: Family,
  source: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  window_s: float | None = None,
  output: str | Sequence[str] | None = None,
  **options: Any,
) -> Imported:
  """Writes the model folder of a public checkpoint; it loads offline from then on.

  Args:
    family: of the checkpoint.
    source: the checkpoint as published.
    folder: to write; must not hold anything yet.
    window_s: see `load`.
    output: see `load`.
    **options: see `load`.

  Returns:
    What was done; show its `notice`.

  Raises:
    DistillError: a checkpoint that does not fit, or a folder with something in it.
  """
  folder = pathlib.Path(folder)
  models.check_free(folder)
  made = _convert(family, source, {"window_s": window_s, "output": output, **options})
  logging.getLogger(__name__).warning(family.notice)
  models.save(
    folder,
    _Holder(made.encoder),
    build=family.build,
    arguments=made.arguments,
    fields={
      "family": family.name,
      "source": {"name": made.file.path.name, "sha256": made.file.sha256},
      "dropped": made.dropped,
      "licence": family.licence,
      "commercial": family.commercial,
      "weights": family.weights,
    },
    card=_card(family, made),
  )
  return Imported(folder, made.file.sha256, made.dropped, family.notice)


@dataclasses.dataclass(frozen=True)
class _Converted:
  """An encoder and where it comes from."""

  encoder: Encoder
  arguments: dict[str, Any]
  file: tensorfile.TensorFile
  dropped: tuple[str, ...]


class _Holder(nnx.Module):
  """What `models.save` takes: a module whose `encoder` is the model."""

  def __init__(self, encoder: Encoder):
    self.encoder = encoder


def _convert(family: Family, path: str | pathlib.Path, options: Mapping[str, Any]) -> _Converted:
  build = registry.resolve(family.build, key="build")
  options = _checked(family, build, options)
  file, config = _open(family, pathlib.Path(path))
  patterns = [re.compile(pattern) for pattern in (COUNTERS, *family.dropped)]
  dropped = {name for name in file.tensors if any(p.fullmatch(name) for p in patterns)}
  kept = {name: value for name, value in file.tensors.items() if name not in dropped}
  broken = sorted(name for name, value in kept.items() if not np.isfinite(value).all())
  if broken:
    raise DistillError(f"{path}: {len(broken)} tensors hold NaN or infinity: {broken[:3]}")
  try:
    arguments, tensors = family.convert(kept, *config)
  except (KeyError, IndexError) as error:
    raise DistillError(
      f"{path} is no {family.name} checkpoint: {error} is missing among its {len(kept)} tensors,"
      f" {sorted(kept)[:3]}"
    ) from error
  fixed = sorted(set(arguments) & set(options))
  if fixed:
    raise DistillError(f"{family.name} reads {', '.join(fixed)} from the checkpoint; leave it out")
  arguments |= options
  encoder = build(**arguments)
  models.assign(encoder, {f"net.{name}": a for name, a in tensors.items()}, where=str(path))
  return _Converted(encoder, arguments, file, (*sorted(dropped), *file.ignored))


def _checked(
  family: Family, build: Callable[..., Encoder], options: Mapping[str, Any]
) -> dict[str, Any]:
  """The options with the default output filled in; refuses what the family does not know."""
  known = inspect.signature(build).parameters
  for name in options:
    if name not in known:
      raise DistillError(f"{family.name} takes no option {name!r}{nearest(name, known)}")
  output = options["output"] or family.outputs[0]
  for name in [output] if isinstance(output, str) else output:
    if name not in family.outputs:
      raise DistillError(f"{family.name} has no output {name!r}{nearest(name, family.outputs)}")
  return {**options, "output": output}


def _open(family: Family, path: pathlib.Path) -> tuple[tensorfile.TensorFile, tuple[Any, ...]]:
  """The weights of a checkpoint, and the content of the config beside them if one is expected."""
  if not family.config:
    return tensorfile.read(path), ()
  config = path / family.config
  weights = [path / name for name in FOLDER_WEIGHTS if (path / name).is_file()]
  if not config.is_file() or not weights:
    raise DistillError(
      f"{path} is no {family.name} folder; expected {family.config} and"
      f" {' or '.join(FOLDER_WEIGHTS)} in it"
    )
  try:
    fields = json.loads(config.read_text())
  except ValueError as error:
    raise DistillError(f"{config} is not JSON: {error}") from error
  return tensorfile.read(weights[0]), (fields,)


def _card(family: Family, made: _Converted) -> str:
  spec = made.encoder.spec
  return f"""# {family.name}

Converted from `{made.file.path.name}`, sha256 `{made.file.sha256}`.

- Reference: {family.reference}
- Published at: {family.weights}
- Licence: {family.licence}
- {family.notice}
- Input: {spec.modality}, windows of {spec.window_s:g} s at {spec.rate_hz:g} Hz, {spec.unit};
  band {spec.band_hz} Hz ({spec.band_filter}), normalisation {spec.normalisation}
- Embedding: output `{made.arguments["output"]}`, {made.encoder.dim} numbers
- Left out knowingly: {len(made.dropped)} entries, listed in spec.json
"""
