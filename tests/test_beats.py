"""distill.beats: intervals, labels, detection."""

import hypothesis
import hypothesis.strategies as st
import neurokit2
import numpy as np
import pytest

from distill import beats
from distill.data.recording import Beats, HeartRateTrack
from distill.errors import DistillError
from tests import pulses

FUNCTIONS = (beats.hr_bpm, beats.sdnn_ms, beats.rmssd_ms, beats.pnn50, beats.sdnn_detrended_ms)


def _all_normal(times_s, origin="simulated"):
  return Beats(np.asarray(times_s), np.ones(len(times_s), bool), origin)


def test_values_equal_neurokit2():
  rr = pulses.rr_series(200, sd_ms=45)
  peaks = np.r_[0, np.cumsum(rr)] / 1000 * 100000
  other = neurokit2.hrv_time(peaks.round().astype(int), sampling_rate=100000)
  assert beats.sdnn_ms(rr) == pytest.approx(other["HRV_SDNN"][0], abs=0.02)
  assert beats.rmssd_ms(rr) == pytest.approx(other["HRV_RMSSD"][0], abs=0.02)
  assert beats.pnn50(rr) == pytest.approx(other["HRV_pNN50"][0], rel=0.02)  # over n
  assert beats.hr_bpm(rr) == pytest.approx(60000 / other["HRV_MeanNN"][0], abs=0.01)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("wrong", [pulses.rr_series(50) / 1000, pulses.rr_series(50) * 64])
def test_seconds_or_counts_are_refused(function, wrong):
  with pytest.raises(DistillError, match=r"250 to 2500 ms.*seconds"):
    function(wrong)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_to_go_on_is_nan_and_shapes_are_checked(function):
  assert np.isnan(function(np.zeros(0)))
  assert np.isnan(function(np.full(5, 800.0), np.zeros(5, bool)))
  with pytest.raises(DistillError, match="expected that of rr_ms"):
    function(np.full(5, 800.0), np.ones(4, bool))
  with pytest.raises(DistillError, match=r"\[intervals\]"):
    function(np.full((5, 2), 800.0))


def test_differences_do_not_bridge_a_removed_beat():
  rr = np.array([800, 810, 790, 1200, 600, 805, 795], float)
  normal = np.array([1, 1, 1, 0, 0, 1, 1], bool)
  assert beats.rmssd_ms(rr, normal) == pytest.approx(np.sqrt((10**2 + 20**2 + 10**2) / 3))
  assert beats.sdnn_ms(rr, normal) == pytest.approx(np.std([800, 810, 790, 805, 795], ddof=1))
  assert beats.pnn50(rr, normal) == 0


def test_a_single_interval_out_of_range_is_masked():
  rr = np.r_[pulses.rr_series(20), 9000.0, pulses.rr_series(20)]
  keep = rr < 2500
  assert beats.hr_bpm(rr) == pytest.approx(60000 / rr[keep].mean())


def test_a_ramp_has_sdnn_but_no_detrended_sdnn():
  hr = np.linspace(75, 90, 80)  # SCIENCE: 39 ms with no variability at all
  rr = 60000 / hr
  assert beats.sdnn_ms(rr) == pytest.approx(39, abs=2)
  assert beats.sdnn_detrended_ms(rr) < 3


def test_a_ramp_has_none_where_beats_are_missing_either():
  beat_s = [0.0]
  while beat_s[-1] < 60:
    beat_s.append(beat_s[-1] + 60 / (70 + 8 * beat_s[-1] / 60))
  times_s = np.array(beat_s)
  normal = (times_s < 10) | (times_s > 18)
  found = beats.labels(Beats(times_s, normal, "ecg"), 0.0, 60.0)
  assert found.sdnn_detrended_ms.valid
  assert found.sdnn_detrended_ms.value < 1.0
  times_s, normal = times_s[times_s < 60], normal[times_s < 60]
  ends_s, rr_ms = times_s[1:], 1000 * np.diff(times_s)  # NumPy's own line through the same beats
  kept = normal[1:] & normal[:-1]
  line = np.polyval(np.polyfit(ends_s[kept], rr_ms[kept], 1), ends_s[kept])
  expected = np.std(rr_ms[kept] - line, ddof=1)
  assert found.sdnn_detrended_ms.value == pytest.approx(expected, rel=1e-6)
  with pytest.raises(DistillError, match="give end_ms"):
    beats.sdnn_detrended_ms(np.where(kept, rr_ms, np.nan), kept)


def test_labels_of_a_window_and_their_validity():
  times = pulses.beat_times(120, seed=1)
  found = beats.labels(_all_normal(times), 30.0, 60.0)
  inside = times[(times >= 30) & (times < 90)]
  rr = 1000 * np.diff(inside)
  assert found.hr_bpm.value == pytest.approx(60000 / rr.mean())
  assert found.sdnn_ms.value == pytest.approx(rr.std(ddof=1))
  assert found.rmssd_ms.value == pytest.approx(np.sqrt(np.mean(np.diff(rr) ** 2)))
  assert found.hr_bpm.n_beats == len(rr)
  assert found.hr_bpm.coverage == pytest.approx(rr.sum() / 60000)
  assert found.hr_bpm.valid
  assert found.rmssd_ms.valid


@pytest.mark.parametrize(
  ("lost", "hr", "hrv"), [(0.1, True, True), (0.3, True, False), (0.6, False, False)]
)
def test_hrv_has_a_hard_gate_and_hr_a_soft_one(lost, hr, hrv):
  times = pulses.beat_times(60, seed=2)
  normal = times > 60 * lost
  found = beats.labels(Beats(times, normal, "ppg"), 0.0, 60.0)
  assert (found.hr_bpm.valid, found.sdnn_ms.valid) == (hr, hrv)


def test_no_beats_is_not_valid_and_no_error():
  found = beats.labels(_all_normal(np.zeros(0)), 0.0, 60.0)
  assert not found.hr_bpm.valid
  assert np.isnan(found.hr_bpm.value)
  assert found.hr_bpm.n_beats == 0


@hypothesis.given(
  mean_ms=st.floats(400, 1500),
  start_s=st.floats(0, 60),
  lost=st.lists(st.integers(0, 200), max_size=30),
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_labels_equal_a_beat_by_beat_count(mean_ms, start_s, lost):
  times = np.cumsum(np.full(201, mean_ms)) / 1000.0
  normal = np.ones(201, bool)
  normal[lost] = False
  found = beats.labels(Beats(times, normal, "ecg"), start_s, 60.0)
  pairs = [
    1
    for a, b, na, nb in zip(times, times[1:], normal, normal[1:])
    if start_s <= a and b < start_s + 60 and na and nb
  ]
  assert found.hr_bpm.n_beats == len(pairs)
  if pairs:
    assert found.hr_bpm.value == pytest.approx(60000 / mean_ms)


def test_track_label_is_the_mean_of_the_27_inside():
  hr = np.arange(100, dtype=np.float32)
  track = HeartRateTrack(2.0 * np.arange(100), 8.0, hr, "ecg")
  found = beats.track_hr(track, 20.0, 60.0)
  assert found.n_beats == 27
  assert found.value == pytest.approx(np.mean(np.arange(10, 37)))
  assert found.valid
  assert beats.track_hr(track, 20.5, 60.0).n_beats == 26
  hr[10:20] = np.nan
  found = beats.track_hr(track, 20.0, 60.0)
  assert (found.valid, found.n_beats) == (False, 17)
  assert not beats.track_hr(track, 180.0, 60.0).valid


@pytest.mark.parametrize(("end_bpm", "steady"), [(75, True), (82, True), (95, False)])
def test_stationary(end_bpm, steady):
  rr = 60 / np.linspace(75, end_bpm, 90)
  assert beats.is_stationary(_all_normal(np.cumsum(rr)), 1.0, 60.0) is steady
  track = HeartRateTrack(np.arange(0, 60, 2.0), 8.0, np.linspace(75, end_bpm, 30), "ecg")
  assert beats.is_stationary(track, 0.0, 60.0) is steady


def test_stationary_needs_both_ends():
  times = pulses.beat_times(60)
  assert beats.is_stationary(_all_normal(times), 0.0, 60.0)
  assert not beats.is_stationary(_all_normal(times[times < 40]), 0.0, 60.0)
  assert not beats.is_stationary(_all_normal(times), 0.0, 20.0)


@pytest.mark.parametrize("phase", [-0.5, -0.2, 0.0, 0.3, 0.49])
def test_refined_peak_lies_between_samples(phase):
  t = np.arange(100)
  signal = np.exp(-(((t - 50 - phase) / 6) ** 2))
  assert beats.refine_peaks(signal, [50])[0] == pytest.approx(50 + phase, abs=0.01)
  assert beats.refine_peaks(signal, [0, 99]).tolist() == [0, 99]


def test_peaks_of_many_signals_are_refined_as_one_at_a_time():
  rng = np.random.default_rng(0)
  signals = rng.normal(size=(200, 7)).round(1)  # with ties, and maxima at either end
  peaks = signals.argmax(1)

  def vertex(signal, peak):
    if peak in (0, len(signal) - 1):
      return float(peak)
    left, top, right = signal[peak - 1 : peak + 2]
    bend = left - 2 * top + right
    return peak + 0.5 * (left - right) / bend if bend < 0 else float(peak)

  refined = beats.refine_peaks(signals, peaks[:, None])[:, 0]
  by_hand = [vertex(*pair) for pair in zip(signals, peaks, strict=True)]
  np.testing.assert_allclose(refined, by_hand, rtol=0, atol=1e-9)
  assert refined.tolist() == [
    beats.refine_peaks(signal, [peak])[0] for signal, peak in zip(signals, peaks, strict=True)
  ]


@pytest.mark.parametrize("rmssd", [10.0, 20.0])
@pytest.mark.parametrize("polarity", [1, -1])
def test_rmssd_survives_64_hz(rmssd, polarity):
  times = pulses.beat_times(300, sd_ms=rmssd / np.sqrt(2), seed=3)
  found = beats.detect_ppg(polarity * pulses.ppg_of(times, 300), 64.0)
  truth = beats.rmssd_ms(1000 * np.diff(times))
  rr, normal = beats.intervals(found, 0.0, 300.0)
  assert normal.mean() > 0.95
  assert beats.rmssd_ms(rr, normal) == pytest.approx(truth, abs=1.5)
  rounded = np.diff(np.round(times * 64) / 64) * 1000
  assert beats.rmssd_ms(rounded) > truth + 2  # what whole samples would have read


@pytest.mark.parametrize("polarity", [1, -1])
def test_aligned_pulses_are_a_second_reading_as_good_as_the_first(polarity):
  times = pulses.beat_times(300, sd_ms=20, seed=3)
  ppg = polarity * pulses.ppg_of(times, 300, noise=0.05, seed=1)
  clean = beats.clean_ppg(ppg, 64.0)
  peaks = beats.detect_ppg(ppg, 64.0, clean)
  again = beats.aligned(peaks, clean, 64.0)
  both = again.normal & peaks.normal
  assert both.sum() > 0.95 * peaks.normal.sum()
  assert 0 < (peaks.times_s - again.times_s)[both].std() < 0.01
  for found in (peaks, again):
    nearest = times[np.abs(found.times_s[both][:, None] - times).argmin(axis=1)]
    assert (found.times_s[both] - nearest).std() < 0.01
  none = beats.detect_ppg(np.zeros(6400), 64.0)
  assert len(beats.aligned(none, clean, 64.0).times_s) == 0


def test_detection_is_not_upset_by_a_burst_of_motion():
  times = pulses.beat_times(120, seed=4)
  ppg = pulses.ppg_of(times, 120, noise=0.02)
  ppg[64 * 50 : 64 * 60] += 300 * np.random.default_rng(0).normal(size=640)
  found = beats.detect_ppg(ppg, 64.0)
  for t0 in (0.0, 65.0):
    here = beats.labels(found, t0, 45.0)
    there = beats.labels(_all_normal(times), t0, 45.0)
    assert here.hr_bpm.valid
    assert here.hr_bpm.value == pytest.approx(there.hr_bpm.value, abs=0.5)


def test_beats_beside_a_gap_are_not_normal():
  times = pulses.beat_times(60, seed=5)
  ppg = pulses.ppg_of(times, 60)
  ppg[64 * 20 : 64 * 30] = np.nan
  found = beats.detect_ppg(ppg, 64.0)
  inside = (found.times_s > 19.9) & (found.times_s < 30.1)
  assert not found.normal[inside].any()
  assert found.normal[~inside].mean() > 0.9


def test_a_p_wave_is_no_beat_where_a_gap_hides_the_r_peak():
  ecg = neurokit2.ecg_simulate(
    180, sampling_rate=130, heart_rate=65, noise=0.01, random_state=3, heart_rate_std=1
  )
  true_s = beats.detect_ecg(ecg, 130.0).times_s
  for hidden in true_s[20:160:5]:
    ecg[int((hidden - 0.1) * 130) : int((hidden + 0.05) * 130)] = np.nan
  found = beats.detect_ecg(ecg, 130.0)
  astray = np.abs(found.times_s[:, None] - true_s).min(axis=1)
  assert beats.regular(found.times_s)[astray > 0.1].any()  # not all of them stand out by their time
  assert astray[found.normal].max() < 0.01
  assert found.normal.mean() > 0.7


def test_extra_and_missed_beats_are_irregular():
  times = np.cumsum(np.full(60, 0.8))
  missed, extra = np.delete(times, 30), np.sort(np.r_[times, times[30] + 0.3])
  assert np.flatnonzero(~beats.regular(missed)).tolist() == [29, 30]
  assert np.flatnonzero(~beats.regular(extra)).tolist() == [30, 31, 32]
  assert beats.regular(times).all()
  assert not beats.regular(times[:2]).any()


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
@pytest.mark.parametrize("seconds", [2, 60])
def test_constant_missing_or_short_signals_have_no_beats(value, seconds):
  signal = np.full(64 * seconds, value)
  assert not len(beats.detect_ppg(signal, 64.0).times_s)
  assert not len(beats.detect_ecg(signal, 64.0).times_s)


def test_noise_gives_no_heart_rate():
  noise = np.random.default_rng(0).normal(size=64 * 60)
  assert not beats.labels(beats.detect_ppg(noise, 64.0), 0.0, 60.0).sdnn_ms.valid


def test_ecg_beats_are_found_to_the_millisecond():
  times = pulses.beat_times(60, seed=6)
  t = np.arange(700 * 60) / 700
  ecg = sum(np.exp(-(((t - beat) / 0.012) ** 2)) for beat in times)
  ecg += np.random.default_rng(0).normal(0, 0.02, len(t))
  found = beats.detect_ecg(ecg, 700.0)
  nearest = np.abs(found.times_s[:, None] - times).min(1)
  assert abs(len(found.times_s) - len(times)) <= 1
  assert np.median(nearest) < 0.003


@pytest.mark.parametrize("rate_hz", [25.0, 32.0, 50.0, 64.0, 125.0, 256.0])
def test_systolic_peaks_are_those_of_the_library(rate_hz):
  """On pulses, noise, both, coarse steps (plateaus), and what has no wave."""
  import neurokit2

  rng = np.random.default_rng(0)
  pulse = pulses.ppg_of(pulses.beat_times(120.0), 120.0, rate_hz).astype(float) - 0.2
  noise = rng.normal(size=len(pulse))
  walk = np.cumsum(noise) - np.cumsum(noise).mean()
  for signal in (pulse, noise, pulse + 0.3 * noise, walk, np.round(pulse, 1), np.round(noise)):
    found = neurokit2.ppg_findpeaks(signal, sampling_rate=rate_hz, method="elgendi")["PPG_Peaks"]
    np.testing.assert_array_equal(beats.systolic_peaks(signal, rate_hz), found)
    assert len(found) > 20
  assert not len(beats.systolic_peaks(-np.ones(1000), rate_hz))


def test_real_systolic_peaks_are_those_of_the_library(shared_data):
  import neurokit2

  from distill.data.datasets import empatica

  for name in ("S02", "S10", "S13"):
    ppg = empatica.read(shared_data / "stress_predict" / "Raw_data" / name)["ppg"]
    clean = beats.clean_ppg(ppg.samples[:, 0], 64.0)
    found = neurokit2.ppg_findpeaks(clean, sampling_rate=64.0, method="elgendi")["PPG_Peaks"]
    np.testing.assert_array_equal(beats.systolic_peaks(clean, 64.0), found)
