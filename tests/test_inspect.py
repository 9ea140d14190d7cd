"""distill.data.inspect: what it finds, what it says is wrong, what it proposes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import signal

from distill.data import manifest
from distill.data.inspect import inspect, picture, propose
from distill.errors import DistillError
from tests import pulses, test_own, toy_set


def _inspect(folder, **fields):
  return inspect(folder, toy_set.config(folder, hop_s=60.0), **fields)


def _write(folder, name, seed=0, ppg_s=200.0, acc_s=200.0, pick=slice(None), **ppg_change):
  """A recording with stamps in both files; `pick` selects rows of the PPG."""
  times_s = pulses.beat_times(ppg_s, seed=seed)
  ppg = 50 * pulses.ppg_of(times_s, ppg_s, noise=0.01, seed=seed)
  if ppg_change.get("upside_down"):  # pulses that rise in 0.1 s and fall over 0.5 s, turned over
    ppg = -signal.lfilter([1], [1, -0.96], ppg)
  stamps = np.arange(len(ppg)) / ppg_change.get("rate_hz", 64.0) + ppg_change.get("start_s", 0.0)
  acc = ppg_change.get("gravity", 1.0) * pulses.acc_still(acc_s, seed=seed)
  test_own._csv(folder / f"{name}_ppg.csv", "t,green", [stamps[pick], ppg[pick]])
  test_own._csv(folder / f"{name}_acc.csv", "t,x,y,z", [np.arange(len(acc)) / 32, *acc.T])
  return f"""
[[recording]]
participant = "{name}"
ppg = {{ file = "{name}_ppg.csv", column = "green", time = "t" }}
acc = {{ file = "{name}_acc.csv", columns = ["x", "y", "z"], time = "t" }}
"""


def test_what_is_there_and_what_is_wrong_with_it(tmp_path):
  late = np.r_[0:1000, 1010:1020, 1000:1010, 1020:2000, 1990:2000, 2000:4000, 10000:12800]
  texts = [
    _write(tmp_path, "good", 0),
    _write(tmp_path, "upside", 1, upside_down=True),
    _write(tmp_path, "gaps", 2, pick=late),
    _write(tmp_path, "longer", 3, acc_s=320.0),
    _write(tmp_path, "fast", 4, rate_hz=64 * (1 + 3e-4)),
    _write(tmp_path, "zone", 5, start_s=7200.0),
    _write(tmp_path, "heavy", 6, gravity=1.2),
    _write(tmp_path, "gone", 7),
  ]
  (tmp_path / "gone_acc.csv").unlink()
  (tmp_path / "manifest.toml").write_text("".join(texts))
  found = _inspect(tmp_path)
  assert (found.set_name, found.participants, len(found.recordings)) == ("own", 6, 8)
  by_name = {one.name.partition("/")[0]: one for one in found.recordings}
  good = by_name["good"]
  assert (good.problems, good.windows, good.usable, good.labelled) == ((), 3, 1.0, 1.0)
  assert good.signals["ppg"].rate_hz == pytest.approx(64.0)
  assert good.signals["acc"].gravity_g == pytest.approx(1.0, abs=0.01)
  assert good.overlap_minutes == pytest.approx(200 / 60)
  assert good.hr_bpm == pytest.approx(75, abs=2)
  assert by_name["gaps"].signals["ppg"].gaps == 1
  assert by_name["gaps"].signals["ppg"].longest_gap_s == pytest.approx(6000 / 64, abs=0.1)
  expected = {
    "upside": "ppg falls faster than it rises: if it is upside down, set inverted = true",
    "gaps": "10 row(s) repeat a time and were left out, 19 came late",
    "longer": "ppg lasts 3.3 min and acc 5.3 min from the same start: is a rate wrong by 1.60?",
    "fast": "ppg: the clock runs at 64.0192 Hz, +300 ppm; put right",
    "zone": "the starts are 2 h apart: is one of them in another time zone?",
    "heavy": "gravity reads 1.19 g: the accelerometer is not calibrated",
    "gone": "no file",
  }
  for name, message in expected.items():
    assert any(message in problem for problem in by_name[name].problems), by_name[name].problems
  assert any("of ppg is missing, in 1 gap(s)" in one for one in by_name["gaps"].problems)
  text = found.to_text()
  assert "6 participants, 8 recordings" in text
  assert "! gone/gone_ppg: no file" in text
  plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
  assert plain["participants"] == 6
  assert plain["recordings"][0]["signals"]["ppg"]["gravity_g"] is None
  picture(found, tmp_path / "plots" / "found.png")
  assert (tmp_path / "plots" / "found.png").read_bytes()[:4] == b"\x89PNG"
  assert not (tmp_path / "prepared").exists()


def test_too_few_people_and_two_devices(tmp_path):
  text = "same_device = false\n" + _write(tmp_path, "anna")
  (tmp_path / "manifest.toml").write_text(text)
  problems = " ".join(_inspect(tmp_path).problems)
  assert "1 participant(s) with usable windows; judging holds people out and needs 5" in problems
  assert "come from two devices" in problems


def test_a_sensor_that_was_off_the_skin(tmp_path):
  text = _write(tmp_path, "anna")
  rng = np.random.default_rng(0)
  columns = [np.arange(12800) / 64, rng.normal(size=12800)]
  test_own._csv(tmp_path / "anna_ppg.csv", "t,green", columns)
  (tmp_path / "manifest.toml").write_text(text)
  (one,) = _inspect(tmp_path).recordings
  assert one.usable == 0
  assert any(
    "PPG is usable in 0% of the windows: is this the PPG column" in p for p in one.problems
  )


def test_a_public_set_is_known_by_its_layout(shared_data):
  found = _inspect(shared_data / "galaxyppg")
  assert (found.set_name, found.participants) == ("galaxyppg", 1)
  (one,) = found.recordings
  assert one.origin == "chest_strap"
  assert one.usable > 0.6


def test_a_manifest_is_proposed_that_can_be_loaded_once_corrected(tmp_path):
  root = tmp_path / "mine"
  for name in ("anna", "ben"):
    _write(root, name)
  header = "timestamp,accX,accY,accZ,BVP,gyr_x"
  test_own._csv(root / "carl" / "all.csv", header, [np.arange(9)] * 6)
  np.savez(root / "dora.npz", x=np.zeros(5), y=np.zeros(5), z=np.zeros(5))
  found = _inspect(root)
  assert (found.set_name, found.recordings) == ("", ())
  assert "no manifest" in found.problems[0]
  assert "A manifest for these files could be" in found.to_text()
  (root / "manifest.toml").write_text(found.proposal)
  with pytest.raises(DistillError, match="dora: acc: rate_hz is 0; expected a positive number"):
    manifest.load(root)
  (root / "manifest.toml").write_text(found.proposal.replace("rate_hz = 0", "rate_hz = 50"))
  sessions = {one.participant: one.signals for one in manifest.load(root).sessions}
  assert sorted(sessions) == ["anna", "ben", "carl", "dora"]
  assert sessions["anna"]["ppg"].columns == ("green",)
  assert sessions["anna"]["acc"].columns == ("x", "y", "z")
  assert sessions["carl"]["acc"].columns == ("accX", "accY", "accZ")
  assert (sessions["carl"]["ppg"].columns, sessions["carl"]["ppg"].time) == (("BVP",), "timestamp")
  assert "# no ppg found" in found.proposal


def test_a_proposal_says_what_it_leaves_out_and_reads_the_unit_of_time(tmp_path):
  starts = {"iso": "2024-03-01T10:00:00+01:00", "ms": "1709287200000", "ns": "1709287200000000000"}
  starts["s"] = "1709287200.5"
  for unit, start in starts.items():
    (tmp_path / f"{unit}.csv").write_text(f"t,green\n{start},1\n")
  (tmp_path / "empty.csv").write_text("")
  (tmp_path / "wide.csv").write_text("t,green\n0,1\n", encoding="utf-16")
  proposal = propose(tmp_path)
  for unit in starts:
    expected = f'file = "{unit}.csv", columns = ["green"], time = "t", time_unit = "{unit}"'
    assert expected in proposal
  assert f"# left out: {tmp_path}/empty.csv is empty" in proposal
  stamps = np.arange(3) * 20_000_000 + 1709287200000000000
  pq.write_table(pa.table({"time": stamps, "green": [1.0, 2.0, 3.0]}), tmp_path / "p.parquet")
  np.savez(tmp_path / "n.npz", t=stamps, acc=np.zeros((3, 3)), ppg=np.zeros(3))
  proposal = propose(tmp_path)
  assert 'file = "p.parquet", columns = ["green"], time = "time", time_unit = "ns"' in proposal
  for name in ("acc", "ppg"):
    assert f'file = "n.npz", columns = ["{name}"], time = "t", time_unit = "ns"' in proposal
  assert f"# left out: {tmp_path}/wide.csv, line 1 holds zero bytes: is it UTF-16?" in proposal


def test_one_recording_under_two_names_is_told_as_preparing_leaves_it_out(tmp_path):
  text = _write(tmp_path, "anna") + _write(tmp_path, "ben")
  (tmp_path / "manifest.toml").write_text(text)
  found = _inspect(tmp_path)
  assert found.participants == 1
  anna, ben = found.recordings
  assert (anna.problems, ben.windows) == ((), 0)
  assert ben.problems == ("it holds the same samples as a recording of anna and is left out",)


def test_nothing_to_inspect(tmp_path):
  with pytest.raises(DistillError, match="no folder"):
    _inspect(tmp_path / "absent")
  with pytest.raises(DistillError, match="holds no recordings; known are files"):
    _inspect(tmp_path)
  with pytest.raises(DistillError, match=r"no WESAD/S<n>/ under"):
    _inspect(tmp_path, set_name="wesad")
  (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
  assert "[[recording]]" not in propose(tmp_path)
