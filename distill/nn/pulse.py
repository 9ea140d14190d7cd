"""When the pulse came, one value every tenth of a second, and what that says of its rate.

A minute of PPG is nearly fingerprinted by its beat times. A pooled embedding loses them, so they
stand beside it: as a target for students, and in the gallery of retrieval. How fast and how evenly
the pulse came is read off them, and is part of the embedding. Nothing is learnt here.
"""

import jax
import jax.numpy as jnp
import numpy as np

RHYTHM_HZ = 10.0
_HALF_S = 0.1  # of the Hann window that a value averages over: beats a tenth of a second apart
_LOCAL_S = 4.1  # stretch in which all pulses count alike, whatever their height
# Of the rates that a profile looks at, evenly spaced in log frequency, and the stretches over which
# their power is taken: a steady pulse adds up most over the whole minute, one that varies is lost
# less in short ones, so that their differences say how much it varies. Ours.
RATES_HZ, RATES, SPANS_S = (0.6, 4.0), 48, (60.0, 20.0, 8.0)
_LINE_FLOOR = 0.3  # of the power that noise gives; above it the logarithm tells sizes apart
_SHARPNESS = 2.0  # of the pick of the rate, per log power
_BELOW, _ABOVE = 8, 24  # rates around the picked one; the first overtone lies 17 above
PROFILE = len(SPANS_S) * (_BELOW + 1 + _ABOVE) + 2
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
  level, count = (
    local_sum(slope, _LOCAL_S),
    jnp.maximum(local_sum(seen.astype(slope.dtype), _LOCAL_S), 1.0),
  )
  slope = jnp.where(seen, slope - level / count, 0.0)
  power = jnp.square(slope)
  floor = _FLOOR * jnp.mean(power, axis=1, keepdims=True) + 1e-12
  return slope * jax.lax.rsqrt(local_sum(power, _LOCAL_S) / count + floor)


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


def local_sum(values: jax.Array, around_s: float) -> jax.Array:
  """[batch, frames, ...] -> sum over an odd number of frames, about `around_s`, around each."""
  width = 2 * round(0.5 * around_s * RHYTHM_HZ) + 1
  rest = (1,) * (values.ndim - 2)
  window, strides = (1, width, *rest), (1,) * values.ndim
  return jax.lax.reduce_window(values, 0.0, jax.lax.add, window, strides, "SAME")


def fourier_basis(frames: int, waves: int, frame_hz: float, low_hz: float, high_hz: float):
  """[frames, 2 * waves] Hann-windowed cosines, then sines, evenly spaced in log frequency."""
  time_s = np.arange(frames) / frame_hz
  angle = 2 * np.pi * time_s[:, None] * np.geomspace(low_hz, high_hz, waves)
  window = np.hanning(frames + 2)[1:-1, None]
  basis = np.concatenate([window * np.cos(angle), window * np.sin(angle)], axis=1)
  return (basis / np.linalg.norm(basis, axis=0)).astype(np.float32)


def pulse_profile(rhythm: jax.Array) -> jax.Array:
  """Power of a rhythm around its own rate, the log of that rate, and how sure the rate is.

  With l_s[m] the log power at rate m over stretches of span s, and w = softmax(sharpness * l_20 s)
  over the rates, the values are

      profile  sum_m w[m] l_s[m + k]   for each span s and k from -8 to 24 steps of 4 %
      rate     sum_m w[m] log(rate_m / middle of the range)
      sureness 1 + sum_m w[m] log w[m] / log(number of rates), from 0 to 1

  So a pulse looks the same at any rate, and a peak that is broad, or lower over the whole minute
  than over short stretches, says that the intervals vary. Of a slow pulse the overtones are in
  range too and take a share of the pick, so that its rate reads fast. Ours.

  Args:
    rhythm: [batch, frames] float32 of about unit variance, `RHYTHM_HZ` values a second.

  Returns:
    [batch, PROFILE] float32; zeros for a rhythm of zeros.
  """
  lines = jnp.stack([_log_power(rhythm, span_s) for span_s in SPANS_S], axis=1)
  pick = jax.nn.softmax(_SHARPNESS * lines[:, 1], axis=1)
  padded = jnp.pad(lines, ((0, 0), (0, 0), (_BELOW, _ABOVE)))
  around = np.arange(RATES)[:, None] + np.arange(_BELOW + 1 + _ABOVE)
  profile = jnp.einsum("bm,bsmk->bsk", pick, padded[:, :, around]).reshape(rhythm.shape[0], -1)
  low, high = np.log(RATES_HZ)
  rate = pick @ np.linspace(low - high, high - low, RATES, dtype=np.float32)[:, None] / 2
  entropy = -jnp.sum(pick * jnp.log(pick + 1e-6), axis=1, keepdims=True)
  sureness = 1.0 - entropy / np.float32(np.log(RATES))
  found = jnp.concatenate([profile, rate, sureness], axis=1)
  return jnp.where(jnp.any(rhythm != 0, axis=1, keepdims=True), found, 0.0)


def _log_power(rhythm: jax.Array, span_s: float) -> jax.Array:
  """[batch, RATES]: of stretches that overlap by half, their power's mean; 0 for no power."""
  span = min(round(span_s * RHYTHM_HZ), rhythm.shape[1])
  basis = fourier_basis(span, RATES, RHYTHM_HZ, *RATES_HZ)
  starts = range(0, rhythm.shape[1] - span + 1, max(1, span // 2))
  stretches = jnp.stack([rhythm[:, i : i + span] for i in starts], axis=1)
  cosine, sine = jnp.split(stretches @ basis, 2, axis=2)
  power = jnp.mean(jnp.square(cosine) + jnp.square(sine), axis=1)
  return jnp.log1p(power / _LINE_FLOOR)
