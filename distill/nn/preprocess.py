"""`distill.signals.preprocess` as a function of JAX arrays, for models that take raw windows.

A device that runs an exported model writes no preprocessing of its own. The result is that of
`distill.signals` to float32 rounding. Nothing here loops, gathers or asks for a kind of number, so
that every converter takes it.
"""

import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal as scipy_signal

from distill import signals
from distill.errors import DistillError
from distill.spec import SignalSpec

LARGEST = np.finfo(np.float32).max


def preprocess(raw: jax.Array, spec: SignalSpec) -> tuple[jax.Array, jax.Array]:
  """Raw windows to what an encoder takes: bridge gaps, band-pass, normalise, zero what is missing.

  Args:
    raw: [batch, time, channels] float32 at `spec.rate_hz` in `spec.unit`; what is not finite is
      missing.
    spec: of the encoder.

  Returns:
    (signal [batch, time, channels] float32, finite and zero where missing; mask, bool of the same
    shape, True where observed).

  Raises:
    DistillError: a window of another shape than the spec's.
  """
  if raw.shape[1:] != spec.shape:
    raise DistillError(
      f"raw {spec.modality} windows have shape {list(raw.shape)}; expected [batch,"
      f" {spec.shape[0]}, {spec.shape[1]}]"
    )
  mask = jnp.abs(raw) <= LARGEST  # false for NaN
  values = jnp.where(mask, raw, 0.0)
  if spec.band_hz is not None:
    level = _mean(values, mask)
    # Around zero float32 is finest. A level passes these filters as a level, or not at all.
    values = band_pass(fill_gaps(jnp.where(mask, values - level, 0.0), mask), spec)
    if spec.normalisation == "none":
      values = values + level * _level_passed(spec)
  if spec.normalisation != "none":
    values = _normalise(values, mask, spec)
  return jnp.where(mask, values, 0.0), mask


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """[batch, 1, channels] over observed samples; 0 where there is none.

  In two passes: gravity is thousands of times what a pulse moves, and what the first pass rounds
  off the second finds.
  """
  count = jnp.maximum(jnp.sum(mask.astype(values.dtype), axis=1, keepdims=True), 1.0)
  rough = jnp.sum(jnp.where(mask, values, 0.0), axis=1, keepdims=True) / count
  rest = jnp.sum(jnp.where(mask, values - rough, 0.0), axis=1, keepdims=True) / count
  return rough + rest


def _normalise(values: jax.Array, mask: jax.Array, spec: SignalSpec) -> jax.Array:
  count = jnp.maximum(jnp.sum(mask.astype(values.dtype), axis=1, keepdims=True), 1.0)
  centred = values
  for _ in range(2):
    centred = jnp.where(mask, centred, 0.0)
    centred = centred - jnp.sum(centred, axis=1, keepdims=True) / count
  if spec.normalisation == "gravity":
    return centred
  power = jnp.sum(jnp.square(jnp.where(mask, centred, 0.0)), axis=1, keepdims=True)
  return centred / jnp.maximum(jnp.sqrt(power / count), spec.sd_floor)


# --- gaps -----------------------------------------------------------------------------------------


def fill_gaps(values: jax.Array, mask: jax.Array) -> jax.Array:
  """As `distill.signals.fill_gaps`: straight bridges, ends held, nothing known = 0.

  Args:
    values: [batch, time, channels] float32, finite.
    mask: bool of that shape, True where observed.
  """
  samples = values.shape[1]
  time = jnp.broadcast_to(jnp.arange(samples, dtype=values.dtype)[None, :, None], values.shape)
  before, since = _carried(values, jnp.where(mask, time, -1.0))
  after, to = (
    a[:, ::-1]
    for a in _carried(values[:, ::-1], jnp.where(mask, samples - 1 - time, -1.0)[:, ::-1])
  )
  until = samples - 1 - to
  share = (time - since) / jnp.maximum(until - since, 1.0)
  between = jnp.where(to < 0, before, before + (after - before) * share)
  return jnp.where(mask, values, jnp.where(since < 0, jnp.where(to < 0, 0.0, after), between))


def _carried(values: jax.Array, when: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The last known value at or before each place, and its time; -1 where there is none.

  `when` [batch, time, channels] holds the time of every known sample, -1 elsewhere. In log2(time)
  steps, each of which looks twice as far back.
  """
  reach = 1
  while reach < values.shape[1]:
    back = ((0, 0), (reach, 0), (0, 0))
    earlier = jnp.pad(when[:, :-reach], back, constant_values=-1.0)
    values = jnp.where(when < 0, jnp.pad(values[:, :-reach], back), values)
    when = jnp.where(when < 0, earlier, when)
    reach *= 2
  return values, when


# --- the band -------------------------------------------------------------------------------------


def band_pass(values: jax.Array, spec: SignalSpec) -> jax.Array:
  """As `distill.signals.band_pass`, on [batch, time, channels] float32, without a loop over time.

  A recursive filter is linear: with the signal in blocks x_k of L samples and the filter's state
  s_k before each of them,

      y_k = H x_k + C s_k,   s_k = P^k s_0 + sum over j < k of P^(k - 1 - j) G x_j

  which are matrix products with constants found in float64. A state is measured by what it adds to
  the output (C has orthonormal columns), so that no state is much larger than what it adds, and
  float32 rounds it no more than the signal.
  """
  lanes = jnp.moveaxis(values, 2, 1).reshape(-1, spec.samples)
  low_hz, high_hz = cast(tuple[float, float], spec.band_hz)
  sections = signals.band_sections(spec.rate_hz, (low_hz, high_hz), spec.band_filter)
  padding = min(spec.samples - 1, round(spec.rate_hz / low_hz))
  lanes = _both_ways(_Recursion(sections, spec.samples + 2 * padding), lanes, padding)
  taps = signals.average_taps(spec.rate_hz, spec.band_filter)
  if taps:
    lanes = _both_ways(lambda x: _average(x, taps), lanes, min(spec.samples - 1, 3 * taps))
  return jnp.moveaxis(lanes.reshape(-1, values.shape[2], spec.samples), 1, 2)


def _level_passed(spec: SignalSpec) -> float:
  """Share of a constant that is left after both ways."""
  band_hz = cast(tuple[float, float], spec.band_hz)
  sections = signals.band_sections(spec.rate_hz, band_hz, spec.band_filter)
  return float(np.prod(sections[:, :3].sum(1) / sections[:, 3:].sum(1)) ** 2)


def _both_ways(once: Callable[[jax.Array], jax.Array], lanes: jax.Array, padding: int) -> jax.Array:
  """Forwards and backwards over [lanes, time], mirrored (odd) by `padding` samples at both ends."""
  if padding:
    left = 2 * lanes[:, :1] - lanes[:, padding:0:-1]
    right = 2 * lanes[:, -1:] - lanes[:, -2 : -padding - 2 : -1]
    lanes = jnp.concatenate([left, lanes, right], axis=1)
  lanes = once(once(lanes)[:, ::-1])[:, ::-1]
  return lanes[:, padding : lanes.shape[1] - padding]


def _average(lanes: jax.Array, taps: int) -> jax.Array:
  """Moving average over the last `taps` samples; before the first they were as the first."""
  held = jnp.broadcast_to(lanes[:, :1], (lanes.shape[0], taps - 1))
  wide = jnp.concatenate([held, lanes], axis=1)
  total = lanes
  for back in range(1, taps):
    total = total + wide[:, taps - 1 - back : taps - 1 - back + lanes.shape[1]]
  return total / taps


class _Recursion:
  """Second-order sections over [lanes, time], starting as if the first sample had always been."""

  def __init__(self, sections: np.ndarray, samples: int):
    states = 2 * len(sections)
    self.samples = samples
    self.block = math.ceil(math.sqrt(states * samples))  # where both matrices are equally large
    self.blocks = math.ceil(samples / self.block)
    # What each sample of a block, and each state before it, does to the block and the state after.
    unit = np.eye(self.block + states)
    start = unit[self.block :].reshape(len(sections), 2, -1)
    out, after = scipy_signal.sosfilt(sections, unit[: self.block], axis=0, zi=start)
    after = after.reshape(states, -1)
    turned, size = np.linalg.qr(out[:, self.block :])
    enter = size @ after[:, : self.block]
    step = size @ after[:, self.block :] @ np.linalg.inv(size)
    settled = size @ scipy_signal.sosfilt_zi(sections).reshape(states)
    powers = [np.eye(states)]
    for _ in range(self.blocks):
      powers.append(powers[-1] @ step)
    zero = np.zeros_like(step)
    carry = np.block(
      [
        [powers[k - 1 - j] if j < k else zero for j in range(self.blocks)]
        for k in range(self.blocks)
      ]
    )
    begin = np.concatenate([power @ settled for power in powers[:-1]])
    found = out[:, : self.block], turned, enter, carry, begin
    self.direct, self.turned, self.enter, self.carry, self.begin = (
      np.asarray(one.T, np.float32) for one in found
    )

  def __call__(self, lanes: jax.Array) -> jax.Array:
    rest = self.blocks * self.block - self.samples
    blocks = jnp.pad(lanes, ((0, 0), (0, rest))).reshape(-1, self.blocks, self.block)
    entered = (blocks @ self.enter).reshape(-1, self.carry.shape[0])
    states = entered @ self.carry + lanes[:, :1] * self.begin[None]
    out = blocks @ self.direct + states.reshape(-1, self.blocks, len(self.turned)) @ self.turned
    return out.reshape(-1, self.blocks * self.block)[:, : self.samples]
