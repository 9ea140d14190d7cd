"""distill.data.builder, prepare and store: whole sets, bad recordings, workers, damage."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from distill.data import datasets, store
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.data.windows import WindowSettings, cut_recording
from distill.errors import DistillError
from tests import pulses, toy_set


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
  monkeypatch.setitem(datasets.DATASETS, "toy", "tests.toy_set:Toy")


def _prepare(folder, kinds, **changes):
  toy_set.write(folder, kinds)
  return prepare(toy_set.config(folder, **changes), progress=False)["toy"]


MIXED = {"a": "good", "b": "row", "c": "gap", "d": "constant", "e": "short", "f": "good"}


def test_prepared_windows_come_back_exactly(tmp_path):
  prepared = open_set(_prepare(tmp_path, {"a": "good", "c": "gap"}))
  settings = WindowSettings(hop_s=30.0)
  expected = [
    window
    for name, kind in (("a", "good"), ("c", "gap"))
    for window in cut_recording(toy_set.load(name, kind), settings)
  ]
  assert len(prepared) == len(expected)
  assert np.isnan(prepared[len(prepared) - 1]["ppg"]).any() or len(prepared) > 5
  for row, window in enumerate(expected):
    stored = prepared[row]
    for name, samples in window.signals.items():
      assert stored[name].dtype == np.float32
      np.testing.assert_array_equal(stored[name], samples)
    for column, value in window.columns.items():
      there = prepared.index[column][row]
      assert (
        there == pytest.approx(value, nan_ok=True) if isinstance(value, float) else there == value
      )
  assert prepared.specs == settings.specs
  assert (prepared.name, prepared.simulated, prepared.same_device) == ("toy", False, True)


def test_reference_beats_of_each_window_come_back(tmp_path):
  prepared = open_set(_prepare(tmp_path, {"a": "beats", "b": "good", "cc": "beats"}))
  rows = np.arange(len(prepared))
  found = prepared.beats(rows)
  for row, beats in zip(rows, found, strict=True):
    name, t0_s = prepared.index["recording"][row], prepared.index["t0_s"][row]
    if prepared.index["participant"][row] == "b":
      assert beats is None
      continue
    whole = toy_set.beats(str(prepared.index["participant"][row]))
    inside = (whole.times_s >= t0_s) & (whole.times_s < t0_s + 60)
    assert inside.sum() > 30, name
    np.testing.assert_array_equal(beats.times_s, whole.times_s[inside] - t0_s)
    np.testing.assert_array_equal(beats.normal, whole.normal[inside])
    assert beats.origin == "ecg"
  assert open_set(_prepare(tmp_path, {"b": "good"})).beats(np.arange(2)) == [None, None]


def test_columns_are_all_there_with_their_types(tmp_path):
  prepared = open_set(_prepare(tmp_path, {"a": "good"}))
  assert list(prepared.index) == list(store.COLUMNS)
  for name, dtype in store.COLUMNS.items():
    assert np.issubdtype(prepared.index[name].dtype, dtype), name
    assert prepared.index[name].shape == (len(prepared),)


def test_bad_recordings_are_left_out_and_told(tmp_path, capsys):
  toy_set.write(tmp_path, MIXED)
  prepared = open_set(prepare(toy_set.config(tmp_path), progress=True)["toy"])
  assert sorted(set(prepared.index["participant"])) == ["a", "c", "f"]
  why = {one["recording"]: one["why"] for one in prepared.left_out["recordings"]}
  assert sorted(why) == ["b", "d", "e"]
  assert "BVP.csv, line 5: expected 1 number(s), got 'x'" in why["b"]
  assert "constant" in why["d"]
  assert "shorter than one window" in why["e"]
  assert prepared.left_out["windows"] == 3
  captured = capsys.readouterr()
  assert captured.out == ""
  assert "left out b: b/BVP.csv, line 5" in captured.err


def test_one_recording_under_two_names_is_left_out(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_set, "load", lambda name, kind: pulses.recording(name))
  prepared = open_set(_prepare(tmp_path, {"a": "good", "b": "good"}))
  assert set(prepared.index["participant"]) == {"a"}
  (left,) = prepared.left_out["recordings"]
  assert left["recording"] == "b"
  assert "the same samples as a recording of a; one person under two names" in left["why"]


def test_two_recordings_under_one_name_are_not_mixed(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_set, "load", lambda name, kind: pulses.recording("p", seed=ord(name)))
  prepared = open_set(_prepare(tmp_path, {"a": "good", "b": "good"}))
  assert len(prepared) == 5
  assert "p already has a recording r0" in prepared.left_out["recordings"][0]["why"]


def test_two_workers_give_the_same_rows(tmp_path):
  for name in ("one", "two"):
    (tmp_path / name).mkdir()
  alone = open_set(_prepare(tmp_path / "one", MIXED))
  shared = open_set(_prepare(tmp_path / "two", MIXED, workers=2))
  assert alone.left_out == shared.left_out
  for column in store.COLUMNS:
    np.testing.assert_array_equal(alone.index[column], shared.index[column])
  for row in range(len(alone)):
    np.testing.assert_array_equal(alone[row]["acc"], shared[row]["acc"])


def test_a_prepared_set_is_reused_only_for_the_same_settings(tmp_path):
  folder = _prepare(tmp_path, {"a": "good"})
  stamp = (folder / store.SET_FILE).stat().st_mtime_ns
  assert _prepare(tmp_path, {"a": "good"}, workers=1) == folder
  assert (folder / store.SET_FILE).stat().st_mtime_ns == stamp
  others = {
    _prepare(tmp_path, {"a": "good"}, hop_s=60.0),
    _prepare(tmp_path, {"a": "good"}, min_template_r=0.9),
    _prepare(tmp_path, {"a": "good", "f": "good"}),
  }
  assert len(others | {folder}) == 4
  assert not list((tmp_path / "prepared").glob(".partial*"))


@pytest.mark.parametrize(
  ("kinds", "changes", "message"),
  [
    ({"b": "row", "d": "constant"}, {}, "none of 2 recordings can be used; the first: b/BVP.csv"),
    ({"c": "gap"}, {"min_coverage": 1.0, "window_s": 120.0}, "all 3 windows of 1 recordings"),
    ({"a": "good"}, {"window_s": 600.0}, "shorter than one window of 600 s"),
  ],
)
def test_nothing_usable_leaves_nothing_behind(tmp_path, kinds, changes, message):
  with pytest.raises(DistillError, match=message) as caught:
    _prepare(tmp_path, kinds, **changes)
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.glob("prepared/*"))
  assert not list(tmp_path.glob("prepared/.*"))


def test_what_a_killed_process_left_is_not_taken_for_a_set(tmp_path):
  whole = _prepare(tmp_path, {"a": "good"})
  stale = tmp_path / "prepared" / f".partial-toy-{os.getpid()}"
  whole.rename(stale)
  prepared = open_set(_prepare(tmp_path, {"a": "good"}))
  assert len(prepared) == len(prepared.index["t0_s"]) > 0
  assert not stale.exists()


def test_a_set_can_be_moved_and_sent_to_a_worker(tmp_path):
  folder = _prepare(tmp_path, {"a": "good"})
  moved = folder.rename(tmp_path / "elsewhere")
  prepared = open_set(moved)
  first = prepared[0]
  copy = pickle.loads(pickle.dumps(prepared))
  np.testing.assert_array_equal(copy[0]["ppg"], first["ppg"])
  with pytest.raises(IndexError):
    prepared[len(prepared)]


def test_the_tfds_examples_name_their_window(tmp_path):
  import tensorflow_datasets as tfds

  folder = _prepare(tmp_path, {"a": "good", "f": "good"})
  prepared = open_set(folder)
  source = tfds.builder_from_directory(next(folder.glob("toy/*"))).as_data_source(store.SPLIT)
  assert [example["participant"].decode() for example in source] == list(
    prepared.index["participant"]
  )
  assert [float(example["t0_s"]) for example in source] == list(prepared.index["t0_s"])


def test_no_set_no_source_no_folder(tmp_path):
  config = toy_set.config(tmp_path, sets=())
  with pytest.raises(DistillError, match=r"data\.sets is empty"):
    prepare(config)
  with pytest.raises(DistillError, match=r"unknown data set 'wesat'.*did you mean 'wesad'"):
    prepare(toy_set.config(tmp_path, sets=("wesat",)))
  with pytest.raises(DistillError, match=r"needs its official files: set data.source"):
    prepare(toy_set.config(tmp_path, source=""))
  with pytest.raises(DistillError, match="is no folder"):
    prepare(toy_set.config(tmp_path, source=str(tmp_path / "absent")))


@pytest.mark.parametrize("name", ["bami", "wesad", "stress_predict"])
def test_an_empty_folder_names_what_was_expected(tmp_path, name):
  with pytest.raises(DistillError, match=rf"no .* under {tmp_path}.*https://"):
    prepare(toy_set.config(tmp_path, sets=(name,)))
  assert not (tmp_path / "prepared").exists()


def test_damaged_sets_are_refused(tmp_path):
  folder = _prepare(tmp_path, {"a": "good"})
  with pytest.raises(DistillError, match="no prepared set at"):
    open_set(tmp_path / "absent")
  fields = json.loads((folder / store.SET_FILE).read_text())
  (folder / store.SET_FILE).write_text(json.dumps(fields | {"format": 99}))
  with pytest.raises(DistillError, match="has format 99; this version reads"):
    open_set(folder)
  (folder / store.SET_FILE).write_text("[]")
  with pytest.raises(DistillError, match="delete the folder and prepare again"):
    open_set(folder)
  (folder / store.SET_FILE).write_text(json.dumps(fields))
  (records,) = folder.glob("toy/*/*.array_record*")
  whole = records.read_bytes()
  records.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(DistillError, match=r"is damaged .* delete it and prepare again"):
    open_set(folder)[0]
  records.write_bytes(whole)
  assert len(open_set(folder)[0]["ppg"])
  index = (folder / store.INDEX_FILE).read_bytes()
  (folder / store.INDEX_FILE).write_bytes(index[: len(index) // 2])
  with pytest.raises(DistillError, match="is damaged"):
    open_set(folder)
  (folder / store.INDEX_FILE).write_bytes(index)
  for path in folder.glob("toy/*/*.json"):
    path.unlink()
  with pytest.raises(DistillError, match="is damaged"):
    open_set(folder)[0]


def test_preparing_and_reading_need_no_tensorflow(tmp_path):
  toy_set.write(tmp_path, {"a": "good"})
  code = (
    "import sys, pathlib; from tests import toy_set; from distill.data import datasets;"
    "from distill.data.prepare import prepare; from distill.data.store import open_set;"
    "datasets.DATASETS['toy'] = 'tests.toy_set:Toy';"
    f"folder = prepare(toy_set.config(pathlib.Path({str(tmp_path)!r})), progress=False)['toy'];"
    "open_set(folder)[0]; assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
