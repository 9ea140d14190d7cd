"""wav2vec 2.0 and HuBERT: parity with the originals, strict loading, no leaks, sensor windows."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from scipy import signal as scipy_signal

import teachers
from distill import models
from distill.errors import DistillError
from teachers import speech
from teachers.speech import features, network, weights
from teachers.speech.network import Architecture, SpeechNetwork

TINY = {
  "conv_dim": (8, 8, 8),
  "conv_kernel": (10, 3, 2),
  "conv_stride": (5, 2, 2),
  "width": 12,
  "depth": 1,
  "heads": 2,
  "mlp_width": 16,
  "position_kernel": 7,
  "position_groups": 3,
}
VARIANTS = {
  "group-post": Architecture(**TINY),
  "layer-post": Architecture(**TINY, conv_norm="layer", conv_bias=True),
  "layer-pre": Architecture(**TINY, conv_norm="layer", conv_bias=True, pre_norm=True),
}
CASES = (
  "wav2vec2-tiny-group-post",
  "wav2vec2-tiny-layer-post",
  "wav2vec2-tiny-layer-stable",
  "hubert-tiny-group-post",
  "hubert-tiny-layer-stable",
)


def _tiny(variant, seed=0):
  """A random network whose norms, biases and positions are not at their plain initial values."""
  net = SpeechNetwork(VARIANTS[variant], rngs=nnx.Rngs(seed))
  rng = np.random.default_rng(seed)
  tensors = models.parameters(net)
  noisy = {n: (a + 0.1 * rng.normal(size=a.shape)).astype(a.dtype) for n, a in tensors.items()}
  models.assign(net, noisy, where="test")
  return net


@functools.cache
def _every_layer(variant):
  """The tiny network and a compiled function that takes every layer of it."""
  net = _tiny(variant)
  graphdef, state = nnx.split(net)
  names = net.architecture.layer_names
  take = jax.jit(lambda state, signal, seen: nnx.merge(graphdef, state).take(signal, seen, names))
  return net, functools.partial(take, state)


@functools.partial(jax.jit, static_argnums=(0,))
def _run(graphdef, state, signal, observed, frames):
  """Convolutions and, over the frames said to be observed, everything above them."""
  net = nnx.merge(graphdef, state)
  convolutions = net.convolve(signal, observed)
  return convolutions, net.contextualise(convolutions[-1][0], frames)


def _assert_parity(got, expected, rtol=1e-5):
  """Largest error against the largest value, so that values near zero do not decide."""
  got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
  assert got.shape == expected.shape
  assert np.abs(got - expected).max() <= rtol * np.abs(expected).max()


# --- parity with the originals --------------------------------------------------------------------


@pytest.mark.parametrize("names", ["hf", "hf-legacy-names"])
@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_the_original(shared_parity, case, names):
  folder = shared_parity / case
  net = teachers.load(case.partition("-")[0], folder / names, output="last").net
  inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
  everything = np.ones(inputs["x"].shape, bool)
  frames = expected["masked/frame_mask"]
  graphdef, state = nnx.split(net)

  convolutions, above = _run(graphdef, state, inputs["x"], everything, np.ones_like(frames))
  for i, (values, _) in enumerate(convolutions):
    _assert_parity(values[:1], expected[f"plain/conv_layer{i}"].swapaxes(1, 2))
  _assert_parity(convolutions[-1][0], expected["plain/conv_features_f64"])
  projected, *hidden, last = above
  _assert_parity(projected, expected["plain/projected"])
  for got, wanted in zip(hidden, expected["plain/hidden_states_f64"], strict=True):
    _assert_parity(got, wanted)
  _assert_parity(last, expected["plain/last_hidden_state_f64"])
  if "plain/extract_features" in expected:  # the library's name for the projection's normed input
    normed = net.feature_projection.layer_norm(convolutions[-1][0])
    _assert_parity(normed, expected["plain/extract_features"])

  # The original masks the transformer only: its convolutions read the padding as signal.
  _, above = _run(graphdef, state, inputs["x_padded"], everything, frames)
  _, *hidden, last = above
  for got, wanted in zip(hidden, expected["masked/hidden_states"], strict=True):
    _assert_parity(np.asarray(got)[frames], wanted[frames])
  _assert_parity(np.asarray(last)[frames], expected["masked/last_hidden_state"][frames])


@pytest.mark.parametrize("case", CASES)
def test_frames_of_a_padded_utterance_are_those_of_the_original(shared_parity, case):
  inputs = np.load(shared_parity / case / "inputs.npz")
  expected = np.load(shared_parity / case / "outputs.npz")["masked/frame_mask"]
  field, hop = Architecture().reach(6)
  observed = jnp.asarray(inputs["attention_mask"].astype(bool))
  np.testing.assert_array_equal(network.frames_observed(observed, field, hop), expected)


# --- architecture ---------------------------------------------------------------------------------


def test_base_has_the_published_number_of_parameters():
  shapes = nnx.eval_shape(lambda: SpeechNetwork(Architecture(), rngs=nnx.Rngs(0)))
  count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
  # 94 371 712 as published, without the gains of the weight norm and the masking embedding.
  assert count == 94_371_712 - 128 - 768


def test_a_frame_of_the_base_model_sees_25_ms_every_20_ms():
  assert [Architecture().reach(i) for i in (0, 1, 6)] == [(10, 5), (20, 10), (400, 320)]
  observed = jnp.ones((1, 16000), bool)
  assert network.frames_observed(observed, 400, 320).shape == (1, 49)


def test_architectures_survive_json_and_refuse_what_does_not_fit():
  for architecture in VARIANTS.values():
    stored = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(stored) == architecture
  with pytest.raises(DistillError, match="no field 'dept'; did you mean 'depth'"):
    Architecture.from_json({"dept": 3})
  with pytest.raises(DistillError, match="not a multiple"):
    Architecture(width=100)
  with pytest.raises(DistillError, match="one entry for each convolution"):
    Architecture(conv_stride=(5, 2))
  with pytest.raises(DistillError, match="'batch'; expected 'group' or 'layer'"):
    Architecture(conv_norm="batch")


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_by_name_are_the_parts_they_are_said_to_be(variant):
  net, take = _every_layer(variant)
  signal = np.random.default_rng(0).normal(size=(3, 1500)).astype(np.float32)
  observed = np.ones(signal.shape, bool)
  everything = take(signal, observed)
  assert set(everything) == set(net.architecture.layer_names)
  for name, (values, seen) in everything.items():
    assert values.shape[2] == net.architecture.layer_width(name)
    assert seen.shape == values.shape[:2]
  hidden, last = everything["hidden1"][0], everything["last"][0]
  if net.architecture.pre_norm:
    np.testing.assert_allclose(last, net.encoder.layer_norm(hidden), atol=1e-5)
    assert np.abs(last - hidden).max() > 0.1
  else:
    np.testing.assert_array_equal(last, hidden)


def test_only_what_is_asked_for_is_computed():
  net, take = _every_layer("layer-pre")
  signal = np.random.default_rng(0).normal(size=(3, 1500)).astype(np.float32)
  observed = np.ones(signal.shape, bool)
  net = nnx.clone(net)
  net.encoder = None
  net.feature_extractor.conv_layers[2] = None
  found = net.take(signal, observed, ("conv1", "conv0"))
  assert list(found) == ["conv1", "conv0"]
  everything = take(signal, observed)
  for name, (values, _) in found.items():
    np.testing.assert_allclose(values, everything[name][0], atol=1e-5)


# --- padding and gaps -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_padded_utterance_gives_the_frames_that_it_gives_alone(variant):
  _, take = _every_layer(variant)
  rng = np.random.default_rng(1)
  alone = rng.normal(size=(1, 900)).astype(np.float32)
  padded = np.repeat(np.array([[0.0], [50.0], [np.nan]], np.float32), 1500, axis=1)
  padded[:, :900] = alone
  observed = np.tile(np.arange(1500) < 900, (3, 1))
  expected = take(alone, np.ones(alone.shape, bool))
  for name, (values, seen) in take(padded, observed).items():
    wanted = np.asarray(expected[name][0])
    for row in range(3):
      assert seen[row].sum() == wanted.shape[1]
      np.testing.assert_allclose(np.asarray(values)[row, seen[row]], wanted[0], atol=2e-5)


def test_padding_would_leak_through_the_norm_over_time_if_it_were_not_told():
  net, rng = _tiny("group-post"), np.random.default_rng(1)
  signal = np.zeros((1, 4800), np.float32)
  signal[:, :2400] = rng.normal(size=(1, 2400))
  told, untold = (
    np.asarray(net.convolve(signal, observed, count=1)[0][0][:, :400])
    for observed in (np.arange(4800)[None] < 2400, np.ones((1, 4800), bool))
  )
  assert np.abs(told - untold).max() > 0.1 * np.abs(told).max()


def test_frames_observed_counts_every_sample_a_frame_sees():
  rng = np.random.default_rng(0)
  observed = rng.random((3, 101)) > 0.2
  for field, hop, share in ((10, 5, 1.0), (7, 3, 0.5), (101, 40, 0.75)):
    expected = [
      [row[start : start + field].mean() >= share for start in range(0, 101 - field + 1, hop)]
      for row in observed
    ]
    got = network.frames_observed(jnp.asarray(observed), field, hop, share)
    np.testing.assert_array_equal(got, expected)


# --- Hugging Face folders -------------------------------------------------------------------------


def _config(arch, family="wav2vec2"):
  return {
    "model_type": family,
    "conv_dim": arch.conv_dim,
    "conv_kernel": arch.conv_kernel,
    "conv_stride": arch.conv_stride,
    "conv_bias": arch.conv_bias,
    "feat_extract_norm": arch.conv_norm,
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "hidden_size": arch.width,
    "num_hidden_layers": arch.depth,
    "num_attention_heads": arch.heads,
    "intermediate_size": arch.mlp_width,
    "num_conv_pos_embeddings": arch.position_kernel,
    "num_conv_pos_embedding_groups": arch.position_groups,
    "do_stable_layer_norm": arch.pre_norm,
    "layer_norm_eps": arch.epsilon,
  }


def _published(net, spelling):
  """Our weights under the names and in the layout of the published checkpoints."""
  tensors = {"masked_spec_embed": np.ones(12, np.float32)}
  for name, array in models.parameters(net).items():
    stem, _, leaf = name.rpartition(".")
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    tensors[f"{stem}.{leaf}"] = np.ascontiguousarray(array.T)
  kernel = tensors.pop(f"{weights.POSITIONS}.weight")
  norm = np.sqrt(np.square(kernel).sum(axis=(0, 1), keepdims=True))
  gain, direction = weights.WEIGHT_NORMS[spelling]
  tensors[f"{weights.POSITIONS}.{gain}"] = norm
  tensors[f"{weights.POSITIONS}.{direction}"] = kernel * np.linspace(0.5, 2, 7, dtype=np.float32)
  return tensors


def _write(folder, config, tensors):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  save_file(tensors, folder / "model.safetensors")
  return folder


def _load(folder):
  return teachers.load("wav2vec2", folder, output="conv0").net


@pytest.fixture
def published(tmp_path):
  """A Hugging Face folder of a tiny random wav2vec 2.0 and the network that it holds."""
  net = _tiny("group-post")
  return net, _write(tmp_path / "hf", _config(net.architecture), _published(net, 0))


@pytest.mark.parametrize("spelling", [0, 1])
@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize("variant", ["group-post", "layer-pre"])
def test_both_spellings_and_task_checkpoints_load_the_same(tmp_path, variant, prefix, spelling):
  net = _tiny(variant)
  tensors = {prefix + name: array for name, array in _published(net, spelling).items()}
  if prefix:
    tensors["lm_head.weight"] = np.ones((3, 12), np.float32)
  folder = _write(tmp_path, _config(net.architecture), tensors)
  loaded = _load(folder)
  assert loaded.architecture == net.architecture
  expected = models.parameters(net)
  for name, array in models.parameters(loaded).items():
    np.testing.assert_allclose(array, expected[name], rtol=3e-7, err_msg=name)


def test_half_precision_checkpoints_become_float32(published):
  _, folder = published
  halves = {n: a.astype(np.float16) for n, a in load_file(folder / "model.safetensors").items()}
  save_file(halves, folder / "model.safetensors")
  loaded = models.parameters(_load(folder))
  assert all(array.dtype == np.float32 for array in loaded.values())


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    ({"model_type": "whisper"}, "model_type 'whisper', expected 'wav2vec2'"),
    ({"hidden_act": "relu"}, "hidden_act 'relu'; only 'gelu'"),
    ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm True; only False"),
    ({"add_adapter": True}, "add_adapter True"),
    ({"num_hidden_layers": 2}, "16 missing tensors"),
    ({"num_hidden_layers": 0}, "16 unused tensors"),
    ({"intermediate_size": 8}, r"intermediate_dense.bias is \(16,\), the model needs \(8,\)"),
  ],
)
def test_folders_of_another_model_are_refused(published, entry, message):
  net, folder = published
  (folder / "config.json").write_text(json.dumps({**_config(net.architecture), **entry}))
  with pytest.raises(DistillError, match=message):
    _load(folder)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda folder: (folder / "config.json").unlink(), "expected config.json and"),
    (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "wav2vec2"}'), "no entry"),
    (lambda folder: (folder / "model.safetensors").unlink(), "and model.safetensors or"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "model.safetensors"),
  ],
)
def test_missing_and_broken_files_are_named(published, change, message):
  _, folder = published
  change(folder)
  with pytest.raises(DistillError, match=message):
    _load(folder)


@pytest.mark.parametrize("name", ["weight_g", "weight_v"])
def test_a_positional_convolution_that_is_not_there_is_never_a_random_one(published, name):
  net, folder = published
  tensors = _published(net, 0)
  del tensors[f"{weights.POSITIONS}.{name}"]
  _write(folder, _config(net.architecture), tensors)
  with pytest.raises(DistillError, match="no weights of the positional convolution"):
    _load(folder)


# --- sensor windows -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4, 7])
def test_upsampling_equals_scipy_and_keeps_the_clock(factor):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 60)).astype(np.float32)
  expected = scipy_signal.resample_poly(x, factor, 1, axis=1, padtype="edge")
  np.testing.assert_allclose(features.upsample(jnp.asarray(x), factor), expected, atol=2e-6)
  t = np.arange(200 * factor) / (50.0 * factor)
  sine = np.sin(2 * np.pi * 3.0 * np.arange(200) / 50.0).astype(np.float32)[None]
  fine = np.asarray(features.upsample(jnp.asarray(sine), factor))[0]
  inner = slice(20 * factor, -20 * factor)
  np.testing.assert_allclose(fine[inner], np.sin(2 * np.pi * 3.0 * t)[inner], atol=5e-3)


def test_the_mask_follows_the_nearest_sample():
  observed = jnp.asarray([[True, False, True]])
  got = np.asarray(features.upsample_mask(observed, 4))[0]
  np.testing.assert_array_equal(np.flatnonzero(~got), [2, 3, 4, 5])


LAYERS = ("hidden1", "conv2", "projected")


@functools.cache
def _encoder(modality, variant="group-post"):
  return speech.build(
    seed=3,
    architecture=VARIANTS[variant].to_json(),
    modality=modality,
    window_s=20.0,
    output=LAYERS,
  )


@functools.cache
def _compiled(encoder):
  graphdef, state = nnx.split(encoder)
  forward = jax.jit(lambda state, signal, mask: nnx.merge(graphdef, state)(signal, mask))
  return functools.partial(forward, state)


def _embed(encoder, signal, mask):
  return np.asarray(_compiled(encoder)(signal.astype(np.float32), mask))


def _windows(encoder, n=3):
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(n, *encoder.spec.shape)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[1, 300:600] = False
  mask[2, ::50] = False
  return signal, mask


@pytest.mark.parametrize(("modality", "variant"), [("acc", "group-post"), ("ppg", "layer-pre")])
def test_embeddings_ignore_what_lies_under_the_mask(modality, variant):
  encoder = _encoder(modality, variant)
  signal, mask = _windows(encoder)
  clean = _embed(encoder, signal, mask)
  dirty = _embed(encoder, np.where(mask, signal, np.nan), mask)
  np.testing.assert_array_equal(clean, dirty)
  assert np.isfinite(clean).all()
  assert clean.shape == (3, encoder.dim)
  assert len({row.tobytes() for row in clean}) == 3


def test_the_embedding_is_layer_after_layer_and_channel_after_channel():
  encoder = _encoder("acc")
  signal, mask = _windows(encoder)
  embedding = _embed(encoder, signal, mask)
  assert list(encoder.columns) == list(LAYERS)
  assert encoder.dim == 3 * 2 * (12 + 8 + 12)
  take = nnx.jit(lambda net, x, seen: net.take(x, seen, LAYERS, min_coverage=0.5))
  for channel in range(3):
    fine = features.upsample(jnp.asarray(np.where(mask, signal, 0)[..., channel]), 4)
    seen = features.upsample_mask(jnp.asarray(mask[..., channel]), 4)
    found = take(encoder.net, fine, seen)
    for name, columns in encoder.columns.items():
      part = embedding[:, columns].reshape(3, 3, -1)
      values, seen = map(np.asarray, found[name])
      mean = [v[s].mean(axis=0) for v, s in zip(values, seen)]
      np.testing.assert_allclose(part[:, channel, : len(mean[0])], mean, atol=2e-5)


def test_channels_do_not_mix_and_a_lost_channel_is_zero():
  encoder = _encoder("acc")
  signal, mask = _windows(encoder)
  whole = _embed(encoder, signal, mask)
  mask[:, :, 1] = False
  lost = _embed(encoder, signal, mask)
  for columns in encoder.columns.values():
    before, after = (e[:, columns].reshape(3, 3, -1) for e in (whole, lost))
    assert (after[:, 1] == 0).all()
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
  mask[0] = False
  embedding = _embed(encoder, signal, mask)
  assert (embedding[0] == 0).all()
  assert (np.abs(embedding[1:]).sum(axis=1) > 0).all()


def test_gradients_reach_the_weights_and_stay_finite_on_empty_windows():
  encoder = _encoder("ppg", "layer-pre")
  signal, mask = _windows(encoder)
  mask[0] = False
  graphdef, params = nnx.split(encoder)

  @jax.jit
  def gradient(params):
    return jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(signal, mask) ** 2))(params)

  found = {
    n: np.abs(a).max() for n, a in models.parameters(nnx.merge(graphdef, gradient(params))).items()
  }
  assert all(np.isfinite(value) for value in found.values())
  assert found["net.feature_extractor.conv_layers.0.conv.kernel"] > 0
  assert found["net.encoder.layers.0.attention.v_proj.kernel"] > 0


@pytest.mark.parametrize(("modality", "rate_hz"), [("ppg", 100.0), ("acc", 32.0)])
def test_raw_recordings_are_embedded_at_their_own_rate(modality, rate_hz):
  encoder = speech.build(
    architecture=VARIANTS["group-post"].to_json(), modality=modality, window_s=20.0, output="conv1"
  )
  rng = np.random.default_rng(0)
  recording = rng.normal(size=(int(rate_hz * 65), len(encoder.spec.channels)))
  embedding = encoder.embed(recording, rate_hz=rate_hz, batch_size=3)
  assert embedding.shape == (3, encoder.dim)
  assert np.isfinite(embedding).all()


def test_an_imported_folder_gives_the_same_encoder_back(published, tmp_path):
  _, source = published
  options = {"window_s": 20.0, "output": LAYERS, "modality": "acc", "rate_factor": 3}
  encoder = teachers.load("wav2vec2", source, **options)
  imported = teachers.import_teacher("wav2vec2", source, tmp_path / "imported", **options)
  assert imported.dropped == ("masked_spec_embed",)
  again = teachers.load(tmp_path / "imported")
  assert (again.spec, again.layers, again.rate_factor) == (encoder.spec, LAYERS, 3)
  expected = models.parameters(encoder)
  assert models.parameters(again).keys() == expected.keys()
  for name, array in models.parameters(again).items():
    np.testing.assert_array_equal(array, expected[name])


def test_options_that_nobody_reads_and_layers_that_no_model_has_are_refused(published):
  _, folder = published
  with pytest.raises(
    DistillError, match="takes no option 'rate_facto'; did you mean 'rate_factor'"
  ):
    teachers.load("wav2vec2", folder, rate_facto=4)
  with pytest.raises(DistillError, match="reads architecture from the checkpoint"):
    teachers.load("wav2vec2", folder, architecture="base")
  with pytest.raises(DistillError, match="no output 'conv8'"):
    teachers.load("wav2vec2", folder, output=("conv1", "conv8"))
  with pytest.raises(DistillError, match="no layer 'hidden7'"):
    teachers.load("wav2vec2", folder, output="hidden7")
  with pytest.raises(DistillError, match="needs the path of its checkpoint"):
    teachers.load("hubert")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"output": ("conv3",)}, "no layer 'conv3'; did you mean 'conv"),
    ({"output": ()}, "at least one layer"),
    ({"output": ("last", "last")}, "each once"),
    ({"pool": "max"}, "pool is 'max'"),
    ({"modality": "ecg"}, "modality is 'ecg'; expected one of ppg, acc"),
    ({"rate_factor": 0}, "rate_factor is 0; expected a whole number"),
    ({"rate_factor": 1.5}, "rate_factor is 1.5"),
    ({"window_s": 0.1}, "use rate_factor 5 or more"),
    ({"architecture": "huge"}, "'huge'; expected base or large"),
  ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
  known = {"seed": 0, "architecture": VARIANTS["group-post"].to_json(), "output": LAYERS}
  with pytest.raises(DistillError, match=message):
    speech.build(**{**known, **arguments})
