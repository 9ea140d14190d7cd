"""What is taken away is what was asked for; fillings are what their names say; aims are counted."""

import json

import numpy as np
import pytest

from distill import missing, plots, signals
from distill.errors import DistillError
from students.transformer import SPEC

HZ = 50.0


def _window(seed=0):
  rng = np.random.default_rng(seed)
  window = 0.01 * rng.normal(size=(3000, 3)) + [0, 0, 1]
  window[600:1800] += 0.3 * rng.normal(size=(1200, 3))  # seconds 12 to 36 move
  return window.astype(np.float32)


def _runs(lost):
  """Lengths of the stretches of True in [time] bool."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]]).astype(int)))
  return edges[1::2] - edges[::2]


@pytest.mark.parametrize("pattern", missing.PATTERNS)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1])
def test_the_asked_share_stays_and_a_seed_gives_the_same_loss(pattern, share):
  first, again, other = (
    missing.keep(_window(), HZ, pattern, share, np.random.default_rng(seed)) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  worst = first.mean(axis=0).min() if pattern == "axis" else first.all(axis=1).mean()
  assert worst == pytest.approx(share, abs=1e-3)
  if pattern != "still" and share < 1:
    assert (first != other).any()


def test_each_pattern_has_its_shape():
  rng = np.random.default_rng(0)
  bursts = _runs(~missing.keep(_window(), HZ, "bursts", 0.5, rng)[:, 0])
  assert len(bursts) > 2
  assert _runs(~missing.keep(_window(), HZ, "long_gap", 0.5, rng)[:, 1]) == [1500]
  axis = missing.keep(_window(), HZ, "axis", 0.3, rng)
  assert sorted(axis.mean(axis=0)) == pytest.approx([0.3, 1, 1])
  still = missing.keep(_window(), HZ, "still", 0.4, rng)
  assert still[600:1800].all()
  assert not still[:600].any()
  with pytest.raises(DistillError, match="known: bursts, long_gap, axis, still"):
    missing.keep(_window(), HZ, "nights", 0.5, rng)


@pytest.mark.parametrize("rate_hz", [31.25, 12.5, 25.6])
def test_still_seconds_need_no_whole_rate_and_what_is_missing_is_not_still(rate_hz):
  rng = np.random.default_rng(2)
  window = 0.3 * rng.normal(size=(int(rate_hz * 60), 3)) + [0, 0, 1]
  second = (np.arange(len(window)) / rate_hz).astype(int)
  window[second < 10] = [0, 0, 1]
  window[second >= 40] = np.nan
  left = missing.keep(window, rate_hz, "still", 0.8, rng)
  assert (~left).all(axis=1).mean() == pytest.approx(0.2, abs=1e-2)
  assert not left[second < 10].any()
  assert left[second >= 40].all()


def test_bursts_last_two_to_ten_seconds():
  rng = np.random.default_rng(1)
  for _ in range(20):
    time, lost = 60_000, 3000  # so much stays that bursts hardly ever meet
    lengths = _runs(missing._bursts(time, lost, HZ, rng)) / HZ
    assert lengths.sum() == pytest.approx(60)
    assert np.median(lengths) > 2
    assert (lengths <= 10).mean() > 0.7


def test_fillings_are_what_their_names_say():
  raw = _window()
  raw[1000:1500] = np.nan
  raw[:50, 1] = np.nan
  raw[:, 2] = np.nan
  seen = np.isfinite(raw)
  zero = missing.filled(raw, SPEC, "zero")
  np.testing.assert_array_equal(zero, signals.preprocess(raw, seen, SPEC))
  assert (zero[~seen] == 0).all()
  line, last = raw[:, :2].copy(), raw[:, :2].copy()
  for axis in (0, 1):
    here = seen[:, axis]
    line[~here, axis] = np.interp(np.flatnonzero(~here), np.flatnonzero(here), raw[here, axis])
  last[1000:1500] = last[999]
  last[:50, 1] = last[50, 1]
  for how, whole in (("linear", line), ("last", last)):
    found = missing.filled(raw, SPEC, how)
    np.testing.assert_allclose(found[:, :2], whole - whole.mean(axis=0), atol=2e-5)
    assert (found[:, 2] == 0).all()
  with pytest.raises(DistillError, match="known: zero, linear, last"):
    missing.filled(raw, SPEC, "spline")


def _errors(fill_loss, aim_loss, spread):
  """Two measures' errors of 6 people at whole and half observed windows."""
  who = np.repeat([f"p{k}" for k in range(6)], 4)
  noise = spread * np.repeat(np.linspace(-1, 1, 6), 4)
  errors = {}
  for pattern in missing.PATTERNS:
    for method in plots.METHOD_LABELS:
      loss = aim_loss if method == "aim_mask" else fill_loss + (method == "complete_zero")
      for share in (1.0, 0.5):
        lost = (share < 1) * (loss + noise)
        errors[pattern, method, share] = {"refused": np.zeros(24), "hr_bpm_mae": 5 + lost}
  return errors, who


@pytest.mark.parametrize(
  ("fill_loss", "aim_loss", "spread", "counts", "holds"),
  [(3.0, 0.9, 0.5, True, True), (3.0, 1.1, 0.5, True, False), (0.3, 0.9, 2.0, False, None)],
)
def test_the_aim_is_a_third_of_the_best_filling_where_that_loses(
  fill_loss, aim_loss, spread, counts, holds
):
  curves = missing._curves(*_errors(fill_loss, aim_loss, spread))
  rows = missing._aims(curves)
  assert [row["pattern"] for row in rows] == list(missing.AIMED)
  for row in rows:
    assert row["best_fill"] in ("linear", "last")
    assert row["fill_loss"] == pytest.approx(fill_loss)
    assert row["aim_loss"] == pytest.approx(aim_loss)
    assert (row["counts"], row["holds"]) == (counts, holds)


def test_curves_are_drawn_and_told(tmp_path):
  curves = missing._curves(*_errors(3.0, 0.9, 0.5))
  one = {"windows": 24, "participants": 6, "simulated": True, "curves": curves}
  found = {"toy": one | {"aims": missing._aims(curves)}}
  (tmp_path / missing.RESULT).write_text(json.dumps(found))
  read = missing.load(tmp_path)
  (plot,) = plots.draw_missing(read)
  assert "one axis lost" in plot.alt
  assert plot.png.startswith(b"\x89PNG")
  told = missing.table(read)
  assert "toy (simulated): 24 windows of 6 people" in told
  assert told.count("holds") == 3
  with pytest.raises(DistillError, match="distill missing"):
    missing.load(tmp_path / "nowhere")
