"""One recording -> its paired windows with quality, coverage and labels.

Signals are resampled once to their working rates; windows of all signals start at the same second
of the recording's clock, each read at its nearest sample. Nothing is filtered or normalised here.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from scipy import signal as scipy_signal

from distill import beats as beats_module
from distill import signals
from distill.data.recording import Beats, Recording, Signal
from distill.errors import DistillError
from distill.quality import Quality, ppg_qualities
from distill.spec import ACC, ERRORS, MODALITIES, PPG, TARGETS, SignalSpec

UNITS = {PPG: "au", ACC: "g"}
CHANNELS = {PPG: ("ppg",), ACC: ("x", "y", "z")}
BLOCK = 64  # windows that are worked on at once
MOTION_CUT_HZ = 0.5  # slower changes of the magnitude are calibration error, not movement
# Motion above this is walking or more: no label from pulses, none for variability. There a pulse
# rate locks to the steps: against BAMI-1's ECG it errs by 1 bpm below, 46 bpm above 0.3 g.
WALKING_G = 0.1
ACTIVITY_SHARE = 0.8  # of a window that one activity must fill to name it


@dataclasses.dataclass(frozen=True)
class WindowSettings:
  """How recordings are cut.

  Attributes:
    ppg_rate_hz: working rate of PPG.
    acc_rate_hz: working rate of acceleration.
    window_s: length of a window, seconds.
    hop_s: from one start to the next, seconds; shorter than `window_s` for overlap.
    min_coverage: share of each signal that must be observed for a window to be stored.
    min_template_r: threshold of the PPG quality, see `distill.quality`.
    min_spectral_purity: likewise.
  """

  ppg_rate_hz: float = 64.0
  acc_rate_hz: float = 50.0
  window_s: float = 60.0
  hop_s: float = 60.0
  min_coverage: float = 0.5
  min_template_r: float = 0.8
  min_spectral_purity: float = 0.3

  def __post_init__(self):
    for name in ("ppg_rate_hz", "acc_rate_hz", "window_s", "hop_s"):
      if not getattr(self, name) > 0:
        raise DistillError(f"data.{name} must be positive, got {getattr(self, name)}")
    for name in ("min_coverage", "min_template_r", "min_spectral_purity"):
      if not 0 <= getattr(self, name) <= 1:
        raise DistillError(f"data.{name} must lie in [0, 1], got {getattr(self, name)}")
    for name in ("ppg_rate_hz", "acc_rate_hz"):
      count = getattr(self, name) * self.window_s
      if abs(count - round(count)) > 1e-6 or round(count) < 1:
        raise DistillError(
          f"a window of {self.window_s:g} s holds {count:g} samples at data.{name}"
          f" {getattr(self, name):g}; expected a whole number: change data.window_s or the rate"
        )

  @classmethod
  def from_config(cls, data_config: Any) -> "WindowSettings":
    """The fields of the config's data section."""
    return cls(**{field.name: data_config[field.name] for field in dataclasses.fields(cls)})

  @property
  def specs(self) -> dict[str, SignalSpec]:
    """What is stored: working rate, unit, no filter, no normalisation."""
    rates = {PPG: self.ppg_rate_hz, ACC: self.acc_rate_hz}
    return {
      name: SignalSpec(name, rates[name], self.window_s, CHANNELS[name], UNITS[name])
      for name in (PPG, ACC)
    }


@dataclasses.dataclass(frozen=True)
class Window:
  """One stored window: signals [time, channels] float32 (NaN where missing) and index columns."""

  signals: Mapping[str, np.ndarray]
  columns: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Prepared:
  """A recording at working rates with everything that is computed once for it."""

  recording: Recording
  settings: WindowSettings
  even: Mapping[str, Signal]
  clean: np.ndarray  # [time] band-passed PPG
  pulse: Beats  # of the PPG, on the recording's clock
  aligned: Beats  # of the same pulses, a second reading where no beats are given

  def at(self, name: str, t0_s: float) -> np.ndarray:
    signal = self.even[name]
    return signals.cut(
      signal.samples, signal.rate_hz, t0_s - signal.start_s, self.settings.window_s
    )


def check_recording(recording: Recording, names: Sequence[str] = MODALITIES) -> None:
  """Refuses a recording that cannot hold a window of the signals `names`.

  Raises:
    DistillError: a signal that is not there, has another unit or number of channels, no valid rate,
      no observed sample, or is constant.
  """
  where = f"{recording.participant}/{recording.name}"
  for name in names:
    if name not in recording.signals:
      there = ", ".join(recording.signals) or "nothing"
      raise DistillError(f"{where} has no {name} signal; it has: {there}")
    signal = recording.signals[name]
    samples = signals.check_samples(signal.samples, f"{name} of {where}")
    signals.check_rate(signal.rate_hz, f"{name} of {where}")
    if signal.unit != UNITS[name]:
      raise DistillError(f"{name} of {where} is in {signal.unit!r}; expected {UNITS[name]!r}")
    if samples.shape[1] != len(CHANNELS[name]):
      raise DistillError(
        f"{name} of {where} has {samples.shape[1]} channels; expected {len(CHANNELS[name])}"
      )
    observed = samples[np.isfinite(samples).all(1)]
    if not len(observed):
      raise DistillError(f"{name} of {where} has no observed sample: all are NaN")
    if np.all(observed == observed[0]):
      raise DistillError(
        f"{name} of {where} is constant ({observed[0, 0]:g}): a sensor that was off or covered"
      )


def starts(
  recording: Recording, settings: WindowSettings, names: Sequence[str] = MODALITIES
) -> np.ndarray:
  """[n] start times of all windows, from the latest start of the signals on.

  Raises:
    DistillError: the signals share less than one window.
  """
  start_s = max(recording.signals[name].start_s for name in names)
  stop_s = min(recording.signals[name].stop_s for name in names)
  t0_s = signals.window_starts(start_s, stop_s, settings.window_s, settings.hop_s)
  if not len(t0_s):
    raise DistillError(
      f"{' and '.join(names)} of {recording.participant}/{recording.name} have"
      f" {max(stop_s - start_s, 0):g} s"
      f" in common, shorter than one window of {settings.window_s:g} s"
    )
  return t0_s


def cut_recording(
  recording: Recording, settings: WindowSettings, names: Sequence[str] = MODALITIES
) -> Iterator[Window]:
  """The windows of a recording, in time order, those with too little observed left out.

  Args:
    recording: what to cut.
    settings: how.
    names: its signals; ("acc",) of a set that has heart rate but no PPG, for probes alone.

  Raises:
    DistillError: the recording cannot be used at all; see `check_recording` and `starts`.
  """
  check_recording(recording, names)
  t0s = starts(recording, settings, names)
  prepared = _prepare(recording, settings, names)
  # Filters and spectra cost a fraction of a window when many pass at once.
  for first in range(0, len(t0s), BLOCK):
    yield from _cut_block(prepared, t0s[first : first + BLOCK])


def _cut_block(prepared: _Prepared, t0s: np.ndarray) -> Iterator[Window]:
  settings = prepared.settings
  raw = {name: np.stack([prepared.at(name, t0_s) for t0_s in t0s]) for name in prepared.even}
  coverage = {name: np.isfinite(raw[name]).all(-1).mean(-1) for name in raw}
  kept = np.min(list(coverage.values()), axis=0) >= settings.min_coverage
  if not kept.any():
    return
  raw, t0s = {name: raw[name][kept] for name in raw}, t0s[kept]
  coverage = {name: coverage[name][kept] for name in raw}
  motion = motion_g(raw[ACC], settings.acc_rate_hz)
  for i, (t0_s, quality) in enumerate(zip(t0s, _qualities(prepared, t0s), strict=True)):
    window = {name: raw[name][i] for name in raw}
    share = {name: float(coverage[name][i]) for name in raw}
    yield Window(window, _columns(prepared, float(t0_s), share, quality, float(motion[i])))


def _prepare(
  recording: Recording, settings: WindowSettings, names: Sequence[str] = MODALITIES
) -> _Prepared:
  even = {}
  for name in names:
    signal, spec = recording.signals[name], settings.specs[name]
    samples = signals.resample(signal.samples, signal.rate_hz, spec.rate_hz)
    even[name] = dataclasses.replace(signal, samples=samples, rate_hz=spec.rate_hz)
  if PPG not in even:
    nothing = Beats(np.zeros(0), np.zeros(0, bool), "ppg")
    return _Prepared(recording, settings, even, np.zeros(0), nothing, nothing)
  ppg = even[PPG]
  clean = beats_module.clean_ppg(ppg.samples[:, 0], ppg.rate_hz)
  pulse = beats_module.detect_ppg(ppg.samples[:, 0], ppg.rate_hz, clean)
  # Read where labels come from pulses: beats that are known need no second reading.
  known = recording.beats is not None
  aligned = pulse if known else beats_module.aligned(pulse, clean, ppg.rate_hz)
  pulse, aligned = (beats_module.shifted(one, ppg.start_s) for one in (pulse, aligned))
  return _Prepared(recording, settings, even, clean, pulse, aligned)


def _columns(
  prepared: _Prepared, t0_s: float, coverage: Mapping[str, float], quality: Quality, motion: float
) -> dict[str, Any]:
  recording, settings = prepared.recording, prepared.settings
  columns: dict[str, Any] = {
    "participant": recording.participant,
    "recording": recording.name,
    "t0_s": t0_s,
    "ppg_coverage": coverage.get(PPG, 0.0),
    "acc_coverage": coverage[ACC],
    "ppg_quality": quality.quality,
    "ppg_usable": quality.usable,
    "activity": activity(recording, t0_s, settings.window_s),
    "age": recording.age,
    "sex": recording.sex,
    "bmi": recording.bmi,
    "skin_tone": recording.skin_tone,
    "motion_g": motion,
    "complete": min(coverage.values()) == 1.0,
  }
  return columns | _labels(prepared, t0_s, quality, motion)


def _qualities(prepared: _Prepared, t0s: np.ndarray) -> list[Quality]:
  if PPG not in prepared.even:
    return [Quality(0.0, False, 0.0, 0.0)] * len(t0s)
  settings, ppg = prepared.settings, prepared.even[PPG]
  column, times_s = prepared.clean[:, None], prepared.pulse.times_s
  clean = [signals.cut(column, ppg.rate_hz, t - ppg.start_s, settings.window_s) for t in t0s]
  first, last = np.searchsorted(times_s, (t0s, t0s + settings.window_s))
  return ppg_qualities(
    np.nan_to_num(np.stack(clean)[..., 0]),
    ppg.rate_hz,
    [times_s[a:b] - t0_s for a, b, t0_s in zip(first, last, t0s, strict=True)],
    min_template_r=settings.min_template_r,
    min_spectral_purity=settings.min_spectral_purity,
  )


def _labels(prepared: _Prepared, t0_s: float, quality: Quality, motion: float) -> dict[str, Any]:
  """Label columns: reference where there is one, else the window's own pulse beats.

  Heart rate from pulses passes the soft gate of `beats.labels` and needs a wrist that does not
  walk; variability from pulses also needs a usable window. Variability of any origin needs a
  stationary one.
  """
  recording, window_s = prepared.recording, prepared.settings.window_s
  source = recording.beats or prepared.pulse
  found = beats_module.labels(source, t0_s, window_s)
  still = motion <= WALKING_G
  hr, hr_origin, hr_valid = found.hr_bpm, source.origin, source.origin != "ppg" or still
  if recording.heart_rate is not None:
    hr = beats_module.track_hr(recording.heart_rate, t0_s, window_s)
    hr_origin, hr_valid = recording.heart_rate.origin, True
  hr_valid = hr_valid and hr.valid
  steady = still and beats_module.is_stationary(recording.heart_rate or source, t0_s, window_s)
  hrv_valid = found.sdnn_ms.valid and steady and (source.origin != "ppg" or quality.usable)
  columns: dict[str, Any] = {
    name: getattr(found, name).value if hrv_valid else np.nan
    for name in ("sdnn_ms", "rmssd_ms", "sdnn_detrended_ms", "pnn50")
  }
  columns |= {
    "hr_bpm": hr.value if hr_valid else np.nan,
    "hr_origin": hr_origin if hr_valid else "",
    "hrv_origin": source.origin if hrv_valid else "",
    "stationary": steady,
  }
  return columns | _label_errors(prepared, t0_s, columns)


def pulse_labels(ppg: np.ndarray, rate_hz: float, motion: float) -> dict[str, float]:
  """What the pulse of one usable window says by itself, by the gates of labels from pulses.

  Args:
    ppg: [time] at `rate_hz`, NaN where missing.
    rate_hz: samples per second.
    motion: `motion_g` of the window; a wrist that walks gives no label.

  Returns:
    Target -> value, NaN where it is not valid.
  """
  pulse, window_s = beats_module.detect_ppg(ppg, rate_hz), len(ppg) / rate_hz
  found = beats_module.labels(pulse, 0.0, window_s)
  still = motion <= WALKING_G
  steady = still and beats_module.is_stationary(pulse, 0.0, window_s)
  estimates = {name: getattr(found, name) for name in TARGETS}
  return {
    name: one.value if one.valid and (still if name == "hr_bpm" else steady) else np.nan
    for name, one in estimates.items()
  }


def _label_errors(prepared: _Prepared, t0_s: float, columns: Mapping[str, Any]) -> dict[str, float]:
  """Of each label: itself minus what a second reading of the same pulses says."""
  origins = {name: columns["hr_origin" if name == "hr_bpm" else "hrv_origin"] for name in ERRORS}
  errors = {ERRORS[name]: 0.0 if origins[name] == "simulated" else np.nan for name in ERRORS}
  if "ppg" in origins.values():
    second = beats_module.labels(prepared.aligned, t0_s, prepared.settings.window_s)
    read = {name: getattr(second, name).value for name in ERRORS if origins[name] == "ppg"}
    errors |= {ERRORS[name]: columns[name] - value for name, value in read.items()}
  return errors


def motion_g(acc: np.ndarray, rate_hz: float) -> np.ndarray:
  """SD over observed samples of the high-passed (0.5 Hz) acceleration magnitude.

  Args:
    acc: [..., time, 3] in g, NaN where missing.
    rate_hz: samples per second.

  Returns:
    [...] in g; NaN where nothing was observed.
  """
  magnitude = np.sqrt((acc.astype(np.float64) ** 2).sum(-1, keepdims=True))
  observed = np.isfinite(magnitude)
  padding = min(acc.shape[-2] - 1, round(rate_hz / MOTION_CUT_HZ))
  filled = signals.fill_gaps(magnitude, observed)
  high = scipy_signal.sosfiltfilt(_motion_sections(rate_hz), filled, axis=-2, padlen=padding)
  count = observed.sum((-2, -1))
  mean = np.where(observed, high, 0.0).sum((-2, -1)) / np.maximum(count, 1)
  squares = np.where(observed, high - mean[..., None, None], 0.0) ** 2
  return np.sqrt(squares.sum((-2, -1)) / np.where(count > 0, count, np.nan))


@functools.lru_cache
def _motion_sections(rate_hz: float) -> np.ndarray:
  """[sections, 6] of the high-pass; designing it takes longer than passing a window through."""
  sections = scipy_signal.butter(2, MOTION_CUT_HZ, "highpass", fs=rate_hz, output="sos")
  return cast(np.ndarray, sections)


def activity(recording: Recording, t0_s: float, window_s: float) -> str:
  """The activity that fills at least 80 % of the window, "" where none does."""
  shares: dict[str, float] = {}
  for stretch in recording.activities:
    overlap_s = min(stretch.stop_s, t0_s + window_s) - max(stretch.start_s, t0_s)
    if overlap_s > 0:
      shares[stretch.label] = shares.get(stretch.label, 0.0) + overlap_s / window_s
  label = max(shares, key=lambda name: shares[name], default="")
  return label if label and shares[label] >= ACTIVITY_SHARE - 1e-6 else ""
