"""A speech network as an encoder of sensor windows: up-sampled, channel by channel, pooled.

The recipe follows arXiv 2509.00221, which feeds up-sampled sensor signals to frozen speech
networks and probes their layers; it states neither rates nor pooling, so those are arguments here
and want a sweep. At factor 4 a minute of PPG (64 Hz) plays as one second of speech at 16 kHz: a
frame of the last convolution sees 1.6 s, one or two heart beats, every 1.25 s.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import signal as scipy_signal

from distill.errors import DistillError
from distill.nn.encoder import POOLINGS, Encoder
from distill.nn.stems import MIN_TOKEN_COVERAGE
from distill.spec import ACC, PPG, SignalSpec
from teachers.speech.network import ARCHITECTURES, Architecture, SpeechNetwork, check_layers

# Speech networks expect zero mean and unit variance, which "zscore" gives each channel.
# Acceleration below the floor counts as sensor noise and is not blown up to the size of speech.
SPECS = {
  PPG: SignalSpec(
    PPG, 64.0, 60.0, ("green",), "au", band_hz=(0.4, 8.0), normalisation="zscore", sd_floor=1e-6
  ),
  ACC: SignalSpec(ACC, 50.0, 60.0, ("x", "y", "z"), "g", normalisation="zscore", sd_floor=1e-3),
}

_REACH = 10  # input samples to either side that the up-sampling filter reads


@functools.cache
def _upsampling_bank(factor: int) -> np.ndarray:
  """[2 * reach + 1, 1, factor] float32: one short filter for each sample between two samples.

  The low-pass of `scipy.signal.resample_poly` (Kaiser window, beta 5), cut into its phases: output
  q * factor + p is the sum over j of x[q - j] * taps[j * factor + p].
  """
  taps = factor * scipy_signal.firwin(2 * _REACH * factor + 1, 1 / factor, window=("kaiser", 5.0))
  phases = np.pad(taps, (0, factor - 1)).reshape(2 * _REACH + 1, factor)
  return np.ascontiguousarray(phases[::-1, None]).astype(np.float32)


def upsample(signal: jax.Array, factor: int) -> jax.Array:
  """[batch, time] -> [batch, time * factor], zero delay; the ends are held beyond the window."""
  if factor == 1:
    return signal
  padded = jnp.pad(signal, ((0, 0), (_REACH, _REACH)), mode="edge")[:, :, None]
  bank = jnp.asarray(_upsampling_bank(factor))
  fine = jax.lax.conv_general_dilated(
    padded, bank, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
  )
  return fine.reshape(signal.shape[0], -1)


def upsample_mask(observed: jax.Array, factor: int) -> jax.Array:
  """[batch, time] bool -> [batch, time * factor]: whether the nearest sample was observed."""
  nearest = np.floor(np.arange(observed.shape[1] * factor) / factor + 0.5).astype(int)
  return observed[:, nearest.clip(max=observed.shape[1] - 1)]


class SpeechFeatures(Encoder):
  """Pooled layers of a speech network; channels do not mix.

  The embedding holds layer after layer in the order asked for and, within a layer, channel after
  channel; `columns` says where each layer lies. A frame counts when at least half of the samples it
  sees were observed; a channel without such a frame gives zeros.
  """

  FRONT_END = "net.feature_extractor"

  def __init__(
    self,
    spec: SignalSpec,
    net: SpeechNetwork,
    *,
    layers: Sequence[str],
    rate_factor: int,
    pool: str,
  ):
    """Wraps a network.

    Args:
      spec: of the windows.
      net: its weights travel with this encoder.
      layers: names of `net.architecture.layer_names`.
      rate_factor: whole number by which the sampling rate is raised first.
      pool: "mean" or "mean_sd", over observed frames.

    Raises:
      DistillError: an unknown layer or pool, or windows that give a layer not a single frame.
    """
    architecture = net.architecture
    check_layers(architecture, tuple(layers))
    if pool not in POOLINGS:
      raise DistillError(f"pool is {pool!r}; expected one of {', '.join(POOLINGS)}")
    _check_window(spec, architecture, tuple(layers), rate_factor)
    self.spec = spec
    self.net = net
    self.layers = tuple(layers)
    self.rate_factor = rate_factor
    self.pool = pool
    self.dim = sum(self._width(name) for name in self.layers)

  def _width(self, name: str) -> int:
    statistics = 2 if self.pool == "mean_sd" else 1
    width = self.net.architecture.layer_width(name)
    return statistics * width * len(self.spec.channels)

  @property
  def columns(self) -> dict[str, slice]:
    """Where each layer lies in the embedding."""
    stops = np.cumsum([self._width(name) for name in self.layers]).tolist()
    return {name: slice(a, b) for name, a, b in zip(self.layers, [0, *stops], stops, strict=False)}

  def _embed_channel(self, channel: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
    """Layer -> [batch, width] of one channel's ([batch, time], [batch, time])."""
    signal, observed = channel
    found = self.net.take(
      upsample(signal, self.rate_factor),
      upsample_mask(observed, self.rate_factor),
      self.layers,
      min_coverage=MIN_TOKEN_COVERAGE,
    )
    return {name: POOLINGS[self.pool](frames, seen) for name, (frames, seen) in found.items()}

  def __call__(self, signal: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    mask = self.check(signal, mask)
    signal = jnp.where(mask, signal, 0.0)
    # A loop over channels rather than a larger batch: the first layers' frames fill the memory.
    pooled = jax.lax.map(
      self._embed_channel, (jnp.moveaxis(signal, 2, 0), jnp.moveaxis(mask, 2, 0))
    )
    parts = [jnp.moveaxis(pooled[name], 0, 1).reshape(signal.shape[0], -1) for name in self.layers]
    return jnp.concatenate(parts, axis=1)

  @property
  def layer_names(self) -> tuple[str, ...]:
    return (*self.net.architecture.layer_names, "embedding")

  def by_layer(self, signal: jax.Array, mask: jax.Array | None = None) -> dict[str, jax.Array]:
    wide = nnx.clone(self)
    wide.layers = self.net.architecture.layer_names
    values = wide(signal, mask)
    found = {name: values[:, place] for name, place in wide.columns.items()}
    return found | {"embedding": jnp.concatenate([found[name] for name in self.layers], axis=1)}


def _check_window(
  spec: SignalSpec, architecture: Architecture, names: tuple[str, ...], rate_factor: int
) -> None:
  if isinstance(rate_factor, bool) or not isinstance(rate_factor, int) or rate_factor < 1:
    raise DistillError(f"rate_factor is {rate_factor!r}; expected a whole number from 1 on")
  highest = max(map(architecture.layer_names.index, names))
  field, _ = architecture.reach(min(highest, len(architecture.conv_dim) - 1))
  if spec.samples * rate_factor < field:
    raise DistillError(
      f"a window of {spec.samples} samples at rate_factor {rate_factor} is shorter than the"
      f" {field} samples that one frame of {architecture.layer_names[highest]} sees; use"
      f" rate_factor {-(-field // spec.samples)} or more"
    )


def build(
  *,
  seed: int = 0,
  architecture: str | Mapping[str, Any] = "base",
  modality: str = PPG,
  window_s: float | None = None,
  output: str | Sequence[str] = "conv6",
  rate_factor: int = 4,
  pool: str = "mean_sd",
) -> SpeechFeatures:
  """A randomly initialised speech encoder: a control, or the shape that stored weights go into.

  Args:
    seed: of the initial weights.
    architecture: "base", "large", "small" (ours), or the fields of `Architecture`.
    modality: "ppg" (64 Hz, band-passed) or "acc" (50 Hz, three axes).
    window_s: length of the windows, seconds; None = 60.
    output: the layer that is the embedding, such as "conv6", "hidden3" or "last", or several.
    rate_factor: whole number by which the sampling rate is raised first.
    pool: "mean" or "mean_sd" over time (twice as long).

  Raises:
    DistillError: an unknown name, or windows too short for one frame.
  """
  if modality not in SPECS:
    raise DistillError(f"modality is {modality!r}; expected one of {', '.join(SPECS)}")
  spec = SPECS[modality]
  if window_s is not None:
    spec = dataclasses.replace(spec, window_s=window_s)
  layers = (output,) if isinstance(output, str) else tuple(output)
  net = SpeechNetwork(_architecture(architecture), rngs=nnx.Rngs(seed))
  return SpeechFeatures(spec, net, layers=layers, rate_factor=rate_factor, pool=pool)


def small(
  *,
  seed: int = 0,
  modality: str = PPG,
  window_s: float | None = None,
  rate_factor: int = 4,
  pool: str = "mean_sd",
) -> SpeechFeatures:
  """A speech encoder at random that a laptop can run: a control, of no published model."""
  return build(
    seed=seed,
    architecture="small",
    modality=modality,
    window_s=window_s,
    rate_factor=rate_factor,
    pool=pool,
  )


def _architecture(given: str | Mapping[str, Any]) -> Architecture:
  if not isinstance(given, str):
    return Architecture.from_json(dict(given))
  if given not in ARCHITECTURES:
    raise DistillError(f"architecture is {given!r}; expected {' or '.join(ARCHITECTURES)}")
  return ARCHITECTURES[given]
