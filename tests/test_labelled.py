"""Sets for probes alone, read from files written in the layout of the official distributions."""

import pathlib

import numpy as np
import pytest

from distill import config as configs
from distill.data import labelled
from distill.data.labelled import hhar, mitbih, motionsense, pamap2
from distill.data.labelled.stretches import runs
from distill.errors import DistillError

G_MS2 = 9.80665


def _data(source, **changes):
  section = configs.base().data
  with section.unlocked():
    section.update({"source": str(source), "window_s": 2.0, "hop_s": 2.0, **changes})
  return section


def _lines(rows):
  return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)


@pytest.fixture(name="pamap2_folder")
def _pamap2_folder(tmp_path):
  """Ten seconds of lying and ten of walking; a row lost in each, another with NaN."""
  folder = tmp_path / "pamap2" / "PAMAP2_Dataset" / "Protocol"
  folder.mkdir(parents=True)
  for who, level in (("subject101", 1.0), ("subject102", 2.0)):
    rows = np.zeros((2000, 54))
    rows[:, 0] = 8.38 + np.arange(2000) / 100
    rows[:, 1] = np.repeat([1, 4], 1000)
    rows[:, 2] = np.nan  # heart rate comes at 9 Hz
    rows[:, 4:7] = level * G_MS2 * np.array([0.0, 0.6, 0.8])
    rows[500, 4:7] = np.nan
    rows[:, 7:10] = 99.0  # the other accelerometer
    rows[:, 21:24] = 77.0  # the chest
    (folder / f"{who}.dat").write_text(_lines(np.delete(rows, 700, axis=0)))
  return tmp_path


def test_pamap2(pamap2_folder):
  first, second = pamap2.read(pamap2_folder)
  assert (first.participant, first.name) == ("subject101", "protocol")
  acc = first.signals["acc"]
  assert (acc.rate_hz, acc.unit, acc.samples.shape) == (100.0, "g", (2000, 3))
  np.testing.assert_allclose(acc.samples[0], [0.0, 0.6, 0.8], rtol=1e-5)
  np.testing.assert_allclose(second.signals["acc"].samples[0], [0.0, 1.2, 1.6], rtol=1e-5)
  missing = np.flatnonzero(np.isnan(acc.samples).any(axis=1))
  assert missing.tolist() == [500, 700]
  named = [(s.label, s.start_s, s.stop_s) for s in first.activities]
  # The lost row belongs to no activity, as nobody wrote one down.
  assert named == [("lying", 0.0, 7.0), ("lying", 7.01, 10.0), ("walking", 10.0, 20.0)]


def test_windows_are_resampled_cut_and_named(pamap2_folder):
  found = labelled.open_set("pamap2", _data(pamap2_folder))
  assert len(found) == 20
  spec = found.specs["acc"]
  assert (spec.rate_hz, spec.window_s, spec.unit) == (50.0, 2.0, "g")
  acc = found.windows(np.array([0, 3]))["acc"]
  assert acc.shape == (2, 100, 3)
  np.testing.assert_allclose(np.nanmedian(acc[0], axis=0), [0.0, 0.6, 0.8], atol=1e-3)
  assert found.index["activity"].tolist() == (["lying"] * 5 + ["walking"] * 5) * 2
  assert found.index["participant"].tolist() == ["subject101"] * 10 + ["subject102"] * 10
  np.testing.assert_array_equal(found.index["t0_s"][:10], 2.0 * np.arange(10))
  assert not found.simulated


def test_hhar(tmp_path):
  """Two users on one watch; the second pauses for a minute and writes "null"."""
  header = "Index,Arrival_Time,Creation_Time,x,y,z,User,Model,Device,gt\n"
  rows, start_ns = [], 1424696638740000000
  for user, offset_s, kind, level in (
    ("a", 0, "walk", 1.0), ("b", 100, "null", 2.0), ("b", 160, "stairsup", 3.0)
  ):  # fmt: skip
    for i in range(600):
      stamp = start_ns + (offset_s * 100 + i) * 10_000_000
      value = level * G_MS2
      rows.append(f"{i},{stamp // 1_000_000},{stamp},{value},0.0,-0.5,{user},gear,gear_1,{kind}\n")
  folder = tmp_path / "Activity recognition exp"
  folder.mkdir()
  (folder / "Watch_accelerometer.csv").write_text(header + "".join(rows))
  first, null, last = hhar.read(tmp_path)
  assert [(r.participant, r.name) for r in (first, null, last)] == [
    ("a", "gear_1/0"),
    ("b", "gear_1/0"),
    ("b", "gear_1/1"),
  ]
  acc = last.signals["acc"]
  assert acc.rate_hz == pytest.approx(100.0, rel=1e-6)
  np.testing.assert_allclose(acc.samples[10], [3.0, 0.0, -0.5 / G_MS2], atol=1e-5)
  assert [s.label for s in first.activities] == ["walk"]
  assert first.activities[0].stop_s == pytest.approx(6.0, abs=0.02)
  assert null.activities == ()
  assert [s.label for s in last.activities] == ["stairsup"]


def test_motionsense(tmp_path):
  folder = tmp_path / "A_DeviceMotion_data" / "dws_11"
  folder.mkdir(parents=True)
  header = (
    ",attitude.roll,attitude.pitch,attitude.yaw,gravity.x,gravity.y,gravity.z,rotationRate.x,"
    "rotationRate.y,rotationRate.z,userAcceleration.x,userAcceleration.y,userAcceleration.z\n"
  )
  row = "0.1,0.2,0.3,0.0,-1.0,0.25,5,6,7,0.5,0.25,-0.25\n"
  for who in (10, 2):
    lines = "".join(f"{i}," + row for i in range(200))
    (folder / f"sub_{who}.csv").write_text(header + lines)
  first, second = motionsense.read(tmp_path)
  assert [(r.participant, r.name) for r in (first, second)] == [
    ("sub_2", "dws_11"),
    ("sub_10", "dws_11"),
  ]
  np.testing.assert_allclose(first.signals["acc"].samples[7], [0.5, -0.75, 0.0])
  stretch = first.activities[0]
  assert (stretch.label, stretch.start_s, stretch.stop_s) == ("walking downstairs", 0.0, 4.0)


def test_mitbih(tmp_path):
  wfdb = pytest.importorskip("wfdb", reason="wfdb is an optional package")
  time = np.arange(360 * 20) / 360
  ecg = np.stack([np.sin(time), np.cos(time)], axis=1)
  for record, leads in (("100", ["MLII", "V5"]), ("202", ["V1", "MLII"]), ("102", ["V5", "V2"])):
    wfdb.wrsamp(
      record, fs=360, units=["mV", "mV"], sig_name=leads, p_signal=ecg, fmt=["212", "212"],
      write_dir=str(tmp_path),
    )  # fmt: skip
    marks = np.array([30, 360, 720, 1800, 3000])
    wfdb.wrann(record, "atr", marks, symbol=list("+NVR~"), write_dir=str(tmp_path))
  first, second = mitbih.read(tmp_path)
  assert [(r.participant, r.name) for r in (first, second)] == [("100", "100"), ("201", "202")]
  np.testing.assert_allclose(first.signals["ppg"].samples[:, 0], ecg[:, 0], atol=0.01)
  np.testing.assert_allclose(second.signals["ppg"].samples[:, 0], ecg[:, 1], atol=0.01)
  np.testing.assert_allclose(first.beats.times_s, [1.0, 2.0, 5.0])
  assert first.beats.normal.tolist() == [True, False, True]
  found = labelled.open_set("mitbih", _data(tmp_path))
  assert found.index["arrhythmia"][:3].tolist() == ["regular", "ectopic", "regular"]
  assert found.index["arrhythmia"][4] == ""
  assert found.specs["ppg"].rate_hz == 64.0


@pytest.mark.parametrize("name", labelled.READERS)
def test_absent_files_are_told_with_where_to_get_them(name, tmp_path):
  source = labelled.READERS[name].SOURCE
  with pytest.raises(DistillError, match=r"set data\.source") as caught:
    labelled.open_set(name, _data(""))
  assert source in str(caught.value)
  with pytest.raises(DistillError, match=f"get .* from {source}".replace("+", r"\+")):
    labelled.open_set(name, _data(tmp_path))


@pytest.mark.parametrize(
  ("content", "message"),
  [("0.0 1 2\n", "cannot be read as PAMAP2"), ("0 x\n", "cannot be read"), ("", "cannot be read")],
)
def test_a_file_of_another_layout_is_refused(tmp_path, content, message):
  pathlib.Path(tmp_path / "subject101.dat").write_text(content)
  with pytest.raises(DistillError, match=message):
    list(pamap2.read(tmp_path))


def test_windows_that_do_not_fit_any_recording_are_refused(pamap2_folder):
  with pytest.raises(DistillError, match="holds a window of 60 s"):
    labelled.open_set("pamap2", _data(pamap2_folder, window_s=60.0, hop_s=60.0))


def test_runs_leave_out_what_has_no_name():
  found = runs(np.array(["", "a", "a", "b", "", "a"]), 2.0, start_s=10.0)
  assert [(s.start_s, s.stop_s, s.label) for s in found] == [
    (10.5, 11.5, "a"),
    (11.5, 12.0, "b"),
    (12.5, 13.0, "a"),
  ]
