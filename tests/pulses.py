"""Made-up beats, PPG and recordings with known answers, shared by the tests of the data path."""

import numpy as np

from distill.data.recording import Recording, Signal


def rr_series(n, mean_ms=800.0, sd_ms=30.0, seed=0):
  """[n] RR intervals, independent, ms."""
  return np.random.default_rng(seed).normal(mean_ms, sd_ms, n)


def beat_times(seconds, **kwargs):
  """Beat times from 0.5 s on that fill `seconds`."""
  times = 0.5 + np.cumsum(rr_series(int(4 * seconds), **kwargs)) / 1000.0
  return times[times < seconds - 0.5]


def ppg_of(times_s, seconds, rate_hz=64.0, noise=0.0, seed=0):
  """[time] PPG: at each beat a systolic and a smaller dicrotic wave."""
  t = np.arange(round(seconds * rate_hz)) / rate_hz
  ppg = np.random.default_rng(seed).normal(0, noise, len(t)) if noise else np.zeros(len(t))
  for beat in times_s:
    ppg += np.exp(-(((t - beat) / 0.09) ** 2)) + 0.25 * np.exp(-(((t - beat - 0.3) / 0.1) ** 2))
  return ppg.astype(np.float32)


def acc_still(seconds, rate_hz=32.0, seed=0):
  """[time, 3] acceleration in g of a wrist at rest."""
  noise = np.random.default_rng(seed).normal(0, 0.003, (round(seconds * rate_hz), 3))
  return (noise + np.array([0.1, -0.2, 0.97])).astype(np.float32)


def recording(participant="p0", seconds=200.0, acc_start_s=0.0, seed=0, **fields):
  """A clean recording: PPG at 64 Hz from second 0, acceleration at 32 Hz from `acc_start_s`."""
  times = beat_times(seconds, seed=seed)
  signals = {
    "ppg": Signal(ppg_of(times, seconds, noise=0.01, seed=seed)[:, None], 64.0, 0.0, "au"),
    "acc": Signal(acc_still(seconds - acc_start_s, seed=seed), 32.0, acc_start_s, "g"),
  }
  return Recording(participant, "r0", signals, **fields)
