"""Hugging Face checkpoints of wav2vec 2.0 and HuBERT: their config and their tensor names.

`distill.published` does the reading and is strict: every parameter of the network must be found and
no tensor be left over. Heads of a task checkpoint are left out knowingly, and so is the embedding
that only masked training uses.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill.errors import DistillError
from distill.published import Family, Tensors
from distill.spec import PPG
from teachers.speech.features import SPECS
from teachers.speech.network import Architecture

POSITIONS = "encoder.pos_conv_embed.conv"
# Weight norm: (gain, direction) under the names of old and of new PyTorch.
WEIGHT_NORMS = (
  ("weight_g", "weight_v"),
  ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
# A switch of config.json that the network does not have, and the only value it may stand at.
UNSUPPORTED = {
  "feat_extract_activation": "gelu",
  "hidden_act": "gelu",
  "conv_pos_batch_norm": False,
  "add_adapter": False,
  "adapter_attn_dim": None,
}
_PREFIX = r"(wav2vec2\.|hubert\.)?"
DROPPED = (
  _PREFIX + "masked_spec_embed",
  rf"(?!{_PREFIX}(feature_extractor|feature_projection|encoder|adapter)\.).*",  # heads
)


def read_architecture(config: Mapping[str, Any], family: str) -> Architecture:
  """The architecture that a config.json describes.

  Raises:
    DistillError: another family, a missing entry, or a variant that is not supported.
  """
  if config.get("model_type") != family:
    raise DistillError(
      f"config.json says model_type {config.get('model_type')!r}, expected {family!r}"
    )
  for name, value in UNSUPPORTED.items():
    if config.get(name, value) != value:
      raise DistillError(f"config.json has {name} {config[name]!r}; only {value!r} is supported")
  try:
    return Architecture(
      conv_dim=tuple(config["conv_dim"]),
      conv_kernel=tuple(config["conv_kernel"]),
      conv_stride=tuple(config["conv_stride"]),
      conv_bias=config["conv_bias"],
      conv_norm=config["feat_extract_norm"],
      projection_norm=config.get("feat_proj_layer_norm", True),
      width=config["hidden_size"],
      depth=config["num_hidden_layers"],
      heads=config["num_attention_heads"],
      mlp_width=config["intermediate_size"],
      position_kernel=config["num_conv_pos_embeddings"],
      position_groups=config["num_conv_pos_embedding_groups"],
      pre_norm=config["do_stable_layer_norm"],
      epsilon=config["layer_norm_eps"],
    )
  except KeyError as error:
    raise DistillError(f"config.json has no entry {error}") from error


def convert(
  tensors: Tensors, config: Mapping[str, Any], *, family: str
) -> tuple[dict[str, Any], Tensors]:
  """Arguments of `build`, and the tensors under the names and in the layout of `SpeechNetwork`.

  Args:
    tensors: as stored, bare or with the prefix of a task model.
    config: config.json.
    family: "wav2vec2" or "hubert"; the prefix.

  Returns:
    Arguments, and name -> float32: linear kernels [in, out], convolution kernels [time, in, out].

  Raises:
    DistillError: see `read_architecture`; or no weight-normed positional convolution under either
      spelling.
  """
  architecture = read_architecture(config, family)
  bare = {name.removeprefix(family + "."): array for name, array in tensors.items()}
  renamed = dict(_renamed(name, array) for name, array in _without_weight_norm(bare).items())
  return {"architecture": architecture.to_json()}, renamed


def _without_weight_norm(tensors: Tensors) -> Tensors:
  """weight = gain * direction / |direction|, one norm for each kernel position.

  A loader that took names literally would leave this convolution at random: neither spelling found
  is an error.
  """
  for names in WEIGHT_NORMS:
    gain, direction = (f"{POSITIONS}.{name}" for name in names)
    if gain in tensors and direction in tensors:
      rest = {n: a for n, a in tensors.items() if n not in (gain, direction)}
      v = tensors[direction].astype(np.float64)
      norm = np.sqrt(np.sum(np.square(v), axis=(0, 1), keepdims=True))
      return {**rest, f"{POSITIONS}.weight": tensors[gain] * v / norm}
  spellings = " or ".join("/".join(names) for names in WEIGHT_NORMS)
  raise DistillError(
    "the checkpoint has no weights of the positional convolution; expected"
    f" {POSITIONS}.({spellings})"
  )


def _renamed(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
  """Only the leaf's name differs; kernels are stored [out, in] or [out, in, time]."""
  stem, _, leaf = name.rpartition(".")
  array = array.astype(np.float32)
  if leaf != "weight":
    return name, array
  return (f"{stem}.scale", array) if array.ndim == 1 else (f"{stem}.kernel", array.T)


def _family(name: str, weights: str, reference: str) -> Family:
  # The deepest published models have 48 blocks; an output above a model's own depth is refused.
  layers = Architecture(depth=48).layer_names
  return Family(
    name=name,
    build="teachers.speech:build",
    spec=SPECS[PPG],
    convert=functools.partial(convert, family=name),
    dropped=DROPPED,
    outputs=("conv6", *(layer for layer in layers if layer != "conv6")),
    embedding="twice the width of the layer (512, 768 or 1024) for each channel",
    licence="differs by checkpoint, Apache-2.0 for most of the first ones; see its model card",
    commercial="unclear",
    weights=weights,
    reference=reference,
    config="config.json",
  )


FAMILIES = (
  _family(
    "wav2vec2",
    "huggingface.co/facebook/wav2vec2-base and others, the whole folder",
    "Baevski et al. 2020, arXiv 2006.11477; on sensors: arXiv 2509.00221",
  ),
  _family(
    "hubert",
    "huggingface.co/facebook/hubert-base-ls960 and others, the whole folder",
    "Hsu et al. 2021, arXiv 2106.07447; on sensors: arXiv 2509.00221",
  ),
)
