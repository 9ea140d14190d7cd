"""Encoders: masks never leak, rows do not depend on their neighbours, shapes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import students.transformer
import teachers.transformer
from distill import signals
from distill.errors import DistillError
from distill.nn import layers
from distill.nn.encoder import Forward
from distill.nn.stems import FilterbankStem

SMALL = {"width": 16, "depth": 1, "heads": 2}


def _encoder(kind):
  if kind == "teacher":
    return teachers.transformer.build(seed=0, **SMALL)
  return students.transformer.build(seed=0, filters=4, mixes=2, waves=6, **SMALL)


def _windows(encoder, n=3, seed=0):
  rng = np.random.default_rng(seed)
  signal = rng.normal(size=(n, *encoder.spec.shape)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[1, 500:900] = False  # a long gap
  mask[2, ::97] = False  # single samples
  return signal, mask


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_what_lies_under_the_mask_changes_nothing(kind, filler):
  encoder = _encoder(kind)
  signal, mask = _windows(encoder)
  forward = Forward(encoder, batch_size=3)
  clean = forward(signal, mask)
  dirty = forward(np.where(mask, signal, filler).astype(np.float32), mask)
  np.testing.assert_array_equal(clean, dirty)
  assert np.isfinite(clean).all()


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_no_mask_is_full_observation(kind):
  encoder = _encoder(kind)
  signal, _ = _windows(encoder)
  full = np.ones(signal.shape, bool)
  np.testing.assert_array_equal(encoder(jnp.asarray(signal)), encoder(jnp.asarray(signal), full))


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_row_does_not_depend_on_its_neighbours(kind):
  encoder = _encoder(kind)
  signal, mask = _windows(encoder)
  forward = Forward(encoder, batch_size=3)
  together = forward(signal, mask)
  alone = np.concatenate([forward(signal[i : i + 1], mask[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_nothing_observed_gives_the_zero_vector_and_finite_gradients(kind):
  encoder = _encoder(kind)
  signal, mask = _windows(encoder, n=3)
  mask[0] = False
  embedding = np.asarray(encoder(jnp.asarray(signal), jnp.asarray(mask)))
  assert (embedding[0] == 0).all()
  assert (np.abs(embedding[1:]).sum(axis=1) > 0).all()
  graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)

  def total(params):
    return jnp.sum(nnx.merge(graphdef, params, rest)(jnp.asarray(signal), jnp.asarray(mask)) ** 2)

  for leaf in jax.tree.leaves(jax.grad(total)(params)):
    assert np.isfinite(np.asarray(leaf)).all()


def test_the_student_does_not_depend_on_how_the_device_is_turned():
  encoder = _encoder("student")
  signal, _ = _windows(encoder)
  rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
  turned = (signal @ rotation).astype(np.float32)
  np.testing.assert_allclose(encoder(jnp.asarray(signal)), encoder(jnp.asarray(turned)), atol=2e-4)


def test_the_filter_bank_measures_band_energy():
  stem = FilterbankStem(
    3000, 8, rate_hz=50.0, filters=12, taps=25, frame=5, stretch=100, hop=50, mixes=2, waves=4,
    fill=0, rngs=nnx.Rngs(0),
  )  # fmt: skip
  time_s = np.arange(3000) / 50.0
  centres_hz = np.geomspace(1.0, 22.5, 12)
  for hz in (5.0, 10.0):
    tone = np.sin(2 * np.pi * hz * time_s)[None, :, None] * np.array([0.0, 1.0, 0.0])
    energy = np.asarray(stem.band_energy(jnp.asarray(tone, jnp.float32)))[0].mean(axis=0)
    assert abs(np.log2(centres_hz[energy.argmax()] / hz)) < 0.5


def test_lost_samples_here_and_there_lose_no_window():
  encoder = _encoder("student")
  time_s = np.arange(encoder.spec.samples) / encoder.spec.rate_hz
  signal = 0.05 * np.sin(2 * np.pi * 1.2 * time_s)[None, :, None] * np.ones((1, 1, 3))
  signal += 0.002 * np.random.default_rng(0).normal(size=signal.shape)
  signal = signal.astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[:, ::50] = mask[:, 17::75] = False  # of one sample each, two and more a second
  whole = np.asarray(encoder(jnp.asarray(signal)))[0]
  holed = np.asarray(encoder(jnp.where(mask, signal, jnp.nan), jnp.asarray(mask)))[0]
  assert whole @ holed > 0.99 * np.linalg.norm(whole) * np.linalg.norm(holed)


@pytest.mark.parametrize(("taps", "frame"), [(25, 5), (8, 3), (3, 10)])
def test_band_energy_is_the_power_of_a_plain_convolution(taps, frame):
  stem = FilterbankStem(
    600, 8, rate_hz=50.0, filters=6, taps=taps, frame=frame, stretch=20, hop=20, mixes=2, waves=4,
    fill=0, rngs=nnx.Rngs(0),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(2, 600, 3)).astype(np.float32)
  bank = rng.normal(size=(taps, 6)).astype(np.float32)
  stem.bank[...] = jnp.asarray(bank)
  expected = np.zeros((2, 600 // frame, 6))
  for window, axis, k in np.ndindex(2, 3, 6):
    # A network's convolution does not turn the filter round; its odd sample comes last.
    padded = np.pad(signal[window, :, axis], ((taps - 1) // 2, taps // 2))
    filtered = np.correlate(padded, bank[:, k], mode="valid")
    expected[window, :, k] += np.square(filtered).reshape(-1, frame).mean(axis=1)
  np.testing.assert_allclose(stem.band_energy(jnp.asarray(signal)), expected, rtol=2e-5)


def test_embed_takes_any_rate_and_names_what_is_too_short():
  encoder = _encoder("student")
  rng = np.random.default_rng(0)
  raw = (0.01 * rng.normal(size=(32 * 150, 3)) + [0, 0, 1]).astype(np.float32)
  vectors = encoder.embed(raw, rate_hz=32.0)
  assert vectors.shape == (2, encoder.dim)
  assert encoder.embed(raw, rate_hz=32.0, hop_s=30.0).shape == (4, encoder.dim)
  with pytest.raises(DistillError, match="60"):
    encoder.embed(raw[:320], rate_hz=32.0)
  with pytest.raises(DistillError):
    encoder.embed(raw[:, :2], rate_hz=32.0)


def test_wrong_shapes_name_what_was_expected():
  encoder = _encoder("teacher")
  with pytest.raises(DistillError, match=r"3840.*64 Hz.*to_windows"):
    encoder(jnp.zeros((2, 1000, 1)))
  with pytest.raises(DistillError, match="mask has shape"):
    encoder(jnp.zeros((2, 3840, 1)), jnp.ones((2, 3840), bool))


@pytest.mark.parametrize(
  ("build", "arguments", "message"),
  [
    (teachers.transformer.build, {"patch": 7}, "does not divide"),
    (teachers.transformer.build, {"pool": "max"}, "expected one of mean, mean_sd"),
    (teachers.transformer.build, {"patch": 0}, "patch is 0; expected 1 or more"),
    (teachers.transformer.build, {"width": 30, "heads": 4}, "choose a multiple of 8"),
    (teachers.transformer.build, {"width": 36, "heads": 4}, "choose a multiple of 8"),
    (teachers.transformer.build, {"width": 0}, "width is 0; expected 1 or more"),
    (teachers.transformer.build, {"heads": 0}, "heads is 0; expected 1 or more"),
    (teachers.transformer.build, {"depth": -1}, "depth is -1; expected 0 or more"),
    (students.transformer.build, {"stretch": 700}, "do not tile"),
    (students.transformer.build, {"hop": 0}, "hop is 0; expected 1 or more"),
    (students.transformer.build, {"frame": 0}, "frame is 0; expected 1 or more"),
    (students.transformer.build, {"rhythm": -3}, "rhythm is -3; expected 1 or more"),
  ],
)
def test_sizes_that_do_not_fit_say_so(build, arguments, message):
  with pytest.raises(DistillError, match=message):
    build(seed=0, **arguments)


def test_positions_differ_and_attention_ignores_blocked_keys():
  table = layers.sinusoidal_positions(50, 16)
  assert len(np.unique(table.round(5), axis=0)) == 50
  block = layers.Block(16, 2, 32, rngs=nnx.Rngs(0))
  tokens = np.random.default_rng(0).normal(size=(1, 6, 16)).astype(np.float32)
  keys = np.array([[True, True, True, False, False, True]])
  other = tokens.copy()
  other[0, 3:5] = 100.0
  seen = keys[0]
  places = jnp.arange(6, dtype=jnp.float32)[None]
  a, b = block(jnp.asarray(tokens), keys, places), block(jnp.asarray(other), keys, places)
  np.testing.assert_array_equal(np.asarray(a)[0, seen], np.asarray(b)[0, seen])


def test_rotated_products_depend_on_the_offset_alone():
  rng = np.random.default_rng(0)
  query, key = (jnp.asarray(rng.normal(size=(1, 1, 2, 8)).astype(np.float32)) for _ in range(2))

  def product(i, j):
    place = jnp.full((1, 1), 1.0, jnp.float32)
    return np.asarray(jnp.sum(layers.rotate(query, i * place) * layers.rotate(key, j * place)))

  np.testing.assert_allclose(product(3, 7), product(103, 107), atol=1e-4)
  np.testing.assert_allclose(product(0, 0), np.sum(np.asarray(query) * np.asarray(key)), atol=1e-5)
  assert abs(product(3, 7) - product(3, 8)) > 1e-3


def test_pooling_equals_numpy():
  rng = np.random.default_rng(0)
  tokens = rng.normal(size=(4, 6, 3)).astype(np.float32)
  observed = rng.random((4, 6)) < 0.6
  observed[:, 0] = True
  pooled = np.asarray(layers.masked_mean_sd(jnp.asarray(tokens), jnp.asarray(observed)))
  for i in range(4):
    kept = tokens[i][observed[i]]
    np.testing.assert_allclose(pooled[i, :3], kept.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(pooled[i, 3:], np.sqrt(kept.var(axis=0) + 1e-4), atol=1e-4)


def test_choose_kept_takes_observed_tokens_first():
  observed = np.zeros((5, 20), bool)
  observed[:, 5:12] = True
  index, hidden = layers.choose_kept(jax.random.key(0), jnp.asarray(observed), 9)
  assert index.shape == (5, 9)
  assert (np.asarray(hidden).sum(axis=1) == 11).all()
  for row in np.asarray(index):
    assert set(range(5, 12)) <= set(row.tolist())
    assert len(set(row.tolist())) == 9


def test_a_student_reads_g_or_standardised_axes_and_nothing_else():
  small = {"width": 4, "depth": 0, "heads": 2, "filters": 2, "mixes": 2, "waves": 2}
  window = np.random.default_rng(0).normal(0, 0.1, (3000, 3)) + [0, 0, 1]
  seen = np.ones(window.shape, bool)
  spreads = {}
  for normalisation in ("gravity", "zscore"):
    spec = students.transformer.build(seed=0, **small, normalisation=normalisation).spec
    spreads[normalisation] = signals.preprocess(window, seen, spec).std(axis=0)
  np.testing.assert_allclose(spreads["gravity"], 0.1, rtol=0.1)
  np.testing.assert_allclose(spreads["zscore"], 1.0, rtol=1e-5)
  with pytest.raises(DistillError, match="'log'; expected gravity or zscore"):
    students.transformer.build(seed=0, **small, normalisation="log")
