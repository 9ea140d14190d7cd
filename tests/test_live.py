"""A stream in random pieces gives what the whole recording gives afterwards."""

import numpy as np
import pytest

import students
from distill.errors import DistillError
from distill.finetune import Task
from distill.live import Live
from tests import test_export

RATE_HZ = 50.0


@pytest.fixture(name="recording", scope="module")
def _recording():
  """[time, 3] of 3.5 minutes with scattered and long gaps, one axis lost for more than a window."""
  rng = np.random.default_rng(0)
  samples = (rng.normal(size=(3, 1)).T + 0.02 * rng.normal(size=(10_500, 3))).astype(np.float32)
  samples[rng.random(samples.shape) < 0.05] = np.nan
  samples[2000:2600] = np.nan
  samples[4000:8000, 1] = np.nan
  return samples


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  task = Task("hr_bpm", mean=72.0, sd=11.0)
  return test_export.finetuned(tmp_path_factory.mktemp("live") / "model", task)


def _pieces(samples, seed):
  rng = np.random.default_rng(seed)
  at = np.sort(rng.integers(0, len(samples), size=40))
  return np.split(samples, at)  # some of them empty


@pytest.mark.parametrize("hop_s", [None, 15.0, 7.77])
def test_chunked_is_whole(folder, recording, hop_s):
  encoder = students.load(folder)
  wanted = encoder.embed(recording, rate_hz=RATE_HZ, hop_s=hop_s)
  live = Live(folder, rate_hz=RATE_HZ, hop_s=hop_s)
  found = [window for piece in _pieces(recording, 1) for window in live.push(piece)]
  assert len(found) == len(wanted) == 1 + int((210 - 60) / (hop_s or 60))
  np.testing.assert_allclose([one["embedding"] for one in found], wanted, atol=2e-5)
  np.testing.assert_allclose([one["t0_s"] for one in found], (hop_s or 60) * np.arange(len(found)))
  first = np.isfinite(recording[:3000]).mean()
  assert found[0]["coverage"] == pytest.approx(first, abs=1e-6)
  assert all(40 < one["hr_bpm"] < 110 for one in found)


def test_windows_come_as_soon_as_they_are_complete(folder, recording):
  live = Live(folder, rate_hz=RATE_HZ, hop_s=10.0, outputs=("coverage",))
  assert live.push(recording[:2999]) == []
  assert [one["t0_s"] for one in live.push(recording[2999:3000])] == [0.0]
  assert [one["t0_s"] for one in live.push(recording[3000:4010])] == [10.0, 20.0]
  assert len(live._kept) <= 3001, "what no later window needs is forgotten"


def test_what_the_clock_skips_is_missing(folder, recording):
  holes, start_s = np.array(recording), 1e5
  holes[1000:1500] = np.nan
  wanted = students.load(folder).embed(holes, rate_hz=RATE_HZ, hop_s=30.0)
  live = Live(folder, rate_hz=RATE_HZ, hop_s=30.0)
  found = live.push(recording[:1000], start_s)
  found += live.push(recording[1500:6000], start_s + 30.0 + 0.004)  # a fifth of a sample late
  found += live.push(recording[6000:])
  np.testing.assert_allclose([one["embedding"] for one in found], wanted, atol=2e-5)


def test_what_does_not_fit_is_told(folder, recording):
  with pytest.raises(DistillError, match="takes 50 Hz, the device gives 32 Hz"):
    Live(folder, rate_hz=32.0)
  with pytest.raises(DistillError, match="no output 'hr_bmp'"):
    Live(folder, rate_hz=RATE_HZ, outputs=("hr_bmp",))
  with pytest.raises(DistillError, match="hop_s must be positive"):
    Live(folder, rate_hz=RATE_HZ, hop_s=0.0)
  live = Live(folder, rate_hz=RATE_HZ)
  with pytest.raises(DistillError, match="2 channels; expected 3: x, y, z"):
    live.push(recording[:10, :2])
  live.push(recording[:100], 10.0)
  for t_s in (11.9, 12.0 + 2 * 86_400.0):
    with pytest.raises(DistillError, match="do not follow those before, which end at 12 s"):
      live.push(recording[100:200], t_s)
  assert live.push(recording[100:200], 12.0) == []
