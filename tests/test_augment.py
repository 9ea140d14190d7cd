"""Augmentations keep their promises: sizes, masks, nothing at probability 0, one warp for two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distill import augment, objectives
from distill import config as configs
from distill.augment import PROBABILITIES, Augment
from distill.data.pairs import OTHER
from distill.errors import DistillError
from distill.nn.encoder import Encoder
from distill.spec import SignalSpec
from distill.state import Step
from tests.conftest import ROOT

BATCH, TIME = 16, 120


def _windows(seed=0, channels=3, gaps=True, time=TIME):
  """[batch, time, channels] noise, zero where it is missing; every other window has a gap."""
  rng = np.random.default_rng(seed)
  mask = np.ones((BATCH, time, channels), bool)
  if gaps:
    mask[::2, 20:35] = False
  return np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32), mask


STRENGTHS = {"cut_out_share": 0.3, "magnitude_gain": 1.5, "noise_sd": 0.5, "rotate_deg": 180.0}
EACH = {name: dataclasses.replace(Augment(), **{name: 1.0}, **STRENGTHS) for name in PROBABILITIES}
EACH["rotate_20"] = dataclasses.replace(Augment(), rotate=1.0, rotate_deg=20.0)
EACH["all"] = dataclasses.replace(Augment(), **dict.fromkeys(PROBABILITIES, 1.0))


@jax.jit
def _each(key, signal, mask):
  return {name: settings(key, signal, mask) for name, settings in EACH.items()}


def _call(name, signal, mask, key=1):
  """One augmentation of all windows; one compilation for all of a shape."""
  return tuple(map(np.asarray, _each(jax.random.key(key), signal, mask)[name]))


def _only(name):
  signal, mask = _windows()
  return signal, mask, *_call(name, signal, mask)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_each_one_changes_windows_and_keeps_what_is_missing(name):
  signal, mask, changed, left = _only(name)
  assert changed.dtype == np.float32
  assert np.isfinite(changed).all()
  assert (changed[~left] == 0).all()
  moved = (changed != signal).any(axis=(1, 2)) | (left != mask).any(axis=(1, 2))
  assert moved.mean() > 0.75  # one order of channels in six is the old one
  if name != "time_warp":  # which takes the gaps along
    assert not (left & ~mask).any()
  else:
    assert (mask.sum(axis=(1, 2)) - left.sum(axis=(1, 2)) < 12 * 3).all()


def test_at_probability_zero_nothing_happens():
  assert Augment().prepare(("acc",)) is None
  signal, mask = _windows()
  changed, left = Augment()(jax.random.key(0), signal, mask)
  np.testing.assert_array_equal(changed, signal)
  np.testing.assert_array_equal(left, mask)


def test_the_same_key_gives_the_same_and_another_does_not():
  signal, mask = _windows()
  first, again, other = (_call("all", signal, mask, key) for key in (3, 3, 4))
  for one, two in zip(first, again, strict=True):
    np.testing.assert_array_equal(one, two)
  assert (first[0] != other[0]).any(axis=(1, 2)).all()


def test_it_happens_to_the_share_of_windows_that_was_asked_for():
  settings = dataclasses.replace(Augment(), cut_out=0.4)
  mask = np.ones((4000, 20, 1), bool)
  _, left = jax.jit(settings)(jax.random.key(0), np.ones(mask.shape, np.float32), mask)
  share = np.mean(~np.asarray(left).all(axis=(1, 2)))
  assert share == pytest.approx(0.4, abs=0.03)


def test_rotation_keeps_the_norm_and_turns_each_window_as_one():
  signal, _, changed, _ = _only("rotate")
  norm = np.linalg.norm(signal, axis=2)
  np.testing.assert_allclose(np.linalg.norm(changed, axis=2), norm, atol=1e-5)
  for before, after in zip(signal, changed, strict=True):
    found = np.linalg.lstsq(before, after, rcond=None)[0]
    np.testing.assert_allclose(before @ found, after, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(found) == pytest.approx(1, abs=1e-3)  # turned, not mirrored


def test_rotation_goes_no_farther_than_asked_and_needs_three_whole_axes():
  signal, _, changed, _ = _only("rotate_20")
  cosine = np.sum(signal * changed, axis=2) / np.maximum(np.sum(signal**2, axis=2), 1e-9)
  assert np.degrees(np.arccos(np.clip(cosine[signal.any(axis=2)], -1, 1))).max() < 20.1
  one, mask = _windows(channels=1)
  assert augment.rotate(jax.random.key(0), one, mask, largest_deg=90)[0] is one
  three, lacking = _windows()
  lacking[0, :, 1], three[0, :, 1] = False, 0
  turned, left = _call("rotate", three, lacking)
  np.testing.assert_array_equal(turned[0], three[0])
  np.testing.assert_array_equal(left, lacking)
  assert (turned[1] != three[1]).any()


def test_cut_out_hides_one_stretch_within_its_share_through_the_mask():
  _, mask, _, left = _only("cut_out")
  hidden = (mask & ~left)[1::2]  # windows without a gap of their own
  assert (hidden == hidden[:, :, :1]).all()
  length = hidden[:, :, 0].sum(axis=1) / TIME
  assert (length >= 0.14).all()
  assert (length <= 0.31).all()
  edges = np.diff(np.pad(hidden[:, :, 0].astype(int), ((0, 0), (1, 1))), axis=1)
  assert ((edges == 1).sum(axis=1) == 1).all()


def test_a_window_is_never_cut_out_whole():
  signal, mask = _windows()
  mask[:], signal[:] = False, 0
  mask[:, 60:63] = True
  for key in range(4):
    _, left = _call("cut_out", signal, mask, key)
    assert left.any(axis=(1, 2)).all()


def test_magnitude_changes_slowly_and_within_its_gain():
  signal, mask, changed, _ = _only("magnitude_warp")
  ratio = (changed[mask] / signal[mask]).reshape(-1)
  assert ratio.min() >= 1 / 1.5 - 1e-4
  assert ratio.max() <= 1.5 + 1e-4
  curve = changed[1] / signal[1]
  np.testing.assert_allclose(curve[:, 0], curve[:, 2], rtol=1e-3)
  assert np.abs(np.diff(np.log(curve[:, 0]))).max() < 0.1


def test_noise_is_a_share_of_the_windows_own_spread():
  signal, mask, changed, _ = _only("noise")
  for before, after, seen in zip(signal, changed, mask, strict=True):
    share = (after - before)[seen].std() / before[seen].std()
    assert 0.08 < share < 0.55


def test_permutation_moves_masks_with_their_channels():
  signal, mask = _windows()
  mask[:, :50, 2] = False
  signal = np.where(mask, signal, 0)
  changed, left = _call("permute", signal, mask)
  orders = set()
  for before, after, seen, kept in zip(signal, changed, mask, left, strict=True):
    order = [int(np.flatnonzero((one == before.T).all(axis=1))[0]) for one in after.T]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_array_equal(seen[:, order], kept)
    orders.add(tuple(order))
  assert len(orders) > 2


# --- time -----------------------------------------------------------------------------------------


def _ramp(time):
  """[batch, time, 3] the share of the window that has passed, all of it observed."""
  ramp = np.tile(np.linspace(0, 1, time, dtype=np.float32)[None, :, None], (BATCH, 1, 3))
  return ramp, np.ones(ramp.shape, bool)


def test_time_runs_forwards_from_end_to_end():
  warped, left = _call("time_warp", *_ramp(TIME))
  assert left.all()
  when = warped[:, :, 0]
  assert (np.diff(when, axis=1) > 0).all()
  np.testing.assert_allclose(when[:, [0, -1]], np.tile([0.0, 1.0], (BATCH, 1)), atol=1e-5)
  assert np.abs(when - np.linspace(0, 1, TIME)[None, :]).max() > 0.005


def test_the_farthest_warp_never_turns_time_back():
  curve = augment._spline(TIME, augment.KNOTS + 2)
  slope = np.abs(np.diff(curve[1:-1], axis=1)).sum(axis=0).max() * (TIME - 1)
  assert slope * augment.MAX_SHIFT / (augment.KNOTS + 1) < 1


def test_a_warp_keeps_a_fine_wave_nearly_whole():
  """10 Hz at 50 Hz, of which a straight line between samples would take more than a tenth."""
  wave = np.sin(2 * np.pi * 10 * np.arange(TIME) / 50).astype(np.float32)
  signal = np.tile(wave[None, :, None], (BATCH, 1, 3))
  warped, _ = _call("time_warp", signal, np.ones(signal.shape, bool))
  assert warped.std() > 0.93 * wave.std()


def test_what_is_read_across_a_gap_is_missing():
  _, mask = _windows()
  signal = np.where(mask, 1.0, -1e6).astype(np.float32)  # would show
  warped, left = _call("time_warp", signal, mask)
  np.testing.assert_allclose(warped[left], 1.0, atol=1e-5)


# --- in a batch and a step ------------------------------------------------------------------------


def test_two_sensors_are_warped_together_and_two_views_apart():
  (slow, slow_mask), (fast, fast_mask) = _ramp(TIME), _ramp(150)
  batch = {"acc": slow, "acc_mask": slow_mask, "ppg": fast, "ppg_mask": fast_mask}
  batch |= {OTHER + "acc": slow, OTHER + "acc_mask": slow_mask}
  settings = dataclasses.replace(Augment(), time_warp=1.0)

  @jax.jit
  def both(key):
    pair = settings.prepare(("acc", "ppg"), together=True)(batch, key)
    return pair, settings.prepare(("acc", OTHER + "acc"))(batch, key)

  pair, views = both(jax.random.key(0))
  here, there = np.linspace(0, 1, TIME), np.linspace(0, 1, 150)
  alike = np.stack([np.interp(here, there, row) for row in np.asarray(pair["ppg"])[:, :, 0]])
  np.testing.assert_allclose(alike, np.asarray(pair["acc"])[:, :, 0], atol=1e-3)
  assert np.abs(np.asarray(pair["acc"]) - slow).max() > 0.005
  assert (np.asarray(views["acc"]) != np.asarray(views[OTHER + "acc"])).any(axis=(1, 2)).all()
  np.testing.assert_array_equal(views["ppg"], fast)


class _Sum(Encoder):
  def __init__(self):
    self.spec, self.dim = SignalSpec("acc", 8.0, 15.0, ("x", "y", "z"), "g"), 2
    self.dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

  def __call__(self, signal, mask=None):
    return self.dense(jnp.sum(jnp.where(self.check(signal, mask), signal, 0.0), axis=1))


def test_a_step_sees_augmented_windows_anew_each_time_and_the_same_again():
  objective = objectives.Supervised(
    _Sum(), mean=np.zeros(1, np.float32), sd=np.ones(1, np.float32), rngs=nnx.Rngs(1)
  )
  signal, mask = _windows()
  batch = {"acc": signal, "acc_mask": mask, "targets": np.ones((BATCH, 1), np.float32)}
  settings = dataclasses.replace(Augment(), cut_out=0.5)

  step = Step(objective, optax.sgd(0.0), settings.prepare(("acc",)))

  def losses():
    state, found = step.init(0), []
    for _ in range(3):
      state, terms = step(state, batch)
      found.append(float(terms["loss"]))
    return found

  changed = losses()
  assert len(set(changed)) == 3
  assert losses() == changed
  assert step.traces == 1


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes",
  [
    {"cut_out": 1.1},
    {"rotate": -0.1},
    {"time_shift": 0.3},
    {"magnitude_gain": 0.5},
    {"noise_sd": -1},
  ],
)
def test_settings_out_of_range_are_refused(changes):
  name = next(iter(changes))
  with pytest.raises(DistillError, match=rf"augment.{name} is .*expected"):
    Augment(**changes)


def _load(*words):
  path = f"{ROOT}/configs/quickstart.py:smoke"
  return configs.load(path, [f"--config.{word}" for word in words])


def test_a_warp_of_time_needs_a_teacher_in_the_step():
  with pytest.raises(DistillError, match=r"time_warp changes heart rate.*in_step=True"):
    _load("augment.time_warp=0.15")
  with pytest.raises(DistillError, match="time_warp changes heart rate"):
    _load("augment.time_warp=0.15", "method=rivals")
  assert _load("augment.time_warp=0.15", "teacher.in_step=True").augment.time_warp == 0.15
  assert _load("pretrain.augment.time_warp=0.15").pretrain.augment.time_warp == 0.15
  with pytest.raises(DistillError, match=r"in_step is for distillation"):
    _load("teacher.in_step=True", "method=rivals")


def test_every_config_leaves_augmentation_off_unless_it_says_so():
  config = _load()
  for section in (config.augment, config.pretrain.augment):
    assert not any(section[name] for name in PROBABILITIES)
