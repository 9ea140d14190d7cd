"""Public encoders: parity with the originals, preprocessing, pieces, strict import, licences."""

import json
import logging

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from scipy import signal as scipy_signal

import students
import teachers
from distill import models, signals
from distill.errors import DistillError
from distill.nn import encoder as encoders
from students import harnet
from teachers import anyppg, heartgpt, papagei, pulseppg

# (case, family, output, name of the vector in outputs.npz); every input of a case is tried.
CASES = [
  ("papagei-p-tiny-random", "papagei-p", "first", "out0_dense"),
  ("papagei-p-tiny-random", "papagei-p", "pooled", "out1_pooled"),
  ("papagei-s-tiny-random", "papagei-s", "first", "out0_dense"),
  ("papagei-s-tiny-random", "papagei-s", "pooled", "out3_pooled"),
  ("papagei-proj-tiny-random", "papagei-p", "first", "out0_projector"),
  ("papagei-proj-tiny-random", "papagei-p", "pooled", "out1_pooled"),
  ("pulseppg-tiny-random", "pulseppg", "max", "embedding"),
  ("pulseppg-tiny-avg-random", "pulseppg", "mean", "embedding"),
  ("anyppg-tiny-random", "anyppg", None, "embedding"),
  ("harnet10-tiny-random", "harnet10", None, "embedding"),
]
CONTAINERS = {
  "papagei-p-tiny-random": "ckpt_ddp.pt",
  "papagei-s-tiny-random": "ckpt_ddp.pt",
  "pulseppg-tiny-random": "checkpoint_best.pkl",
  "anyppg-tiny-random": "anyppg_ckpt.pth",
  "harnet10-tiny-random": "mtl_best_layout.mdl",
}
FAMILIES = {family.name: family for family in (*teachers.families(), *students.families())}


@pytest.fixture(autouse=True)
def quiet(caplog):
  caplog.set_level(logging.CRITICAL, logger="distill.published")


def load(family, path, **options):
  package = students if family.startswith("harnet") else teachers
  return package.load(family, path, **options)


def double(encoder):
  """The same encoder in float64; call it under `jax.enable_x64`."""
  graph, state = nnx.split(encoder)
  return nnx.merge(graph, jax.tree.map(lambda a: a.astype("float64"), state))


def run(encoder, x, mask=None):
  """`encoder(x, mask)`, compiled without the optimiser, which costs more than it saves here."""
  options = {"xla_backend_optimization_level": 0}
  return np.asarray(jax.jit(lambda x, mask: encoder(x, mask), compiler_options=options)(x, mask))


def check_parity(encoder, x, want):
  """float32 to 1e-5 and float64 to 1e-12, relative; near zero, relative to the largest value."""
  single = run(encoder, x.astype(np.float32))
  assert single.dtype == np.float32
  scale = abs(want).max()
  np.testing.assert_allclose(single, want, rtol=1e-5, atol=1e-5 * scale)
  with jax.enable_x64(True):
    exact = run(double(encoder), x.astype(np.float64))
  assert exact.dtype == np.float64
  np.testing.assert_allclose(exact, want, rtol=1e-12, atol=1e-13 * scale)


# --- parity with the originals --------------------------------------------------------------------


@pytest.mark.parametrize(("case", "family", "output", "vector"), CASES)
def test_parity(shared_parity, case, family, output, vector):
  folder = shared_parity / case
  inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
  file = folder / CONTAINERS.get(case, "model.safetensors")
  rate_hz = FAMILIES[family].spec.rate_hz
  for name in inputs.files:  # 1003 and 411 samples: odd lengths are halved with a zero at the end
    x = np.moveaxis(inputs[name], 1, 2)
    encoder = load(family, file, window_s=x.shape[1] / rate_hz, output=output)
    want = outputs[f"{name}/{vector}_f64"]
    assert encoder.dim == want.shape[1]
    check_parity(encoder, x, want)


@pytest.mark.parametrize(("output", "vector"), [("mean", "mean_pooled"), ("last", "last_token")])
def test_parity_of_real_ppg_pt(shared_parity, shared_weights, output, vector):
  folder = shared_parity / "heartgpt-ppgpt"
  outputs = np.load(folder / "outputs.npz")
  x = np.load(folder / "inputs.npz")["ppg_raw"][:, :, None]
  zipped = shared_weights / "heartgpt" / "PPGPT_500k_iters.zip"
  check_parity(teachers.load("heartgpt", zipped, output=output), x, outputs[f"{vector}_f64"])


def test_ppg_pt_tokens_states_and_spreads(shared_parity):
  folder = shared_parity / "heartgpt-ppgpt"
  inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
  raw = inputs["ppg_raw"][:, :, None].astype(np.float32)
  tokens = np.asarray(heartgpt.tokenise(raw, np.ones(raw.shape, bool)))
  np.testing.assert_array_equal(tokens, inputs["tokens"])

  encoder = teachers.load("heartgpt", folder / "model.safetensors", output="block_sd")
  states = [np.asarray(state) for state in encoder.net.states(tokens)]
  np.testing.assert_allclose(states[-1], outputs["ln_f_f64"], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(states[0][:1], outputs["block0"], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(states[7][:1], outputs["block7"], rtol=1e-4, atol=1e-3)
  want = np.concatenate([state.std(axis=1) for state in states[:-1]], axis=1)
  assert encoder.dim == want.shape[1] == 512
  np.testing.assert_allclose(run(encoder, raw), want, rtol=1e-4, atol=1e-4)

  both = teachers.load("heartgpt", folder / "model.safetensors", output="mean_sd")
  want = np.concatenate([states[-1].mean(axis=1), states[-1].std(axis=1)], axis=1)
  np.testing.assert_allclose(run(both, raw), want, rtol=1e-4, atol=1e-4)


def test_published_sizes():
  """Widths as published, parameters counted as in the originals: nothing is left out unseen."""

  def count(encoder, more=0):
    return more + sum(p.size for p in jax.tree.leaves(nnx.state(encoder, nnx.Param)))

  narrow = [32 * 2 ** (i // 4) for i in range(18)]
  p = papagei.build(widths=narrow, taps=3, dense=512)
  assert (count(p, 2 * 32), p.dim) == (4_993_024, 512)
  pulse = pulseppg.build(widths=[128 * 2 ** (i // 4) for i in range(12)], taps=11)
  assert (count(pulse, 2 * 128), pulse.dim) == (28_497_920, 512)
  stages = zip([64, 160, 160, 400, 400, 512], [2, 2, 2, 3, 3, 1], strict=True)
  stages = [[[width, width, 16, width // 2]] * blocks for width, blocks in stages]
  any_ppg = anyppg.build(first=64, taps=3, stages=stages)
  assert (count(any_ppg, 2 * 64), any_ppg.dim) == (4_044_272, 512)
  head = 512 * 4 + 4
  five = [
    [64, 5, 2, 2, 2],
    [128, 5, 2, 2, 2],
    [256, 5, 2, 3, 1],
    [256, 5, 2, 3, 1],
    [512, 5, 0, 3, 1],
  ]
  five_s = harnet.build(piece_s=5.0, layers=five)
  assert (count(five_s, head + 512 * 512 + 512), five_s.dim) == (4_492_612, 512)
  thirty = [[64, 3, 1], [128, 3, 1], [256, 5, 1], [512, 5, 1], [1024, 4, 0]]
  thirty = [[w, 5, 2 if w < 1024 else 0, down, order] for w, down, order in thirty]
  thirty_s = harnet.build(piece_s=30.0, layers=thirty)
  assert (count(thirty_s, head + 1024 * 512 + 512), thirty_s.dim) == (10_984_260, 1024)
  assert run(five_s, np.zeros((1, 150, 3), np.float32)).shape == (1, 512)


@pytest.mark.parametrize(("down", "order"), [(2, 2), (3, 1), (5, 1), (4, 0)])
def test_thinning_filters_of_all_three_harnets(down, order):
  kernel = np.full(down, 1 / down)
  for _ in range(order):
    kernel = np.convolve(kernel, np.full(down, 1 / down))
  assert harnet._thinning(kernel.astype(np.float32)) == (down, order)
  thin = harnet.Downsample(2, down, order)
  thin.kernel[...] = np.tile(kernel.astype(np.float32), (2, 1, 1))
  x = np.random.default_rng(0).standard_normal((1, 37, 2)).astype(np.float32)
  pad = order * (down - 1) // 2
  want = [np.convolve(np.pad(x[0, :, c], pad), kernel, "valid")[::down] for c in range(2)]
  np.testing.assert_allclose(np.asarray(thin(x))[0], np.stack(want, axis=1), atol=1e-6)


# --- preprocessing --------------------------------------------------------------------------------


def pulse_wave(seconds, rate_hz, seed=0):
  """A noisy pulse of 72 per minute over a drift."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * rate_hz)) / rate_hz
  wave = np.sin(2 * np.pi * 1.2 * t) + 0.4 * np.sin(2 * np.pi * 2.4 * t + 1) + 0.02 * t
  return (5 + wave + 0.1 * rng.standard_normal(len(t)))[:, None].astype(np.float32)


def chebyshev(wave, rate_hz):
  """pyPPG's formula, as a fraction of polynomials, which is sound at these rates."""
  b, a = scipy_signal.cheby2(4, 20, [0.5, 12], "bandpass", fs=rate_hz)
  wave = scipy_signal.filtfilt(b, a, wave, padlen=round(rate_hz / 0.5))
  if rate_hz >= 75:
    width = round(rate_hz * 50 / 1000)
    wave = scipy_signal.filtfilt(np.ones(width) / width, 1, wave)
  return wave


def butterworth(order, low, high):
  def apply(wave, rate_hz):
    b, a = scipy_signal.butter(order, [low, high], "bandpass", fs=rate_hz)
    return scipy_signal.filtfilt(b, a, wave, padlen=round(rate_hz / low))

  return apply


@pytest.mark.parametrize(
  ("spec", "filtered", "standardised"),
  [
    (papagei.SPEC, chebyshev, True),
    (pulseppg.SPEC, chebyshev, False),
    (anyppg.SPEC, butterworth(3, 0.5, 8), True),
    (heartgpt.SPEC, butterworth(2, 0.5, 8), False),
  ],
)
def test_preprocessing_against_scipy(spec, filtered, standardised):
  window = pulse_wave(spec.window_s, spec.rate_hz)
  want = filtered(window[:, 0].astype(np.float64), spec.rate_hz)
  if standardised:
    want = (want - want.mean()) / want.std()
  got = signals.preprocess(window, np.ones(window.shape, bool), spec)
  np.testing.assert_allclose(got[:, 0], want, atol=2e-6 * abs(want).max())


def test_filter_stays_sound_where_pyppg_breaks():
  """At 1 kHz the fraction of polynomials is off by more than the signal; sections are not."""
  wave = pulse_wave(20, 1000)
  spec = {"band_hz": (0.5, 12.0), "band_filter": "pyppg"}
  direct = signals.band_pass(wave, 1000.0, **spec)[:, 0]
  slow = signals.resample(wave, 1000, 125)
  at_125 = signals.band_pass(slow, 125.0, **spec)[:, 0]
  # The two digital filters differ a little towards their upper edge; the pulse is in both.
  middle = slice(250, -250)
  assert np.corrcoef(direct[::8][middle], at_125[middle])[0, 1] > 0.995


def test_harnet_takes_acceleration_as_it_is():
  x = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
  np.testing.assert_array_equal(signals.preprocess(x, np.ones(x.shape, bool), harnet.spec(10.0)), x)


# --- pieces, masks, recordings --------------------------------------------------------------------


@pytest.mark.parametrize(
  ("case", "family", "file"),
  [
    ("papagei-s-tiny-random", "papagei-s", "ckpt_ddp.pt"),
    ("anyppg-tiny-random", "anyppg", "anyppg_ckpt.pth"),
    ("heartgpt-ppgpt", "heartgpt", "model.safetensors"),
  ],
)
def test_a_minute_at_64_hz_is_the_mean_of_its_pieces(shared_parity, case, family, file):
  path = shared_parity / case / file
  minute, piece = teachers.load(family, path, window_s=60.0), teachers.load(family, path)
  assert minute.spec.window_s == 60.0
  assert piece.spec == FAMILIES[family].spec
  raw = pulse_wave(60, 64)
  got = minute.embed(raw, rate_hz=64, batch_size=1)
  even = signals.resample(raw, 64, piece.spec.rate_hz)
  whole = signals.preprocess(even, np.ones(even.shape, bool), minute.spec)
  pieces = whole.reshape(6, *piece.spec.shape).astype(np.float64)
  if piece.spec.normalisation == "zscore":
    pieces = (pieces - pieces.mean(axis=1, keepdims=True)) / pieces.std(axis=1, keepdims=True)
  want = run(piece, pieces.astype(np.float32)).mean(axis=0)
  np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=2e-5 * abs(want).max())
  assert piece.embed(raw, rate_hz=64, batch_size=6).shape == (6, piece.dim)


def test_pieces_that_were_not_observed_do_not_count(shared_parity):
  path = shared_parity / "papagei-p-tiny-random" / "ckpt_ddp.pt"
  minute = teachers.load("papagei-p", path, window_s=60.0)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 7500, 1)).astype(np.float32)
  mask = np.ones(x.shape, bool)
  mask[0, 1250:2500] = False  # the second of six pieces
  mask[1] = False
  mask[2, 100:300] = False
  got = run(minute, x, mask)
  piece = teachers.load("papagei-p", path)
  parts = x[0].reshape(6, 1250, 1)
  parts = (parts - parts.mean(axis=1, keepdims=True)) / parts.std(axis=1, keepdims=True)
  want = run(piece, parts)[[0, 2, 3, 4, 5]].mean(axis=0)
  np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(got[1], 0.0)
  assert np.isfinite(got).all()
  assert abs(got[2]).max() > 0
  # What lies under the mask never reaches the embedding.
  spoilt = np.where(mask, x, np.float32(np.nan))
  np.testing.assert_array_equal(run(minute, spoilt, mask), got)


@pytest.mark.parametrize(
  ("case", "family", "file"),
  [
    ("papagei-p-tiny-random", "papagei-p", "ckpt_ddp.pt"),
    ("pulseppg-tiny-random", "pulseppg", "checkpoint_best.pkl"),
    ("anyppg-tiny-random", "anyppg", "anyppg_ckpt.pth"),
    ("heartgpt-ppgpt", "heartgpt", "model.safetensors"),
    ("harnet10-tiny-random", "harnet10", "mtl_best_layout.mdl"),
  ],
)
def test_nothing_observed_constant_and_wrong_windows(shared_parity, case, family, file):
  encoder = load(family, shared_parity / case / file)
  shape = (1, *encoder.spec.shape)
  nothing = run(encoder, np.full(shape, np.nan, np.float32), np.zeros(shape, bool))
  np.testing.assert_array_equal(nothing, 0.0)
  constant = run(encoder, np.zeros(shape, np.float32))
  assert np.isfinite(constant).all()
  assert abs(constant).max() > 0
  with pytest.raises(DistillError, match=r"expects windows .*to_windows"):
    encoder(np.zeros((1, 640, shape[2]), np.float32))
  short = np.zeros((100, shape[2]), np.float32)
  with pytest.raises(DistillError, match="shorter than one window"):
    encoder.embed(short, rate_hz=encoder.spec.rate_hz)


def test_windows_that_are_no_multiple_of_a_piece_are_covered(shared_parity):
  path = shared_parity / "harnet10-tiny-random" / "mtl_best_layout.mdl"
  encoder = students.load("harnet10", path, window_s=25.0)
  assert encoder.starts == (0, 225, 450)
  x = np.random.default_rng(0).standard_normal((2, 750, 3)).astype(np.float32)
  ten = students.load("harnet10", path)
  want = np.mean([run(ten, x[:, s : s + 300]) for s in encoder.starts], axis=0)
  np.testing.assert_allclose(run(encoder, x), want, rtol=1e-5, atol=1e-6)
  with pytest.raises(DistillError, match="10 s and longer"):
    students.load("harnet10", path, window_s=5.0)
  assert encoder.embed(np.zeros((50 * 60, 3), np.float32), rate_hz=50).shape == (2, encoder.dim)


def test_frozen_statistics_do_not_move(shared_parity):
  encoder = teachers.load("papagei-p", shared_parity / "papagei-p-tiny-random" / "ckpt_ddp.pt")
  before = models.digest(models.parameters(encoder))
  x = np.random.default_rng(0).standard_normal((4, *encoder.spec.shape)).astype(np.float32)
  forward = encoders.Forward(encoder, batch_size=4)
  first = forward(x, np.ones(x.shape, bool))
  again = forward(x, np.ones(x.shape, bool))
  np.testing.assert_array_equal(first, again)
  assert models.digest(models.parameters(encoder)) == before


# --- strictness -----------------------------------------------------------------------------------


@pytest.fixture
def altered(shared_parity, tmp_path):
  """Writes a case's weights with one change."""

  def write(case, change):
    tensors = load_file(shared_parity / case / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "altered.safetensors")
    return tmp_path / "altered.safetensors"

  return write


def _poison(tensors):
  tensors["dense.bias"][0] = np.nan


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda t: t.pop("dense.bias"), r"1 missing tensors \['net.dense.bias'\]"),
    (lambda t: t.pop("dense.weight"), "'dense.weight' is missing"),
    (lambda t: t.pop("basicblock_list.3.bn2.running_var"), "1 missing tensors"),
    (lambda t: t.update(extra=np.zeros(2, np.float32)), r"1 unused tensors \['net.extra'\]"),
    (lambda t: t.update({"final_bn.bias": np.zeros(3, np.float32)}), "net.final_bn.bias is"),
    (_poison, "hold NaN or infinity"),
  ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(altered, change, said):
  with pytest.raises(DistillError, match=said):
    teachers.load("papagei-p", altered("papagei-p-tiny-random", change))


@pytest.mark.parametrize(
  ("family", "case"),
  [
    ("papagei-p", "papagei-s-tiny-random"),
    ("papagei-p", "pulseppg-tiny-random"),
    ("pulseppg", "papagei-p-tiny-random"),
    ("anyppg", "papagei-p-tiny-random"),
    ("heartgpt", "anyppg-tiny-random"),
    ("papagei-s", "heartgpt-ppgpt"),
    ("harnet10", "anyppg-tiny-random"),
    ("harnet5", "harnet10-tiny-random"),
    ("harnet30", "harnet10-tiny-random"),
  ],
)
def test_a_checkpoint_of_another_family_is_refused(shared_parity, family, case):
  with pytest.raises(DistillError):
    load(family, shared_parity / case / "model.safetensors")


def test_missing_teachers_stop(shared_parity, tmp_path):
  path = shared_parity / "papagei-p-tiny-random" / "ckpt_ddp.pt"
  with pytest.raises(DistillError, match=r"did you mean 'papagei-s'"):
    teachers.load("papagei_s", path)
  with pytest.raises(DistillError, match="no checkpoint file at"):
    teachers.load("papagei-s", tmp_path / "absent.pt")
  with pytest.raises(DistillError, match=r"needs the path of its checkpoint.*zenodo"):
    teachers.load("papagei-s")
  with pytest.raises(DistillError, match="is no model folder"):
    teachers.load(tmp_path)
  with pytest.raises(DistillError, match=r"no output 'pool'; did you mean 'pooled'"):
    teachers.load("papagei-p", path, output="pool")
  with pytest.raises(DistillError, match="has no projector"):
    teachers.load("papagei-p", path, output="projector")


# --- import ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("case", "family", "options"),
  [
    ("papagei-s-tiny-random", "papagei-s", {"window_s": 60.0, "output": "pooled"}),
    ("papagei-proj-tiny-random", "papagei-p", {}),
    ("pulseppg-tiny-random", "pulseppg", {"window_s": 60.0}),
    ("anyppg-tiny-random", "anyppg", {}),
    ("heartgpt-ppgpt", "heartgpt", {"output": "mean_sd"}),
    ("harnet10-tiny-random", "harnet10", {"window_s": 20.0}),
  ],
)
def test_import_writes_a_folder_that_loads(shared_parity, tmp_path, case, family, options):
  source = shared_parity / case / CONTAINERS.get(case, "model.safetensors")
  is_student = family.startswith("harnet")
  importer = students.import_student if is_student else teachers.import_teacher
  made = importer(family, source, tmp_path / "teacher", **options)
  encoder = load(family, source, **options)
  stored = (students if is_student else teachers).load(tmp_path / "teacher")
  assert (stored.spec, stored.dim) == (encoder.spec, encoder.dim)
  x = np.random.default_rng(0).standard_normal((2, *encoder.spec.shape)).astype(np.float32)
  np.testing.assert_array_equal(run(stored, x), run(encoder, x))

  fields = json.loads((tmp_path / "teacher" / "spec.json").read_text())
  assert fields["family"] == family
  assert fields["source"] == {"name": source.name, "sha256": made.sha256}
  used = len(models.read(tmp_path / "teacher").tensors)
  held = load_file(shared_parity / case / "model.safetensors")
  assert sorted(fields["dropped"]) == sorted(made.dropped)
  if family not in ("heartgpt", "harnet10", "pulseppg"):  # stacked, other heads, an optimizer
    assert used + len(made.dropped) == len(held)
  card = (tmp_path / "teacher" / "README.md").read_text()
  assert made.sha256 in card
  assert FAMILIES[family].licence in card
  with pytest.raises(DistillError, match="is not empty"):
    importer(family, source, tmp_path / "teacher")


def test_forbidding_licences_are_said_aloud(shared_parity, tmp_path, caplog):
  source = shared_parity / "harnet10-tiny-random" / "mtl_best_layout.mdl"
  with caplog.at_level(logging.WARNING, logger="distill.published"):
    made = students.import_student("harnet10", source, tmp_path / "harnet")
  assert "COMMERCIAL USE IS FORBIDDEN" in made.notice
  assert made.notice in caplog.text
  assert "COMMERCIAL USE IS FORBIDDEN" in (tmp_path / "harnet" / "README.md").read_text()


def test_families_list_what_a_user_needs():
  assert set(FAMILIES) >= {"papagei-p", "papagei-s", "pulseppg", "anyppg", "heartgpt"}
  assert {"harnet5", "harnet10", "harnet30"} <= set(FAMILIES)
  for family in FAMILIES.values():
    assert family.input.startswith(f"{family.spec.modality}, {family.spec.rate_hz:g} Hz")
    assert family.embedding
    assert family.weights
    assert family.licence in family.notice
