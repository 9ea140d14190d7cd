"""What is hidden is not seen, what is scored was hidden and observed, and the target is fixed."""

import jax
import numpy as np
import pytest
from flax import nnx

import students.axes
import students.transformer
from distill.errors import DistillError
from distill.masked_envelope import MaskedEnvelope

SMALL = {"width": 8, "depth": 1, "heads": 2, "filters": 4, "mixes": 2, "waves": 4}
DECODER = {"width": 8, "depth": 1, "heads": 2}


@pytest.fixture(name="found", scope="module")
def _found():
  """A batch and what the objective makes of it; the bank has moved away from its start."""
  objective = MaskedEnvelope(
    students.transformer.build(seed=0, **SMALL), **DECODER, rngs=nnx.Rngs(1)
  )
  start = np.asarray(objective.bank[...])
  objective.encoder.stem.bank[...] = 1.5 * objective.encoder.stem.bank[...]
  rng = np.random.default_rng(0)
  mask = np.ones((3, 3000, 3), bool)
  mask[0, 400:900] = False
  signal = np.where(mask, 0.01 * rng.normal(size=mask.shape), 0).astype(np.float32)
  graphdef, state = nnx.split(objective)

  @jax.jit
  def run(state, signal, garbage, mask):
    one = nnx.merge(graphdef, state)
    key = jax.random.key(0)
    hidden = one.draw(key, len(signal))
    visible = mask & ~hidden[:, :, None]
    term = one.terms({"acc": signal, "acc_mask": mask}, key)["reconstruction"]
    other = jax.numpy.where(visible, signal, garbage)
    return {
      "hidden": hidden,
      "term": term,
      "target": one.target(signal, mask),
      "prediction": one.reconstruct(other, visible),
    }

  garbage = rng.normal(size=signal.shape).astype(np.float32)
  made = {k: np.asarray(v) for k, v in run(state, signal, garbage, mask).items()}
  return objective, start, signal, mask, made


def test_half_of_the_blocks_is_hidden_whole(found):
  hidden = found[-1]["hidden"].reshape(3, 6, 500)
  assert (hidden.all(axis=2) | ~hidden.any(axis=2)).all()
  assert (hidden.all(axis=2).sum(axis=1) == 3).all()
  assert len({row.tobytes() for row in hidden}) > 1


def test_the_target_is_that_of_the_bank_as_it_was(found):
  _, bank, signal, _, made = found
  taps = len(bank)
  padded = np.pad(signal[1].astype(float), (((taps - 1) // 2, taps // 2), (0, 0)))
  near = np.stack([padded[i : i + 3000] for i in range(taps)], axis=1)  # [time, taps, axes]
  energy = (np.einsum("tka,kf->taf", near, bank) ** 2).sum(axis=1).reshape(600, 5, -1).mean(axis=1)
  np.testing.assert_allclose(made["target"][1], (np.log(energy + 1e-9) + 12) / 4, atol=1e-3)


def test_only_frames_that_were_hidden_and_observed_count_and_none_of_them_is_seen(found):
  # The prediction was made with noise in place of what is hidden, the term without.
  _, _, _, mask, made = found
  error = (made["prediction"].reshape(made["target"].shape) - made["target"]) ** 2
  hidden = made["hidden"].reshape(3, 600, 5).all(axis=2)
  reach = np.ones((3, 600), bool)
  reach[0, 78:183] = False  # samples 400 to 900 and half of a filter, 12 samples, to either side
  scored = hidden & reach
  expected = [row[some].mean() for row, some in zip(error, scored, strict=True)]
  np.testing.assert_allclose(made["term"], expected, rtol=1e-4)
  assert not mask[0].all()


def test_other_stems_and_impossible_shares_are_refused():
  rngs = nnx.Rngs(0)
  patches = students.axes.build_patches(seed=0, width=8, depth=1, heads=2)
  with pytest.raises(DistillError, match="FilterbankStem of one lane"):
    MaskedEnvelope(patches, rngs=rngs)
  encoder = students.transformer.build(seed=0, **SMALL)
  for words in ({"mask_ratio": 0.0}, {"mask_ratio": 0.99}, {"block_s": 7.0}):
    with pytest.raises(DistillError, match=r"hides \d+ of \d+"):
      MaskedEnvelope(encoder, **words, rngs=rngs)
  with pytest.raises(DistillError, match="patch 7 does not divide the 600 frames"):
    MaskedEnvelope(encoder, patch=7, rngs=rngs)
