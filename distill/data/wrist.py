"""What the sensors at the wrist record of a simulated body: PPG, acceleration, gaps.

The constants stand in `distill.data.physiology`. Everything is vectorised over samples: a sample
finds its beat by counting beats, and nothing loops over beats. Movement in mg becomes g here.
"""

import dataclasses

import numpy as np
import scipy.signal

from distill.data import physiology as ph

_MG = np.float32(1e-3)


@dataclasses.dataclass(frozen=True)
class Postures:
  """Stretches in which the wrist lies the same way; a bout holds one or more.

  Attributes:
    start_s: [postures] ascending.
    kind: [postures] int, index into ACTIVITIES.
    down: [postures, 3] unit vectors of gravity.
    beat_axes: [postures, 2, 3] orthonormal: main direction of the beat-locked movement, and across.
    beat_mg: [postures] peak to peak of the beat-locked movement along its main direction.
    breath_axis: [postures, 3] tilt with breathing, g per unit of breath.
  """

  start_s: np.ndarray
  kind: np.ndarray
  down: np.ndarray
  beat_axes: np.ndarray
  beat_mg: np.ndarray
  breath_axis: np.ndarray


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw_postures(rng: np.random.Generator, body: ph.Body) -> Postures:
  """Cuts every bout at random changes of posture and draws each posture's directions."""
  bouts, stop_s = body.bouts, body.grid_s[-1]
  length_s = np.diff(np.append(bouts.start_s, stop_s))
  mean_s = np.array([a.posture_s for a in ph.ACTIVITIES], float)[bouts.kind]
  changes = rng.poisson(length_s / mean_s)
  bout = np.repeat(np.arange(len(changes)), changes)
  inner_s = bouts.start_s[bout] + rng.random(len(bout)) * length_s[bout]
  start_s = np.concatenate([bouts.start_s, inner_s])
  order = np.argsort(start_s, kind="stable")
  start_s = start_s[order]
  kind = np.concatenate([bouts.kind, bouts.kind[bout]])[order]
  n = len(start_s)
  centre = np.array([a.down for a in ph.ACTIVITIES])[kind]
  spread = np.array([a.down_sd for a in ph.ACTIVITIES])[kind][:, None]
  main = _unit(rng.standard_normal((n, 3)))
  across = _unit(np.cross(main, rng.standard_normal((n, 3))))
  by_posture = np.exp(ph.BEAT_POSTURE_LOG_SD * rng.standard_normal(n))
  low, high = np.log(ph.BREATH_MG)
  breath_g = 1e-3 * np.exp(rng.uniform(low, high, n))[:, None]
  return Postures(
    start_s=start_s,
    kind=kind,
    down=_unit(centre + spread * rng.standard_normal((n, 3))),
    beat_axes=np.stack([main, across], axis=1),
    beat_mg=np.clip(body.person.beat_mg * by_posture, *ph.BEAT_RANGE_MG),
    breath_axis=breath_g * _unit(rng.standard_normal((n, 3))),
  )


def _owner(start_s: np.ndarray, samples: int, rate_hz: float) -> np.ndarray:
  """[samples] int: index of the last start at or before each sample of a grid from 0; -1 before.

  The same as searchsorted of the sample times, by counting samples between starts.
  """
  edges = np.clip(np.ceil(start_s * rate_hz), 0, samples).astype(np.int64)
  counts = np.diff(np.concatenate([[0], edges, [samples]]))
  return np.repeat(np.arange(-1, len(start_s)), counts)


def _at(grid_s: np.ndarray, values: np.ndarray, samples: int, rate_hz: float) -> np.ndarray:
  """Control-rate rows [..., grid] read at sample times; [samples] or [samples, rows] float32."""
  times_s = np.arange(samples) / rate_hz
  if values.ndim == 1:
    return np.interp(times_s, grid_s, values).astype(np.float32)
  return np.stack([np.interp(times_s, grid_s, v) for v in values], axis=1).astype(np.float32)


# ---------------------------------------------------------------- acceleration


@dataclasses.dataclass(frozen=True)
class Movement:
  """Acceleration before the sensor, split so that its parts can be studied and switched.

  Attributes:
    gravity: [time, 3] float32 g: posture, its changes, slow sway, breathing.
    motion: [time, 3] float32 g: gait, hand work, fidgets.
    tremor: [time, 3] float32 g.
    beats: [time, 3] float32 g: the beat-locked movement.
  """

  gravity: np.ndarray
  motion: np.ndarray
  tremor: np.ndarray
  beats: np.ndarray


def draw_movement(
  seed: int,
  participant: int,
  body: ph.Body,
  pre_ejection_s: np.ndarray,
  samples: int,
  rate_hz: float,
) -> Movement:
  """All parts of the wrist's acceleration on the sample grid i / rate_hz.

  Args:
    seed: of the cohort.
    participant: index in the cohort.
    body: whose wrist.
    pre_ejection_s: [beats] deviation of each beat's mechanical onset, from `pre_ejection`.
    samples: number of samples.
    rate_hz: of the accelerometer.
  """

  def rng(name: str) -> np.random.Generator:
    return ph.stream(seed, participant, name)

  postures = draw_postures(rng("posture"), body)
  gravity = _gravity(rng("sway"), body, postures, samples, rate_hz)
  motion = np.zeros((samples, 3), np.float32)
  _add_gait(rng("gait"), body, motion, rate_hz)
  _add_hands(rng("hands"), body, motion, rate_hz)
  tremor = _tremor(rng("tremor"), body, postures, samples, rate_hz)
  beats = _beat_movement(rng("beat"), body, postures, pre_ejection_s, samples, rate_hz)
  return Movement(gravity, motion, tremor, beats)


def _gravity(
  rng: np.random.Generator, body: ph.Body, postures: Postures, samples: int, rate_hz: float
) -> np.ndarray:
  """Gravity in the wrist's axes: posture, smooth turns, sway and breathing. [time, 3] g."""
  grid_s = body.grid_s
  owner = np.maximum(np.searchsorted(postures.start_s, grid_s, side="right") - 1, 0)
  down = postures.down[owner]
  turn = np.hanning(int(ph.TURN_S * ph.CONTROL_HZ) + 3)
  turn /= turn.sum()
  margin = len(turn) // 2
  padded = np.pad(down, ((margin, margin), (0, 0)), mode="edge")
  down = np.stack([np.convolve(axis, turn, mode="valid") for axis in padded.T], axis=1)
  sway_mg = np.array([a.sway_mg for a in ph.ACTIVITIES], float)[postures.kind][owner]
  sway = ph.coloured_noise(rng, len(grid_s), ph.CONTROL_HZ, lambda f: (f < 0.5) / np.sqrt(f), 3)
  breath = body.breath_depth * np.cos(body.breath_phase)
  down = down + 1e-3 * sway_mg[:, None] * sway.T + postures.breath_axis[owner] * breath[:, None]
  return _at(grid_s, _unit(down).T, samples, rate_hz)


def motion_rms_g(intensity: np.ndarray) -> np.ndarray:
  """Usual RMS of the motion vector at an intensity (fraction of the heart-rate reserve), g."""
  return ph.MOTION_G * np.exp(ph.MOTION_PER_INTENSITY * intensity)


def _bout_level(body: ph.Body, flag: str, scatter: np.ndarray) -> np.ndarray:
  """[bouts] RMS of motion in g where the activity has `flag` ("gait" or "hands"), else 0."""
  active = np.array([getattr(a, flag) for a in ph.ACTIVITIES])[body.bouts.kind]
  return active * motion_rms_g(body.bouts.intensity) * np.exp(ph.MOTION_LOG_SD * scatter)


def _smooth_steps(values: np.ndarray, samples: int) -> np.ndarray:
  """Moving average over `samples`, so that bouts begin and end softly; ends held."""
  kernel = np.full(samples, 1 / samples)
  padded = np.pad(values, (samples // 2, samples - 1 - samples // 2), mode="edge")
  return np.convolve(padded, kernel, mode="valid")


def _add_gait(rng: np.random.Generator, body: ph.Body, motion: np.ndarray, rate_hz: float) -> None:
  """Adds arm swing, steps and their harmonics to `motion` [time, 3] in place.

  Harmonic h of the stride has a fixed complex amplitude per bout and axis, so that a bout has its
  own path of the wrist; the stride's phase runs on through cadence changes.
  """
  bouts, grid_s, n = body.bouts, body.grid_s, len(body.bouts.kind)
  level = _bout_level(body, "gait", rng.standard_normal(n))
  size = np.array(ph.GAIT_HARMONICS)
  amplitude = rng.standard_normal((n, len(size), 3, 2)) @ np.array([1, 1j])
  amplitude *= size[:, None] / np.sqrt(np.sum(size**2) * 3)
  wander, strength = ph.coloured_noise(rng, len(grid_s), ph.CONTROL_HZ, ph.band(0.05, 1.0), 2)
  owner = np.maximum(np.searchsorted(bouts.start_s, grid_s, side="right") - 1, 0)
  envelope = _smooth_steps(level[owner], int(ph.CONTROL_HZ)) * (1 + ph.GAIT_SIZE_SD * strength)
  cadence = np.maximum(bouts.cadence_hz, 1.0)[owner] * (1 + ph.GAIT_PHASE_SD * wander)
  phase = rng.uniform(0, 2 * np.pi) + np.pi * np.cumsum(cadence) / ph.CONTROL_HZ
  moving = np.flatnonzero(np.interp(np.arange(len(motion)) / rate_hz, grid_s, envelope))
  times_s = moving / rate_hz
  stride = np.exp(1j * np.interp(times_s, grid_s, phase)).astype(np.complex64)
  # A bout's path also covers the half second of fading on either side, where it has no gait itself.
  nearest = np.where(level > 0, np.arange(n), -1)
  bout = _owner(bouts.start_s, len(motion), rate_hz)[moving]
  path = _gait_bout(nearest, bout, times_s, bouts.start_s)
  power = stride.copy()
  total = np.zeros((len(moving), 3), np.float32)
  for harmonic in range(len(size)):
    total += (amplitude[:, harmonic].astype(np.complex64)[path] * power[:, None]).real
    power *= stride
  scale = np.interp(times_s, grid_s, envelope).astype(np.float32)
  motion[moving] += scale[:, None] * total


def _gait_bout(
  gait: np.ndarray, bout: np.ndarray, times_s: np.ndarray, start_s: np.ndarray
) -> np.ndarray:
  """Index of the gait bout each moving sample belongs to; in the fades that is the neighbour."""
  before, after = np.maximum(bout - 1, 0), np.minimum(bout + 1, len(gait) - 1)
  early = times_s - start_s[bout] < 1.0
  neighbour = np.where(early & (gait[before] >= 0), before, after)
  return np.where(gait[bout] >= 0, bout, neighbour)


def _add_hands(rng: np.random.Generator, body: ph.Body, motion: np.ndarray, rate_hz: float) -> None:
  """Adds hand work and fidgets to `motion` [time, 3] in place: band noise under an envelope."""
  bouts, grid_s = body.bouts, body.grid_s
  level = _bout_level(body, "hands", rng.standard_normal(len(bouts.kind)))
  owner = np.maximum(np.searchsorted(bouts.start_s, grid_s, side="right") - 1, 0)
  bursts = ph.coloured_noise(rng, len(grid_s), ph.CONTROL_HZ, ph.band(0.05, 0.4))[0]
  envelope = _smooth_steps(level[owner], int(ph.CONTROL_HZ)) * np.maximum(bursts + 0.7, 0)
  envelope = envelope + _fidgets(rng, body, owner)
  size = _at(grid_s, envelope, len(motion), rate_hz)
  moving = np.flatnonzero(size)
  if len(moving):
    noise = ph.coloured_noise(rng, len(moving), rate_hz, ph.band(*ph.HANDS_BAND_HZ), 3)
    motion[moving] += noise.T * (size[moving, None] / np.float32(np.sqrt(3)))


def _fidgets(rng: np.random.Generator, body: ph.Body, owner: np.ndarray) -> np.ndarray:
  """Envelope (g) of short single movements, more or fewer by activity. [grid]."""
  per_s = np.array([a.fidgets_per_min for a in ph.ACTIVITIES])[body.bouts.kind][owner] / 60
  centre = np.flatnonzero(rng.random(len(owner)) < per_s / ph.CONTROL_HZ)
  half = rng.uniform(*ph.FIDGET_S, len(centre)) / 2 * ph.CONTROL_HZ
  size = ph.FIDGET_G * np.exp(ph.FIDGET_LOG_SD * rng.standard_normal(len(centre)))
  reach = np.arange(
    -int(ph.FIDGET_S[1] * ph.CONTROL_HZ / 2), int(ph.FIDGET_S[1] * ph.CONTROL_HZ / 2) + 1
  )
  bump = np.cos(np.pi / 2 * np.minimum(np.abs(reach) / half[:, None], 1)) ** 2
  at = np.clip(centre[:, None] + reach, 0, len(owner) - 1)
  envelope = np.zeros(len(owner))
  np.add.at(envelope, at, size[:, None] * bump)
  return envelope


def _tremor(
  rng: np.random.Generator, body: ph.Body, postures: Postures, samples: int, rate_hz: float
) -> np.ndarray:
  """Physiological tremor: a broad peak in 4-12 Hz whose size wanders. [time, 3] g."""
  low, high = ph.TREMOR_BAND_HZ

  def shape(f):
    peak = np.exp(-((f - body.person.tremor_hz) ** 2) / (4 * ph.TREMOR_WIDTH_HZ**2))
    return peak * ((f >= low) & (f <= high))

  wave = ph.coloured_noise(rng, samples, rate_hz, shape, 3).T
  wander = ph.coloured_noise(rng, len(body.grid_s), ph.CONTROL_HZ, ph.band(0.01, 0.2))[0]
  owner = np.maximum(np.searchsorted(postures.start_s, body.grid_s, side="right") - 1, 0)
  median_mg = np.array([a.tremor_mg for a in ph.ACTIVITIES])[postures.kind][owner]
  level = median_mg * body.person.tremor
  size_mg = np.clip(level, *ph.TREMOR_RANGE_MG) * np.exp(ph.TREMOR_TIME_LOG_SD * wander)
  size_mg = _smooth_steps(size_mg, int(ph.CONTROL_HZ))
  # RMS of the vector: each of the three axes carries a third of its variance.
  scale = _at(body.grid_s, size_mg / np.sqrt(3), samples, rate_hz)
  return wave * (scale * _MG)[:, None]


def beat_wave(since_s: np.ndarray, hz: float, decay_s: float) -> tuple[np.ndarray, np.ndarray]:
  """Damped oscillation after a beat's mechanical onset: along the main direction, and across.

  Args:
    since_s: float32 seconds since the onset; values before it give 0.
    hz: frequency of the oscillation.
    decay_s: time constant of the decay.

  Returns:
    Two arrays like `since_s`; the first has a peak-to-peak of 1 over a whole beat.
  """
  fine_s = np.arange(0, 0.4, 0.0005, dtype=np.float32)
  along, _ = _damped(fine_s, hz, decay_s)
  scale = 1 / np.ptp(along)
  along, across = _damped(np.maximum(since_s, 0), hz, decay_s)
  return along * scale, across * (scale * np.float32(ph.BEAT_CROSS))


def _damped(since_s: np.ndarray, hz: float, decay_s: float) -> tuple[np.ndarray, np.ndarray]:
  """sin and cos under exp(-t / decay) with a soft start; both 0 at t = 0."""
  size = np.exp(since_s * np.float32(-1 / decay_s))
  size *= 1 - np.exp(since_s * np.float32(-1 / ph.BEAT_RISE_S))
  angle = since_s * np.float32(2 * np.pi * hz)
  return size * np.sin(angle), size * np.cos(angle)


def _beat_movement(
  rng: np.random.Generator,
  body: ph.Body,
  postures: Postures,
  pre_ejection_s: np.ndarray,
  samples: int,
  rate_hz: float,
) -> np.ndarray:
  """The tiny movement after every beat. [time, 3] g.

  Its size varies by beat, with breathing, by posture and with the filling of ectopic beats, but
  never with rate: the filling factor is 1 for every normal beat.
  """
  person = body.person
  onset_s = body.beat_s + person.beat_onset_s + pre_ejection_s
  size = 1 + ph.BEAT_SIZE_SD * rng.standard_normal(len(onset_s))
  depth, shift = rng.uniform(*ph.BEAT_BREATH), rng.uniform(0, 2 * np.pi)
  size *= 1 + depth * body.breath(body.beat_s, shift)
  posture = np.maximum(np.searchsorted(postures.start_s, body.beat_s, side="right") - 1, 0)
  size_g = 1e-3 * np.maximum(size, 0) * postures.beat_mg[posture] * filling(body)
  # [beats, 2, 3]: what one unit of the two waves moves each axis by.
  reach = (size_g[:, None, None] * postures.beat_axes[posture]).astype(np.float32)
  owner = _owner(onset_s, samples, rate_hz)
  since_s = (np.arange(samples) / rate_hz - onset_s[owner]).astype(np.float32)
  along, across = beat_wave(since_s, person.beat_hz, person.beat_decay_s)
  reach = reach[owner]
  return along[:, None] * reach[:, 0] + across[:, None] * reach[:, 1]


def filling(body: ph.Body) -> np.ndarray:
  """Stroke size by beat: smaller after a short, larger after a long interval around an ectopic.

  Returns:
    [beats] float64; exactly 1 for every beat whose preceding interval is normal-to-normal.
  """
  rr_s = np.diff(body.beat_s, prepend=2 * body.beat_s[0] - body.beat_s[1])
  touched = ~body.normal
  touched[1:] |= ~body.normal[:-1]
  usual_s = 60 / np.interp(body.beat_s, body.grid_s, body.hr_bpm)
  return np.where(touched, np.clip(rr_s / usual_s, 0.4, 1.5) ** ph.ECTOPIC_FILLING, 1.0)


def measure(
  rng: np.random.Generator, movement: Movement, device: ph.Device, amplitude: float
) -> np.ndarray:
  """What the device reports: noise added, rounded to its step, clipped to its range. [time, 3] g.

  Args:
    rng: noise of this unit.
    movement: true acceleration.
    device: whose noise, step and range.
    amplitude: factor on the beat-locked movement; nothing else depends on it.
  """
  density_mg = rng.uniform(*device.noise_mg_per_rthz, 3)
  sd_g = (1e-3 * density_mg * np.sqrt(device.rate_hz / 2)).astype(np.float32)
  acc_g = rng.standard_normal(movement.gravity.shape, np.float32) * sd_g
  acc_g += movement.gravity
  acc_g += movement.motion
  acc_g += movement.tremor
  acc_g += np.float32(amplitude) * movement.beats
  step = np.float32(device.step_g)
  low, high = device.range_g
  return np.clip(np.rint(acc_g / step) * step, np.float32(low), np.float32(high))


# ---------------------------------------------------------------- PPG


def pre_ejection(rng: np.random.Generator, body: ph.Body) -> np.ndarray:
  """[beats] seconds by which each beat's ejection comes later than usual; moves both sensors."""
  return ph.PRE_EJECTION_SD_S * rng.standard_normal(len(body.beat_s))


def foot_times(rng: np.random.Generator, body: ph.Body, pre_ejection_s: np.ndarray) -> np.ndarray:
  """[beats] arrival of the pulse's foot at the wrist, R + 180-280 ms, seconds."""
  person = body.person
  drift = ph.coloured_noise(rng, len(body.grid_s), ph.CONTROL_HZ, ph.band(0.005, 0.1))[0]
  exertion = (body.hr_bpm - person.hr_rest_bpm) / (person.hr_max_bpm - person.hr_rest_bpm)
  slow_s = ph.ARRIVAL_DRIFT_SD_S * drift - ph.ARRIVAL_RATE_S * exertion
  delay_s = person.arrival_s + np.interp(body.beat_s, body.grid_s, slow_s) + pre_ejection_s
  delay_s += ph.ARRIVAL_BREATH_S * body.breath(body.beat_s, rng.uniform(0, 2 * np.pi))
  return body.beat_s + np.clip(delay_s, *ph.ARRIVAL_S)


def pulse_wave(
  foot_s: np.ndarray, beat_s: np.ndarray, size: np.ndarray, stiffness: float, samples: int
) -> np.ndarray:
  """Train of pulses at 64 Hz, each a systolic and a diastolic Gaussian after its foot.

  Args:
    foot_s: [beats] arrival times.
    beat_s: [beats] R times; the interval before a beat sets the length of its pulse.
    size: [beats] pulse heights.
    stiffness: of the vessels, 0 to 1: an earlier, broader, larger second component.
    samples: number of samples from time 0.

  Returns:
    [samples] float32.
  """
  delay, width, diastolic = (
    np.float32(soft + (stiff - soft) * stiffness)
    for soft, stiff in (ph.DIASTOLIC_DELAY_S, ph.DIASTOLIC_WIDTH_S, ph.DIASTOLIC_SIZE)
  )
  rise = np.float32(ph.SYSTOLIC_WIDTH_S)
  rr_s = np.diff(beat_s, prepend=2 * beat_s[0] - beat_s[1])
  stretch = np.sqrt(np.clip(rr_s, 0.3, 1.5) / ph.PULSE_RR_S)
  owner = _owner(foot_s - stretch * ph.PULSE_ONSET_WIDTHS * rise, samples, ph.PPG_HZ)
  times_s = np.arange(samples) / ph.PPG_HZ
  total = np.zeros(samples, np.float32)
  for back in (0, 1):  # the pulse that began last, and the tail of the one before
    beat = owner - back
    since = ((times_s - foot_s[beat]) / stretch[beat]).astype(np.float32)
    systolic = np.exp(np.float32(-0.5) * ((since - 2 * rise) / rise) ** 2)
    second = np.exp(np.float32(-0.5) * ((since - 2 * rise - delay) / width) ** 2)
    total += size.astype(np.float32)[beat] * (systolic + diastolic * second)
  return total


def draw_ppg(
  seed: int,
  participant: int,
  body: ph.Body,
  pre_ejection_s: np.ndarray,
  movement: Movement,
  acc_rate_hz: float,
  samples: int,
) -> np.ndarray:
  """PPG of one green channel at 64 Hz. [samples, 1] float32, au; systole upwards.

  Args:
    seed: of the cohort.
    participant: index in the cohort.
    body: whose pulse.
    pre_ejection_s: [beats] from `pre_ejection`.
    movement: what causes the artefacts: motion and changes of posture.
    acc_rate_hz: rate of `movement`.
    samples: number of samples.
  """
  rng, person = ph.stream(seed, participant, "ppg"), body.person
  foot_s = foot_times(rng, body, pre_ejection_s)
  tone, wander = ph.coloured_noise(rng, len(body.grid_s), ph.CONTROL_HZ, ph.band(0.01, 0.12), 2)
  depth = rng.uniform(*ph.BREATH_AMPLITUDE)
  size = 1 + depth * body.breath(body.beat_s, rng.uniform(0, 2 * np.pi))
  size += ph.PULSE_SIZE_SD * rng.standard_normal(len(body.beat_s))
  size *= np.exp(ph.PULSE_TONE_SD * np.interp(body.beat_s, body.grid_s, tone)) * filling(body)
  ppg = pulse_wave(foot_s, body.beat_s, size, person.stiffness, samples)
  shift = rng.uniform(0, 2 * np.pi)
  breath = body.breath_depth * np.cos(body.breath_phase + shift)
  slow = rng.uniform(*ph.BREATH_BASELINE) * breath + ph.PULSE_WANDER * wander
  ppg += _at(body.grid_s, slow, samples, ph.PPG_HZ)
  ppg *= np.float32(person.perfusion)
  ppg += _artefact(rng, person, movement, acc_rate_hz, samples)
  ppg += np.float32(person.ppg_noise_au) * rng.standard_normal(samples, np.float32)
  return ppg[:, None]


def _artefact(
  rng: np.random.Generator,
  person: ph.Person,
  movement: Movement,
  acc_rate_hz: float,
  samples: int,
) -> np.ndarray:
  """Optical artefact: the wrist's own motion along one direction, filtered, softly limited."""
  direction = _unit(rng.standard_normal(3)).astype(np.float32)
  push = movement.motion @ direction + movement.gravity @ direction
  sos = scipy.signal.butter(1, ph.ARTEFACT_BAND_HZ, "bandpass", fs=acc_rate_hz, output="sos")
  # Started in the steady state of its first sample, or gravity would ring for seconds.
  state = scipy.signal.sosfilt_zi(sos) * push[0]
  push, _ = scipy.signal.sosfilt(sos, push, zi=state)
  acc_s = np.arange(len(push)) / acc_rate_hz
  artefact = np.interp(np.arange(samples) / ph.PPG_HZ, acc_s, push)
  most = ph.ARTEFACT_MOST_AU
  return (most * np.tanh(person.looseness / most * artefact)).astype(np.float32)


# ---------------------------------------------------------------- gaps


def draw_gaps(rng: np.random.Generator, duration_s: float) -> dict[str, np.ndarray]:
  """Stretches without data of each sensor, some of them shared.

  Returns:
    "ppg" and "acc": [gaps, 2] start and stop in seconds; they may overlap.
  """

  def draw(every_s: float, length_s: tuple[float, float]) -> np.ndarray:
    count = rng.poisson(duration_s / every_s)
    start_s = rng.uniform(0, duration_s, count)
    return np.stack([start_s, start_s + rng.uniform(*length_s, count)], axis=1)

  shared = [draw(ph.JOINT_GAP_EVERY_S, ph.JOINT_GAP_S), draw(ph.LONG_GAP_EVERY_S, ph.LONG_GAP_S)]
  own = {name: draw(ph.GAP_EVERY_S, ph.GAP_S) for name in ("ppg", "acc")}
  return {name: np.concatenate([gaps, *shared]) for name, gaps in own.items()}


def blank(samples: np.ndarray, gaps_s: np.ndarray, rate_hz: float) -> None:
  """Sets the samples of [time, channels] inside the gaps to NaN, in place."""
  for start_s, stop_s in gaps_s:
    samples[int(np.ceil(start_s * rate_hz)) : int(np.ceil(stop_s * rate_hz))] = np.nan
