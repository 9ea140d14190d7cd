"""Weight interpolation: fine-tune, then step back towards the start (Speech-FT).

    theta = theta_0 + alpha * mean_k(theta_k - theta_0)

Fine-tuning that keeps what was learnt before: the paper finds alpha = 0.25 to keep most of the
task's gain and the rest of the features (arXiv 2502.12672, section on weight interpolation; several
fine-tuned models are averaged as task vectors first). Only checkpoints that grew out of the same
weights lie in one valley, so others are refused. Statistics of batch norms are interpolated like
everything else and then belong to neither model: `renormalise` recomputes them from windows.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx

from distill import models
from distill.errors import DistillError
from distill.models import ModelFolder
from distill.nn.encoder import Encoder
from distill.nn.torch_layout import BatchNorm

ALPHA = 0.25  # of the paper
LINEAGE = (
  "lineage"  # in spec.json: `fingerprint` of every encoder this one grew out of, oldest first
)

Tensors = Mapping[str, np.ndarray]


def interpolate(
  start: Tensors, finetuned: Sequence[Tensors], alpha: float
) -> dict[str, np.ndarray]:
  """start + alpha * (mean of finetuned - start), tensor by tensor.

  Sums are taken in float64 and in an order that does not depend on the order of `finetuned`. alpha
  = 0 gives `start` and alpha = 1 the mean, bit for bit, and a model merged with itself stays as it
  is (weights of up to 32 bits).

  Args:
    start: name -> array; the model that all of `finetuned` grew out of.
    finetuned: one or more of the same names, shapes and types.
    alpha: in [0, 1].

  Returns:
    New arrays, of the types of `start`.

  Raises:
    DistillError: nothing to merge, alpha outside [0, 1], other names, shapes or types, whole
      numbers that differ, or values that are not finite.
  """
  if not finetuned:
    raise DistillError("merging needs at least one fine-tuned model beside the start")
  if not 0.0 <= alpha <= 1.0:
    raise DistillError(f"alpha is {alpha}; expected a number from 0 (the start) to 1 (fine-tuned)")
  for index, tensors in enumerate(finetuned):
    _check_same_architecture(start, tensors, f"fine-tuned model {index + 1}")
  return {n: _interpolate(n, start[n], [t[n] for t in finetuned], alpha) for n in start}


def _check_same_architecture(start: Tensors, other: Tensors, who: str) -> None:
  missing, added = sorted(set(start) - set(other)), sorted(set(other) - set(start))
  if missing or added:
    raise DistillError(
      f"{who} is of another architecture than the start: it lacks {len(missing)} tensors"
      f" {missing[:3]} and has {len(added)} others {added[:3]}"
    )
  for name, array in start.items():
    if array.shape != other[name].shape or array.dtype != other[name].dtype:
      raise DistillError(
        f"{who} is of another architecture than the start: {name} is {other[name].dtype}"
        f" {other[name].shape}, there it is {array.dtype} {array.shape}"
      )


def _interpolate(
  name: str, start: np.ndarray, finetuned: Sequence[np.ndarray], alpha: float
) -> np.ndarray:
  if start.dtype.kind in "iub":
    if any(not np.array_equal(start, other) for other in finetuned):
      raise DistillError(f"{name} holds {start.dtype}, which cannot be interpolated, and differs")
    return start.copy()
  if not all(np.isfinite(array).all() for array in (start, *finetuned)):
    raise DistillError(f"{name} holds values that are not finite; did the fine-tuning diverge?")
  if alpha == 0.0:
    return start.copy()
  # Sorted value by value, so that the order of the models cannot change the last digit of the sum.
  ordered = np.sort(np.stack([array.astype(np.float64) for array in finetuned]), axis=0)
  mean = functools.reduce(np.add, ordered) / len(finetuned)
  if alpha < 1.0:
    # Weights that sum to 1 rather than a difference: nothing cancels, and x meets x in x.
    mean = (1.0 - alpha) * start.astype(np.float64) + alpha * mean
  return mean.astype(start.dtype)


def fingerprint(stored: ModelFolder) -> str:
  """Digest of a model folder's encoder, heads aside; what `lineage` in spec.json lists."""
  return models.digest(stored.part("encoder"))


def lineage(stored: ModelFolder) -> list[str]:
  """Fingerprints of the encoders a folder's grew out of and of its own, oldest first.

  Fine-tuning writes the start's into the field `lineage` of the new folder.
  """
  return [*stored.fields.get(LINEAGE, []), fingerprint(stored)]


def merge(
  start: str | pathlib.Path,
  finetuned: Sequence[str | pathlib.Path],
  folder: str | pathlib.Path,
  *,
  alpha: float = ALPHA,
) -> None:
  """Writes a model folder whose encoder lies between those of model folders.

  Only the encoder is interpolated. Heads and everything else come from `start`, so that a distilled
  student stays aligned with its teacher; the head of a fine-tuned task is thrown away.

  Args:
    start: model folder that the fine-tuned ones grew out of, folder of its training, or "ours".
    finetuned: one or more likewise.
    folder: the new model folder; made if it is not there, and empty if it is.
    alpha: in [0, 1]; 0 is `start`.

  Raises:
    DistillError: a folder that cannot be read, another architecture, no common ancestor, a start
      that grew out of one of the others, a new folder with something in it, or what `interpolate`
      refuses.
  """
  models.check_free(folder)
  first, *others = (models.read(models.find(one, side="students")) for one in (start, *finetuned))
  for other in others:
    _check_related(first, other)
    if fingerprint(other) in lineage(first)[:-1]:
      raise DistillError(
        f"{first.folder} grew out of {other.folder} and not the other way round; name the start"
        " first, then what was fine-tuned from it"
      )
  mixed = interpolate(first.part("encoder"), [o.part("encoder") for o in others], alpha)
  fields = {
    **first.fields,
    LINEAGE: lineage(first),
    "merged": {"alpha": alpha, "finetuned": sorted(fingerprint(other) for other in others)},
    **models.learnt_from(first.fields, *(other.fields for other in others)),
  }
  tensors = {**first.tensors, **{f"encoder.{name}": array for name, array in mixed.items()}}
  models.write(pathlib.Path(folder), tensors, fields, _card(first, others, alpha))


def batch_norms(encoder: Encoder) -> list[BatchNorm]:
  """Every batch norm of an encoder."""
  return [module for _, module in nnx.iter_modules(encoder) if isinstance(module, BatchNorm)]


def renormalise(encoder: Encoder, signal: np.ndarray, mask: np.ndarray) -> None:
  """Recomputes the statistics of every batch norm, from the signal upwards, in one pass.

  Averaged weights meet inputs of other means and spreads than either model did (Izmailov et al.
  2018, arXiv 1803.05407, section 3.2).

  Args:
    encoder: whose statistics are replaced in place.
    signal: [n, time, channels] prepared windows, a few hundred.
    mask: [n, time, channels] bool.
  """
  norms = batch_norms(encoder)
  for norm in norms:
    norm.learns = True
  nnx.jit(lambda one, x, m: one(x, m))(encoder, signal, mask)
  for norm in norms:
    norm.learns = False


def _check_related(first: ModelFolder, other: ModelFolder) -> None:
  for key in ("build", "arguments", "signal"):
    here, there = first.fields.get(key), other.fields.get(key)
    if key == "arguments":
      here, there = _without_seed(here), _without_seed(there)
    if here != there:
      raise DistillError(
        f"{other.folder} is another model than {first.folder}: its {key} is {there}, not {here}"
      )
  if not set(lineage(first)) & set(lineage(other)):
    raise DistillError(
      f"{other.folder} did not grow out of {first.folder}, nor both out of one model (no common"
      f" entry in {LINEAGE} of spec.json): weights of separate trainings cannot be interpolated"
    )


def _without_seed(arguments: Mapping | None) -> dict:
  """The seed draws initial weights, which stored ones replace: it says nothing about the shape."""
  return {name: value for name, value in (arguments or {}).items() if name != "seed"}


def _card(first: ModelFolder, others: Sequence[ModelFolder], alpha: float) -> str:
  names = ", ".join(sorted(fingerprint(other)[:16] for other in others))
  return (
    f"# Interpolated encoder, alpha {alpha:g}\n\n"
    f"Encoder weights: {1 - alpha:g} x {fingerprint(first)[:16]} (the start) + {alpha:g} x the mean"
    f" of {names} (fine-tuned). Heads: of the start.\n"
    "Not a medical device. Licence of the weights: that of the data they were trained on.\n"
  )
