"""distill.data.pipeline at scale: shards of one order, workers, memory that stays flat."""

import multiprocessing
import subprocess
import sys
import types

import grain
import jax
import numpy as np
import pytest

from distill import config, fold_training, stages, workdir
from distill.data import pipeline
from distill.errors import DistillError
from tests.conftest import ROOT


class _Numbers:
  """Stands for a TrainingSource: the examples are their numbers."""

  def __init__(self, n, keeps=False):
    self.n, self.keeps, self.met = n, keeps, np.zeros(n, bool)

  def __len__(self):
    return self.n

  def kept(self, numbers):
    return self.met[numbers]

  def batch(self, numbers):
    self.met[numbers] = self.keeps
    return {"i": numbers}


def _take(n_batches, n=103, **fields):
  settings = {"seed": 3, "batch_size": 12, "start": 0} | fields
  batches = pipeline.training_batches(_Numbers(n, settings.pop("keeps", False)), **settings)
  found = [next(batches)["i"] for _ in range(n_batches)]
  batches.close()
  return found


@pytest.mark.parametrize(("n", "seed"), [(103, 3), (7, 0), (10_000, 2**31)])
def test_the_order_is_passes_one_after_the_other_cut_into_batches(n, seed):
  passes = [np.random.default_rng([seed, k]).permutation(n) for k in range(-(-45 * 7 // n))]
  order = np.concatenate(passes)[: 45 * 7].reshape(45, 7)
  np.testing.assert_array_equal(_take(40, n, seed=seed, batch_size=7, start=5), order[5:])


def test_seeds_give_other_orders():
  assert not np.array_equal(_take(1, seed=3), _take(1, seed=4))


def test_shards_share_every_batch_of_the_one_order():
  whole = _take(40)
  for shards in (2, 3, 4):
    parts = [_take(40, shard=k, shards=shards) for k in range(shards)]
    for together, batch in zip(zip(*parts), whole):
      assert {len(part) for part in together} == {12 // shards}
      np.testing.assert_array_equal(np.concatenate(together), batch)


def test_every_pass_holds_every_example_once_in_a_new_order():
  drawn = np.concatenate(_take(3 * 103, batch_size=1))
  passes = drawn.reshape(3, 103)
  assert all(sorted(one) == list(range(103)) for one in passes)
  assert not np.array_equal(passes[0], passes[1])


def test_a_shard_resumes_at_any_batch():
  whole = _take(20, shard=1, shards=2)
  np.testing.assert_array_equal(_take(8, shard=1, shards=2, start=12), whole[12:])


@pytest.mark.parametrize("keeps", [False, True])
def test_workers_change_nothing(keeps):
  shared = {"shard": 1, "shards": 2}
  found = _take(14, workers=2, start=2, keeps=keeps, **shared)  # some are met again
  np.testing.assert_array_equal(found, _take(16, **shared)[2:])


@pytest.mark.parametrize("keeps", [False, True])
def test_a_reading_process_makes_what_is_not_kept_and_hands_on_numbers_of_what_is(keeps):
  made = []

  class Source(_Numbers):
    def batch(self, numbers):
      made.append(numbers.tolist())
      return super().batch(numbers)

  make = pipeline._MakeReady(Source(9, keeps))
  found = [make(np.array(numbers)) for numbers in ([1, 2], [2, 3], [1, 3])]
  if keeps:
    assert made == [[1, 2], [2, 3]]
    assert [numbers.tolist() for numbers in found] == [[1, 2], [2, 3], [1, 3]]
  else:
    assert made == [[1, 2], [2, 3], [1, 3]]
    assert [batch["i"].tolist() for batch in found] == made


def _children():
  return [one for one in multiprocessing.active_children() if one.is_alive()]


def test_reading_processes_end_when_all_is_kept():
  source = _Numbers(103, keeps=True)
  batches = pipeline.training_batches(source, seed=3, batch_size=12, start=1, workers=1)
  found = [next(batches)["i"]]
  assert _children()
  found += [next(batches)["i"] for _ in range(12)]
  assert _children(), "a pass has gone by, but not all of its windows have been met"
  source.met[:] = True
  found += [next(batches)["i"] for _ in range(12)]
  assert not _children()
  np.testing.assert_array_equal(found, _take(25, start=1))
  batches.close()


def test_no_process_is_started_where_all_is_kept(monkeypatch):
  monkeypatch.setattr(grain, "MultiprocessingOptions", None)
  source = _Numbers(103)
  source.met[:] = True
  batches = pipeline.training_batches(source, seed=3, batch_size=12, start=0, workers=2)
  np.testing.assert_array_equal([next(batches)["i"] for _ in range(3)], _take(3))
  batches.close()


def test_training_reads_the_share_of_its_process(monkeypatch):
  """Two processes together see every batch that one would, and no example twice."""
  settings, source = config.base(), _Numbers(103)
  whole = [next(fold_training.reading(settings, source, 12, k))["i"] for k in range(3, 9)]
  shares = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for process in (0, 1):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    batches = fold_training.reading(settings, source, 12, 3)
    shares.append([next(batches)["i"] for _ in whole])
  for batch, one, other in zip(whole, *shares, strict=True):
    assert len(one) == len(other) == 6
    assert [*one, *other] == batch.tolist()


def test_the_number_of_reading_processes_is_no_part_of_a_run(tmp_path):
  settings = config.load("", ["--config.data.readers=0"])
  other = config.load("", ["--config.data.readers=2", "--config.data.workers=7"])
  assert config.identity(settings) == config.identity(other)
  assert config.identity(settings) != config.identity(config.load("", ["--config.seed=1"]))
  with workdir.claimed(settings, tmp_path / "run"):
    pass
  with workdir.claimed(other, tmp_path / "run"):
    pass
  with (
    pytest.raises(DistillError, match=r"config\.data\.hop_s is 60\.0 there and 30\.0 here"),
    workdir.claimed(config.load("", ["--config.data.hop_s=30.0"]), tmp_path / "run"),
  ):
    pass


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"shards": 5}, "a batch of 12 cannot be shared evenly by 5 processes"),
    ({"n": 11}, "11 training windows are fewer than one batch of 12"),
  ],
)
def test_batches_that_cannot_be_made(fields, message):
  with pytest.raises(DistillError, match=message):
    _take(1, **fields)


PEAK = """
import pathlib, resource, tempfile
import ml_collections
from distill.data.prepare import prepare
from tests import toy_set
for people in (2, 6):
  with tempfile.TemporaryDirectory() as folder:
    config = toy_set.config(pathlib.Path(folder), sets=("simulated",), hop_s=2.0)
    cohort = {"participants": people, "minutes": 8.0}
    cohort |= {"device": "fine", "amplitude": 1.0, "gaps": True, "seed": 0, "first": 0}
    config.simulated = ml_collections.ConfigDict(cohort)
    prepare(config, progress=False)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_preparing_takes_no_more_memory_for_more_people():
  """Three times the windows, some 45 MB more of them, in the same memory."""
  command = [sys.executable, "-c", PEAK]
  run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
  few, many = (int(line) for line in run.stdout.split())
  assert many - few < 25_000  # kB


def test_the_first_minutes_are_counted_from_each_recordings_own_start():
  start_s = {"a/x": 1000.0, "a/y": 5.0, "b/x": 0.0}
  windows = [(*name.split("/"), t0 + 30.0 * k) for name, t0 in start_s.items() for k in range(6)]
  who, recording, t0_s = (np.array(column) for column in zip(*windows))
  index = {"participant": who, "recording": recording, "t0_s": t0_s}
  prepared = types.SimpleNamespace(
    name="s", index=index, specs={"acc": types.SimpleNamespace(window_s=60.0)}
  )
  rows = pipeline.Rows(prepared, np.arange(1, 18))  # the very first window was too poor
  kept = pipeline.within(rows, 2.0)
  expected = [
    row for row in range(1, 18)
    if t0_s[row] + 60 <= start_s[f"{who[row]}/{recording[row]}"] + 120
  ]  # fmt: skip
  assert kept.rows.tolist() == expected == [1, 2, 6, 7, 8, 12, 13, 14]
  with pytest.raises(DistillError, match=r"no training window in the first 0\.5 minutes"):
    pipeline.within(rows, 0.5)


def test_a_set_of_two_devices_is_never_distilled(tmp_path):
  apart = types.SimpleNamespace(
    name="galaxyppg", specs={"ppg": None, "acc": None}, same_device=False
  )
  fold = types.SimpleNamespace(sets={"galaxyppg": (apart, None)})
  with pytest.raises(DistillError, match="different devices and clocks"):
    stages._distilled(config.base(), tmp_path, fold)
  assert not list(tmp_path.iterdir())
