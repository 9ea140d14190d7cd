"""distill.quality: clean pulses score high, noise and silence low."""

import numpy as np
import pytest

from distill import beats, quality
from tests import pulses


def _quality(ppg, **thresholds):
  clean = beats.clean_ppg(ppg, 64.0)
  found = beats.detect_ppg(ppg, 64.0)
  limits = {"min_template_r": 0.8, "min_spectral_purity": 0.3, **thresholds}
  return quality.ppg_quality(clean, 64.0, found.times_s, **limits)


def test_clean_pulses_are_usable_and_noise_lowers_the_quality_steadily():
  times = pulses.beat_times(60)
  scores = [_quality(pulses.ppg_of(times, 60, noise=n)).quality for n in (0.0, 0.2, 0.5, 1.0)]
  assert scores == sorted(scores, reverse=True)
  assert _quality(pulses.ppg_of(times, 60)).usable
  assert scores[0] > 0.8
  assert not _quality(np.random.default_rng(0).normal(size=3840)).usable


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_constant_or_missing_is_zero(value):
  found = _quality(np.full(3840, value))
  assert found == quality.Quality(0.0, False, 0.0, 0.0)


def test_each_threshold_counts():
  ppg = pulses.ppg_of(pulses.beat_times(60), 60, noise=0.1)
  found = _quality(ppg)
  assert not _quality(ppg, min_template_r=found.template_r + 1e-6).usable
  assert not _quality(ppg, min_spectral_purity=found.spectral_purity + 1e-6).usable


def test_purity_of_a_sine_is_one_and_of_white_noise_the_width_of_its_lines():
  t = np.arange(3840) / 64
  assert quality.spectral_purity(np.sin(2 * np.pi * 1.2 * t), 64.0) > 0.95
  noise = np.random.default_rng(0).normal(size=3840 * 10)
  # Two lines of 0.4 Hz in 7.5 Hz hold 11 % of white noise; picking the highest peak adds to that.
  assert 0.11 < quality.spectral_purity(noise, 64.0) < 0.3
