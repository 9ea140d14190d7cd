"""The simulated cohort against its written physiology and against published figures."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import scipy.stats

from distill.calibration import calibrate, in_band_rms_g
from distill.config import base
from distill.data import physiology as ph
from distill.data import wrist
from distill.data.cohort import Cohort, simulate
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.errors import DistillError

SEED = 5


@functools.cache
def body(participant: int, minutes: int = 30) -> ph.Body:
  return ph.draw_body(SEED, participant, 60.0 * minutes)


@functools.cache
def movement(participant: int, minutes: int = 30) -> wrist.Movement:
  late_s = wrist.pre_ejection(ph.stream(SEED, participant, "pre-ejection"), body(participant))
  samples = 60 * 50 * minutes
  return wrist.draw_movement(SEED, participant, body(participant), late_s, samples, 50.0)


def clean(participant: int, device: str = "fine", amplitude: float = 1.0, minutes: int = 30):
  return simulate(Cohort(100, minutes, device, amplitude, gaps=False, seed=SEED), participant)


def bout_edges(drawn: ph.Body) -> list[tuple[str, float, float]]:
  stop_s = np.append(drawn.bouts.start_s[1:], drawn.grid_s[-1])
  labels = [ph.ACTIVITIES[k].label for k in drawn.bouts.kind]
  return list(zip(labels, drawn.bouts.start_s, stop_s, strict=True))


def quiet_minutes(recording, label: str) -> list[int]:
  """Whole minutes within one stretch of the activity, its first minute left out."""
  return [
    k
    for s in recording.activities
    if s.label == label
    for k in range(int(np.ceil(s.start_s / 60)) + 1, int(s.stop_s // 60))
  ]


# ---------------------------------------------------------------- same seed, same everything


def test_same_seed_gives_the_same_recording():
  first, again = (simulate(Cohort(3, 3, seed=1), 2) for _ in range(2))
  for name in ("ppg", "acc"):
    np.testing.assert_array_equal(first.signals[name].samples, again.signals[name].samples)
  np.testing.assert_array_equal(first.beats.times_s, again.beats.times_s)
  assert first.activities == again.activities


def test_participants_and_seeds_are_other_people():
  ages = {
    simulate(Cohort(9, 1, seed=s), i).age for s, i in ((1, 2), (2, 1), (1, 1), (0, 3), (3, 0))
  }
  assert len(ages) == 5  # (1, 2) and (2, 1) would be one person if seed and index were summed


def test_a_person_stays_the_same_in_another_cohort():
  small, large = simulate(Cohort(2, 3, seed=4), 1), simulate(Cohort(50, 3, "e4", 2.0, seed=4), 1)
  np.testing.assert_array_equal(small.beats.times_s, large.beats.times_s)
  assert (small.age, small.sex, small.activities) == (large.age, large.sex, large.activities)


def test_people_from_another_index_are_those_a_larger_cohort_goes_on_with():
  beyond = Cohort(2, 3, seed=4, first=40)
  assert list(beyond.people) == [40, 41]
  for name in ("ppg", "acc"):
    np.testing.assert_array_equal(
      simulate(beyond, 41).signals[name].samples,
      simulate(Cohort(50, 3, seed=4), 41).signals[name].samples,
    )


@pytest.mark.parametrize("device", ["fine", "e4"])
def test_null_cohort_differs_by_the_beat_locked_movement_only(device):
  null, one = (simulate(Cohort(1, 10, device, a, seed=SEED), 0) for a in (0.0, 1.0))
  np.testing.assert_array_equal(null.signals["ppg"].samples, one.signals["ppg"].samples)
  np.testing.assert_array_equal(null.beats.times_s, one.beats.times_s)
  np.testing.assert_array_equal(null.beats.normal, one.beats.normal)
  difference = one.signals["acc"].samples - null.signals["acc"].samples
  np.testing.assert_array_equal(
    np.isnan(null.signals["acc"].samples), np.isnan(one.signals["acc"].samples)
  )
  step = ph.DEVICES[device].step_g
  assert 0 < np.nanmax(np.abs(difference)) < 2.5e-3 * ph.BEAT_RANGE_MG[1] + step


def test_amplitude_scales_the_beat_locked_part_exactly():
  smooth = dataclasses.replace(ph.DEVICES["fine"], step_g=1e-7)
  acc = [wrist.measure(ph.stream(1, 0, "x"), movement(0), smooth, a) for a in (0.0, 1.0, 2.0)]
  np.testing.assert_allclose(acc[1] - acc[0], movement(0).beats, atol=6e-7)
  np.testing.assert_allclose(acc[2] - acc[0], 2 * movement(0).beats, atol=6e-7)


# ---------------------------------------------------------------- heart


def test_first_order_equals_a_numerical_integration():
  start_s, target, tau_s = np.array([0.0, 40.0, 90.0, 95.0]), np.array([0.2, 1, 0.1, 0.8]), (30, 70)

  def slope(t, x):
    goal = target[np.searchsorted(start_s, t, side="right") - 1]
    return (goal - x) / np.where(goal > x, *tau_s)

  times_s = np.linspace(0, 200, 401)
  truth = scipy.integrate.solve_ivp(slope, (0, 200), [0.2], t_eval=times_s, max_step=0.2)
  ours = ph.first_order(times_s, start_s, target, tau_s)
  np.testing.assert_allclose(ours, truth.y[0], atol=3e-3)


def test_heart_rate_follows_motion_late():
  lags = []
  for i in range(20):
    drawn = body(i)
    owner = np.searchsorted(drawn.bouts.start_s, drawn.grid_s, side="right") - 1
    intensity = drawn.bouts.intensity[owner]
    shifts = np.arange(0, int(150 * ph.CONTROL_HZ), 8)
    n = len(intensity) - shifts[-1]
    r = [np.corrcoef(intensity[:n], drawn.hr_bpm[s : s + n])[0, 1] for s in shifts]
    lags.append(shifts[int(np.argmax(r))] / ph.CONTROL_HZ)
    assert max(r) > 0.6
  assert 15 < np.median(lags) < 100  # dead time 5-10 s and time constants of 30-100 s


def test_heart_rate_does_not_move_within_the_dead_time():
  for i in range(20):
    drawn = body(i)
    dead_s = drawn.person.dead_time_s
    assert ph.DEAD_TIME_S[0] <= dead_s <= ph.DEAD_TIME_S[1]
    before = drawn.grid_s < drawn.bouts.start_s[1] + dead_s if len(drawn.bouts.start_s) > 1 else []
    np.testing.assert_allclose(np.ptp(drawn.motion_hr_bpm[before]), 0, atol=1e-9)


def test_a_tenth_to_a_third_of_heart_rate_change_has_no_motion():
  share = []
  for i in range(60):
    drawn = body(i)
    motion, stress = drawn.motion_hr_bpm, drawn.hr_bpm - drawn.motion_hr_bpm
    if motion.std() > ph.STRESS_MOTION_FLOOR_BPM and stress.any():
      share.append(stress.var() / (stress.var() + motion.var()))
  assert len(share) > 30
  assert 0.1 < np.mean(share) < 0.3


def test_rate_and_variability_are_plausible_by_age():
  age, rest, highest, rmssd = [], [], [], []
  for i in range(150):
    drawn = body(i, 20)
    person = drawn.person
    lying = [(a, b) for label, a, b in bout_edges(drawn) if label == "lying" and b - a > 150]
    if not lying:
      continue
    start_s, stop_s = lying[0]
    inside = (drawn.beat_s > start_s + 90) & (drawn.beat_s < stop_s) & drawn.normal
    rr_ms = np.diff(drawn.beat_s[inside]) * 1000
    age.append(person.age)
    rest.append(person.hr_rest_bpm)
    highest.append(person.hr_max_bpm)
    rmssd.append(np.sqrt(np.median(np.diff(rr_ms) ** 2) / 0.455))  # robust to the few removed beats
  assert 62 < np.mean(rest) < 69  # Quer et al. 2020: 65.5 (7.7)
  assert 5 < np.std(rest) < 10
  assert 25 < np.median(rmssd) < 55  # Nunan et al. 2010: 42 (15) ms
  assert scipy.stats.spearmanr(age, rmssd).statistic < -0.3
  slope, start = np.polyfit(age, highest, 1)
  assert abs(slope + 0.7) < 0.15
  assert abs(start - 208) < 7


def test_rr_spectrum_has_breathing_slow_and_very_slow_parts():
  found, true, shares = [], [], []
  for i in range(80):
    drawn = body(i)
    for label, start_s, stop_s in bout_edges(drawn):
      if label != "lying" or stop_s - start_s < 420 or drawn.person.ectopic_per_h > 8:
        continue
      inside = (drawn.beat_s > start_s + 120) & (drawn.beat_s < stop_s)
      beat_s = drawn.beat_s[inside]
      even_s = np.arange(beat_s[1], beat_s[-1], 0.25)
      rr_ms = 1000 * np.interp(even_s, beat_s[1:], np.diff(beat_s))
      f, power = scipy.signal.welch(scipy.signal.detrend(rr_ms), 4.0, nperseg=min(len(rr_ms), 512))
      high = (f > 0.17) & (f < 0.45)
      found.append(f[high][np.argmax(power[high])])
      true.append(drawn.person.breath_hz)
      bands = ((0.0, 0.04), (0.04, 0.15), (0.15, 0.45))
      shares.append([power[(f >= a) & (f < b)].sum() / power.sum() for a, b in bands])
      break
  assert len(found) > 12
  assert np.median(np.abs(np.array(found) - true)) < 0.03
  very_low, low, high = np.mean(shares, axis=0)
  assert min(very_low, low, high) > 0.1


def test_ectopic_beats_come_early_with_a_full_pause_and_are_flagged():
  early, late, normal = [], [], []
  for i in range(40):
    drawn = body(i)
    rr_s = np.diff(drawn.beat_s)
    usual_s = 60 / np.interp(drawn.beat_s, drawn.grid_s, drawn.hr_bpm)
    k = np.flatnonzero(~drawn.normal)
    early += list(rr_s[k - 1] / usual_s[k])
    late += list(rr_s[k] / usual_s[k])
    both = drawn.normal[1:] & drawn.normal[:-1]
    normal += list((rr_s / usual_s[1:])[both])
  assert len(early) > 40
  assert np.mean(early) < 0.78
  assert np.mean(late) > 1.2
  assert abs(np.mean(np.add(early, late)) - 2) < 0.05  # compensatory pause
  assert np.percentile(normal, 0.5) > 0.8


def test_reference_beats_lie_inside_and_ascend():
  recording = simulate(Cohort(1, 5), 0)
  times_s = recording.beats.times_s
  assert recording.beats.origin == "simulated"
  assert 0 <= times_s[0] < 2
  assert 298 < times_s[-1] < 300
  assert (np.diff(times_s) > 0.2).all()
  assert times_s.dtype == np.float64


# ---------------------------------------------------------------- what people do


def test_time_is_mostly_still():
  still, total = 0.0, 0.0
  for i in range(150):
    for stretch in bout_edges(body(i)):
      total += stretch[2] - stretch[1]
      still += (stretch[2] - stretch[1]) * (stretch[0] in ph.STILL)
  assert 0.65 < still / total < 0.75


def test_activities_tile_the_recording():
  stretches = simulate(Cohort(1, 30), 0).activities
  assert stretches[0].start_s == 0
  assert stretches[-1].stop_s == 1800
  assert all(a.stop_s == b.start_s for a, b in itertools.pairwise(stretches))
  assert all(a.label != b.label for a, b in itertools.pairwise(stretches))


def test_cadence_is_independent_of_the_heart():
  cadence_hz, heart_hz = [], []
  for i in range(200):
    drawn = body(i)
    hr = np.interp(drawn.bouts.start_s + 60, drawn.grid_s, drawn.hr_bpm) / 60
    gait = drawn.bouts.cadence_hz > 0
    cadence_hz += list(drawn.bouts.cadence_hz[gait])
    heart_hz += list(hr[gait])
  cadence_hz, heart_hz = np.array(cadence_hz), np.array(heart_hz)
  assert len(cadence_hz) > 200
  assert ph.CADENCE_HZ[0] <= cadence_hz.min() < 1.7
  assert 2.9 < cadence_hz.max() <= ph.CADENCE_HZ[1]
  assert scipy.stats.spearmanr(cadence_hz, heart_hz).pvalue > 0.01
  # A step at the heart's rate, twice it, and an arm swing (half the cadence) at half of it.
  for steps, beats in ((1.0, 1.0), (1.0, 2.0), (0.5, 0.5)):
    assert (np.abs(steps * cadence_hz - beats * heart_hz) < 0.05 * heart_hz).any()


def test_gait_moves_the_wrist_at_its_cadence():
  checked = 0
  for i in range(12):
    drawn = body(i)
    for k, cadence_hz in enumerate(drawn.bouts.cadence_hz[:-1]):
      start_s, stop_s = drawn.bouts.start_s[k] + 5, drawn.bouts.start_s[k + 1] - 5
      if cadence_hz == 0 or start_s < 0 or stop_s - start_s < 40:
        continue
      motion = movement(i).motion[int(start_s * 50) : int(stop_s * 50)]
      f, power = scipy.signal.welch(motion, 50, nperseg=1024, axis=0)
      power = power.sum(axis=1)
      lines = np.abs(f[:, None] / (cadence_hz / 2) - np.arange(1, 7)).min(axis=1) < 0.25
      assert power[lines].sum() > 0.85 * power.sum()
      checked += 1
  assert checked > 5


# ---------------------------------------------------------------- beat-locked movement


def beat_average(participant: int, amplitude: float = 1.0) -> tuple[np.ndarray, float] | None:
  """Mean acceleration after R in the longest quiet posture, [160, 3] mg at 400 Hz; its truth."""
  drawn, recording = body(participant), clean(participant, amplitude=amplitude)
  postures = wrist.draw_postures(ph.stream(SEED, participant, "posture"), drawn)
  stop_s = np.append(postures.start_s[1:], drawn.grid_s[-1])
  quiet = np.isin(postures.kind, [0, 1]) & (postures.start_s > 0) & (stop_s < 1800)
  if not quiet.any():
    return None
  k = int(np.argmax(np.where(quiet, stop_s - postures.start_s, 0)))
  beat_s = drawn.beat_s[(drawn.beat_s > postures.start_s[k] + 5) & (drawn.beat_s < stop_s[k] - 5)]
  if len(beat_s) < 250:
    return None
  acc = recording.signals["acc"].samples.astype(float)
  sos = scipy.signal.butter(2, 2.5, "highpass", fs=50, output="sos")
  fine = scipy.signal.resample_poly(scipy.signal.sosfiltfilt(sos, acc, axis=0), 8, 1, axis=0)
  first = np.round(beat_s * 400).astype(int)
  cuts = fine[first[:, None] + np.arange(160)]
  rest = np.abs(cuts).max(axis=(1, 2))
  return 1e3 * cuts[rest < 4 * np.median(rest)].mean(axis=0), postures.beat_mg[k]


def test_beat_averaging_recovers_the_beat_locked_movement():
  found, true, when_s = [], [], []
  for i in range(30):
    answer = beat_average(i)
    if answer is not None:
      mean, truth = answer
      along = mean @ np.linalg.svd(mean, full_matrices=False)[2][0]
      found.append(np.ptp(along))
      true.append(truth)
      when_s.append(np.argmax(np.abs(along)) / 400)
  assert len(found) > 12
  ratio = np.array(found) / np.array(true)
  assert 0.75 < np.median(ratio) < 1.25
  assert np.corrcoef(np.log(found), np.log(true))[0, 1] > 0.8
  assert 0.1 < np.median(when_s) < 0.3


def test_null_cohort_holds_no_beat_in_the_average():
  present, absent = [], []
  for i in range(30):
    answers = [beat_average(i, amplitude) for amplitude in (1.0, 0.0)]
    if answers[0] is not None:
      (one, truth), (null, _) = answers
      present.append(np.ptp(one, axis=0).max() / truth)
      absent.append(np.ptp(null, axis=0).max() / truth)
  assert np.median(present) > 4 * np.median(absent)


def test_beat_locked_sizes_over_people():
  size = np.array([ph.draw_person(ph.stream(SEED, i, "person")).beat_mg for i in range(400)])
  assert size.min() >= 0.5
  assert size.max() <= 4.0
  assert abs(np.median(size) - 1.5) < 0.15
  assert abs(np.log(size).std() - 0.5) < 0.1


def test_beat_locked_size_is_independent_of_heart_rate():
  people = [ph.draw_person(ph.stream(SEED, i, "person")) for i in range(400)]
  size, rest = [p.beat_mg for p in people], [p.hr_rest_bpm for p in people]
  assert abs(scipy.stats.spearmanr(size, rest).statistic) < 0.12
  within = []
  for i in range(20):
    drawn, beats = body(i), movement(i).beats
    inside = (drawn.beat_s > 0) & (drawn.beat_s < 1798) & drawn.normal
    inside[1:] &= drawn.normal[:-1]
    cuts = beats[np.round(drawn.beat_s[inside] * 50).astype(int)[:, None] + np.arange(5, 17)]
    energy = np.sqrt((cuts**2).sum(axis=(1, 2)))
    postures = wrist.draw_postures(ph.stream(SEED, i, "posture"), drawn)
    k = np.searchsorted(postures.start_s, drawn.beat_s[inside], side="right") - 1
    hr = np.interp(drawn.beat_s[inside], drawn.grid_s, drawn.hr_bpm)
    within.append(np.corrcoef(energy / postures.beat_mg[k], hr)[0, 1])
  assert abs(np.mean(within)) < 0.1


def test_beat_wave_is_one_peak_to_peak_and_silent_before_the_beat():
  since_s = np.arange(-0.2, 0.6, 0.0005, dtype=np.float32)
  along, _ = wrist.beat_wave(since_s, 7.0, 0.1)
  assert abs(np.ptp(along) - 1) < 1e-3
  assert (along[since_s < 0] == 0).all()


# ---------------------------------------------------------------- PPG


def test_pulse_foot_arrives_180_to_280_ms_after_r():
  rate = 64
  for i in range(8):
    drawn = body(i)
    late_s = np.zeros(len(drawn.beat_s))
    foot_s = wrist.foot_times(ph.stream(1, i, "x"), drawn, late_s)
    delay_s = foot_s - drawn.beat_s
    assert delay_s.min() >= 0.18
    assert delay_s.max() <= 0.28
    assert delay_s.std() > 0.001
    wave = wrist.pulse_wave(
      foot_s, drawn.beat_s, np.ones(len(foot_s)), drawn.person.stiffness, 60 * rate
    )
    fine = scipy.signal.resample_poly(wave.astype(float), 16, 1)
    errors = []
    for k in np.flatnonzero((foot_s > 5) & (foot_s < 55)):
      # Intersecting tangents: steepest rise extended down to the minimum before it.
      at = int(foot_s[k] * rate * 16)
      rise = fine[at - 100 : at + 200]
      slope = np.diff(rise)
      top = int(np.argmax(slope))
      meets = top - (rise[top] - rise[: top + 1].min()) / slope[top]
      errors.append((at - 100 + meets) / (rate * 16) - foot_s[k])
    assert np.abs(np.median(errors)) < 0.02


def test_breathing_moves_baseline_amplitude_and_frequency():
  drawn = dataclasses.replace(body(3), breath_depth=np.ones_like(body(3).breath_depth))
  still = wrist.Movement(*(np.zeros((30 * 3000, 3), np.float32) for _ in range(4)))
  late_s = np.zeros(len(drawn.beat_s))
  ppg = wrist.draw_ppg(SEED, 3, drawn, late_s, still, 50.0, 30 * 3840)[:, 0]
  inside = (drawn.beat_s > 2) & (drawn.beat_s < 1795)
  first = np.round(drawn.beat_s[inside] * 64).astype(int)
  cuts = ppg[first[:, None] + np.arange(10, 36)]
  foot, top = cuts.argmin(axis=1) + first, cuts.argmax(axis=1) + first
  baseline = np.interp(top, foot, cuts.min(axis=1))  # between feet, so that its swing drops out
  phase = np.interp(drawn.beat_s[inside], drawn.grid_s, drawn.breath_phase)
  waves = np.stack([np.cos(phase), np.sin(phase)], axis=1)
  rr_s = np.diff(drawn.beat_s)[np.flatnonzero(inside)]
  for series in (cuts.min(axis=1), cuts.max(axis=1) - baseline, rr_s):
    series = series - scipy.signal.medfilt(series, 31)  # slow changes out
    weights, *_ = np.linalg.lstsq(waves, series, rcond=None)
    explained = 1 - np.var(series - waves @ weights) / np.var(series)
    assert explained > 0.1  # two regressors explain 2 / n, about 0.001, of pure noise


def test_artefacts_come_from_the_motion():
  drawn, real = body(2), movement(2)
  late_s = np.zeros(len(drawn.beat_s))
  none = dataclasses.replace(
    real, motion=np.zeros_like(real.motion), gravity=np.ones_like(real.gravity)
  )
  with_motion, without = (
    wrist.draw_ppg(SEED, 2, drawn, late_s, m, 50.0, 30 * 3840)[:, 0] for m in (real, none)
  )
  artefact = np.sqrt(((with_motion - without) ** 2).reshape(30, -1).mean(axis=1))
  motion = np.sqrt((real.motion**2).sum(axis=1).reshape(30, -1).mean(axis=1))
  assert scipy.stats.spearmanr(artefact, motion).statistic > 0.6
  assert np.median(artefact[motion > 0.05]) > 5 * np.median(artefact[motion < 0.005])


# ---------------------------------------------------------------- sensors


@pytest.mark.parametrize(
  ("device", "step", "low", "high"),
  [("fine", 1 / 4096, -8, 8 - 1 / 4096), ("e4", 1 / 64, -2, 127 / 64)],
)
def test_device_rounds_and_clips(device, step, low, high):
  samples = clean(0, device, minutes=10).signals["acc"].samples
  assert samples.dtype == np.float32
  np.testing.assert_array_equal(samples / step, np.rint(samples / step))
  loud = wrist.Movement(*(np.full((200, 3), v, np.float32) for v in (90.0, 0, 0, 0)))
  quiet = dataclasses.replace(loud, gravity=-loud.gravity)
  for sign, edge in ((loud, high), (quiet, low)):
    acc = wrist.measure(ph.stream(1, 0, "x"), sign, ph.DEVICES[device], 1.0)
    np.testing.assert_array_equal(acc, np.float32(edge))


def test_rates_units_and_lengths():
  for device, rate_hz in (("fine", 50), ("e4", 32)):
    recording = clean(1, device, minutes=2)
    acc, ppg = recording.signals["acc"], recording.signals["ppg"]
    assert acc.samples.shape == (120 * rate_hz, 3)
    assert ppg.samples.shape == (120 * 64, 1)
    assert (acc.unit, ppg.unit, acc.start_s, ppg.start_s) == ("g", "au", 0, 0)
    assert ppg.samples.dtype == np.float32
    assert abs(np.median(np.linalg.norm(acc.samples, axis=1)) - 1) < 0.02


def in_band_by_activity(device: str, label: str) -> np.ndarray:
  rate = int(ph.DEVICES[device].rate_hz)
  minutes = []
  for i in range(20):
    recording = clean(i, device)
    acc = recording.signals["acc"].samples
    parts = [acc[60 * rate * k : 60 * rate * (k + 1)] for k in quiet_minutes(recording, label)]
    minutes += [1e3 * in_band_rms_g(p, rate) for p in parts if p.std(axis=0).max() < 0.02]
  return np.array(minutes)


def test_still_e4_minutes_have_the_noise_of_an_e4():
  sitting = in_band_by_activity("e4", "sitting")
  assert len(sitting) > 40
  assert 4 < np.median(sitting) < 7


def test_fine_device_stands_like_bami_and_is_quieter_at_rest():
  standing, lying = (in_band_by_activity("fine", label) for label in ("standing", "lying"))
  assert 2 < np.median(standing) < 4  # BAMI's quietest stretches: median 2.5, some axes 3-5
  assert 0.3 < np.median(lying) < 1.0  # the sensor's own noise and the least tremor


def test_tremor_is_the_rms_of_the_vector():
  drawn = body(1)
  for label, start_s, stop_s in bout_edges(drawn):
    if stop_s - start_s > 120 and start_s > 0 and stop_s < 1800:
      tremor = movement(1).tremor[int(50 * (start_s + 3)) : int(50 * (stop_s - 3))].astype(float)
      rms_mg = 1e3 * np.sqrt((tremor**2).sum(axis=1).mean())
      median = next(a.tremor_mg for a in ph.ACTIVITIES if a.label == label)
      expected = np.clip(median * drawn.person.tremor, *ph.TREMOR_RANGE_MG)
      assert 0.8 < rms_mg / expected < 1.4


# ---------------------------------------------------------------- gaps


def test_gaps_are_missing_samples_and_nothing_else():
  whole, gappy = clean(4), simulate(Cohort(100, 30, seed=SEED), 4)
  for name in ("ppg", "acc"):
    missing = np.isnan(gappy.signals[name].samples)
    assert not np.isnan(whole.signals[name].samples).any()
    assert 0 < missing.mean() < 0.3
    np.testing.assert_array_equal(missing.any(axis=1), missing.all(axis=1))
    np.testing.assert_array_equal(
      gappy.signals[name].samples[~missing], whole.signals[name].samples[~missing]
    )


def test_gaps_come_per_sensor_and_sometimes_together():
  ppg, acc, both = 0.0, 0.0, 0.0
  for i in range(40):
    recording = simulate(Cohort(40, 20, "e4"), i)
    missing_ppg = np.isnan(recording.signals["ppg"].samples[::64, 0])
    missing_acc = np.isnan(recording.signals["acc"].samples[::32, 0])
    ppg, acc = ppg + missing_ppg.mean(), acc + missing_acc.mean()
    both += (missing_ppg & missing_acc).mean()
  assert 0.01 < ppg / 40 < 0.1
  assert 0.01 < acc / 40 < 0.1
  assert 0.2 < both / ppg < 0.95


# ---------------------------------------------------------------- calibration figures


def test_in_band_rms_of_a_sine_and_of_white_noise():
  t = np.arange(0, 60, 1 / 50)
  sine = np.stack([np.sin(2 * np.pi * f * t) for f in (8.0, 2.0, 20.0)], axis=1)
  np.testing.assert_allclose(in_band_rms_g(sine, 50.0), [np.sqrt(0.5), 0, 0], atol=2e-3)
  noise = np.random.default_rng(0).standard_normal((60 * 50, 3))
  np.testing.assert_allclose(in_band_rms_g(noise, 50.0), np.sqrt(11 / 25), rtol=0.08)


def test_calibration_finds_a_strong_beat_and_not_an_absent_one():
  rng = np.random.default_rng(1)
  t = np.arange(0, 60, 1 / 50)
  hr_bpm = np.array([60.0, 72.0, 84.0])
  pulse = (t * hr_bpm[:, None] / 60) % 1 * 60 / hr_bpm[:, None]
  ring = np.exp(-pulse / 0.1) * np.sin(2 * np.pi * 8 * pulse)
  acc = 2e-4 * rng.standard_normal((3, len(t), 3)) + np.array([0, 0, 1.0])
  acc[..., 0] += 2e-3 * ring
  figures = calibrate(acc, 50.0, hr_bpm)
  assert figures.windows == 3
  assert figures.stretches == 21
  assert figures.hr_mae_bpm < 1
  assert figures.hr_close == 1
  nothing = calibrate(acc + 0.1 * rng.standard_normal(acc.shape), 50.0, hr_bpm)
  assert nothing.stretches == nothing.windows == 0
  assert np.isnan(nothing.hr_mae_bpm)
  assert np.isnan(nothing.in_band_mg).all()


def test_calibration_refuses_what_it_cannot_use():
  with pytest.raises(DistillError, match="more than 30 Hz"):
    calibrate(np.zeros((1, 1500, 3)), 25.0, np.ones(1))
  with pytest.raises(DistillError, match="8 s or more"):
    calibrate(np.zeros((1, 100, 3)), 50.0, np.ones(1))
  with pytest.raises(DistillError, match=r"acc \[n, time, 3\]"):
    calibrate(np.zeros((1, 3000, 3)), 50.0, np.ones(2))


def minutes(acc: np.ndarray, rate: int) -> np.ndarray:
  return acc[: len(acc) // (60 * rate) * 60 * rate].reshape(-1, 60 * rate, acc.shape[1])


def test_simulated_e4_is_as_noisy_as_recorded_ones(shared_data):
  real = []
  for file in sorted(shared_data.glob("wesad/WESAD/S*/S*_E4_Data/ACC.csv")):
    real.append(minutes(np.loadtxt(file, delimiter=",", skiprows=2) / 64, 32))
  real = np.concatenate(real)
  simulated = np.concatenate(
    [minutes(clean(i, "e4").signals["acc"].samples, 32) for i in range(15)]
  )
  none = [np.full(len(x), np.nan) for x in (real, simulated)]
  recorded, drawn = calibrate(real, 32.0, none[0]), calibrate(simulated, 32.0, none[1])
  assert recorded.stretches > 500
  assert abs(np.log(drawn.in_band_mg[1] / recorded.in_band_mg[1])) < 0.5


# ---------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"participants": 0}, "participants >= 1"),
    ({"minutes": 0.5}, "minutes >= 1"),
    ({"device": "e5"}, "unknown simulated device 'e5'; known: e4, fine"),
    ({"amplitude": -1.0}, "amplitude must be 0 or more"),
    ({"amplitude": float("nan")}, "amplitude must be 0 or more"),
    ({"seed": -1}, "seed must be 0 or more"),
    ({"first": -1}, "first must be 0 or more"),
  ],
)
def test_bad_cohort_settings_say_so(settings, message):
  with pytest.raises(DistillError, match=message):
    Cohort(**{"participants": 2, "minutes": 2, **settings})


def test_participant_outside_the_cohort():
  with pytest.raises(DistillError, match="the cohort has 2"):
    simulate(Cohort(2, 2), 2)
  with pytest.raises(DistillError, match=r"the cohort has 2 \(counted from 7\)"):
    simulate(Cohort(2, 2, first=7), 6)


# ---------------------------------------------------------------- as a prepared set


def settings(tmp_path, **simulated):
  config = base().data
  config.prepared_dir = str(tmp_path)
  config.workers = 1
  config.simulated.update({"participants": 3, "minutes": 5, **simulated})
  return config


def test_cohort_becomes_a_prepared_set_with_its_own_labels(tmp_path):
  folder = prepare(settings(tmp_path, gaps=False), progress=False)["simulated"]
  prepared = open_set(folder)
  assert prepared.simulated
  assert prepared.same_device
  assert len(prepared) == 15
  assert sorted(set(prepared.index["participant"])) == ["sim00000", "sim00001", "sim00002"]
  assert set(prepared.index["hr_origin"]) == {"simulated"}
  for row, (name, t0_s) in enumerate(zip(prepared.index["participant"], prepared.index["t0_s"])):
    recording = simulate(Cohort(3, 5, gaps=False), int(name[3:]))
    beats = recording.beats
    inside = (beats.times_s >= t0_s) & (beats.times_s < t0_s + 60)
    rr_ms = 1000 * np.diff(beats.times_s[inside])
    normal = beats.normal[inside][1:] & beats.normal[inside][:-1]
    assert abs(prepared.index["hr_bpm"][row] - 60000 / rr_ms[normal].mean()) < 1e-2
    assert prepared.index["age"][row] == np.float32(recording.age)
    # The fine device already runs at the working rate: what it measured is what is stored.
    acc = recording.signals["acc"].samples[int(t0_s * 50) : int(t0_s * 50) + 3000]
    np.testing.assert_allclose(prepared[row]["acc"], acc, atol=1e-6)


def test_other_cohorts_are_other_sets_and_the_same_one_is_reused(tmp_path):
  folders = [
    prepare(settings(tmp_path, participants=1, minutes=1, **other), progress=False)["simulated"]
    for other in ({}, {"amplitude": 0.0}, {"seed": 1}, {"device": "e4"}, {})
  ]
  assert len(set(folders)) == 4
  assert folders[0] == folders[4]


def test_bad_cohort_in_the_config_says_so(tmp_path):
  with pytest.raises(DistillError, match="unknown simulated device 'gold'"):
    prepare(settings(tmp_path, device="gold"), progress=False)
  assert not list(tmp_path.iterdir())


def test_noise_of_a_stretch_too_short_for_its_band_is_silence():
  rng = np.random.default_rng(0)
  silent = ph.coloured_noise(rng, 3, 64.0, ph.band(0.1, 0.2), channels=2)
  np.testing.assert_array_equal(silent, np.zeros((2, 3), np.float32))
