"""From a prepared window to tokens: raw patches, or a learned filter bank and its envelope.

A stem maps (signal [batch, time, channels], mask of the same shape) to (tokens [batch, n, width],
observed [batch, n]). What lies under the mask never reaches a token.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError
from distill.nn import layers, masking, pulse

# A token counts as observed when at least this share of its samples was. Ours.
MIN_TOKEN_COVERAGE = 0.5


def _count_patches(samples: int, patch: int, what: str) -> int:
  layers.check_sizes(**{what: patch})
  if samples % patch:
    raise DistillError(
      f"{what} is {patch} samples, which does not divide the window of {samples} samples;"
      f" choose a divisor of {samples}"
    )
  return samples // patch


class PatchStem(nnx.Module):
  """Non-overlapping patches of raw samples, each projected linearly."""

  lanes = 1  # tokens of different channels lie in lanes of their own, one after the other

  def __init__(self, samples: int, channels: int, width: int, patch: int, *, rngs: nnx.Rngs):
    layers.check_sizes(width=width)
    self.tokens = _count_patches(samples, patch, "patch")
    self.patch = patch
    self.project = nnx.Linear(patch * channels, width, rngs=rngs)

  def patches(self, signal: jax.Array) -> jax.Array:
    """[batch, time, channels] -> [batch, tokens, patch * channels]."""
    return signal.reshape(signal.shape[0], self.tokens, -1)

  def samples(self, tokens: jax.Array) -> jax.Array:
    """[batch, tokens] of each token -> [batch, time, 1] of its samples, in every channel alike."""
    return jnp.repeat(tokens, self.patch, axis=1)[:, :, None]

  def observed(self, mask: jax.Array) -> jax.Array:
    """[batch, time, channels] bool -> [batch, tokens] bool."""
    return jnp.mean(self.patches(mask).astype(jnp.float32), axis=2) >= MIN_TOKEN_COVERAGE

  def __call__(self, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    signal = jnp.where(mask, signal, 0.0)
    return self.project(self.patches(signal)), self.observed(mask)


def _gabor_bank(taps: int, filters: int, rate_hz: float, low_hz: float, high_hz: float):
  """[taps, filters] Hann-windowed cosines, centres spaced evenly in log frequency, unit energy."""
  time_s = (np.arange(taps) - (taps - 1) / 2) / rate_hz
  centres_hz = np.geomspace(low_hz, high_hz, filters)
  bank = np.hanning(taps + 2)[1:-1, None] * np.cos(2 * np.pi * time_s[:, None] * centres_hz)
  bank -= bank.mean(axis=0)
  return (bank / np.linalg.norm(bank, axis=0)).astype(np.float32)


def _overlapping_bands(filters: int, mixes: int) -> np.ndarray:
  """[filters, mixes] Gaussian bands of neighbouring filters, each column of unit norm."""
  centres = np.linspace(0, filters - 1, mixes)
  width = max(filters / mixes, 1.0)
  bands = np.exp(-0.5 * ((np.arange(filters)[:, None] - centres) / width) ** 2)
  return (bands / np.linalg.norm(bands, axis=0)).astype(np.float32)


class RateReader(nnx.Module):
  """Reads the rate of a rhythm off its modulation spectrum, whichever band carries it.

  A convolution along log frequency knows a rhythm by its shape, overtones included, at any rate
  alike; a softmax over frequencies picks the rate, and what is read is a learned vector of that
  frequency and how sure the pick was. Without it a small encoder has to learn every rate by itself.

  Args:
    mixes: envelopes whose spectra are read together.
    waves: frequencies, evenly spaced in log frequency.
    width: of what is returned.
  """

  CHANNELS, READERS = 16, 4
  SHARPNESS = 3.0  # of the pick at initialisation

  def __init__(self, mixes: int, waves: int, width: int, *, rngs: nnx.Rngs):
    each = max(1, width // self.READERS)
    self.first = nnx.Conv(mixes, self.CHANNELS, (21,), rngs=rngs)
    self.second = nnx.Conv(self.CHANNELS, self.READERS, (9,), rngs=rngs)
    self.values = nnx.Param(jax.random.normal(rngs.params(), (self.READERS, waves, each)))
    self.out = nnx.Linear(self.READERS * (each + 1), width, rngs=rngs)

  def __call__(self, spectrum: jax.Array) -> jax.Array:
    """[batch, mixes, waves] log power -> [batch, width]."""
    lines = jnp.moveaxis(spectrum, 1, 2)
    centred = lines - jnp.mean(lines, axis=1, keepdims=True)
    sd = jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True) + 1e-2)
    logits = self.SHARPNESS * self.second(jax.nn.gelu(self.first(centred / sd)))
    pick = jax.nn.softmax(logits, axis=1)
    read = jnp.einsum("bmr,rmw->brw", pick, self.values[...]).reshape(lines.shape[0], -1)
    sure = jnp.sum(pick * jnp.log(pick + 1e-6), axis=1)
    return self.out(jnp.concatenate([read, sure], axis=1))


class RhythmReader(nnx.Module):
  """Reads when the beats came off the envelopes of all bands.

  Residual convolutions over time, each wider apart than the last: together they see a quarter of a
  minute to either side, so that a beat that drowns in noise is placed by the beats around it. They
  take several frames at a time, which saves most of the work. Ours.

  Args:
    envelopes: number of envelopes.
    width: of the convolutions.
  """

  TOGETHER = 4  # frames
  TAPS, APART = 5, (1, 2, 4, 8)  # of places of TOGETHER frames

  def __init__(self, envelopes: int, width: int, *, rngs: nnx.Rngs):
    self.enter = nnx.Linear(self.TOGETHER * envelopes, width, rngs=rngs)
    for k, apart in enumerate(self.APART):
      around = nnx.Conv(width, width, (self.TAPS,), kernel_dilation=apart, rngs=rngs)
      setattr(self, f"norm_{k}", nnx.RMSNorm(width, epsilon=1e-5, rngs=rngs))
      setattr(self, f"around_{k}", around)
    self.norm = nnx.RMSNorm(width, epsilon=1e-5, rngs=rngs)
    self.leave = nnx.Linear(width, self.TOGETHER, rngs=rngs)

  def __call__(self, envelopes: jax.Array, observed: jax.Array) -> jax.Array:
    """[batch, frames, envelopes], [batch, frames] bool -> [batch, frames] of unit variance.

    Zero where a frame was not observed.
    """
    batch, frames, _ = envelopes.shape
    weight = observed.astype(envelopes.dtype)
    found = self.enter((envelopes * weight[:, :, None]).reshape(batch, -1, self.enter.in_features))
    for k in range(len(self.APART)):
      around = getattr(self, f"around_{k}")(getattr(self, f"norm_{k}")(found))
      found = found + jax.nn.gelu(around)
    rhythm = self.leave(self.norm(found)).reshape(batch, frames) * weight
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    rhythm = (rhythm - jnp.sum(rhythm, axis=1, keepdims=True) / count) * weight
    power = jnp.sum(jnp.square(rhythm), axis=1, keepdims=True) / count
    return rhythm * jax.lax.rsqrt(power + 1e-6)


class FilterbankStem(nnx.Module):
  """Learned filters at full rate, their log envelope, and its modulation power.

  Beat-locked movement at the wrist lies at 4-15 Hz and below the noise, so nothing may be pooled
  before that band is separated, and its *rhythm*, not its waveform, carries heart rate:

      band energy  e[t, k] = mean over a frame of sum over axes of (filter_k * signal)^2
      envelope     u[t, c] = mix_c(log(e + floor) - its mean over the window)
      modulation   p[s, c, m] = <u_s, cos_m>^2 + <u_s, sin_m>^2, s a stretch of frames
      rhythm       r[t] = reader(all of log e, and of e over what is usual around it), one more
                   envelope (see `RhythmReader`)
      token        s = linear(log(p[s] + floor)) + linear(mean log energy of s)
                       + rate reader(log(mean over s of p[s]))

  A rhythm below the noise adds up over the window as power, before the logarithm: the rate reader
  sees that sum. Squares are summed over the axes before the log, so the bank does not depend on how
  the device is turned. Filters start as Hann-windowed cosines from 1 Hz up, mixes as overlapping
  bands of filters, modulations as Fourier pairs from 0.5 to 4.5 Hz (30-270 per minute); all are
  learned. Gaps of a few samples are bridged first, else each would lose all frames whose filters
  reach it. Ours; the learned bank follows LEAF (Zeghidour et al. 2021, arXiv 2101.08596), the
  modulation spectrum is standard in speech.
  """

  lanes = 1
  FRAMES_AT_ONCE = 50
  FLOOR_G2 = 1e-9  # (0.03 milli-g)^2, below the noise of the finest sensors in use
  # About the power that noise alone gives in one stretch, where the logarithm is nearly linear.
  FLOOR_POWER = 0.3
  USUAL_S, MOST = 10.0, 6.0  # ours

  def __init__(
    self,
    samples: int,
    width: int,
    *,
    rate_hz: float,
    filters: int,
    taps: int,
    frame: int,
    stretch: int,
    hop: int,
    mixes: int,
    waves: int,
    fill: int,
    rhythm: int = 0,
    rngs: nnx.Rngs,
  ):
    layers.check_sizes(width=width, filters=filters, taps=taps, stretch=stretch, hop=hop)
    layers.check_sizes(mixes=mixes, waves=waves, **({"rhythm": rhythm} if rhythm else {}))
    frames = _count_patches(samples, frame, "student.frame")
    if rhythm and frames != pulse.frames(samples / rate_hz):
      raise DistillError(
        f"student.rhythm needs {pulse.RHYTHM_HZ:g} frames a second, student.frame {frame} gives"
        f" {rate_hz / frame:g}; choose {rate_hz / pulse.RHYTHM_HZ:g}, or student.rhythm=0"
      )
    if stretch > frames or (frames - stretch) % hop:
      raise DistillError(
        f"student.stretch {stretch} and student.hop {hop} do not tile {frames} frames:"
        f" ({frames} - stretch) must be a non-negative multiple of hop"
      )
    frame_hz = rate_hz / frame
    self.taps, self.frame, self.frames, self.fill = taps, frame, frames, fill
    self.starts = tuple(range(0, frames - stretch + 1, hop))
    self.stretch = stretch
    self.tokens = len(self.starts)
    self.bank = nnx.Param(jnp.asarray(_gabor_bank(taps, filters, rate_hz, 1.0, 0.45 * rate_hz)))
    self.mix = nnx.Linear(filters, mixes, rngs=rngs)
    self.mix.kernel[...] = jnp.asarray(_overlapping_bands(filters, mixes))
    self.modulation = nnx.Param(
      jnp.asarray(pulse.fourier_basis(stretch, waves, frame_hz, 0.5, 4.5))
    )
    self.project = nnx.Linear((mixes + bool(rhythm)) * waves, width, rngs=rngs)
    self.level = nnx.Linear(filters, width, rngs=rngs)
    self.reader = RhythmReader(2 * filters, rhythm, rngs=rngs) if rhythm else None
    self.rate = RateReader(mixes + bool(rhythm), waves, width, rngs=rngs)

  def band_energy(self, signal: jax.Array, bank: jax.Array | None = None) -> jax.Array:
    """[batch, time, axes] -> [batch, frames, filters]: frame mean square, summed over axes.

    `bank` [taps, filters] stands in for the learned one.

    The filtered signal is `filters` times the size of the signal, and only its power in each frame
    is wanted: it is made a few frames at a time, and again for the gradient, so that on a CPU it
    stays in the cache. A frame is filtered at its `frame` places by one matrix product with the
    bank shifted to each of them.
    """
    batch, time, axes = signal.shape
    at_once = math.gcd(self.frames, self.FRAMES_AT_ONCE)
    reach = self.frame + self.taps - 1
    around = ((self.taps - 1) // 2, self.taps // 2)
    lanes = jnp.pad(jnp.moveaxis(signal, 2, 1), ((0, 0), (0, 0), around))
    bank = self.bank[...] if bank is None else bank
    places = [jnp.pad(bank, ((i, self.frame - 1 - i), (0, 0))) for i in range(self.frame)]
    shifted = jnp.concatenate(places, axis=1)  # [reach, frame * filters]
    samples = self.frame * np.arange(at_once)[:, None] + np.arange(reach)

    @jax.checkpoint
    def some(start: jax.Array) -> jax.Array:
      length = (at_once - 1) * self.frame + reach
      near = jax.lax.dynamic_slice_in_dim(lanes, start, length, axis=2)
      power = jnp.square(near[:, :, samples].reshape(-1, reach) @ shifted)
      power = power.reshape(batch, axes, at_once, self.frame, -1)
      return jnp.sum(jnp.mean(power, axis=3), axis=1)

    energy = jax.lax.map(some, jnp.arange(0, time, at_once * self.frame))
    return jnp.moveaxis(energy, 0, 1).reshape(batch, self.frames, -1)

  def above_usual(self, energy: jax.Array, weight: jax.Array) -> jax.Array:
    """[batch, frames, filters] energy over its mean of USUAL_S around, less 1, at most MOST.

    The logarithm makes much of a moment that is quieter than usual, of which noise has many, and
    little of one that is louder, which a beat is; it is needed where loud means moving.
    """
    count = jnp.maximum(pulse.local_sum(weight, self.USUAL_S), 1.0)
    usual = pulse.local_sum(energy * weight, self.USUAL_S) / count
    return (jnp.minimum(energy / (usual + self.FLOOR_G2), self.MOST) - 1.0) * weight

  def frames_observed(self, mask: jax.Array) -> jax.Array:
    """[batch, time, axes] bool -> [batch, frames]: each sample under the filters was seen."""
    seen = jnp.all(mask, axis=2)
    lost = (~seen).astype(jnp.float32)  # of numbers: no converter knows "any of" a window
    around = ((0, 0), ((self.taps - 1) // 2, self.taps // 2))
    window, strides = (1, self.frame + self.taps - 1), (1, self.frame)
    return jax.lax.reduce_window(lost, -jnp.inf, jax.lax.max, window, strides, around) == 0.0

  def __call__(self, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    tokens, observed, _ = self.read(signal, mask)
    return tokens, observed

  def read(
    self, signal: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Tokens, which of them were observed, and the rhythm [batch, frames] if there is a reader."""
    return self.read_bridged(*masking.bridge(signal, mask, self.fill))

  def read_bridged(
    self, signal: jax.Array, known: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """`read` of a signal whose small gaps are bridged and which is zero where it is not known."""
    seen = self.frames_observed(known)
    energy = self.band_energy(signal)
    log_energy = jnp.log(energy + self.FLOOR_G2)
    weight = seen[:, :, None].astype(log_energy.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    level = jnp.sum(log_energy * weight, axis=1, keepdims=True) / count
    centred = (log_energy - level) * weight
    envelope, rhythm = self.mix(centred) * weight, None
    if self.reader is not None:
      beside = jnp.concatenate([centred, self.above_usual(energy, weight)], axis=2)
      rhythm = self.reader(beside, seen)
      envelope = jnp.concatenate([envelope, rhythm[:, :, None]], axis=2)
    stretches = jnp.stack([envelope[:, i : i + self.stretch] for i in self.starts], axis=1)
    observed = jnp.stack([seen[:, i : i + self.stretch] for i in self.starts], axis=1)
    waves = jnp.einsum("bsfc,fm->bscm", stretches, self.modulation[...])
    cosine, sine = jnp.split(waves, 2, axis=3)
    power = jnp.square(cosine) + jnp.square(sine)
    share = jnp.mean(observed.astype(power.dtype), axis=2)
    total = jnp.maximum(jnp.sum(share, axis=1), 1e-3)[:, None, None]
    minute = jnp.einsum("bscm,bs->bcm", power, share) / total
    rate = self.rate(jnp.log(minute + 1e-3))
    lines = jnp.log(power + self.FLOOR_POWER)
    # Level of each stretch, not of the window: heart rate follows motion with a lag.
    sums = [jnp.sum((log_energy * weight)[:, i : i + self.stretch], axis=1) for i in self.starts]
    counts = jnp.maximum(jnp.sum(observed.astype(weight.dtype), axis=2), 1.0)
    # log energies run from about -20 (sensor noise) to 2 (running): bring them near unit scale.
    level = (jnp.stack(sums, axis=1) / counts[:, :, None] + 12.0) / 4.0
    tokens = self.project(lines.reshape(*lines.shape[:2], -1)) + self.level(level)
    tokens = tokens + rate[:, None, :]
    enough = jnp.mean(observed.astype(jnp.float32), axis=2) >= MIN_TOKEN_COVERAGE
    return tokens, enough, rhythm
