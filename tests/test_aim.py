"""Missing data: what was not observed changes no value and no gradient, whatever it holds."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

import students.axes
import teachers.gaps
import teachers.transformer
from distill import models
from distill.aim import AIM
from distill.errors import DistillError
from distill.nn import layers, masking
from distill.nn.encoder import Forward

SMALL = {"width": 16, "depth": 1, "heads": 2}
ROWS = 4
BUILD = {
  "patches": lambda: students.axes.build_patches(seed=0, patch=250, **SMALL),
  "rhythm": lambda: students.axes.build(seed=0, filters=4, mixes=2, waves=6, **SMALL),
}
cases = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)


@functools.cache
def _encoder(kind):
  return BUILD[kind]()


@functools.cache
def _embed(kind):
  encoder = _encoder(kind)
  graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)

  def total(params, signal, mask):
    embedding = nnx.merge(graphdef, params, rest)(signal, mask)
    return jnp.sum(jnp.square(embedding)), embedding

  step = jax.jit(jax.value_and_grad(total, has_aux=True))

  def embed(signal, mask):
    (_, embedding), grads = step(params, signal, mask)
    return np.asarray(embedding), [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]

  return embed


@functools.cache
def _objective(kind):
  return AIM(_encoder(kind), width=8, depth=1, heads=2, rngs=nnx.Rngs(1))


@functools.cache
def _learn(kind):
  graphdef, params, rest = nnx.split(_objective(kind), nnx.Param, ...)
  name = _encoder(kind).spec.modality

  def loss(params, signal, mask, key):
    batch = {name: signal, name + "_mask": mask}
    values = nnx.merge(graphdef, params, rest).terms(batch, key)["reconstruction"]
    return jnp.sum(values), values

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))

  def learn(signal, mask, seed=0):
    (_, values), grads = step(params, signal, mask, jax.random.key(seed))
    return np.asarray(values), [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]

  return learn


def _windows(kind, seed, lost):
  """Windows whose samples are missing singly, in gaps and by the channel; the last row wholly."""
  spec, rng = _encoder(kind).spec, np.random.default_rng(seed)
  signal = rng.normal(size=(ROWS, *spec.shape)).astype(np.float32)
  mask = rng.random(signal.shape) >= lost * rng.random((ROWS, 1, 1))
  for row in mask[1:]:
    start = rng.integers(len(row))
    row[start : start + round(lost * len(row))] = False
  mask[2, :, rng.integers(spec.shape[1])] &= rng.random(spec.shape[0]) < 0.5
  mask[ROWS - 1] = False
  return signal, mask


fillers = st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -7.0])
drawn = st.integers(0, 2**20)
shares = st.floats(0.0, 0.95)


@pytest.mark.parametrize("kind", BUILD)
@cases
@hypothesis.given(seed=drawn, lost=shares, filler=fillers)
def test_what_is_missing_changes_no_embedding_and_no_gradient(kind, seed, lost, filler):
  signal, mask = _windows(kind, seed, lost)
  embedding, grads = _embed(kind)(signal, mask)
  other, other_grads = _embed(kind)(np.where(mask, signal, np.float32(filler)), mask)
  np.testing.assert_array_equal(embedding, other)
  for a, b in zip(grads, other_grads, strict=True):
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()
  assert np.isfinite(embedding).all()
  assert (embedding[-1] == 0).all()  # nothing observed


@cases
@hypothesis.given(seed=drawn, lost=shares, filler=fillers)
def test_what_is_missing_changes_no_loss_and_no_gradient(seed, lost, filler):
  kind = "patches"
  signal, mask = _windows(kind, seed, lost)
  loss, grads = _learn(kind)(signal, mask, seed)
  other, other_grads = _learn(kind)(np.where(mask, signal, np.float32(filler)), mask, seed)
  np.testing.assert_array_equal(loss, other)
  for a, b in zip(grads, other_grads, strict=True):
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()
  assert np.isfinite(loss).all()
  assert loss[-1] == 0  # nothing observed, nothing to learn


@pytest.mark.parametrize("kind", BUILD)
def test_the_order_of_missing_samples_does_not_matter_and_neighbours_do_not(kind):
  signal, mask = _windows(kind, 0, 0.5)
  embedding, _ = _embed(kind)(signal, mask)
  shuffled, rng = signal.copy(), np.random.default_rng(1)
  for row, seen in zip(shuffled, mask):
    row[~seen] = rng.permutation(row[~seen])
  assert (shuffled != signal).any()
  np.testing.assert_array_equal(_embed(kind)(shuffled, mask)[0], embedding)
  order = np.array([3, 0, 2, 1])
  swapped, _ = _embed(kind)(signal[order], mask[order])
  np.testing.assert_allclose(swapped, embedding[order], atol=2e-6)
  others, gaps = _windows(kind, 7, 0.9)
  others[1], gaps[1] = signal[1], mask[1]
  np.testing.assert_allclose(_embed(kind)(others, gaps)[0][1], embedding[1], atol=2e-6)


def test_full_observation_is_the_plain_encoder():
  plain = teachers.transformer.build(seed=3, patch=160, pool="mean_sd", **SMALL)
  masked = teachers.gaps.build(seed=0, patch=160, **SMALL)
  own = models.parameters(masked)
  models.assign(masked, own | models.parameters(plain), where="here")
  signal = np.random.default_rng(0).normal(size=(2, *plain.spec.shape)).astype(np.float32)
  full = np.ones(signal.shape, bool)
  gaps = full.copy()
  gaps[:, 40:400] = False
  embed = Forward(masked, batch_size=4)
  both = embed(np.concatenate([signal, signal]), np.concatenate([full, gaps]))
  expected = Forward(plain, batch_size=2)(signal, full)
  np.testing.assert_allclose(both[:2], expected, atol=1e-6)
  assert np.abs(both[2:] - expected).max() > 1e-3


@pytest.mark.parametrize("kind", ["patches", "rhythm"])
def test_a_lost_axis_leaves_the_tokens_of_the_others_alone(kind):
  stem = _encoder(kind).stem
  signal, _ = _windows(kind, 0, 0.0)
  mask = np.ones(signal.shape, bool)
  read = jax.jit(stem)
  tokens, observed = read(signal, mask)
  fewer, left = read(signal, mask & ~np.array([False, True, False]))
  times = stem.tokens // 3
  assert np.asarray(observed).all()
  lanes = np.asarray(left).reshape(ROWS, 3, times)
  assert lanes[:, [0, 2]].all()
  assert not lanes[:, 1].any()
  tokens, fewer = (np.asarray(some).reshape(ROWS, 3, times, -1) for some in (tokens, fewer))
  np.testing.assert_array_equal(tokens[:, [0, 2]], fewer[:, [0, 2]])


def test_the_loss_counts_what_was_hidden_on_purpose_and_was_there():
  objective, kind = _objective("patches"), "patches"
  stem, key = objective.encoder.stem, jax.random.key(5)
  signal, mask = _windows(kind, 3, 0.6)

  @jax.jit
  def predict(signal, mask):
    draw, drop = jax.random.split(key)
    hidden = objective.draw(draw, ROWS)
    tokens, observed = objective.tokens_without(signal, mask, hidden), stem.observed(mask)
    index, _ = layers.choose_kept(drop, observed & ~hidden, objective.kept)
    found = objective.terms({"acc": signal, "acc_mask": mask}, key)["reconstruction"]
    return hidden, objective.reconstruct(tokens, observed & ~hidden, index), found

  hidden, predicted, found = map(np.asarray, predict(signal, mask))
  times = stem.tokens // 3
  expected = []
  for row in range(ROWS):
    errors = []
    for token in range(stem.tokens):
      lane, start = token // times, (token % times) * stem.patch
      seen = mask[row, start : start + stem.patch, lane]
      if not hidden[row, token] or seen.mean() < 0.5:
        continue
      target = signal[row, start : start + stem.patch, lane]
      errors.extend((predicted[row, token] - target)[seen] ** 2)
    expected.append(np.mean(errors) if errors else 0.0)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert min(expected[:-1]) > 0


def test_the_encoder_sees_nothing_of_what_is_hidden_and_no_more_than_it_keeps():
  objective = _objective("patches")
  stem, rng = objective.encoder.stem, np.random.default_rng(0)
  signal, _ = _windows("patches", 0, 0.0)
  mask = np.ones(signal.shape, bool)
  for lost in range(1, 4):  # gaps that end where a token does, bridged to the one after it
    mask[:, stem.patch - lost :: stem.patch] = False
  hidden = rng.random((ROWS, stem.tokens)) < 0.3  # less than is dropped: observed ones go too
  under = np.moveaxis(np.repeat(hidden, stem.patch, axis=1).reshape(ROWS, 3, -1), 1, 2)
  other = np.where(under, signal + 5, signal).astype(np.float32)
  infill, reconstruct = jax.jit(objective.infill), jax.jit(objective.reconstruct)
  np.testing.assert_array_equal(infill(signal, mask, hidden), infill(other, mask, hidden))
  choose = jax.jit(layers.choose_kept, static_argnums=2)
  index, _ = choose(jax.random.key(0), ~hidden, objective.kept)
  assert index.shape == (ROWS, stem.tokens // 2)
  kept = np.zeros(hidden.shape, bool)
  np.put_along_axis(kept, np.asarray(index), True, axis=1)
  assert not (kept & hidden).any()
  tokens, _ = jax.jit(objective.encoder.tokens)(signal, mask)
  dropped = np.where((~kept)[:, :, None], 100.0, np.asarray(tokens)).astype(np.float32)
  np.testing.assert_array_equal(
    reconstruct(tokens, ~hidden, index), reconstruct(dropped, ~hidden, index)
  )


def test_each_strategy_hides_its_share():
  n, lanes, times = 600, 5, 10
  ratios = {"random": 0.8, "slices": 0.5, "channels": 0.4}
  shares = {name: jnp.full((n,), share) for name, share in ratios.items()}
  draw = jax.jit(masking.artificial, static_argnums=(1, 2, 3))
  hidden = np.asarray(draw(jax.random.key(0), n, lanes, times, **shares))
  slices = (hidden == hidden[:, :1]).all(axis=(1, 2))
  channels = (hidden == hidden[:, :, :1]).all(axis=(1, 2))
  random = ~slices & ~channels
  assert (hidden[random].sum(axis=(1, 2)) == 40).all()
  assert (hidden[slices].sum(axis=2) == 5).all()
  assert (hidden[channels].sum(axis=1) == 2).all()
  for group in (random, slices, channels):  # a third each, within 4.5 standard errors
    assert abs(group.mean() - 1 / 3) < 4.5 * np.sqrt(2 / 9 / n)
  one = np.asarray(draw(jax.random.key(0), n, 1, times, **shares))
  assert set(one.sum(axis=(1, 2))) == {5, 8}  # no whole channel where there is one


def test_gaps_made_for_training_only_take_away_and_never_all():
  mask = np.random.default_rng(0).random((300, 60, 3)) < 0.9
  mask[0] = False
  mask[1, 10:] = False
  hide = jax.jit(
    lambda mask, share: masking.hide_blocks(jax.random.key(1), mask, share=share, block=7)
  )
  left = np.asarray(hide(mask, jnp.float32(0.75)))
  assert (left <= mask).all()
  assert (left.any(axis=(1, 2)) == mask.any(axis=(1, 2))).all()
  changed = (left != mask).any(axis=(1, 2))[2:].mean()
  assert abs(changed - 0.75) < 4.5 * np.sqrt(0.75 * 0.25 / 298)
  np.testing.assert_array_equal(hide(mask, jnp.float32(0.0)), mask)


def test_small_gaps_are_bridged_as_by_interpolation_and_long_ones_are_zero():
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(2, 50, 2)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[0, 10:13, 0] = mask[0, 20:26, 0] = mask[1, :2, 1] = mask[1, 48:, 0] = False
  dirty = np.where(mask, signal, np.float32(np.nan))
  bridge = jax.jit(masking.bridge, static_argnums=2)
  filled, known = map(np.asarray, bridge(dirty, mask, 3))
  expected = np.where(mask, signal, 0.0)
  expected[0, 10:13, 0] = np.interp([10, 11, 12], [9, 13], signal[0, [9, 13], 0])
  np.testing.assert_allclose(filled, expected, atol=1e-6)
  np.testing.assert_array_equal(known, mask | (np.abs(filled) > 0))


def test_positions_tell_every_place_of_every_lane():
  table = layers.grid_positions(7, 30, 16)
  assert len(np.unique(table.round(5), axis=0)) == 210
  np.testing.assert_array_equal(table[:30, :8], table[60:90, :8])  # the same times
  np.testing.assert_array_equal(
    layers.grid_positions(1, 30, 16), layers.sinusoidal_positions(30, 16)
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"drop": 1.0}, "drop is 1.0"),
    ({"random": 0.0}, "random is 0.0"),
    ({"channels": 1.5}, "channels is 1.5"),
  ],
)
def test_shares_that_make_no_sense_say_so(arguments, message):
  with pytest.raises(DistillError, match=message):
    AIM(_encoder("patches"), rngs=nnx.Rngs(0), **arguments)


def test_an_encoder_without_raw_patches_is_refused():
  with pytest.raises(DistillError, match="PatchStem"):
    AIM(_encoder("rhythm"), rngs=nnx.Rngs(0))
