"""The simulated body: who a participant is, what they do, and when their heart beats.

Every constant of the simulated cohort stands in this file, those of the wrist and of the devices
(`distill.data.wrist`) included, with its source or the mark "ours". They were laid down before any
model was trained on the cohort and are never tuned to results. [S1], [S2] are sections 1 and 2 of
the project's science rules, [r] a figure quoted from memory of the cited paper.

Pure NumPy, no global state: everything follows from (seed, participant, name of a random stream).
Times are seconds on the recording's clock; the body lives from `-LEAD_S` to `duration_s + TAIL_S`,
so that the edges of a recording hold beats that began outside it.
"""

import dataclasses
import zlib

import numpy as np
import scipy.fft

# ---------------------------------------------------------------- people
AGE_YEARS = (20.0, 75.0)  # uniform; ours
# Mean and SD over people: Quer et al. 2020, PLoS ONE 15:e0227709; women minus men: there [r].
HR_REST_BPM, HR_REST_SD_BPM, HR_REST_FEMALE_BPM = 65.5, 7.7, 3.0
HR_REST_RANGE_BPM = (45.0, 95.0)  # ours
HR_MAX_BPM, HR_MAX_PER_YEAR = 208.0, -0.7  # Tanaka et al. 2001, JACC 37:153; [S2]
HR_MAX_SD_BPM = 7.0  # between people; Tanaka et al. 2001 [r]
STIFFNESS_AGE_YEARS, STIFFNESS_SD = (20.0, 80.0), 0.12  # 0..1 over this age span; ours

# ---------------------------------------------------------------- heart-rate variability at rest
# Parts of RR variability: SD (ms) at 40 years, log-slope per year, log-SD over people. Together
# SDNN 47 and RMSSD about 38 ms at 40 years: norms 50 (16) and 42 (15) ms, Nunan et al. 2010, PACE
# 33:1407; the fall with age after Umetani et al. 1998, JACC 31:593 [r]; the split is ours.
HF_SD_MS, LF_SD_MS, VLF_SD_MS = (26.0, -0.015, 0.40), (30.0, -0.010, 0.35), (25.0, -0.006, 0.30)
AGE_OF_REFERENCE = 40.0
LF_CENTRE_HZ, LF_WIDTH_HZ = 0.1, 0.02  # within the 0.04-0.15 Hz of Task Force 1996, Circ. 93:1043
VLF_BAND_HZ = (0.003, 0.04)  # Task Force 1996; power falls as 1/f
# Relative variability times (rest / HR)^1.5: variability falls steeply with rate, Monfredi et al.
# 2014, Hypertension 64:1334; the exponent is ours.
VARIABILITY_RATE_EXPONENT, VARIABILITY_MOST = 1.5, 1.4
BREATH_HZ, BREATH_SD_HZ, BREATH_RANGE_HZ = 0.25, 0.04, (0.17, 0.37)  # 15 +- 2.4 a minute; ours
BREATH_EXERTION_HZ, BREATH_WANDER = 0.35, 0.07  # added at full exertion; relative SD in time; ours
BREATH_DEPTH_SD = 0.25  # log-SD of the depth of breathing in time; ours

# ---------------------------------------------------------------- ectopic beats (ours)
ECTOPIC_PER_HOUR, ECTOPIC_LOG_SD, ECTOPIC_PER_YEAR = 4.0, 1.0, 0.03
ECTOPIC_COUPLING = (0.6, 0.8)  # of the normal interval; the next beat stays: full pause

# ---------------------------------------------------------------- heart rate follows motion [S2]
DEAD_TIME_S, TAU_ON_S, TAU_OFF_S = (5.0, 10.0), (30.0, 60.0), (40.0, 100.0)
STRESS_SHARE = (0.10, 0.30)  # of the variance of heart rate that has no motion, per person
STRESS_CALM_S, STRESS_EPISODE_S, STRESS_LEVEL = 600.0, (120.0, 360.0), (0.4, 1.0)  # ours
STRESS_TAU_S = (15.0, 60.0)  # on, off; ours
STRESS_MOTION_FLOOR_BPM, STRESS_MOST_BPM = 5.0, 35.0  # ours
CADENCE_HZ = (1.6, 3.0)  # steps a second, uniform for every gait, so independent of the heart [S2]


@dataclasses.dataclass(frozen=True)
class Activity:
  """One kind of activity; all numbers ours unless marked.

  Attributes:
    label: name in the recording's activities.
    share: of the time, averaged over people. Lying, sitting and standing make 70 %: mostly still,
      as in passive background recording.
    mean_s: mean length of a bout, seconds.
    intensity: range of the heart-rate drive, fractions of the heart-rate reserve; walking and
      running after the moderate and vigorous ranges of ACSM 2011 (Garber et al., MSSE 43:1334) [r].
    gait: steps are taken.
    hands: the hands move all the time.
    posture_s: mean seconds between changes of posture inside a bout.
    fidgets_per_min: short movements a minute.
    tremor_mg: tremor and sway in 4-12 Hz, median over people, RMS of the acceleration *vector*
      (root of the summed variances of the three axes; per axis divide by 1.7). [S2] gives 0.5-5 mg
      over people and postures: supported and relaxed at its lower end, the free arm of a standing
      person near its upper end: 4.2 mg, the 2.5 mg per axis of BAMI's quietest stretches.
    down: mean direction of gravity in the wrist's axes.
    down_sd: spread of that direction between postures.
    sway_mg: RMS of slow tilt within a posture, per axis.
  """

  label: str
  share: float
  mean_s: float
  intensity: tuple[float, float]
  gait: bool
  hands: bool
  posture_s: float
  fidgets_per_min: float
  tremor_mg: float
  down: tuple[float, float, float]
  down_sd: float
  sway_mg: float


# fmt: off
ACTIVITIES = (
  Activity("lying", 0.30, 540, (-0.05, -0.03),
           False, False, 600, 0.08, 0.5, (0.2, 0.2, 0.8), 0.8, 2),
  Activity("sitting", 0.32, 360, (-0.01, 0.02),
           False, False, 240, 0.4, 1.0, (0.2, 0.1, 0.9), 0.3, 4),
  Activity("standing", 0.08, 120, (0.05, 0.10),
           False, False, 90, 1.0, 4.2, (0.9, 0.1, 0.2), 0.2, 8),
  Activity("hand work", 0.12, 180, (0.06, 0.18),
           False, True, 12, 0, 4.2, (0.4, 0.1, 0.8), 0.4, 30),
  Activity("walking", 0.14, 180, (0.20, 0.45),
           True, False, 120, 0, 4.2, (0.9, 0.1, 0.2), 0.2, 30),
  Activity("running", 0.04, 120, (0.50, 0.80),
           True, False, 120, 0, 4.2, (0.5, 0.1, 0.7), 0.2, 30),
)
# fmt: on
STILL = ("lying", "sitting", "standing")
BOUT_LOG_SD, BOUT_SHORTEST_S, HABIT_LOG_SD = 0.5, 30.0, 0.3  # ours

# ---------------------------------------------------------------- pulse at the wrist
# R peak to foot: 180-280 ms [S2, r], shorter in stiff vessels and at high rate.
ARRIVAL_S, ARRIVAL_SD_S = (0.18, 0.28), 0.012
ARRIVAL_SOFT_S, ARRIVAL_STIFF_S, ARRIVAL_RATE_S = 0.255, 0.215, 0.02  # ours
PRE_EJECTION_SD_S = 0.004  # beat to beat, shared by pulse and movement; 2-6 ms, PMC6179208 [S2]
ARRIVAL_DRIFT_SD_S, ARRIVAL_BREATH_S = 0.004, 0.003  # slow and respiratory change; ours
# Two Gaussian components a pulse: Tang et al. 2020, Sci. Rep. 10:13883; widths and delays ours.
# The tangent at the steepest rise of a Gaussian meets zero two widths before its centre, so the
# systolic centre stands two widths after the foot. Values at stiffness 0 and 1.
SYSTOLIC_WIDTH_S = 0.065
DIASTOLIC_DELAY_S, DIASTOLIC_WIDTH_S, DIASTOLIC_SIZE = (0.30, 0.21), (0.09, 0.13), (0.42, 0.55)
PULSE_RR_S = 0.9  # shapes scale with sqrt(RR / this); ours
PULSE_ONSET_WIDTHS = 1.6  # a pulse begins this many systolic widths before its foot; ours
# Respiration moves baseline, amplitude and frequency: Charlton et al. 2018, IEEE Rev. Biomed. Eng.
# 11:2; depths ours, in pulse heights.
BREATH_BASELINE, BREATH_AMPLITUDE = (0.10, 0.40), (0.03, 0.15)
PULSE_TONE_SD, PULSE_SIZE_SD, PULSE_WANDER = (
  0.15,
  0.03,
  0.15,
)  # log-SD slow; by beat; baseline; ours
PERFUSION_LOG_SD = 0.4  # skin: pulse height over people, arbitrary units, median 1; ours
PPG_NOISE_AU, PPG_NOISE_LOG_SD = 0.03, 0.5  # RMS at 64 Hz, over people; ours
# Loose bands let motion in: au per g after a 0.4-4 Hz band, median and log-SD over people; ours.
ARTEFACT_AU_PER_G, ARTEFACT_LOG_SD, ARTEFACT_BAND_HZ = 6.0, 0.6, (0.4, 4.0)
ARTEFACT_MOST_AU = 8.0  # soft limit; ours
ECTOPIC_FILLING = 1.0  # pulse height times (preceding interval / usual one)^this; ours

# ---------------------------------------------------------------- movement of the wrist
# Beat-locked: peak to peak of the vector along its main direction, median, log-SD and range over
# people; complex 100-300 ms after R; damped oscillation [S1, S2]. Independent of rate and activity.
BEAT_MG, BEAT_LOG_SD, BEAT_RANGE_MG = 1.5, 0.5, (0.5, 4.0)
BEAT_ONSET_S, BEAT_HZ, BEAT_DECAY_S = (0.10, 0.13), (5.0, 12.0), (0.07, 0.13)
BEAT_RISE_S, BEAT_CROSS = 0.015, 0.6  # softening of the onset; size across the main direction; ours
BEAT_SIZE_SD, BEAT_BREATH, BEAT_POSTURE_LOG_SD = 0.15, (0.05, 0.25), 0.15  # ours
TREMOR_RANGE_MG, TREMOR_LOG_SD, TREMOR_TIME_LOG_SD = (0.5, 5.0), 0.30, 0.30  # range [S2], SDs ours
TREMOR_PEAK_HZ, TREMOR_WIDTH_HZ, TREMOR_BAND_HZ = (6.5, 9.5), 2.5, (4.0, 12.0)  # band [S2]
BREATH_MG = (0.5, 4.0)  # tilt with breathing, log-uniform over postures; ours
MOTION_G, MOTION_PER_INTENSITY, MOTION_LOG_SD = 0.05, 4.0, 0.3  # RMS = a exp(b intensity); ours
GAIT_HARMONICS = (
  0.5,
  1.0,
  0.35,
  0.5,
  0.2,
  0.25,
)  # of the stride (arm swing), half the cadence; ours
GAIT_PHASE_SD, GAIT_SIZE_SD = 0.03, 0.15  # relative change of cadence and of size in time; ours
HANDS_BAND_HZ = (0.5, 4.0)  # ours
FIDGET_S, FIDGET_G, FIDGET_LOG_SD = (1.0, 4.0), 0.04, 0.6  # ours
TURN_S = 2.0  # a change of posture takes about this; ours

# ---------------------------------------------------------------- gaps (ours)
GAP_EVERY_S, GAP_S = 400.0, (2.0, 10.0)  # each sensor by itself
JOINT_GAP_EVERY_S, JOINT_GAP_S = 900.0, (2.0, 20.0)  # both together
LONG_GAP_EVERY_S, LONG_GAP_S = 3600.0, (30.0, 120.0)  # both together: off the wrist

PPG_HZ = 64.0


@dataclasses.dataclass(frozen=True)
class Device:
  """An accelerometer.

  Attributes:
    rate_hz: samples per second.
    noise_mg_per_rthz: range over units and axes of the noise density, mg per sqrt(Hz).
    step_g: rounding step, applied after the noise and dithered by it alone.
    range_g: most negative and most positive value.
  """

  rate_hz: float
  noise_mg_per_rthz: tuple[float, float]
  step_g: float
  range_g: tuple[float, float]


DEVICES = {
  # 70-200 ug/sqrt(Hz) [S2]: LSM6DSO 70, BMI160 180 [r]; step of +-8 g in 16 bits, as in BAMI.
  "fine": Device(50.0, (0.07, 0.20), 1 / 4096, (-8.0, 8.0 - 1 / 4096)),
  # Empatica E4: step, rate and range of its files; noise such that still minutes of WESAD and
  # Stress-Predict (4-7 mg per axis in 4-15 Hz [S1]) come out.
  "e4": Device(32.0, (0.7, 1.3), 1 / 64, (-2.0, 127 / 64)),
}

LEAD_S, TAIL_S = 16.0, 4.0
CONTROL_HZ = 8.0  # grid of everything slower than a beat


def stream(seed: int, participant: int, name: str) -> np.random.Generator:
  """Random generator of one named part of one participant; words kept apart, never summed."""
  words = (seed, participant, zlib.crc32(name.encode()))
  return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words)))


@dataclasses.dataclass(frozen=True)
class Person:
  """What stays the same over a recording. Variabilities are relative to the RR interval at rest.

  Attributes:
    age, sex: years; "female" or "male".
    hr_rest_bpm, hr_max_bpm: seated rest and maximum.
    hf, lf, vlf: relative SD of the RR interval at rest in each band.
    breath_hz: breathing rate at rest.
    ectopic_per_h: rate of ectopic beats.
    dead_time_s, tau_on_s, tau_off_s: response of heart rate to motion.
    stress_share: share of heart-rate variance without motion.
    stiffness: of the vessels, 0 (soft) to 1.
    perfusion: pulse height, au.
    looseness: au of artefact per g of motion.
    ppg_noise_au: RMS of the sensor's noise.
    arrival_s: mean R-to-foot time at rest.
    beat_mg: peak to peak of the beat-locked movement.
    beat_onset_s, beat_hz, beat_decay_s: its onset after R, oscillation and decay.
    tremor: factor on the tremor of every activity.
    tremor_hz: where the tremor peaks.
  """

  age: float
  sex: str
  hr_rest_bpm: float
  hr_max_bpm: float
  hf: float
  lf: float
  vlf: float
  breath_hz: float
  ectopic_per_h: float
  dead_time_s: float
  tau_on_s: float
  tau_off_s: float
  stress_share: float
  stiffness: float
  perfusion: float
  looseness: float
  ppg_noise_au: float
  arrival_s: float
  beat_mg: float
  beat_onset_s: float
  beat_hz: float
  beat_decay_s: float
  tremor: float
  tremor_hz: float


def draw_person(rng: np.random.Generator) -> Person:
  """One participant of the population described by the constants above."""
  age = rng.uniform(*AGE_YEARS)
  female = bool(rng.integers(2))
  rest = HR_REST_BPM + HR_REST_FEMALE_BPM * (female - 0.5) + HR_REST_SD_BPM * rng.standard_normal()
  rest = float(np.clip(rest, *HR_REST_RANGE_BPM))
  young, old = STIFFNESS_AGE_YEARS
  stiffness = (age - young) / (old - young) + STIFFNESS_SD * rng.standard_normal()
  stiffness = float(np.clip(stiffness, 0, 1))
  arrival = ARRIVAL_SOFT_S + (ARRIVAL_STIFF_S - ARRIVAL_SOFT_S) * stiffness
  years = age - AGE_OF_REFERENCE

  def lognormal(median: float, log_sd: float, log_slope: float = 0.0) -> float:
    return median * np.exp(log_slope * years + log_sd * rng.standard_normal())

  def variability(sd_ms: float, log_slope: float, log_sd: float) -> float:
    return lognormal(sd_ms, log_sd, log_slope) * rest / 60000

  return Person(
    age=age,
    sex="female" if female else "male",
    hr_rest_bpm=rest,
    hr_max_bpm=HR_MAX_BPM + HR_MAX_PER_YEAR * age + HR_MAX_SD_BPM * rng.standard_normal(),
    hf=variability(*HF_SD_MS),
    lf=variability(*LF_SD_MS),
    vlf=variability(*VLF_SD_MS),
    breath_hz=float(np.clip(rng.normal(BREATH_HZ, BREATH_SD_HZ), *BREATH_RANGE_HZ)),
    ectopic_per_h=lognormal(ECTOPIC_PER_HOUR, ECTOPIC_LOG_SD, ECTOPIC_PER_YEAR),
    dead_time_s=rng.uniform(*DEAD_TIME_S),
    tau_on_s=rng.uniform(*TAU_ON_S),
    tau_off_s=rng.uniform(*TAU_OFF_S),
    stress_share=rng.uniform(*STRESS_SHARE),
    stiffness=stiffness,
    perfusion=lognormal(1.0, PERFUSION_LOG_SD),
    looseness=lognormal(ARTEFACT_AU_PER_G, ARTEFACT_LOG_SD),
    ppg_noise_au=lognormal(PPG_NOISE_AU, PPG_NOISE_LOG_SD),
    arrival_s=float(np.clip(rng.normal(arrival, ARRIVAL_SD_S), *ARRIVAL_S)),
    beat_mg=float(np.clip(lognormal(BEAT_MG, BEAT_LOG_SD), *BEAT_RANGE_MG)),
    beat_onset_s=rng.uniform(*BEAT_ONSET_S),
    beat_hz=rng.uniform(*BEAT_HZ),
    beat_decay_s=rng.uniform(*BEAT_DECAY_S),
    tremor=lognormal(1.0, TREMOR_LOG_SD),
    tremor_hz=rng.uniform(*TREMOR_PEAK_HZ),
  )


@dataclasses.dataclass(frozen=True)
class Bouts:
  """What the person does: bout i runs from start_s[i] to start_s[i + 1] (the last one to the end).

  Attributes:
    start_s: [bouts] float64, the first one at -LEAD_S.
    kind: [bouts] int, index into ACTIVITIES.
    intensity: [bouts] drive of the heart, fraction of the heart-rate reserve.
    cadence_hz: [bouts] steps a second; 0 where no steps are taken.
  """

  start_s: np.ndarray
  kind: np.ndarray
  intensity: np.ndarray
  cadence_hz: np.ndarray


def draw_bouts(rng: np.random.Generator, duration_s: float) -> Bouts:
  """Random schedule with the shares and bout lengths of ACTIVITIES and habits of its own."""
  most = int((duration_s + LEAD_S + TAIL_S) / BOUT_SHORTEST_S) + 2
  share = np.array([a.share for a in ACTIVITIES])
  mean_s = np.array([a.mean_s for a in ACTIVITIES], float)
  habit = np.exp(HABIT_LOG_SD * rng.standard_normal(len(ACTIVITIES)))
  odds = share / mean_s * habit
  kind = rng.choice(len(ACTIVITIES), most, p=odds / odds.sum())
  spread = np.exp(BOUT_LOG_SD * rng.standard_normal(most) - BOUT_LOG_SD**2 / 2)
  length_s = np.maximum(mean_s[kind] * spread, BOUT_SHORTEST_S)
  # The first bout is met at a random moment of a long one: time, not bouts, is sampled evenly.
  kind[0] = rng.choice(len(ACTIVITIES), p=share * habit / (share * habit).sum())
  length_s[0] = rng.uniform(0.2, 1.0) * mean_s[kind[0]]
  low, high = np.array([a.intensity for a in ACTIVITIES])[kind].T
  intensity = rng.uniform(low, high)
  gait = np.array([a.gait for a in ACTIVITIES])[kind]
  cadence_hz = np.where(gait, rng.uniform(*CADENCE_HZ, most), 0.0)
  start_s = np.concatenate([[0.0], np.cumsum(length_s)[:-1]]) - LEAD_S
  keep = start_s < duration_s
  return Bouts(start_s[keep], kind[keep], intensity[keep], cadence_hz[keep])


def first_order(
  times_s: np.ndarray, start_s: np.ndarray, target: np.ndarray, tau_s: tuple[float, float]
) -> np.ndarray:
  """Follows a staircase with one time constant upwards and another downwards.

  Within a step, x(t) = target + (x0 - target) exp(-(t - start) / tau), which never crosses the
  target, so the choice of tau holds for the whole step and only the step edges need a loop.

  Args:
    times_s: [time] ascending.
    start_s: [steps] ascending start of each step; the value rests at target[0] before.
    target: [steps].
    tau_s: (on, off) time constants, seconds.

  Returns:
    [time] float64.
  """
  level, tau = np.empty(len(target)), np.empty(len(target))
  value = target[0]
  for i, goal in enumerate(target):
    level[i], tau[i] = value, tau_s[0] if goal > value else tau_s[1]
    if i + 1 < len(target):
      value = goal + (value - goal) * np.exp(-(start_s[i + 1] - start_s[i]) / tau[i])
  step = np.maximum(np.searchsorted(start_s, times_s, side="right") - 1, 0)
  since = np.maximum(times_s - start_s[step], 0)
  return target[step] + (level[step] - target[step]) * np.exp(-since / tau[step])


def coloured_noise(
  rng: np.random.Generator, samples: int, rate_hz: float, shape, channels: int = 1
) -> np.ndarray:
  """Gaussian noise of unit expected variance with a given amplitude spectrum.

  Args:
    rng: random generator.
    samples: length; drawn on a longer circle of a length that transforms fast.
    rate_hz: samples per second.
    shape: function of frequency (Hz, float32 array without zero) giving relative amplitude.
    channels: independent rows.

  Returns:
    [channels, samples] float32. Zeros when a stretch is so short that no wave of the spectrum fits.
  """
  length = scipy.fft.next_fast_len(samples + 1, real=True)
  frequency = np.fft.rfftfreq(length, 1 / rate_hz).astype(np.float32)
  amplitude = np.zeros_like(frequency)
  amplitude[1:] = shape(frequency[1:])
  active = np.flatnonzero(amplitude)
  if not len(active):
    return np.zeros((channels, samples), np.float32)
  spectrum = np.zeros((channels, len(frequency)), np.complex64)
  parts = rng.standard_normal((channels, len(active), 2), np.float32)
  spectrum[:, active] = parts.view(np.complex64)[..., 0] * amplitude[active]
  # Each active bin adds 2 * 2 * amplitude^2 / length^2 to the variance.
  spectrum *= length / (2 * np.sqrt(np.sum(amplitude**2, dtype=np.float64)))
  return scipy.fft.irfft(spectrum, length, axis=1)[:, :samples]


def band(low_hz: float, high_hz: float):
  """Flat amplitude between two frequencies, for `coloured_noise`."""
  return lambda f: ((f >= low_hz) & (f <= high_hz)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Body:
  """One participant over one recording.

  Attributes:
    person: who.
    bouts: what they do.
    grid_s: [grid] control times, CONTROL_HZ apart.
    hr_bpm: [grid] mean heart rate, without variability.
    motion_hr_bpm: [grid] the part of it that follows motion; the rest is stress.
    breath_phase: [grid] radians, inspiration at 0 modulo 2 pi.
    breath_depth: [grid] relative, mean about 1.
    beat_s: [beats] float64 times of R peaks, ascending, lead and tail included.
    normal: [beats] bool; False for ectopic beats.
  """

  person: Person
  bouts: Bouts
  grid_s: np.ndarray
  hr_bpm: np.ndarray
  motion_hr_bpm: np.ndarray
  breath_phase: np.ndarray
  breath_depth: np.ndarray
  beat_s: np.ndarray
  normal: np.ndarray

  def breath(self, times_s: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """cos of the breathing phase (plus `shift`, radians) times its depth at any times."""
    wave = self.breath_depth * np.cos(self.breath_phase + shift)
    return np.interp(times_s, self.grid_s, wave)


def draw_body(seed: int, participant: int, duration_s: float) -> Body:
  """Person, schedule, heart rate, breathing and beats of one participant.

  Args:
    seed: of the cohort, not negative.
    participant: index in the cohort.
    duration_s: length of the recording, seconds.
  """
  person = draw_person(stream(seed, participant, "person"))
  bouts = draw_bouts(stream(seed, participant, "schedule"), duration_s)
  grid_s = np.arange(-LEAD_S, duration_s + TAIL_S, 1 / CONTROL_HZ)
  motion_hr = _motion_hr(person, bouts, grid_s)
  stress = _stress_bpm(stream(seed, participant, "stress"), person, grid_s, motion_hr)
  hr = np.clip(motion_hr + stress, None, person.hr_max_bpm)
  phase, depth = _breathing(stream(seed, participant, "breath"), person, hr)
  heart = stream(seed, participant, "heart")
  beat_s = _sinus_beats(heart, person, grid_s, hr, phase, depth)
  beat_s, normal = _with_ectopics(stream(seed, participant, "ectopic"), person, beat_s)
  return Body(person, bouts, grid_s, hr, motion_hr, phase, depth, beat_s, normal)


def _motion_hr(person: Person, bouts: Bouts, grid_s: np.ndarray) -> np.ndarray:
  """Heart rate that follows the intensity of motion, late and slowly. [grid] bpm."""
  drive = first_order(
    grid_s,
    bouts.start_s + person.dead_time_s,
    bouts.intensity,
    (person.tau_on_s, person.tau_off_s),
  )
  return person.hr_rest_bpm + (person.hr_max_bpm - person.hr_rest_bpm) * drive


def _stress_bpm(
  rng: np.random.Generator, person: Person, grid_s: np.ndarray, motion_hr: np.ndarray
) -> np.ndarray:
  """Rises without motion, scaled to the person's share of the variance. [grid] bpm."""
  episodes = int((grid_s[-1] - grid_s[0]) / STRESS_EPISODE_S[0]) + 2
  calm_s = rng.exponential(STRESS_CALM_S, episodes)
  stress_s = rng.uniform(*STRESS_EPISODE_S, episodes)
  level = rng.uniform(*STRESS_LEVEL, episodes)
  edges = np.cumsum(np.stack([calm_s, stress_s], axis=1).ravel()) + grid_s[0]
  start_s = np.concatenate([[grid_s[0]], edges])
  target = np.zeros(len(start_s))
  target[1::2] = level
  shape = first_order(grid_s, start_s, target, STRESS_TAU_S)
  if not shape.any():
    return shape
  share = person.stress_share
  sd = np.sqrt(share / (1 - share)) * max(motion_hr.std(), STRESS_MOTION_FLOOR_BPM)
  return shape * min(sd / shape.std(), STRESS_MOST_BPM)


def _breathing(
  rng: np.random.Generator, person: Person, hr: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Phase (radians) and relative depth of breathing on the control grid."""
  wander, depth = coloured_noise(rng, len(hr), CONTROL_HZ, band(0.003, 0.05), 2)
  exertion = np.clip((hr - person.hr_rest_bpm) / (person.hr_max_bpm - person.hr_rest_bpm), 0, 1)
  rate = (person.breath_hz + BREATH_EXERTION_HZ * exertion) * (1 + BREATH_WANDER * wander)
  phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(rate) / CONTROL_HZ
  return phase, np.exp(BREATH_DEPTH_SD * depth)


def _sinus_beats(
  rng: np.random.Generator,
  person: Person,
  grid_s: np.ndarray,
  hr: np.ndarray,
  breath_phase: np.ndarray,
  breath_depth: np.ndarray,
) -> np.ndarray:
  """Beat times by integral pulse frequency modulation (Mateo & Laguna 2000, IEEE TBME 47:985).

  A beat falls wherever the integral of the instantaneous rate crosses a whole number; the rate is
  the mean rate times 1 + HF (breathing) + LF + VLF.
  """

  def low(f):
    return np.exp(-((f - LF_CENTRE_HZ) ** 2) / (4 * LF_WIDTH_HZ**2)) * (f < 0.15)

  def very_low(f):
    return band(*VLF_BAND_HZ)(f) / np.sqrt(f)

  lf = coloured_noise(rng, len(hr), CONTROL_HZ, low)[0]
  vlf = coloured_noise(rng, len(hr), CONTROL_HZ, very_low)[0]
  hf = np.sqrt(2) * breath_depth * np.cos(breath_phase)
  calm = np.minimum((person.hr_rest_bpm / hr) ** VARIABILITY_RATE_EXPONENT, VARIABILITY_MOST)
  change = calm * (person.hf * hf + person.lf * lf + person.vlf * vlf)
  rate_hz = hr / 60 * np.clip(1 + change, 0.5, 1.6)
  cycles = np.concatenate([[0.0], np.cumsum(0.5 * (rate_hz[1:] + rate_hz[:-1]))]) / CONTROL_HZ
  cycles += rng.uniform()
  return np.interp(np.arange(np.ceil(cycles[0]), cycles[-1]), cycles, grid_s)


def _with_ectopics(
  rng: np.random.Generator, person: Person, beat_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Moves some beats forward; the beat after keeps its time, which is the compensatory pause.

  Returns:
    Beat times, and [beats] bool, False for the beats that came early.
  """
  rr_s = np.diff(beat_s)
  early = np.zeros(len(beat_s), bool)
  early[1:-1] = rng.random(len(beat_s) - 2) < person.ectopic_per_h / 3600 * rr_s[:-1]
  early[1:] &= ~early[:-1]  # never two in a row
  coupling = rng.uniform(*ECTOPIC_COUPLING, len(beat_s))
  moved = beat_s.copy()
  moved[1:][early[1:]] -= ((1 - coupling[1:]) * rr_s)[early[1:]]
  return moved, ~early
