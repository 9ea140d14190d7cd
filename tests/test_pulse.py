"""When the pulse came: the upstrokes of PPG, their reader in acceleration, what learns of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import models, objectives
from distill.config import ConfigDict
from distill.nn import layers, pulse
from distill.nn.encoder import Forward
from distill.state import Step, optimiser
from students import transformer as students
from teachers import transformer as teachers

RATE_HZ = 64.0


def _beats(rng, seconds=60.0) -> np.ndarray:
  times_s = np.cumsum(rng.uniform(0.6, 1.1) + rng.normal(0, 0.04, 150))
  return times_s[times_s < seconds]


def _ppg(beats_s, rate_hz=RATE_HZ, seconds=60.0) -> np.ndarray:
  """[time] pulses whose steepest rise stands at the beats."""
  time = np.arange(round(seconds * rate_hz)) / rate_hz
  since = time[:, None] - beats_s
  return np.sum(np.exp(-(((since - 0.08) / 0.08) ** 2) / 2), axis=1).astype(np.float32)


def _rhythm(ppg, mask=None, rate_hz=RATE_HZ) -> np.ndarray:
  windows = np.asarray(ppg, np.float32).reshape(-1, np.shape(ppg)[-1], 1)
  mask = np.ones(windows.shape, bool) if mask is None else mask.reshape(windows.shape)
  return np.asarray(pulse.pulse_rhythm(jnp.asarray(windows), jnp.asarray(mask), rate_hz=rate_hz))


def _slow_rhythm(ppg: np.ndarray, mask: np.ndarray, rate_hz: float) -> np.ndarray:
  """One window in plain NumPy, a value at a time."""
  frames = round(len(ppg) / rate_hz * 10)
  slope, seen = np.zeros(frames), np.zeros(frames, bool)
  for j in range(frames):
    total = share = everything = 0.0
    for i in range(len(ppg) - 1):
      away = (i + 0.5) / rate_hz - (j + 0.5) / 10
      if abs(away) < 0.1:
        weight = np.cos(np.pi * away / 0.2) ** 2
        everything += weight
        if mask[i] and mask[i + 1]:
          total, share = total + weight * max(float(ppg[i + 1] - ppg[i]), 0.0), share + weight
    seen[j] = share >= 0.5 * everything
    slope[j] = total / share if seen[j] else 0.0
  centred = slope.copy()
  for j in range(frames):
    near = slice(max(0, j - 20), j + 21)
    centred[j] = slope[j] - slope[near].sum() / seen[near].sum() if seen[j] else 0.0
  out, floor = np.zeros(frames), 1e-3 * np.mean(centred**2) + 1e-12
  for j in range(frames):
    near = slice(max(0, j - 20), j + 21)
    out[j] = centred[j] / np.sqrt((centred[near] ** 2).sum() / max(seen[near].sum(), 1) + floor)
  return out


def test_the_rhythm_equals_a_plain_loop():
  rng = np.random.default_rng(0)
  ppg = _ppg(_beats(rng, 20.0), seconds=20.0) + 0.05 * rng.normal(size=1280).astype(np.float32)
  mask = np.ones(1280, bool)
  mask[300:420], mask[700], mask[1270:] = False, False, False
  np.testing.assert_allclose(
    _rhythm(ppg, mask)[0], _slow_rhythm(ppg, mask, RATE_HZ), rtol=1e-3, atol=2e-4
  )


@pytest.mark.parametrize("rate_hz", [25.0, 64.0, 125.0])
def test_a_beat_is_a_peak_at_its_upstroke_at_any_rate(rate_hz):
  beats_s = _beats(np.random.default_rng(1))
  found = _rhythm(_ppg(beats_s, rate_hz), rate_hz=rate_hz)[0]
  assert found.shape == (pulse.frames(60.0),)
  peaks = np.flatnonzero((found[1:-1] >= found[:-2]) & (found[1:-1] > found[2:])) + 1
  peaks = peaks[found[peaks] > 0.5]
  inner = beats_s[(beats_s > 0.3) & (beats_s < 59.7)]
  away_s = np.abs((peaks[:, None] + 0.5) / pulse.RHYTHM_HZ - inner)
  # Every beat has a peak: half a frame and half a sample away, and what the slope leans.
  assert away_s.min(axis=0).max() <= 0.05 + 0.5 / rate_hz + 0.01
  assert abs(len(peaks) - len(beats_s)) <= 1


def test_height_and_offset_of_the_pulse_change_nothing():
  ppg = _ppg(_beats(np.random.default_rng(2)))
  np.testing.assert_allclose(_rhythm(300 * ppg - 7), _rhythm(ppg), atol=5e-3)


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_what_lies_under_the_mask_changes_neither_value_nor_gradient(filler):
  ppg = np.stack([_ppg(_beats(np.random.default_rng(k))) for k in (3, 4)])[:, :, None]
  mask = np.ones(ppg.shape, bool)
  mask[0, 500:1500] = False

  def value(x):
    return jnp.sum(jnp.sin(pulse.pulse_rhythm(x, jnp.asarray(mask), rate_hz=RATE_HZ)))

  hidden = jnp.asarray(np.where(mask, ppg, np.float32(filler)))
  whole, slope = jax.value_and_grad(value)(jnp.asarray(ppg))
  same, steep = jax.value_and_grad(value)(hidden)
  assert whole == same
  np.testing.assert_array_equal(slope, steep)
  assert np.isfinite(np.asarray(slope)).all()
  gone = _rhythm(ppg[:, :, 0], mask[:, :, 0])[0]
  assert not gone[80:233].any()
  assert gone[:75].any()


def test_a_window_without_a_pulse_is_zero_with_a_finite_gradient():
  flat = jnp.ones((1, 3840, 1))
  seen = jnp.ones(flat.shape, bool)
  for mask in (seen, ~seen):
    found, slope = jax.value_and_grad(
      lambda x, mask=mask: jnp.sum(pulse.pulse_rhythm(x, mask, rate_hz=RATE_HZ) ** 2)
    )(flat)
    assert found == 0
    assert np.isfinite(np.asarray(slope)).all()
  with pytest.raises(ValueError, match="must both be"):
    pulse.pulse_rhythm(flat, seen[:, :10], rate_hz=RATE_HZ)


def test_the_rhythm_follows_the_embedding_of_teacher_and_student():
  rng = np.random.default_rng(5)
  for encoder in (teachers.build(seed=0, width=16, depth=1), _student()):
    windows = 0.1 * rng.standard_normal((2, *encoder.spec.shape)).astype(np.float32)
    mask = np.ones(windows.shape, bool)
    mask[1] = False
    wide = Forward(encoder, batch_size=2, rhythm=True)(windows, mask)
    assert wide.shape == (2, encoder.dim + 600)
    assert encoder.rhythm == 600
    np.testing.assert_allclose(
      wide[:, : encoder.dim], Forward(encoder, batch_size=2)(windows, mask), atol=1e-5
    )
    assert wide[0, encoder.dim :].any()
    assert not wide[1].any()  # nothing observed
  assert students.build(seed=0, width=16, depth=1, rhythm=0).rhythm == 0


def _slow_profile(rhythm: np.ndarray) -> np.ndarray:
  """Of one window, in plain NumPy, a rate at a time."""
  rates_hz = np.exp(np.linspace(np.log(0.6), np.log(4.0), 48))
  lines = np.zeros((3, 48 + 8 + 24))
  for j, span in enumerate((600, 200, 80)):
    time_s, window = np.arange(span) / 10, np.hanning(span + 2)[1:-1]
    for m, hz in enumerate(rates_hz):
      power = []
      for start in range(0, 600 - span + 1, span // 2):
        part, total = rhythm[start : start + span], 0.0
        for wave in (np.cos, np.sin):
          basis = window * wave(2 * np.pi * hz * time_s)
          total += (part @ basis) ** 2 / (basis @ basis)
        power.append(total)
      lines[j, 8 + m] = np.log(1 + np.mean(power) / 0.3)
  pick = np.exp(2 * lines[1, 8:56])
  pick /= pick.sum()
  around = [[pick @ one[k : k + 48] for k in range(33)] for one in lines]
  rate = pick @ np.log(rates_hz / np.sqrt(0.6 * 4.0))
  return np.array([*np.ravel(around), rate, 1 + pick @ np.log(pick + 1e-6) / np.log(48)])


def _profile(rhythm) -> np.ndarray:
  return np.asarray(pulse.pulse_profile(jnp.asarray(rhythm, jnp.float32)))


def test_the_profile_equals_a_plain_loop():
  rhythm = _rhythm(np.stack([_ppg(_beats(np.random.default_rng(k))) for k in range(2)]))
  found = _profile(rhythm)
  assert found.shape == (2, pulse.PROFILE)
  for one, expected in zip(found, map(_slow_profile, rhythm.astype(np.float64))):
    np.testing.assert_allclose(one, expected, atol=2e-3)


def test_the_profile_tells_the_rate_and_looks_the_same_at_any():
  rates_bpm = np.array([45, 50, 60, 75, 90, 110, 135, 160, 180])
  profiles = np.stack([_profile(_rhythm(_ppg(np.arange(0.3, 60, 60 / hr))))[0] for hr in rates_bpm])
  found_bpm = 60 * np.sqrt(0.6 * 4.0) * np.exp(profiles[:, -2])
  assert (np.diff(found_bpm) > 0).all()
  fast = rates_bpm > 70  # of a slow pulse the first overtone is in range and takes a share
  np.testing.assert_allclose(found_bpm[fast], rates_bpm[fast], rtol=0.08)
  np.testing.assert_allclose(found_bpm, rates_bpm, rtol=0.25)
  around = profiles[:, 33:66]  # over 20 s; place 8 is the pulse itself, 25 its overtone
  np.testing.assert_array_equal(np.argmax(around, axis=1), 8)
  assert np.corrcoef(around[3:7, :20]).min() > 0.75  # 75 to 135; the ends of the range cut it off


def test_an_uneven_pulse_has_less_power_at_its_rate():
  power = []
  for sd_s in (0.0, 0.02, 0.05, 0.1):
    some = [
      0.3 + np.cumsum(0.9 + sd_s * np.random.default_rng(k).standard_normal(64)) for k in range(6)
    ]
    rhythms = np.concatenate([_rhythm(_ppg(beats_s)) for beats_s in some])
    power.append(_profile(rhythms)[:, 33 + 8].mean())
  assert (np.diff(power) < -0.05).all()


def test_a_profile_of_nothing_is_zero_and_every_gradient_is_finite():
  flat = jnp.zeros((1, 600))
  beats = jnp.asarray(_rhythm(_ppg(_beats(np.random.default_rng(9)))))
  for rhythm in (flat, beats, 1e-6 * beats, 1e3 * beats):
    found, slope = jax.value_and_grad(lambda r: jnp.sum(pulse.pulse_profile(r)))(rhythm)
    assert np.isfinite(np.asarray(slope)).all()
    assert np.isfinite(found)
  assert not _profile(flat).any()


def test_the_profile_is_part_of_the_embedding_of_teacher_and_student():
  rng = np.random.default_rng(10)
  plain = teachers.build(seed=0, width=16, depth=1), _student()
  with_it = teachers.build(seed=0, width=16, depth=1, profile=True), _student(profile=True)
  for short, long in zip(plain, with_it):
    windows = 0.1 * rng.standard_normal((2, *short.spec.shape)).astype(np.float32)
    mask = np.ones(windows.shape, bool)
    mask[1] = False
    wide = Forward(long, batch_size=2, rhythm=True)(windows, mask)
    assert long.dim == short.dim + pulse.PROFILE
    embedding, profile, rhythm = np.split(wide, [short.dim, long.dim], axis=1)
    np.testing.assert_allclose(embedding, Forward(short, batch_size=2)(windows, mask), atol=1e-5)
    np.testing.assert_allclose(profile, _profile(rhythm), atol=1e-4)
    assert not wide[1].any()  # nothing observed
    layers_of = long.by_layer(jnp.asarray(windows), jnp.asarray(mask))
    assert layers_of["tokens"].shape[1] < short.dim + 1
    assert layers_of["embedding"].shape[1] == long.dim
  with pytest.raises(Exception, match=r"profile is read off a rhythm.*student.rhythm"):
    _student(rhythm=0, profile=True)


def _student(**sizes):
  return students.build(seed=0, **{"width": 16, "depth": 1, "rhythm": 8, **sizes})


def test_a_student_that_is_moved_in_time_moves_its_rhythm():
  encoder = _student()
  long = 0.1 * np.random.default_rng(6).standard_normal((1, 3500, 3)).astype(np.float32)
  both, mask = np.concatenate([long[:, :3000], long[:, 500:]]), np.ones((2, 3000, 3), bool)
  first, later = Forward(encoder, batch_size=2, rhythm=True)(both, mask)[:, encoder.dim :]
  # 10 s are 100 frames; edges, levels and norms of the window differ a little.
  assert np.corrcoef(first[250:450], later[150:350])[0, 1] > 0.98


def test_frames_that_do_not_fit_the_rhythm_say_so():
  with pytest.raises(Exception, match=r"student.rhythm needs 10 frames a second.*choose 5"):
    students.build(seed=0, frame=10, stretch=50, hop=25)


def test_the_cosine_of_projections_is_a_mean_of_two_cosines():
  rng = np.random.default_rng(7)
  heads = [layers.ProjectionHead(6, 8, 4, rhythm=True, rngs=nnx.Rngs(k)) for k in (0, 1)]
  plain = [layers.ProjectionHead(6, 8, 4, rngs=nnx.Rngs(k)) for k in (0, 1)]
  for head in heads:
    head.balance[...] = jnp.full((1, 1), 0.7)
  x, y = rng.normal(size=(2, 3, 6 + 10)).astype(np.float32)

  def cosine(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

  together = cosine(*(np.asarray(head(jnp.asarray(v))) for head, v in zip(heads, (x, y))))
  embedded = cosine(*(np.asarray(head(jnp.asarray(v[:, :6]))) for head, v in zip(plain, (x, y))))
  share = 1 / (1 + np.exp(-0.7))
  expected = share * embedded + (1 - share) * cosine(x[:, 6:], y[:, 6:])
  np.testing.assert_allclose(together, expected, atol=1e-5)


def _distillation(encoder, rhythms=(True,), others=()):
  return objectives.Distillation(
    encoder,
    teacher_mean=np.zeros(5, np.float32),
    teacher_sd=np.ones(5, np.float32),
    others=others,
    rhythms=rhythms,
    hidden=8,
    dim=4,
    contrastive=1.0,
    temperature=0.1,
    direction=0.5,
    regression=1.0,
    regression_kind="mse",
    rhythm=2.0,
    rngs=nnx.Rngs(2),
  )


def _minutes(rng, count: int) -> dict[str, np.ndarray]:
  """Acceleration with a burst of vibration at each beat, and vectors that hold the rhythm."""
  time = np.arange(3000) / 50
  acc, ppg = [], []
  for _ in range(count):
    beats_s = _beats(rng)
    size = np.sum(np.exp(-(((time[:, None] - beats_s + 0.1) / 0.05) ** 2) / 2), axis=1)
    burst = (size * np.sin(2 * np.pi * 8 * time))[:, None] * rng.normal(size=3)
    acc.append(2e-3 * burst + 5e-4 * rng.normal(size=(3000, 3)))
    ppg.append(_ppg(beats_s))
  rhythm = _rhythm(np.stack(ppg))
  own = rng.normal(size=(count, 5)).astype(np.float32)
  return {
    "acc": np.stack(acc).astype(np.float32),
    "acc_mask": np.ones((count, 3000, 3), bool),
    "teacher": np.concatenate([own, rhythm], axis=1),
    "teacher_2": own,
    "recording": np.arange(count, dtype=np.int32),
    "t0_s": np.zeros(count, np.float32),
  }


def test_the_rhythm_is_learnt_and_unseen_minutes_are_found_by_it():
  module, rng = _distillation(_student()), np.random.default_rng(8)
  settings = ConfigDict({"learning_rate": 1e-2, "warmup_steps": 1, "weight_decay": 0.0})
  settings.clip_norm = 1.0
  step = Step(module, optimiser(settings, 32))
  state = step.init(0)
  unseen = jax.tree.map(jnp.asarray, _minutes(rng, 16))

  @jax.jit
  def judged(params, batch):
    one = step.module(params)
    return one.loss(batch, jax.random.key(0))[1]["rhythm"], one.measures(batch)["top1"]

  assert judged(state.params, unseen)[0] > 0.9
  for _ in range(32):
    state, _ = step(state, jax.tree.map(jnp.asarray, _minutes(rng, 16)))
  rhythm, top1 = judged(state.params, unseen)
  assert rhythm < 0.6
  assert top1 > 0.9  # chance is 1 in 16


def test_a_teacher_without_a_rhythm_teaches_its_embedding_alone():
  batch = jax.tree.map(jnp.asarray, _minutes(np.random.default_rng(9), 3))
  other = np.zeros(5, np.float32), np.ones(5, np.float32)
  module = _distillation(_student(), (True, False), [other])
  terms = jax.jit(module.terms)(batch, jax.random.key(0))
  assert set(terms) == {"contrastive", "regression", "rhythm", "contrastive_2", "regression_2"}
  total, _ = jax.jit(module.loss)(batch, jax.random.key(0))
  assert total == pytest.approx(
    sum(float(v.mean()) * (2.0 if name == "rhythm" else 1.0) for name, v in terms.items()), rel=1e-5
  )
  dim = module.encoder.dim
  forward = Forward(module.encoder, batch_size=3, rhythm=True)
  wide = forward(np.asarray(batch["acc"]), np.asarray(batch["acc_mask"]))[:, dim:]
  target = np.asarray(batch["teacher"])[:, 5:]
  cosine = np.sum(wide * target, 1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(target, axis=1)
  np.testing.assert_allclose(terms["rhythm"], 1 - cosine, atol=1e-5)
  assert not _distillation(_student(rhythm=0)).rhythm  # there is nobody to read it


def test_heads_come_back_from_a_model_folder_with_their_rhythm(tmp_path):
  module = _distillation(_student())
  arguments = {"seed": 0, "width": 16, "depth": 1, "rhythm": 8}
  models.save(
    *(tmp_path, module), build="students.transformer:build", arguments=arguments, fields={}, card=""
  )
  stored = models.read(tmp_path)
  assert stored.fields["rhythm"] == 600
  rng = np.random.default_rng(10)
  wide, taught = (
    jnp.asarray(rng.normal(size=(2, dim + 600)), jnp.float32) for dim in (module.encoder.dim, 5)
  )
  assert models.load_encoder(tmp_path).rhythm == 600
  for name, vectors, expected in (
    ("student_head", wide, module.student_head(wide)),
    ("teacher_head", taught, module.teacher_head(taught)),
  ):
    head = objectives.load_head(stored, name)
    assert head.rhythm
    np.testing.assert_allclose(head(vectors), expected, atol=1e-5)
