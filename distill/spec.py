"""What a signal is (SignalSpec) and what the fields of a window are called.

Everything that prepares, reads, trains on, embeds or exports windows agrees on this file. It holds
no computation: `distill.signals` acts on a spec.
"""

import dataclasses
from typing import Any

from distill.errors import DistillError

# Keys of one window and of a batch of windows. A mask is True where a sample was observed.
PPG, PPG_MASK = "ppg", "ppg_mask"
ACC, ACC_MASK = "acc", "acc_mask"
MODALITIES = (PPG, ACC)  # of windows of seconds, which prepared sets hold
DAY = "day"  # a day of summaries, one a minute and channel

# Continuous targets of the probes. NaN where a window has no valid label.
TARGETS = ("hr_bpm", "sdnn_ms", "rmssd_ms")
# Label -> column of what it differs by from a second reading of the same beats.
ERRORS = {"hr_bpm": "hr_error_bpm", "sdnn_ms": "sdnn_error_ms", "rmssd_ms": "rmssd_error_ms"}

NORMALISATIONS = ("none", "gravity", "zscore")
BAND_FILTERS = ("butterworth2", "butterworth3", "pyppg")


@dataclasses.dataclass(frozen=True)
class SignalSpec:
  """One signal as an encoder expects it, or as a prepared set stores it.

  Attributes:
    modality: "ppg", "acc" or "day".
    rate_hz: samples per second.
    window_s: length of a window in seconds.
    channels: channel names, such as ("x", "y", "z").
    unit: "g" for acceleration, "au" (arbitrary units) for PPG, "standardised" for days.
    band_hz: (low, high) of the zero-phase band-pass, or None for no filter.
    band_filter: which filter makes the band: a Butterworth of order 2 or 3, or "pyppg", the
      Chebyshev filter and 50 ms average of the pyPPG toolbox (`distill.signals.band_pass`).
    normalisation: "none"; "gravity" (the window's mean per axis is removed, the unit stays); or
      "zscore" (per channel over observed samples, with `sd_floor` under the divisor).
    sd_floor: smallest standard deviation that counts as signal, in `unit`; zscore only.
  """

  modality: str
  rate_hz: float
  window_s: float
  channels: tuple[str, ...]
  unit: str
  band_hz: tuple[float, float] | None = None
  normalisation: str = "none"
  sd_floor: float = 1e-6
  band_filter: str = "butterworth2"

  def __post_init__(self):
    known = (*MODALITIES, DAY)
    if self.modality not in known:
      raise DistillError(f"SignalSpec.modality is {self.modality!r}; expected one of {known}")
    if self.normalisation not in NORMALISATIONS:
      raise DistillError(
        f"SignalSpec.normalisation is {self.normalisation!r}; expected one of {NORMALISATIONS}"
      )
    if self.band_filter not in BAND_FILTERS:
      raise DistillError(
        f"SignalSpec.band_filter is {self.band_filter!r}; expected one of {BAND_FILTERS}"
      )
    if not self.rate_hz > 0 or not self.window_s > 0:
      raise DistillError(
        f"SignalSpec needs rate_hz > 0 and window_s > 0, got {self.rate_hz} and {self.window_s}"
      )
    if self.band_hz is not None:
      low, high = self.band_hz
      if not 0 < low < high < self.rate_hz / 2:
        raise DistillError(
          f"SignalSpec.band_hz {self.band_hz} must lie inside (0, {self.rate_hz / 2:g}) Hz, half of"
          f" rate_hz {self.rate_hz:g}"
        )

  @property
  def samples(self) -> int:
    """Samples in one window."""
    return round(self.rate_hz * self.window_s)

  @property
  def shape(self) -> tuple[int, int]:
    """(time, channels) of one window."""
    return self.samples, len(self.channels)

  def to_json(self) -> dict[str, Any]:
    """Plain dictionary for spec.json; `from_json` reads it back."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> "SignalSpec":
    """Spec from `to_json`'s dictionary (lists become tuples)."""
    fields = dict(fields)
    fields["channels"] = tuple(fields["channels"])
    if fields.get("band_hz") is not None:
      fields["band_hz"] = tuple(fields["band_hz"])
    return cls(**fields)


# Summaries of five sensors, each standardised over people.
DAY_CHANNELS = {
  "ppg": ("heart_rate", "heart_rate_low", "heart_rate_sd", "rmssd", "sdnn", "breaths")
  + ("pulse_height", "oxygen"),
  "acc": ("steps", "cadence", "motion_log", "jerk", "still_share")
  + ("posture_x", "posture_y", "posture_z", "posture_changes"),
  "skin": ("skin_conductance", "conductance_slope", "conductance_peaks", "lead_contact"),
  "temperature": ("skin_temperature", "temperature_slope", "ambient"),
  "altitude": ("climb", "floors"),
}
DAY_SPEC = SignalSpec(
  DAY,
  1 / 60,
  86400.0,
  tuple(name for some in DAY_CHANNELS.values() for name in some),
  "standardised",
)
