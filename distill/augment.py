"""Augmentations of training windows, on the device, inside the compiled step.

Pure functions of a key, a batch of prepared windows [batch, time, channels] and their mask, after
the recipe for PPG of Abbaspourazad et al. 2023 (arXiv 2312.05409; its probabilities: cut-out 0.40,
magnitude warp 0.25, noise 0.25, channel permutation 0.25, time warp 0.15) and rotation for a wrist.
Strengths, and all use on acceleration, are ours. Missing samples stay missing: what an augmentation
takes away it takes from the mask, and under the mask the signal is zero.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import interpolate

from distill.errors import DistillError

Prepare = Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]
PROBABILITIES = ("cut_out", "magnitude_warp", "noise", "permute", "time_warp", "rotate")
KNOTS = 5  # of both warps
MAX_SHIFT = 0.25  # of the distance between knots: more could turn time back


@dataclasses.dataclass(frozen=True)
class Augment:
  """What happens to a training window, each with its own probability; 0 for never.

  Attributes:
    cut_out: probability that one stretch is hidden.
    cut_out_share: longest such stretch, as a share of the window; the shortest is half of it.
    magnitude_warp: probability that the size of the signal is changed slowly over the window.
    magnitude_gain: largest factor of it; the smallest is its inverse.
    noise: probability of white noise.
    noise_sd: largest SD of it, as a share of the window's own; the smallest is a fifth of it.
    permute: probability that the channels change places.
    time_warp: probability that time runs unevenly. It changes heart rate and its variability.
    time_shift: farthest that a knot moves, as a share of the distance between knots.
    rotate: probability that a window of three axes is turned in space.
    rotate_deg: largest angle, about any axis.

  Raises:
    DistillError: a probability or a strength out of its range.
  """

  cut_out: float = 0.0
  cut_out_share: float = 0.2
  magnitude_warp: float = 0.0
  magnitude_gain: float = 2.0
  noise: float = 0.0
  noise_sd: float = 0.05
  permute: float = 0.0
  time_warp: float = 0.0
  time_shift: float = 0.1
  rotate: float = 0.0
  rotate_deg: float = 180.0

  def __post_init__(self):
    ranges = dict.fromkeys(PROBABILITIES, (0.0, 1.0))
    ranges |= {
      "cut_out_share": (0.0, 1.0),
      "magnitude_gain": (1.0, 100.0),
      "noise_sd": (0.0, 100.0),
    }
    ranges |= {"time_shift": (0.0, MAX_SHIFT), "rotate_deg": (0.0, 180.0)}
    for name, (low, high) in ranges.items():
      value = getattr(self, name)
      if not low <= value <= high:
        raise DistillError(f"augment.{name} is {value}; expected {low:g} to {high:g}")

  def prepare(self, signals: Sequence[str], *, together: bool = False) -> Prepare | None:
    """(batch, key) -> the batch with these signals augmented; None if nothing ever happens.

    Args:
      signals: keys of the batch; the mask of each stands under the key with "_mask" behind it.
      together: one warp of time for all of them, as for two sensors of one wrist.
    """
    if not any(getattr(self, name) for name in PROBABILITIES):
      return None

    def prepare(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
      changed = dict(batch)
      shared, *own = jax.random.split(key, 1 + len(signals))
      for name, one in zip(signals, own, strict=True):
        signal, mask = batch[name], batch[name + "_mask"]
        warp = shared if together else jax.random.fold_in(one, len(PROBABILITIES))
        changed[name], changed[name + "_mask"] = self(one, signal, mask, warp)
      return changed

    return prepare

  def __call__(
    self, key: jax.Array, signal: jax.Array, mask: jax.Array, warp_key: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Augments a batch of windows.

    Args:
      key: of every draw but that of the time warp.
      signal: [batch, time, channels] float32 prepared windows.
      mask: bool of the same shape, True where observed.
      warp_key: of the time warp; the same key warps signals of any rate alike. None: from `key`.

    Returns:
      (signal, mask), the same shapes.
    """
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(PROBABILITIES)}
    if warp_key is not None:
      keys["time_warp"] = warp_key
    steps: dict[str, Callable] = {
      "time_warp": functools.partial(time_warp, shift=self.time_shift),
      "magnitude_warp": functools.partial(magnitude_warp, gain=self.magnitude_gain),
      "rotate": functools.partial(rotate, largest_deg=self.rotate_deg),
      "permute": permute,
      "noise": functools.partial(noise, largest_sd=self.noise_sd),
      "cut_out": functools.partial(cut_out, longest=self.cut_out_share),
    }
    for name, step in steps.items():
      probability = getattr(self, name)
      if probability:
        draw, happens = jax.random.split(keys[name])
        fires = jax.random.uniform(happens, (len(signal), 1, 1)) < probability
        changed, left = step(draw, signal, mask)
        signal, mask = jnp.where(fires, changed, signal), jnp.where(fires, left, mask)
    return jnp.where(mask, signal, 0.0), mask


def cut_out(
  key: jax.Array, signal: jax.Array, mask: jax.Array, *, longest: float
) -> tuple[jax.Array, jax.Array]:
  """Hides one stretch of time in all channels; a window of which nothing would stay is left."""
  batch, time, _ = signal.shape
  where, how = jax.random.split(key)
  length = jax.random.uniform(how, (batch, 1, 1), minval=longest / 2, maxval=longest)
  start = jax.random.uniform(where, (batch, 1, 1)) * (1.0 - length)
  at = ((jnp.arange(time, dtype=jnp.float32) + 0.5) / time)[None, :, None]
  left = mask & ~((at >= start) & (at < start + length))
  return signal, jnp.where(jnp.any(left, axis=(1, 2), keepdims=True), left, mask)


def magnitude_warp(
  key: jax.Array, signal: jax.Array, mask: jax.Array, *, gain: float
) -> tuple[jax.Array, jax.Array]:
  """Multiplies all channels by one smooth curve between 1 / gain and gain."""
  knots = jax.random.uniform(key, (len(signal), KNOTS), minval=-1.0, maxval=1.0)
  # A spline may leave the range of its knots.
  curve = jnp.clip(knots @ _spline(signal.shape[1], KNOTS), -1.0, 1.0)
  return signal * jnp.exp(jnp.log(jnp.float32(gain)) * curve)[:, :, None], mask


def noise(
  key: jax.Array, signal: jax.Array, mask: jax.Array, *, largest_sd: float
) -> tuple[jax.Array, jax.Array]:
  """Adds white noise whose SD is a share of that of each channel over what was observed."""
  how, what = jax.random.split(key)
  share = jax.random.uniform(how, (len(signal), 1, 1), minval=largest_sd / 5, maxval=largest_sd)
  count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True, dtype=signal.dtype), 1.0)
  seen = jnp.where(mask, signal, 0.0)
  centred = jnp.where(mask, seen - jnp.sum(seen, axis=1, keepdims=True) / count, 0.0)
  sd = jnp.sqrt(jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count)
  return signal + share * sd * jax.random.normal(what, signal.shape), mask


def permute(key: jax.Array, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Puts the channels of each window in another order, their masks with them."""
  batch, _, channels = signal.shape
  order = jnp.argsort(jax.random.uniform(key, (batch, 1, channels)), axis=2)
  return jnp.take_along_axis(signal, order, axis=2), jnp.take_along_axis(mask, order, axis=2)


def rotate(
  key: jax.Array, signal: jax.Array, mask: jax.Array, *, largest_deg: float
) -> tuple[jax.Array, jax.Array]:
  """Turns three axes about a random direction; other signals, and windows that lack one axis at
  some time and not the others, are left."""
  if signal.shape[2] != 3:
    return signal, mask
  which, how = jax.random.split(key)
  axis = jax.random.normal(which, (len(signal), 3))
  axis = axis / jnp.linalg.norm(axis, axis=1, keepdims=True)
  largest = float(np.deg2rad(largest_deg))
  angle = jax.random.uniform(how, (len(signal), 1, 1), minval=-largest, maxval=largest)
  # Rodrigues: v cos + (k x v) sin + k (k . v) (1 - cos).
  k = jnp.broadcast_to(axis[:, None, :], signal.shape)
  along = jnp.sum(k * signal, axis=2, keepdims=True)
  turned = signal * jnp.cos(angle) + jnp.cross(k, signal) * jnp.sin(angle)
  turned = turned + k * along * (1.0 - jnp.cos(angle))
  whole = jnp.all(mask == mask[:, :, :1], axis=(1, 2), keepdims=True)
  return jnp.where(whole, turned, signal), mask


def time_warp(
  key: jax.Array, signal: jax.Array, mask: jax.Array, *, shift: float
) -> tuple[jax.Array, jax.Array]:
  """Reads the window at times that run unevenly, by a cubic through the four nearest samples.

  The same key gives the same warp, in shares of the window, whatever the rate. A sample is observed
  if all that it was read from were.
  """
  batch, time, _ = signal.shape
  moved = jax.random.uniform(key, (batch, KNOTS), minval=-shift, maxval=shift) / (KNOTS + 1)
  ends = jnp.zeros((batch, 1))
  curve = jnp.concatenate([ends, moved, ends], axis=1) @ _spline(time, KNOTS + 2)
  at = jnp.arange(time, dtype=jnp.float32)[None, :] + curve * (time - 1)
  at = jnp.clip(at, 0.0, time - 1.0)
  first = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, time - 2)
  u = (at - first.astype(jnp.float32))[:, :, None]
  places = [jnp.clip(first + k, 0, time - 1)[:, :, None] for k in (-1, 0, 1, 2)]
  a, b, c, d = (jnp.take_along_axis(signal, place, axis=1) for place in places)
  # Catmull and Rom: through b at u = 0 and c at u = 1, slopes from the neighbours.
  warped = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
  seen = [jnp.take_along_axis(mask, place, axis=1) for place in places]
  return warped, seen[0] & seen[1] & seen[2] & seen[3]


@functools.lru_cache
def _spline(time: int, knots: int) -> np.ndarray:
  """[knots, time] float32: values at evenly spaced knots times this are a natural cubic spline."""
  at = np.linspace(0.0, 1.0, knots)
  curve = interpolate.CubicSpline(at, np.eye(knots), bc_type="natural")
  return np.asarray(curve(np.linspace(0.0, 1.0, time)).T, np.float32)
