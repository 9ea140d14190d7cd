"""Embeds a signal while it is recorded, window after window, as `Encoder.embed` does afterwards.

    live = Live("ours", rate_hz=50.0, hop_s=5.0)
    for samples, t_s in device:
      for window in live.push(samples, t_s):
        print(window["t0_s"], window["embedding"], window["coverage"])

Windows are cut and prepared by `distill.signals`, the same as offline. Only the rate of the model's
spec is taken: resampling bridges gaps from neighbour to neighbour and takes out a line from end to
end, so what it gives now depends on what is recorded later, and no live version of it is the same.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from distill import export, signals
from distill.errors import DistillError

_LONGEST_GAP_S = 86_400.0  # longer than that a clock has jumped


class Live:
  """A stream of samples to a stream of windows.

  Args:
    model: as `distill.export.export` takes it.
    rate_hz: of the device; must be that of the model.
    hop_s: seconds from one window to the next; None = the window's own length.
    outputs: likewise; () = embedding, coverage and the task of a fine-tuned folder.
    side: likewise.

  Raises:
    DistillError: a model that cannot be read, an unknown output, or another rate.
  """

  def __init__(
    self,
    model: str | pathlib.Path,
    *,
    rate_hz: float,
    hop_s: float | None = None,
    outputs: Sequence[str] = (),
    side: str = "students",
  ):
    device = export.OnDevice(*export.find(model, side))
    names = device.choose(outputs)
    self.spec = device.encoder.spec
    if abs(signals.check_rate(rate_hz) / self.spec.rate_hz - 1.0) > 1e-9:
      raise DistillError(
        f"this model takes {self.spec.rate_hz:g} Hz, the device gives {rate_hz:g} Hz; let the"
        " device sample at the model's rate, or embed whole recordings:"
        f" Encoder.embed(samples, rate_hz={rate_hz:g})"
      )
    self.hop_s = self.spec.window_s if hop_s is None else hop_s
    signals.window_starts(0.0, 0.0, self.spec.window_s, self.hop_s)  # refuses a hop that is none
    self._read = jax.jit(lambda windows, mask: device.read(windows, mask, names))
    self._kept = np.zeros((0, len(self.spec.channels)), np.float32)
    self._before = 0  # samples that came before those kept
    self._windows = 0  # that were given
    self._start_s: float | None = None  # time of the first sample

  def push(self, samples: np.ndarray, t_s: float | None = None) -> list[dict[str, Any]]:
    """Takes what was recorded since, and gives the windows that are complete now.

    Args:
      samples: [n, channels] in the spec's unit, NaN where missing; n may be 0.
      t_s: time of the first of them on any clock, None = right after those before. What lies
        between is missing; half a sample is forgiven.

    Returns:
      For each window its start `t0_s`, seconds after the first sample of all, and its outputs.

    Raises:
      DistillError: other channels, or a time before what was pushed or over a day after it.
    """
    samples = np.asarray(samples)
    if not samples.size:
      return []
    samples = signals.check_samples(samples, f"{self.spec.modality} samples")
    if samples.shape[1] != self._kept.shape[1]:
      raise DistillError(
        f"the samples have {samples.shape[1]} channels; expected {self._kept.shape[1]}:"
        f" {', '.join(self.spec.channels)}"
      )
    missing = self._missing(t_s)
    gap = np.full((missing, samples.shape[1]), np.nan, np.float32)
    self._kept = np.concatenate([self._kept, gap, samples])
    return self._complete()

  def _missing(self, t_s: float | None) -> int:
    """Samples between the last one and the time `t_s`."""
    count = self._before + len(self._kept)
    if t_s is None:
      return 0
    if self._start_s is None:
      self._start_s = t_s - count / self.spec.rate_hz
    missing = round((t_s - self._start_s) * self.spec.rate_hz) - count
    if not 0 <= missing <= _LONGEST_GAP_S * self.spec.rate_hz:
      there = self._start_s + count / self.spec.rate_hz
      raise DistillError(
        f"samples at {t_s:g} s do not follow those before, which end at {there:g} s; push them in"
        " order, or start a new Live where the clock was set"
      )
    return missing

  def _complete(self) -> list[dict[str, Any]]:
    rate_hz, window_s = self.spec.rate_hz, self.spec.window_s
    length_s = (self._before + len(self._kept)) / rate_hz
    starts_s = signals.window_starts(0.0, length_s, window_s, self.hop_s)[self._windows :]
    found = []
    for t0_s in starts_s:
      window = signals.cut(self._kept, rate_hz, t0_s - self._before / rate_hz, window_s)[None]
      mask = np.isfinite(window)
      read = self._read(signals.preprocess(window, mask, self.spec), mask)
      found.append({"t0_s": float(t0_s), **{name: np.asarray(v)[0] for name, v in read.items()}})
    self._windows += len(starts_s)
    # Half a sample to spare: the next window starts at the sample nearest to its time.
    passed = int((self._windows * self.hop_s) * rate_hz - 0.5) - self._before
    if passed > 0:
      passed = min(passed, len(self._kept))
      self._kept, self._before = self._kept[passed:], self._before + passed
    return found
