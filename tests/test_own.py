"""One's own recordings: manifest, formats, clocks, units, and everything that can be wrong."""

import dataclasses
import datetime
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from distill.data import manifest, tables
from distill.data.datasets import own
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.errors import DistillError
from tests import pulses, toy_set

SECONDS = 130.0
START_S = 1709287200.0  # 2024-03-01T10:00:00Z


def _signals(seed=0):
  times = pulses.beat_times(SECONDS, seed=seed)
  ppg = 50 * pulses.ppg_of(times, SECONDS, noise=0.01, seed=seed)
  return ppg, pulses.acc_still(SECONDS, seed=seed), times


def _csv(path, header, columns, rows_format="%.6f"):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savetxt(path, np.column_stack(columns), rows_format, ",", header=header, comments="")


def _write(folder, name="anna", seed=0):
  ppg, acc, _ = _signals(seed)
  _csv(folder / f"{name}_ppg.csv", "t,green", [np.arange(len(ppg)) / 64, ppg])
  _csv(folder / f"{name}_acc.csv", "t,x,y,z", [1000 * np.arange(len(acc)) / 32, *(9.80665 * acc.T)])


TOML = """
[[recording]]
participant = "{name}"
age = 31
sex = "F"
bmi = 22.5
skin_tone = "IV"
ppg = {{ file = "{name}_ppg.csv", column = "green", rate_hz = 64 }}
acc = {{ file = "{name}_acc.csv", columns = ["x", "y", "z"], time = "t", time_unit = "ms" }}
"""
CSV = """participant,signal,file,column,rate_hz,time,time_unit,unit,age,sex,skin_tone
anna,ppg,anna_ppg.csv,green,64,,,,31,F,IV
anna,acc,anna_acc.csv,x|y|z,,t,ms,m/s2,,,
ben,ppg,ben_ppg.csv,green,64,,,,,,
ben,acc,ben_acc.csv,x|y|z,,t,ms,m/s2,,,
"""


def _read(folder, text=None, which=0):
  if text is not None:
    (folder / "manifest.toml").write_text(text)
  return own.read(manifest.load(folder).sessions[which])


def test_a_recording_comes_back_with_clock_unit_and_person(tmp_path):
  _write(tmp_path)
  recording = _read(tmp_path, TOML.format(name="anna"))
  ppg, acc, _ = _signals()
  assert (recording.participant, recording.name) == ("anna", "anna_ppg")
  assert (recording.age, recording.sex, recording.bmi) == (31.0, "female", 22.5)
  assert recording.skin_tone == "IV"
  assert recording.signals["ppg"].rate_hz == 64.0
  assert recording.signals["acc"].rate_hz == pytest.approx(32.0, rel=1e-9)
  np.testing.assert_allclose(recording.signals["ppg"].samples[:, 0], ppg, atol=1e-5)
  np.testing.assert_allclose(recording.signals["acc"].samples, acc, atol=1e-5)


def test_toml_and_csv_say_the_same_and_a_folder_is_prepared(tmp_path):
  for number, name in enumerate(("anna", "ben")):
    _write(tmp_path, name, seed=number)
  (tmp_path / "manifest.csv").write_text(CSV)
  config = toy_set.config(tmp_path, sets=("own",))
  prepared = open_set(prepare(config, progress=False)["own"])
  assert sorted(set(prepared.index["participant"])) == ["anna", "ben"]
  assert (prepared.same_device, prepared.left_out["recordings"]) == (True, [])
  assert set(prepared.index["hr_origin"]) == {"ppg"}
  assert np.isfinite(prepared.index["age"]).any()
  by_name = zip(prepared.index["participant"], prepared.index["skin_tone"], strict=True)
  assert set(by_name) == {("anna", "IV"), ("ben", "")}
  from_csv = manifest.load(tmp_path).sessions[0]
  (tmp_path / "manifest.csv").unlink()
  (tmp_path / "manifest.toml").write_text("same_device = false\n" + TOML.format(name="anna"))
  np.testing.assert_array_equal(
    own.read(from_csv).signals["acc"].samples, _read(tmp_path).signals["acc"].samples
  )
  assert not open_set(prepare(config, progress=False)["own"]).same_device


def test_an_edited_file_is_prepared_anew(tmp_path):
  _write(tmp_path)
  (tmp_path / "manifest.toml").write_text(TOML.format(name="anna"))
  config = toy_set.config(tmp_path, sets=("own",))
  first = prepare(config, progress=False)["own"]
  assert prepare(config, progress=False)["own"] == first
  with open(tmp_path / "anna_ppg.csv", "a") as file:
    file.write("131.0,1.5\n")
  assert prepare(config, progress=False)["own"] != first


def _entry(folder, file, columns, **fields):
  return manifest.Entry("here", folder / file, tuple(columns), **fields)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet", "npz"])
def test_every_format_gives_the_same_signal(tmp_path, suffix):
  _, acc, _ = _signals()
  times_s = START_S + np.arange(len(acc)) / 32
  path = tmp_path / f"a.{suffix}"
  if suffix == "parquet":
    arrays = [pa.array(times_s), *(pa.array(axis) for axis in acc.T)]
    pyarrow.parquet.write_table(pa.table(arrays, names=["t", "x", "y", "z"]), path)
  elif suffix == "npz":
    np.savez(path, t=times_s, x=acc[:, 0], y=acc[:, 1], z=acc[:, 2], both=acc)
    whole, _ = own.read_signal(_entry(tmp_path, path.name, ["both"], time="t"), "acc")
    np.testing.assert_array_equal(whole.samples, acc)
  else:
    delimiter = "\t" if suffix == "tsv" else ";"
    columns = np.column_stack([times_s, acc])
    np.savetxt(
      path, columns, "%.7f", delimiter, header="t x y z".replace(" ", delimiter), comments=""
    )
  signal, stamps = own.read_signal(_entry(tmp_path, path.name, "xyz", time="t"), "acc")
  assert signal.start_s == pytest.approx(START_S, abs=1e-6)
  assert signal.rate_hz == pytest.approx(32.0, rel=1e-6)
  assert (stamps.duplicates, stamps.late, len(stamps.gaps_s)) == (0, 0, 0)
  np.testing.assert_allclose(signal.samples, acc, atol=1e-6)


def test_edf(tmp_path):
  edfio = pytest.importorskip("edfio", reason="edfio is an optional package")
  ppg, acc, _ = _signals()
  signals = [edfio.EdfSignal(ppg, 64.0, label="PPG", physical_dimension="uV")]
  signals += [
    edfio.EdfSignal(1000 * acc[:, i], 32.0, label=axis, physical_dimension="mg")
    for i, axis in enumerate("xyz")
  ]
  started = {
    "starttime": datetime.time(10),
    "recording": edfio.Recording(startdate=datetime.date(2024, 3, 1)),
  }
  edfio.Edf(signals, **started).write(tmp_path / "a.edf")
  found, _ = own.read_signal(_entry(tmp_path, "a.edf", ["PPG"]), "ppg")
  assert (found.rate_hz, found.start_s) == (64.0, START_S)
  np.testing.assert_allclose(found.samples[:, 0], ppg, atol=0.01)
  found, _ = own.read_signal(_entry(tmp_path, "a.edf", "xyz"), "acc")
  np.testing.assert_allclose(found.samples, acc, atol=1e-3)
  with pytest.raises(DistillError, match="different rates"):
    tables.read(tmp_path / "a.edf", ["PPG", "x"])
  content = (tmp_path / "a.edf").read_bytes()
  for keep in (0, 200, 3000, len(content) - 100):
    (tmp_path / "b.edf").write_bytes(content[:keep])
    with pytest.raises(DistillError, match=r"b\.edf cannot be read"):
      tables.read(tmp_path / "b.edf", ["PPG"])


def test_wfdb(shared_data):
  pytest.importorskip("wfdb", reason="wfdb is an optional package")
  folder = shared_data / "physionet_wrist"
  axes = [f"wrist_low_noise_accelerometer_{axis}" for axis in "xyz"]
  entry = _entry(folder, "s8_walk.hea", axes, unit="m/s2")
  found, _ = own.read_signal(entry, "acc")
  assert found.rate_hz == 256.0
  magnitude = np.linalg.norm(found.samples, axis=1)
  assert np.nanmedian(magnitude) == pytest.approx(1.0, abs=0.1)
  with pytest.raises(DistillError, match=r"no column 'wrist_pgg'; did you mean 'wrist_ppg'"):
    tables.read(folder / "s8_walk.hea", ["wrist_pgg"])


@pytest.mark.parametrize("suffix", ["edf", "hea"])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, suffix):
  import builtins

  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name in ("edfio", "wfdb"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(
    "importlib.import_module",
    lambda name: without(name) if name in ("edfio", "wfdb") else real(name),
  )
  (tmp_path / f"a.{suffix}").write_text("x")
  with pytest.raises(DistillError, match=r"needs the package (edfio|wfdb).*pip install 'ppg2accel"):
    tables.read(tmp_path / f"a.{suffix}", ["x"])


@pytest.mark.parametrize(
  ("dates", "start_s"),
  [
    ("2024-03-01T10:00:00", START_S),
    ("2024-03-01 10:00:00", START_S),
    ("2024-03-01T10:00:00+02:00", START_S - 7200),
    ("2024-03-01T10:00:00Z", START_S),
  ],
)
def test_dates_in_a_time_column_and_as_start(tmp_path, dates, start_s):
  ppg, _, _ = _signals()
  zone = dates[19:]
  micros = np.datetime64(dates[:19], "us") + (1e6 * np.arange(640) / 64).astype("timedelta64[us]")
  rows = "".join(f"{t}{zone},{v:.4f}\n" for t, v in zip(micros, ppg))
  (tmp_path / "a.csv").write_text("when,green\n" + rows)
  entry = _entry(tmp_path, "a.csv", ["green"], time="when", time_unit="iso")
  signal, _ = own.read_signal(entry, "ppg")
  assert signal.start_s == pytest.approx(start_s, abs=1e-5)
  assert manifest._time(dates, "start") == pytest.approx(start_s)
  fields = f"file = 'a.csv', column = 'green', rate_hz = 64, start = {dates}"
  text = f"[[recording]]\nparticipant = 'a'\nppg = {{ {fields} }}\n"
  (tmp_path / "manifest.toml").write_text(text)
  assert manifest.load(tmp_path).sessions[0].signals["ppg"].start_s == pytest.approx(start_s)


def test_rate_start_drift_offset_polarity_and_lines_before_the_header(tmp_path):
  _, acc, _ = _signals()
  counts = np.rint(acc * 4096 + 32768)
  np.savetxt(
    tmp_path / "e4.csv", counts, "%d", ",", header="1.0, 1.0, 1.0\n32, 32, 32", comments=""
  )
  entry = _entry(tmp_path, "e4.csv", "123", rate_hz=32.0, start_s=5.0, drift_ppm=40.0, skip=2)
  with pytest.raises(DistillError, match="gravity settles no unit, the median magnitude is"):
    own.read_signal(entry, "acc")
  signal, _ = own.read_signal(dataclasses.replace(entry, offset=32768.0), "acc")
  assert (signal.rate_hz, signal.start_s) == (pytest.approx(32 * (1 + 4e-5)), 5.0)
  np.testing.assert_allclose(signal.samples, acc, atol=2e-4)
  (tmp_path / "p.csv").write_text("a, b\n" + "1, 2\n3, \n" * 20)
  up, _ = own.read_signal(_entry(tmp_path, "p.csv", ["b"], rate_hz=64.0), "ppg")
  down, _ = own.read_signal(_entry(tmp_path, "p.csv", ["b"], rate_hz=64.0, inverted=True), "ppg")
  np.testing.assert_array_equal(up.samples[:4, 0], [2, np.nan, 2, np.nan])
  np.testing.assert_array_equal(down.samples, -up.samples)


def test_references_beats_ecg_heart_rate_and_activities(tmp_path):
  _, _, times = _signals()
  _write(tmp_path)
  t = np.arange(round(SECONDS * 250)) / 250
  ecg = sum(np.exp(-(((t - beat) / 0.012) ** 2)) for beat in times)
  _csv(tmp_path / "ecg.csv", "mv", [ecg])
  _csv(tmp_path / "beats.csv", "at", [times])
  _csv(tmp_path / "hr.csv", "t,bpm", [np.arange(60) * 2.0, np.r_[0.0, np.full(59, 75.0)]])
  (tmp_path / "act.csv").write_text("from,to,what\n0,60,rest\n60,130,walk\n")
  extra = {
    "ecg": "{ file = 'ecg.csv', column = 'mv', rate_hz = 250 }",
    "beats": "{ file = 'beats.csv', time = 'at', origin = 'chest_strap' }",
    "hr": "{ file = 'hr.csv', column = 'bpm', time = 't', window_s = 8, origin = 'ecg' }",
    "activity": "{ file = 'act.csv', columns = ['from', 'to', 'what'] }",
  }
  text = TOML.format(name="anna")
  recording = _read(tmp_path, text + "".join(f"{k} = {v}\n" for k, v in extra.items()))
  assert recording.beats.origin == "chest_strap"
  np.testing.assert_allclose(recording.beats.times_s, times, atol=1e-5)
  assert [one.label for one in recording.activities] == ["rest", "walk"]
  assert np.isnan(recording.heart_rate.hr_bpm[0])
  assert recording.heart_rate.hr_bpm[1] == 75.0
  from_ecg = _read(tmp_path, text + f"ecg = {extra['ecg']}\n").beats
  assert from_ecg.origin == "ecg"
  assert np.abs(from_ecg.times_s[:, None] - times).min(1).max() < 0.005


# --- what can be wrong ---


@pytest.mark.parametrize(
  ("text", "fields", "message"),
  [
    ("", {}, r"a\.csv is empty"),
    ("v\n", {}, r"a\.csv has a header but no data"),
    ("w\n1\n2\n", {}, r"a\.csv has no column 'v'; known: w"),
    ("v\n1\nx\n", {}, r"a\.csv, line 3, column 'v': expected a number, got 'x'"),
    ("v,w\n1,2\n3\n", {}, r"a\.csv, line 3: expected 2 fields, got 1; is the file cut off"),
    ("v,v\n1,2\n", {}, r"a\.csv has two columns 'v'"),
    ("t;v\n1,5;2,5\n", {}, r"line 2, column 'v'.* got '2,5'; write decimals with a point"),
    ("v\0\n\0", {}, r"a\.csv, line 1 holds zero bytes: is it UTF-16\? save it as UTF-8"),
    ("t,v\n0,1\n2024-01-01,2\n", {"time": "t"}, "line 3, column 't'.*dates need time_unit = 'iso'"),
    (
      "t,v\n2024-01-01,1\nx,2\n",
      {"time": "t", "time_unit": "iso"},
      "line 3, column 't'.*date such",
    ),
    ("t,v\n0,1\n,2\n1,2\n", {"time": "t"}, r"a\.csv, row 3: the time is missing"),
    ("t,v\n0,1\n1,2\n", {"time": "u"}, "no column 'u'"),
    ("v\n1\n2\n", {"rate_hz": None}, "here needs rate_hz = <samples per second>, or time"),
    ("t,v\n0,1\n1,2\n2,3\n", {"time": "t"}, "here has 1 samples per second; expected 8 to 5000"),
    ("v\n1\n2\n", {"time_unit": "min"}, "time_unit 'min'; expected one of s, ms, us, ns, iso"),
  ],
)
def test_broken_text_files_say_where(tmp_path, text, fields, message):
  (tmp_path / "a.csv").write_text(text)
  fields = {"rate_hz": None if "time" in fields else 64.0, **fields}
  with pytest.raises(DistillError, match=message) as caught:
    own.read_signal(_entry(tmp_path, "a.csv", ["v"], **fields), "ppg")
  assert "\n" not in str(caught.value)


def _wfdb_record(folder, count):
  samples = np.arange(2 * count, dtype="<i2").reshape(count, 2) % 100
  (folder / "a.dat").write_bytes(samples.tobytes())
  lines = [f"a 2 64 {count}", "a.dat 16 200 16 0 0 0 0 x", "a.dat 16 200 16 0 0 0 0 y"]
  (folder / "a.hea").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "npz", "edf", "hea"])
def test_a_recording_that_is_too_long_is_refused_before_it_fills_the_memory(
  tmp_path, monkeypatch, suffix
):
  """As many numbers as are allowed are read, one row more is refused."""
  path, most = tmp_path / f"a.{suffix}", 1280
  values = np.arange(most + 128.0)
  monkeypatch.setattr(tables, "_BLOCK_BYTES", 512)
  for rows in (most // 2, most // 2 + 64):
    x = values[:rows]
    if suffix == "parquet":
      pyarrow.parquet.write_table(pa.table({"x": x, "y": x, "z": x}), path)
    elif suffix == "npz":
      np.savez(path, x=x, y=x, z=x)
    elif suffix == "hea":
      _wfdb_record(tmp_path, rows)
    elif suffix == "edf":
      edfio = pytest.importorskip("edfio", reason="edfio is an optional package")
      edfio.Edf([edfio.EdfSignal(x, 64, label=name) for name in "xyz"]).write(path)
    else:
      np.savetxt(path, np.column_stack([x, x, x]), "%g", ",", header="x,y,z", comments="")
    monkeypatch.setattr(tables, "MOST_VALUES", most)
    if rows == most // 2:
      assert tables.read(path, ["x", "y"]).values.shape == (rows, 2)
      continue
    message = rf"a\.{suffix} is too long for one recording, of at most 1280.*split it into parts"
    with pytest.raises(DistillError, match=message):
      tables.read(path, ["x", "y"])


def _sparse(path, size=10 << 30):
  """A file that claims 10 GB and takes no room on the disk."""
  with open(path, "ab") as file:
    file.truncate(size)


def test_files_of_ten_gigabytes_are_refused_at_once(tmp_path):
  _sparse(tmp_path / "a.csv")
  (tmp_path / "b.csv").write_text("x\n1\n2\n")
  _sparse(tmp_path / "b.csv")
  for name in ("a.npz", "a.parquet", "a.edf"):
    _sparse(tmp_path / name)
  cases = {
    "a.csv": r"a\.csv, line 1 does not end: this is no table of text",
    "b.csv": r"b\.csv.* cannot be read",
    "a.npz": r"a\.npz cannot be read",
    "a.parquet": r"a\.parquet cannot be read",
    "a.edf": r"a\.edf cannot be read|needs the package edfio",
  }
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for name, message in cases.items():
    with pytest.raises(DistillError, match=message):
      tables.read(tmp_path / name, ["x"])
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_other_broken_files(tmp_path):
  np.savez(
    tmp_path / "a.npz",
    x=np.zeros(5),
    y=np.zeros(4),
    words=np.array(["a"]),
    deep=np.zeros((2, 2, 2)),
  )
  np.savez(tmp_path / "bad.npz", x=np.array([{}], object))
  pyarrow.parquet.write_table(pa.table({"s": ["a"], "v": [1.0]}), tmp_path / "a.parquet")
  cases = [
    ("a.npz", ["x", "y"], "the arrays differ in length: x 5, y 4"),
    ("a.npz", ["words"], "array 'words' holds <U1; expected numbers"),
    ("a.npz", ["deep"], r"shape \(2, 2, 2\); expected \[rows, columns\]"),
    ("a.npz", ["q"], "no column 'q'"),
    ("bad.npz", ["x"], "bad.npz cannot be read.*allow_pickle"),
    ("a.parquet", ["s"], "column 's' holds string; expected numbers"),
    ("a.parquet", ["q"], "no column 'q'"),
    ("absent.csv", ["q"], r"no file .*absent\.csv"),
  ]
  for name, columns, message in cases:
    with pytest.raises(DistillError, match=message):
      tables.read(tmp_path / name, columns)
  for name in ("a.npz", "a.parquet"):
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DistillError, match=rf"{name} cannot be read"):
      tables.read(tmp_path / name, ["x"])
  (tmp_path / "a.docx").write_text("x")
  with pytest.raises(DistillError, match=r"files \.docx cannot be read; known: \.csv"):
    tables.read(tmp_path / "a.docx", ["x"])


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("participant =", "person =", "recording 1: unknown key 'person'"),
    ('participant = "anna"', "", "recording 1 has no participant"),
    ("rate_hz = 64", "rate = 64", r"anna: ppg: unknown key 'rate'; did you mean 'rate_hz'"),
    ("rate_hz = 64", "rate_hz = -64", "rate_hz is -64; expected a positive number"),
    ("rate_hz = 64", 'rate_hz = "fast"', "rate_hz is 'fast'; expected a number"),
    ("rate_hz = 64", "rate_hz = inf", "rate_hz is inf; expected a number"),
    ("rate_hz = 64", "rate_hz = 64, start = nan", "start is nan; expected a number"),
    ("rate_hz = 64", "rate_hz = 64, skip = 1.5", "skip is 1.5; expected a whole number from 0 on"),
    ("rate_hz = 64", "rate_hz = 64, skip = -1", "skip is -1; expected a whole number from 0 on"),
    ("rate_hz = 64", "rate_hz = 64, window_s = 0", "window_s is 0; expected a positive number"),
    ("age = 31", 'age = "old"', "age is 'old'; expected a number"),
    ("age = 31", "age = 1993", "age is 1993; expected 0 to 120, or nothing"),
    ("bmi = 22.5", "bmi = 1.75", "bmi is 1.75; expected 5 to 150, or nothing"),
    ('sex = "F"', 'sex = "x"', "sex 'x'; expected female, male"),
    ('column = "green"', 'columns = ["a", "b"]', r"ppg names 2 column\(s\); expected 1"),
    ('"x", "y", "z"', '"x", "y"', r"acc names 2 column\(s\); expected 3: x, y and z"),
    ('file = "anna_ppg.csv", ', "", "ppg has no file"),
    ("ppg = {", "ppg = 3 #{", "ppg must be a table"),
    ("[[recording]]", "[[recording]", "is no TOML"),
    ("[[recording]]", "recording = 3\n[x]", "unknown key 'x'"),
    ("rate_hz = 64", "rate_hz = 64, drift_ppm = 1e5", "drift_ppm is 100000; expected under 10000"),
    ("rate_hz = 64", "rate_hz = 64, inverted = 'up'", "inverted is 'up'; expected true or false"),
  ],
)
def test_a_manifest_that_is_wrong_says_where(tmp_path, old, new, message):
  text = TOML.format(name="anna")
  assert old in text
  (tmp_path / "manifest.toml").write_text(text.replace(old, new))
  with pytest.raises(DistillError, match=message) as caught:
    manifest.load(tmp_path)
  assert "manifest.toml" in str(caught.value)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("signal", "kind", "line 1: no column 'signal'"),
    ("time_unit", "tim_unit", "line 1: unknown key 'tim_unit'; did you mean 'time_unit'"),
    ("anna,ppg,", "anna,pgg,", "line 2: signal 'pgg'; did you mean 'ppg'"),
    ("anna,acc,", "anna,ppg,", "line 3: ppg of anna/ is given twice"),
    ("green,64,,,,31,F,IV", "green,64", "line 2: expected 11 fields"),
    ("ben_ppg", "anna_ppg", r"anna_ppg.csv is given for 'anna' and for 'ben'"),
    ("ben,", ",", "line 4 has no participant"),
  ],
)
def test_a_csv_manifest_that_is_wrong_says_where(tmp_path, old, new, message):
  assert old in CSV
  (tmp_path / "manifest.csv").write_text(CSV.replace(old, new))
  with pytest.raises(DistillError, match=message):
    manifest.load(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_manifest_of_any_spreadsheet(tmp_path, delimiter):
  (tmp_path / "manifest.csv").write_text(CSV.replace(",", delimiter), encoding="utf-8-sig")
  assert [one.participant for one in manifest.load(tmp_path).sessions] == ["anna", "ben"]


@pytest.mark.parametrize("name", manifest.NAMES)
def test_a_manifest_in_another_encoding_is_told(tmp_path, name):
  (tmp_path / name).write_text("participant,signal,file", encoding="utf-16")
  with pytest.raises(DistillError, match=rf"{name} is not UTF-8 \(.*\); save it as UTF-8"):
    manifest.load(tmp_path)


def test_two_people_under_one_name(tmp_path):
  text = TOML.format(name="anna") + TOML.format(name="anna").replace("31", "62").replace(
    'participant = "anna"', 'participant = "anna"\nname = "second"'
  )
  (tmp_path / "manifest.toml").write_text(text)
  with pytest.raises(DistillError, match=r"'anna' has age 31\.0 and 62\.0; are these two people"):
    manifest.load(tmp_path)
  (tmp_path / "manifest.toml").write_text(text.replace("62", "31").replace('"IV"', '"II"', 1))
  with pytest.raises(DistillError, match="'anna' has skin_tone II and IV"):
    manifest.load(tmp_path)
  (tmp_path / "manifest.toml").write_text(TOML.format(name="anna") * 2)
  with pytest.raises(DistillError, match="anna/anna_ppg is given twice"):
    manifest.load(tmp_path)


def test_no_manifest_or_two(tmp_path):
  with pytest.raises(DistillError, match=r"no manifest.toml or manifest.csv in .*distill inspect"):
    manifest.load(tmp_path)
  for name in manifest.NAMES:
    (tmp_path / name).write_text("")
  with pytest.raises(DistillError, match=r"has both manifest\.toml and manifest\.csv"):
    manifest.load(tmp_path)
  (tmp_path / "manifest.csv").unlink()
  with pytest.raises(DistillError, match="names no recording"):
    manifest.load(tmp_path)
  with pytest.raises(DistillError, match=r"needs data\.source"):
    prepare(toy_set.config(tmp_path, sets=("own",), source=""))


def test_bad_recordings_are_left_out_and_the_others_prepared(tmp_path):
  """Everything at once: nothing of the good ones is lost, every bad one says why."""
  names = ("good", "cut", "nan", "flat", "unit", "gone", "apart", "twin", "back", "rate")
  for number, name in enumerate(names):
    _write(tmp_path, name, seed=number)
  ppg, _, _ = _signals()
  with open(tmp_path / "cut_ppg.csv", "a") as file:
    file.write("130.0\n")
  _csv(tmp_path / "nan_ppg.csv", "t,green", [np.arange(8320) / 64, np.full(8320, np.nan)])
  _csv(tmp_path / "flat_acc.csv", "t,x,y,z", [1000 * np.arange(4160) / 32, *np.ones((3, 4160))])
  (tmp_path / "gone_ppg.csv").unlink()
  for kind in ("ppg", "acc"):
    text = (tmp_path / f"good_{kind}.csv").read_text()
    (tmp_path / f"twin_{kind}.csv").write_text(text)
  back = np.r_[0:4160, 0:4160] / 64
  _csv(tmp_path / "back_ppg.csv", "t,green", [back, ppg])
  entries = {name: TOML.format(name=name) for name in names}
  entries["unit"] = entries["unit"].replace('time = "t"', 'unit = "g", time = "t"')
  entries["apart"] = entries["apart"].replace("rate_hz = 64", "rate_hz = 64, start = 900.0")
  timed = 'column = "green", time = "t"'
  entries["back"] = entries["back"].replace('column = "green", rate_hz = 64', timed)
  entries["rate"] = entries["rate"].replace("rate_hz = 64", 'rate_hz = 50, time = "t"')
  (tmp_path / "manifest.toml").write_text("".join(entries.values()))
  prepared = open_set(prepare(toy_set.config(tmp_path, sets=("own",)), progress=False)["own"])
  assert set(prepared.index["participant"]) == {"good"}
  assert len(prepared) == 3
  why = {one["recording"].partition("/")[0]: one["why"] for one in prepared.left_out["recordings"]}
  assert set(why) == set(names) - {"good"}
  expected = {
    "cut": "cut_ppg.csv, line 8322: expected 2 fields, got 1; is the file cut off there?",
    "nan": "no observed sample: all are NaN",
    "flat": "acc is constant (1): a sensor that was off",
    "unit": "which is no gravity in g (expected about 1); it looks like m/s2",
    "gone": "no file",
    "apart": "0 s in common",
    "twin": "it holds the same samples as a recording of good",
    "back": "back_ppg.csv, row 4162: time runs back by",
    "rate": "the time stamps say 64 Hz, rate_hz says 50 Hz",
  }
  for name, message in expected.items():
    assert message in why[name], name
    assert "\n" not in why[name]
  json.dumps(prepared.left_out)
