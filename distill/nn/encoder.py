"""The encoder contract, and the patch transformer that teachers and students are built from."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill import signals
from distill.errors import DistillError
from distill.nn import layers, pulse
from distill.spec import PPG, SignalSpec

POOLINGS = {"mean": layers.masked_mean, "mean_sd": layers.masked_mean_sd}


class Encoder(nnx.Module):
  """Maps prepared windows [batch, time, channels] and their mask to embeddings [batch, dim].

  Attributes:
    spec: the signal it expects; `distill.signals.preprocess` brings a raw window there.
    dim: length of the embedding.
    FRONT_END: dotted name of the part that turns samples into tokens or frames; "" if not said.
  """

  FRONT_END: ClassVar[str] = ""
  spec: SignalSpec
  dim: int

  @abc.abstractmethod
  def __call__(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """[batch, time, channels] float32, [batch, time, channels] bool -> [batch, dim] float32.

    A row in which nothing was observed gives the zero vector, which no real window gives.
    """

  @property
  def rhythm(self) -> int:
    """Values that `with_rhythm` puts after the embedding: when the pulse came. Known of any PPG."""
    return pulse.frames(self.spec.window_s) if self.spec.modality == PPG else 0

  def with_rhythm(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """What the encoder itself gives, and after it the rhythm: [batch, dim + rhythm]."""
    embedding = self(signal, mask)
    if not self.rhythm:
      return embedding
    found = pulse.pulse_rhythm(signal, self.check(signal, mask), rate_hz=self.spec.rate_hz)
    return jnp.concatenate([embedding, found], axis=1)

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of what `by_layer` gives, from the signal upwards."""
    return ("embedding",)

  def by_layer(self, signal: jax.Array, mask: jax.Array | None = None) -> dict[str, jax.Array]:
    """Pooled outputs by name, each [batch, width]; "embedding" is that of the encoder itself."""
    return {"embedding": self(signal, mask)}

  def check(self, signal: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mask to use; refuses shapes that are not the spec's.

    Raises:
      DistillError: wrong number of samples or channels, or a mask of another shape.
    """
    if signal.shape[1:] != self.spec.shape:
      raise DistillError(
        f"this {self.spec.modality} encoder expects windows [batch, {self.spec.samples},"
        f" {len(self.spec.channels)}] ({self.spec.window_s:g} s at {self.spec.rate_hz:g} Hz), got"
        f" {list(signal.shape)}; make them with distill.signals.to_windows(samples, rate_hz, spec)"
      )
    if mask is None:
      return jnp.ones(signal.shape, bool)
    if mask.shape != signal.shape:
      raise DistillError(f"mask has shape {list(mask.shape)}, the signal {list(signal.shape)}")
    return mask

  def embed(
    self,
    signal: np.ndarray,
    *,
    rate_hz: float,
    hop_s: float | None = None,
    batch_size: int = 64,
  ) -> np.ndarray:
    """Embeds one raw recording of any length and rate.

    Args:
      signal: [time, channels] in the spec's unit, NaN where a sample is missing.
      rate_hz: samples per second of `signal`.
      hop_s: seconds between window starts; the window's own length if None.
      batch_size: windows per compiled call.

    Returns:
      [windows, dim] float32. Windows in which nothing was observed are zero vectors.

    Raises:
      DistillError: wrong channel count, or a recording shorter than one window.
    """
    windows, mask, _ = signals.to_windows(signal, rate_hz, self.spec, hop_s)
    return Forward(self, batch_size=min(batch_size, len(windows)))(windows, mask)


class Forward:
  """An encoder compiled once, for windows in batches of one shape; the last is padded, not dropped.

  Args:
    encoder: any encoder.
    batch_size: windows per call.
    rhythm: whether the rhythm follows the embedding, where the encoder reads one.
  """

  def __init__(self, encoder: Encoder, *, batch_size: int, rhythm: bool = False):
    graphdef, self._state = nnx.split(encoder)

    def forward(state, x, mask):
      one = nnx.merge(graphdef, state)
      return one.with_rhythm(x, mask) if rhythm else one(x, mask)

    self._forward = jax.jit(forward)
    self._dim, self._batch_size = encoder.dim + rhythm * encoder.rhythm, batch_size

  def __call__(self, windows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[n, time, channels] prepared windows, bool mask of that shape -> [n, dim (+ rhythm)]."""
    out = [np.zeros((0, self._dim), np.float32)]
    for start in range(0, len(windows), self._batch_size):
      x, m = windows[start : start + self._batch_size], mask[start : start + self._batch_size]
      pad = [(0, self._batch_size - len(x)), (0, 0), (0, 0)]
      out.append(np.asarray(self._forward(self._state, np.pad(x, pad), np.pad(m, pad)))[: len(x)])
    return np.concatenate(out)


class PatchTransformer(Encoder):
  """One transformer over the tokens of a stem, pooled over what was observed."""

  FRONT_END = "stem"
  stem: Any  # maps (signal, mask) to (tokens, observed); see distill.nn.stems

  def __init__(
    self,
    spec: SignalSpec,
    stem: nnx.Module,
    *,
    width: int,
    depth: int,
    heads: int,
    pool: str,
    skip: bool = False,
    profile: bool = False,
    rngs: nnx.Rngs,
  ):
    if pool not in POOLINGS:
      raise DistillError(f"pool is {pool!r}; expected one of {', '.join(POOLINGS)}")
    self.spec = spec
    self.stem = stem
    self.pool = pool
    self.width = width
    self.skip = skip
    self.profile = profile
    self.dim = width * ((2 if pool == "mean_sd" else 1) + skip) + profile * pulse.PROFILE
    self.transformer = layers.Transformer(width, depth, heads, rngs=rngs)
    if profile and not self.rhythm:
      raise DistillError(
        "profile is read off a rhythm and this encoder has none; give student.rhythm a width, such"
        " as 32, or set profile=False"
      )

  def tokens(self, signal: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens with positions added, [batch, tokens, width], and which of them were observed."""
    tokens, observed = self.stem(signal, mask)
    return self._placed(tokens), observed

  def _placed(self, tokens: jax.Array) -> jax.Array:
    lanes = self.stem.lanes
    positions = layers.grid_positions(lanes, tokens.shape[1] // lanes, self.width)
    return tokens + jnp.asarray(positions)[None]

  def encode(
    self, tokens: jax.Array, observed: jax.Array, index: jax.Array | None = None
  ) -> jax.Array:
    """The transformer over all tokens, or over those that `index` [batch, kept] picked."""
    times = self.stem.tokens // self.stem.lanes
    places = (jnp.arange(tokens.shape[1]) if index is None else index) % times
    return self.transformer(tokens, observed, jnp.broadcast_to(places, observed.shape))

  def __call__(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    return self._embed(signal, self.check(signal, mask))[0]

  @property
  def rhythm(self) -> int:
    return self.stem.frames if self._reads_rhythm else super().rhythm

  @property
  def _reads_rhythm(self) -> bool:
    """Whether the stem reads one; else it is the pulse's own, if there is a pulse."""
    return getattr(self.stem, "reader", None) is not None

  def with_rhythm(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    if not self.rhythm:
      return self(signal, mask)
    return jnp.concatenate(self._embed(signal, self.check(signal, mask), rhythm=True), axis=1)

  def _embed(
    self, signal: jax.Array, mask: jax.Array, *, rhythm: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """The embedding, and the rhythm [batch, frames] where it was asked for or is needed."""
    found = jnp.zeros((signal.shape[0], 0))
    if self._reads_rhythm:
      tokens, observed, found = self.stem.read(signal, mask)
      pooled = self._pooled(self._placed(tokens), observed)
    else:
      pooled = self._pooled(*self.tokens(signal, mask))
      if rhythm or self.profile:
        found = pulse.pulse_rhythm(signal, mask, rate_hz=self.spec.rate_hz)
    if self.profile:
      pooled = jnp.concatenate([pooled, pulse.pulse_profile(found)], axis=1)
    return pooled, found

  def _pooled(self, tokens: jax.Array, observed: jax.Array) -> jax.Array:
    pooled = POOLINGS[self.pool](self.encode(tokens, observed), observed)
    if not self.skip:
      return pooled
    # Beside what the blocks make of the tokens stands what the stem saw: the level of motion, which
    # carries heart rate by itself, is not lost on the way.
    return jnp.concatenate([pooled, layers.masked_mean(tokens, observed)], axis=1)

  @property
  def layer_names(self) -> tuple[str, ...]:
    blocks = (f"block{i + 1}" for i in range(self.transformer.depth))
    return ("tokens", *blocks, "embedding")

  def by_layer(self, signal: jax.Array, mask: jax.Array | None = None) -> dict[str, jax.Array]:
    found = super().by_layer(signal, mask)
    for count, name in enumerate(self.layer_names[:-1]):
      short: Any = nnx.clone(self)
      short.transformer.depth = count
      short.transformer.norm = _same
      short.skip = short.profile = False
      found[name] = short(signal, mask)
    return found


def _same(tokens: jax.Array) -> jax.Array:
  return tokens
