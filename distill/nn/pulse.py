"""When the pulse came: the upstrokes of a PPG window as one value every tenth of a second.

A minute of PPG is nearly fingerprinted by its beat times. A pooled embedding loses them, so they
stand beside it: as a target for students, and in the gallery of retrieval. Nothing is learnt here.
"""

import jax
import jax.numpy as jnp
import numpy as np

RHYTHM_HZ = 10.0
_HALF_S = 0.1  # of the Hann window that a value averages over: beats a tenth of a second apart
_LOCAL_S = 4.1  # stretch in which all pulses count alike, whatever their height
_FLOOR = 1e-3  # of the variance of the whole window, below which a stretch is not amplified further


def frames(window_s: float) -> int:
  """Values of a window."""
  return round(window_s * RHYTHM_HZ)


def pulse_rhythm(signal: jax.Array, mask: jax.Array, *, rate_hz: float) -> jax.Array:
  """The rising slope of the pulse, its local mean taken away and its local size made equal.

  The upstroke is the sharpest part of a pulse and the one that is timed best; what falls is left
  out, so that a pulse counts once. Ours.

  Args:
    signal: [batch, time, channels] float32 prepared PPG, systole upwards, any scale.
    mask: bool of that shape, True where observed; what lies under it changes nothing.
    rate_hz: samples per second.

  Returns:
    [batch, frames] float32, about unit variance; 0 where less than half was observed, and for a
    window without a pulse.

  Raises:
    ValueError: shapes differ.
  """
  if signal.ndim != 3 or signal.shape != mask.shape:
    raise ValueError(
      f"signal and mask must both be [batch, time, channels]; got {signal.shape}, {mask.shape}"
    )
  signal = jnp.where(mask, signal, 0.0)
  known = mask[:, 1:] & mask[:, :-1]
  rise = jnp.where(known, jnp.maximum(signal[:, 1:] - signal[:, :-1], 0.0), 0.0)
  index, weight = _averaging(signal.shape[1], rate_hz)
  total = jnp.einsum("bftc,ft->bf", rise[:, index], weight)
  share = jnp.einsum("bftc,ft->bf", known[:, index].astype(signal.dtype), weight)
  seen = share >= 0.5 * signal.shape[2]
  slope = jnp.where(seen, total / jnp.maximum(share, 0.5), 0.0)
  level, count = _local_sum(slope), jnp.maximum(_local_sum(seen.astype(slope.dtype)), 1.0)
  slope = jnp.where(seen, slope - level / count, 0.0)
  power = jnp.square(slope)
  floor = _FLOOR * jnp.mean(power, axis=1, keepdims=True) + 1e-12
  return slope * jax.lax.rsqrt(_local_sum(power) / count + floor)


def _averaging(samples: int, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
  """[frames, taps] indices of slopes around the middle of each frame, and weights that sum to 1."""
  middle = (np.arange(frames(samples / rate_hz)) + 0.5) / RHYTHM_HZ
  taps = int(np.ceil(2 * _HALF_S * rate_hz)) + 1
  # Slope i lies between the samples i and i + 1.
  first = np.ceil((middle - _HALF_S) * rate_hz - 0.5).astype(int)
  index = first[:, None] + np.arange(taps)
  away_s = (index + 0.5) / rate_hz - middle[:, None]
  weight = np.where(np.abs(away_s) < _HALF_S, np.cos(0.5 * np.pi * away_s / _HALF_S) ** 2, 0.0)
  weight = np.where((index >= 0) & (index < samples - 1), weight, 0.0)
  weight /= weight.sum(axis=1, keepdims=True)
  return np.clip(index, 0, samples - 2), weight.astype(np.float32)


def _local_sum(values: jax.Array) -> jax.Array:
  """[batch, frames] -> sum over _LOCAL_S around each frame."""
  width = round(_LOCAL_S * RHYTHM_HZ)
  return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, width), (1, 1), "SAME")
