"""distill.data.beam: the same set from Apache Beam, and what happens without it."""

import sys

import numpy as np
import pytest

import students.transformer
import teachers.transformer
from distill.data import datasets, ready, store
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.errors import DistillError
from tests import toy_set

MIXED = {"a": "good", "b": "row", "c": "gap", "d": "constant", "e": "short", "f": "beats"}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
  monkeypatch.setitem(datasets.DATASETS, "toy", "tests.toy_set:Toy")


def _prepare(folder, runner, kinds=MIXED):
  toy_set.write(folder, kinds)
  config = toy_set.config(folder, prepared_dir=str(folder / f"out{runner}"), runner=runner)
  specs = [teachers.transformer.SPEC, students.transformer.SPEC]
  return open_set(prepare(config, lambda: specs, progress=False)["toy"])


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(DistillError, match=r"Apache Beam, which is not installed.*ppg2accel\[beam\]"):
    _prepare(tmp_path, "DirectRunner")
  assert not list(tmp_path.glob("out*/*"))


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_gives_the_same_set(tmp_path):
  pytest.importorskip("apache_beam", reason="Apache Beam is an optional package")
  here, beam = _prepare(tmp_path, ""), _prepare(tmp_path, "DirectRunner")
  assert len(here) == len(beam) > 0
  assert here.left_out == beam.left_out
  for column in store.COLUMNS:
    np.testing.assert_array_equal(here.index[column], beam.index[column])
  for row in range(len(here)):
    for name in here.specs:
      np.testing.assert_array_equal(here[row][name], beam[row][name])
  beats = [one.beats(np.arange(len(here))) for one in (here, beam)]
  assert sum(one is not None for one in beats[0]) == sum(here.index["participant"] == "f") > 0
  np.testing.assert_equal(*[[one and vars(one) for one in some] for some in beats])
  assert sorted(path.name for path in beam.folder.iterdir()) == sorted(
    path.name for path in here.folder.iterdir()
  )
  for file in (here.folder / ready.FOLDER).iterdir():
    assert file.read_bytes() == (beam.folder / ready.FOLDER / file.name).read_bytes()
  assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_one_recording_under_two_names_stops_beam(tmp_path):
  pytest.importorskip("apache_beam", reason="Apache Beam is an optional package")
  with pytest.raises(DistillError, match=r"the same samples as a recording of .*; take one away"):
    _prepare(tmp_path, "DirectRunner", {"a": "twin", "b": "twin"})
