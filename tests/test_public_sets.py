"""Builders of the other public sets: made-up files in their layouts, the real ones if present."""

import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import scipy.io

from distill import beats, signals
from distill.data import datasets, pipeline, splits
from distill.data.datasets import (
  bami,
  empatica,
  galaxyppg,
  ieee_spc_2015,
  physionet_wrist,
  ppg_dalia,
  sleep_accel,
  wearable_device,
  wesad,
  wildppg,
)
from distill.data.prepare import prepare
from distill.data.recording import Stretch
from distill.data.store import open_set
from distill.data.windows import WindowSettings, cut_recording
from distill.errors import DistillError
from tests import pulses, toy_set

SECONDS = 130.0
TIMES_S = pulses.beat_times(SECONDS)
HR_BPM = 60.0 / np.diff(TIMES_S).mean()


def _ppg(rate_hz):
  return pulses.ppg_of(TIMES_S, SECONDS, rate_hz, noise=0.01)


def _ecg(rate_hz):
  t = np.arange(round(SECONDS * rate_hz)) / rate_hz
  return sum(np.exp(-(((t - beat) / 0.012) ** 2)) for beat in TIMES_S)


ECG_700 = _ecg(700.0)


def _labels():
  """As the sets give them: 8 s windows every 2 s."""
  return np.full(int((SECONDS - 8) // 2) + 1, HR_BPM)


def _builder(name, tmp_path, source=None):
  config = toy_set.config(tmp_path, source=str(source or tmp_path))
  return datasets.find(name)(config, tmp_path / "out", progress=False)


def _prepared(name, tmp_path, source=None):
  config = toy_set.config(tmp_path, sets=(name,), source=str(source or tmp_path), hop_s=60.0)
  return open_set(prepare(config, progress=False)[name])


def test_every_set_says_where_it_is_from_and_whom_to_cite():
  for name in datasets.DATASETS:
    builder = datasets.find(name)
    assert builder.name == name
    assert builder.SOURCE, name
    assert builder.LICENCE, name
    assert builder.CITATION or name in ("own", "simulated", "empatica_e4"), name


@pytest.mark.parametrize(
  "name", sorted(set(datasets.DATASETS) - {"own", "simulated", "bami", "wesad", "stress_predict"})
)
def test_an_empty_folder_names_what_was_expected(tmp_path, name):
  with pytest.raises(DistillError, match=rf"no .*under {tmp_path}"):
    _builder(name, tmp_path).sources()


# --- PPG-DaLiA ---


def _dalia(root, name="S1", **changes):
  folder = root / "PPG_FieldStudy" / name
  folder.mkdir(parents=True)
  activity = np.repeat([0, 1, 7], [40, 240, 240])[:, None]
  content = {
    "signal": {
      "wrist": {"ACC": pulses.acc_still(SECONDS).astype(float), "BVP": _ppg(64.0)[:, None]},
      "chest": {"ECG": ECG_700[:, None]},
    },
    "label": _labels(),
    "activity": activity.astype(float),
    "rpeaks": np.rint(TIMES_S * 700).astype(np.int32),
    "subject": name,
    "questionnaire": {
      "WEIGHT": 78,
      "Gender": " m",
      "AGE": 34,
      "HEIGHT": 182,
      "SKIN": 3,
      "SPORT": 6,
    },
  } | changes
  content = {key: value for key, value in content.items() if value is not None}
  # Named as NumPy 1 named it, as the official files do.
  written = pickle.dumps(content, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")
  (folder / f"{name}.pkl").write_bytes(written)
  return folder


@pytest.mark.parametrize("rpeaks", [True, False])
def test_ppg_dalia_pickle(tmp_path, rpeaks):
  folder = _dalia(tmp_path, **({} if rpeaks else {"rpeaks": None}))
  recording = ppg_dalia.read(folder)
  assert (recording.age, recording.sex) == (34.0, "male")
  assert recording.bmi == pytest.approx(78 / 1.82**2)
  assert [(s.label, s.start_s, s.stop_s) for s in recording.activities] == [
    ("sitting", 10.0, 70.0),
    ("walking", 70.0, 130.0),
  ]
  assert recording.beats.origin == recording.heart_rate.origin == "ecg"
  assert np.abs(recording.beats.times_s[:, None] - TIMES_S).min(1).max() < 0.004
  prepared = _prepared("ppg_dalia", tmp_path)
  assert len(prepared) == 2
  assert prepared.index["hr_bpm"] == pytest.approx(HR_BPM, abs=0.01)
  assert set(prepared.index["hrv_origin"]) == {"ecg"}
  assert prepared.index["activity"].tolist() == ["sitting", "walking"]
  pipeline.check_pairs(prepared)
  assert prepared.index["bmi"][0] == pytest.approx(23.5, abs=0.1)


def test_ppg_dalia_e4_alone(tmp_path):
  folder = tmp_path / "PPG_FieldStudy" / "S2"
  _write_e4(tmp_path / "raw", zipped=folder / "S2_E4.zip")
  (folder / "S2_quest.csv").write_text("# SUBJECT_ID, S2\n# AGE, 28\n# GENDER, f\n# HEIGHT, 170\n")
  recording = ppg_dalia.read(folder)
  assert (recording.beats, recording.heart_rate, recording.activities) == (None, None, ())
  assert (recording.age, recording.sex) == (28.0, "female")
  assert np.isnan(recording.bmi)
  (folder / "S2_E4.zip").unlink()
  with pytest.raises(DistillError, match=r"holds neither S2\.pkl nor S2_E4"):
    ppg_dalia.read(folder)


class _Bomb:
  def __reduce__(self):
    return (print, ("ran",))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"label": _Bomb()}, "print, which is no NumPy array"),
    ({"signal": {}}, "cannot be read as PPG-DaLiA's pickle"),
    ({"activity": None}, "cannot be read as PPG-DaLiA's pickle"),
  ],
)
def test_ppg_dalia_pickle_of_another_kind(tmp_path, capsys, changes, message):
  folder = _dalia(tmp_path, **changes)
  with pytest.raises(DistillError, match=message):
    ppg_dalia.read(folder)
  assert "ran" not in capsys.readouterr().out


def test_ppg_dalia_in_counts_is_refused(tmp_path):
  wrist = {"ACC": 64 * pulses.acc_still(SECONDS), "BVP": _ppg(64.0)[:, None]}
  folder = _dalia(tmp_path, signal={"wrist": wrist, "chest": {"ECG": np.zeros(3)}})
  with pytest.raises(DistillError, match=r"no gravity in g.*it looks like 1/64 g"):
    ppg_dalia.read(folder)


def test_wesad_body_mass(tmp_path):
  path = tmp_path / "S2_readme.txt"
  path.write_text("### Personal information ###\nAge: 27\nHeight (cm): 175\nWeight (kg): 80\n")
  assert wesad._person(path)["bmi"] == pytest.approx(80 / 1.75**2)


# --- IEEE SPC 2015 ---


def _spc(path, label_path, rows=6):
  path.parent.mkdir(parents=True, exist_ok=True)
  label_path.parent.mkdir(parents=True, exist_ok=True)
  acc = pulses.acc_still(SECONDS, 125.0)
  sig = np.stack([_ecg(125.0), _ppg(125.0), np.zeros(len(acc)), *acc.T])
  scipy.io.savemat(path, {"sig": sig[6 - rows :]})
  scipy.io.savemat(label_path, {"BPM0": _labels()[:, None]})


def test_ieee_spc_layouts(tmp_path):
  training, test = tmp_path / "Training_data", tmp_path / "TestData"
  _spc(training / "DATA_01_TYPE01.mat", training / "DATA_01_TYPE01_BPMtrace.mat")
  _spc(training / "DATA_04_TYPE01.mat", training / "REF_04_TYPE01.mat")
  extra = tmp_path / "Extra_TrainingData"
  _spc(extra / "DATA_S04_T01.mat", extra / "BPM_S04_T01.mat")
  _spc(test / "TEST_S01_T01.mat", tmp_path / "TrueBPM" / "True_S01_T01.mat", rows=5)
  sources = _builder("ieee_spc_2015", tmp_path).sources()
  names = ["P01/type01", "P04/type01", "T01/trial01", "T04/trial01"]
  assert [source.name for source in sources] == names
  for source, has_ecg in zip(sources, (True, True, False, True)):
    recording = source.load()
    assert f"{recording.participant}/{recording.name}" == source.name
    np.testing.assert_allclose(recording.signals["ppg"].samples[:, 0], _ppg(125.0), atol=1e-6)
    np.testing.assert_allclose(
      recording.signals["acc"].samples, pulses.acc_still(SECONDS, 125.0), atol=1e-6
    )
    assert recording.heart_rate.hr_bpm == pytest.approx(HR_BPM)
    assert (recording.beats is not None) == has_ecg
    if has_ecg:
      assert np.abs(recording.beats.times_s[:, None] - TIMES_S).min(1).max() < 0.004


def test_ieee_spc_files_that_are_wrong(tmp_path):
  path, labels = tmp_path / "DATA_01_TYPE01.mat", tmp_path / "DATA_01_TYPE01_BPMtrace.mat"
  _spc(path, labels)
  labels.unlink()
  with pytest.raises(DistillError, match=r"no heart rate for .*DATA_01_TYPE01\.mat; expected one"):
    ieee_spc_2015.read(path, "P01", "type01")
  scipy.io.savemat(path, {"sig": np.zeros((4, 10))})
  with pytest.raises(DistillError, match=r"sig is \(4, 10\); expected \(6, N\), or \(5, N\)"):
    ieee_spc_2015.read(path, "P01", "type01")
  path.write_bytes(b"MATLAB 5.0" + b" " * 200)
  with pytest.raises(DistillError, match=r"cannot be read as a MAT file|holds no array sig"):
    ieee_spc_2015.read(path, "P01", "type01")


def test_real_ieee_spc_r_peaks_agree_with_the_published_heart_rate(shared_data):
  """R peaks by the library against the set's own labels, window by window."""
  folder = shared_data / "ieee_spc_2015" / "Training_data"
  for number, kind in (("01", "TYPE01"), ("05", "TYPE02"), ("09", "TYPE02")):
    recording = ieee_spc_2015.read(folder / f"DATA_{number}_{kind}.mat", f"P{number}", kind)
    track = recording.heart_rate
    found = [beats.labels(recording.beats, t0, 8.0).hr_bpm for t0 in track.t0_s]
    errors = [abs(one.value - bpm) for one, bpm in zip(found, track.hr_bpm) if one.valid]
    assert len(errors) > 0.95 * len(track.hr_bpm)
    assert np.median(errors) < 0.3
    assert np.quantile(errors, 0.95) < 3


# --- BAMI-2 ---


def test_bami_2_labels_are_late_and_implausible_ones_are_left_out(tmp_path):
  folder = tmp_path / "BAMI-2"
  folder.mkdir()
  scipy.io.savemat(
    folder / "BAMI2_7.mat",
    {
      "rawPPG": np.full((3, 500), 30000, np.uint16),
      "rawAcc": np.full((3, 500), 32768, np.uint16),
      "bpm_ecg": np.array([[80.0], [40.0]]),
    },
  )
  (source,) = _builder("bami2", tmp_path).sources()
  track = source.load().heart_rate
  assert track.t0_s.tolist() == [1.0, 3.0]
  np.testing.assert_array_equal(track.hr_bpm, np.float32([80, np.nan]))
  assert bami.Bami2.name == "bami2"


# --- Empatica E4 exports and the wearable-device set ---


def _write_e4(folder, start="1644227574.00", zipped=None, newline="\n", repeat=1):
  folder.mkdir(parents=True, exist_ok=True)
  ppg, acc = 50 * _ppg(64.0), np.rint(64 * pulses.acc_still(SECONDS))
  texts = {
    "BVP": [start, "64.000000", *(f"{value:.2f}" for value in np.tile(ppg, repeat))],
    "ACC": [", ".join([start] * 3), ", ".join(["32.000000"] * 3)]
    + [f"{x:.1f},{y:.1f},{z:.1f}" for x, y, z in np.tile(acc, (repeat, 1))],
  }
  for name, lines in texts.items():
    (folder / f"{name}.csv").write_text(newline.join(lines) + newline, newline="")
  if zipped:
    zipped.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(zipped, "w") as archive:
      for name in texts:
        archive.write(folder / f"{name}.csv", f"{name}.csv")


def test_any_tree_of_e4_sessions(tmp_path):
  root = tmp_path / "export"
  _write_e4(root / "anna" / "monday")
  _write_e4(tmp_path / "raw", zipped=root / "ben.zip")
  with zipfile.ZipFile(root / "notes.zip", "w") as archive:
    archive.writestr("notes.txt", "x")
  (root / "broken.zip").write_text("no archive")
  sources = _builder("empatica_e4", tmp_path, root).sources()
  assert [source.name for source in sources] == ["anna/monday", "ben"]
  recordings = [source.load() for source in sources]
  assert [(r.participant, r.name) for r in recordings] == [("anna", "monday"), ("ben", "session")]
  for recording in recordings:
    assert recording.signals["ppg"].start_s == 1644227574.0
    assert empatica.read(root / "ben.zip").keys() == recording.signals.keys()


def test_wearable_device_set(tmp_path):
  session = tmp_path / "STRESS" / "S02"
  _write_e4(session, "2013-02-20 17:55:19", newline="\r\n", repeat=2)
  _write_e4(tmp_path / "AEROBIC" / "S11_a", "2013-02-21 10:00:00", newline="\r\n")
  (tmp_path / "subject-info.csv").write_text(
    "Info,Gender,Age,Height (cm),Weight (kg)\nS02,m,22,180,81\nS11,f,-,,\n"
  )
  sources = _builder("wearable_device", tmp_path).sources()
  assert [source.name for source in sources] == ["S02/stress", "S11_a/aerobic"]
  first, second = (source.load() for source in sources)
  assert first.signals["ppg"].start_s == 1361382919.0
  np.testing.assert_allclose(first.signals["ppg"].samples[:, 0], 50 * _ppg(64.0), atol=0.006)
  assert len(first.signals["acc"].samples) == 32 * SECONDS
  assert (first.age, first.sex, first.bmi) == (22.0, "male", pytest.approx(25.0))
  assert (second.participant, second.name, second.sex) == ("S11", "aerobic_a", "female")
  assert np.isnan([second.age, second.bmi]).all()
  assert [one.label for one in (*first.activities, *second.activities)] == ["stress", "aerobic"]
  # As the archive has it: the protocols lie in a folder of their own beside the file.
  (tmp_path / "Wearable_Dataset").mkdir()
  (tmp_path / "STRESS").rename(tmp_path / "Wearable_Dataset" / "STRESS")
  session = tmp_path / "Wearable_Dataset" / "STRESS" / "S02"
  assert wearable_device.read(session).age == 22.0
  (tmp_path / "subject-info.csv").unlink()
  assert wearable_device.read(session).sex == ""


# --- GalaxyPPG ---


def _galaxy(root):
  folder, start_ms = root / "Dataset" / "P02", 1710812003626
  for name in ("GalaxyWatch", "E4", "PolarH10"):
    (folder / name).mkdir(parents=True)
  (root / "Dataset" / "Meta.csv").write_text(
    "UID,AGE,GENDER,TSST,SSST,GalaxyWatch\nP01,21,F,-,-,L\nP02,25,M,5,6,R\n"
  )
  ppg = 2e6 - 1e4 * _ppg(25.0)
  stamps = start_ms + np.rint(1000 * np.arange(len(ppg)) / 25).astype(int)
  status = np.where(np.arange(len(ppg)) // 25 == 100, -999, 0)
  rows = zip(stamps, ppg, status)
  (folder / "GalaxyWatch" / "PPG.csv").write_text(
    "dataReceived,timestamp,ppg,status\n"
    + "".join(f"{start_ms + 9000},{t},{v:.0f},{s}\n" for t, v, s in rows)
  )
  acc = np.rint(64 * pulses.acc_still(SECONDS)).astype(int)
  micros = 1000 * (start_ms - 500) + np.rint(1e6 * np.arange(len(acc)) / 32).astype(int)
  (folder / "E4" / "ACC.csv").write_text(
    "x,y,z,timestamp\n" + "".join(f"{x},{y},{z},{t}\n" for (x, y, z), t in zip(acc, micros))
  )
  phone = start_ms + 32400000 + np.rint(1000 * TIMES_S).astype(int)
  (folder / "PolarH10" / "IBI.csv").write_text(
    "phoneTimestamp,duration\n" + "".join(f"{t},{d}\n" for t, d in zip(phone[:-1], np.diff(phone)))
  )
  (folder / "Event.csv").write_text(
    "timestamp,session,status\n"
    f"{start_ms},baseline,ENTER\n{start_ms + 70000},baseline,EXIT\n{start_ms + 80000},tsst,EXIT\n"
  )
  return folder, start_ms / 1000


def test_galaxyppg(tmp_path):
  folder, start_s = _galaxy(tmp_path)
  (source,) = _builder("galaxyppg", tmp_path).sources()
  recording = source.load()
  ppg, acc = recording.signals["ppg"], recording.signals["acc"]
  assert (ppg.rate_hz, acc.rate_hz) == (
    pytest.approx(25.0, rel=1e-4),
    pytest.approx(32.0, rel=1e-6),
  )
  assert (ppg.start_s, acc.start_s) == (pytest.approx(start_s), pytest.approx(start_s - 0.5))
  missing = np.isnan(ppg.samples[:, 0])
  assert np.flatnonzero(missing).tolist() == list(range(2500, 2525))
  upright = ppg.samples[~missing, 0] + 2e6
  np.testing.assert_allclose(upright, 1e4 * _ppg(25.0)[~missing], atol=40)
  assert recording.beats.origin == "chest_strap"
  np.testing.assert_allclose(recording.beats.times_s - start_s, TIMES_S, atol=0.0015)
  assert recording.activities == (Stretch(start_s, start_s + 70.0, "baseline"),)
  assert (recording.age, recording.sex) == (25.0, "male")
  prepared = _prepared("galaxyppg", tmp_path)
  assert not prepared.same_device
  with pytest.raises(DistillError, match="of set galaxyppg come from different devices and clocks"):
    pipeline.check_pairs(prepared)
  assert prepared.index["hr_bpm"] == pytest.approx(HR_BPM, abs=1.5)
  ecg, path = _ecg(130.0), folder / "PolarH10" / "ECG.csv"
  phone = round(1000 * start_s) + 32400000 + np.rint(1000 * np.arange(len(ecg)) / 130).astype(int)
  for stamps, origin in ((phone, "ecg"), (phone[::73].repeat(73)[: len(ecg)], "chest_strap")):
    rows = "".join(f"{t},{10**6 * t},{1000 * v:.0f}\n" for t, v in zip(stamps, ecg))
    path.write_text("phoneTimestamp,sensorTimestamp,ecg\n" + rows)
    found = source.load().beats
    assert found.origin == origin
    near = np.abs(found.times_s[:, None] - start_s - TIMES_S).min(axis=1)
    assert len(found.times_s) >= len(TIMES_S) - 1
    assert near.max() < 0.01
  (folder / "GalaxyWatch" / "PPG.csv").unlink()
  with pytest.raises(DistillError, match=r"no file .*GalaxyWatch/PPG\.csv"):
    source.load()


def test_real_galaxyppg_pulse_rate_against_the_chest_strap(shared_data):
  """Clocks of three devices, the 9 hours of the phone, and the polarity, all at once."""
  root = shared_data / "galaxyppg" / "Dataset"
  recording = galaxyppg.read(root / "P02", root / "Meta.csv")
  signal = recording.signals["ppg"]
  even = signals.resample(signal.samples, signal.rate_hz, 64.0)
  pulse = beats.shifted(beats.detect_ppg(even[:, 0], 64.0), signal.start_s)
  errors = []
  for t0_s in np.arange(signal.start_s, signal.stop_s - 60, 60):
    ours, true = (beats.labels(one, t0_s, 60.0).hr_bpm for one in (pulse, recording.beats))
    if ours.valid and true.valid:
      errors.append(abs(ours.value - true.value))
  assert len(errors) > 20
  assert np.median(errors) < 1.5
  assert {"baseline", "adaptation"} <= {one.label for one in recording.activities}


# --- PhysioNet wrist ---


def test_real_physionet_wrist(shared_data, tmp_path):
  pytest.importorskip("wfdb", reason="wfdb is an optional package")
  (source,) = _builder("physionet_wrist", tmp_path, shared_data).sources()
  recording = source.load()
  assert (recording.participant, recording.name) == ("s8", "walk")
  acc = recording.signals["acc"].samples
  assert np.nanmedian(np.linalg.norm(acc, axis=1)) == pytest.approx(0.98, abs=0.05)
  assert 140 <= np.isnan(acc[:, 0]).sum() <= 170
  assert recording.activities[0].label == "walking"
  found = beats.detect_ecg(
    physionet_wrist.tables.read(
      shared_data / "physionet_wrist" / "s8_walk.hea", ["chest_ecg"]
    ).values[:, 0],
    256.0,
  )
  distance = np.abs(found.times_s[:, None] - recording.beats.times_s).min(1)
  assert np.median(distance) < 0.02
  prepared = _prepared("physionet_wrist", tmp_path, shared_data)
  assert set(prepared.index["hr_origin"]) == {"ecg"}


def test_physionet_wrist_without_its_package(tmp_path, monkeypatch):
  import importlib

  def without(name):
    raise ImportError(name)

  (tmp_path / "s1_walk.hea").write_text("s1_walk 15 256 10\n")
  (source,) = _builder("physionet_wrist", tmp_path).sources()
  monkeypatch.setattr(importlib, "import_module", without)
  with pytest.raises(DistillError, match="needs the package wfdb, which is not installed"):
    source.load()


# --- WildPPG ---


def _wild(path, **changes):
  acc = 9.81 * pulses.acc_still(SECONDS, 128.0)

  def trace(values):
    return {"fs": 128.0, "v": np.asarray(values)[None], "descr": "trace"}

  wrist = {"ppg_g": trace(_ppg(128.0))} | {
    f"acc_{a}": trace(acc[:, i]) for i, a in enumerate("xyz")
  }
  sternum = {"ecg": trace(_ecg(128.0)), "ppg_g": trace(_ppg(128.0))}
  content = {"id": "an0", "notes": "", "wrist": wrist, "sternum": sternum} | changes
  scipy.io.savemat(path, content)
  return acc / 9.80665


def test_wildppg(tmp_path):
  acc_g = _wild(tmp_path / "WildPPG_Part_an0.mat")
  (source,) = _builder("wildppg", tmp_path).sources()
  recording = source.load()
  assert (recording.participant, source.name) == ("an0", "an0")
  np.testing.assert_allclose(recording.signals["acc"].samples, acc_g, atol=1e-5)
  np.testing.assert_allclose(recording.signals["ppg"].samples[:, 0], _ppg(128.0), atol=1e-6)
  assert recording.signals["ppg"].rate_hz == 128.0
  assert recording.beats.origin == "ecg"
  assert np.abs(recording.beats.times_s[:, None] - TIMES_S).min(1).max() < 0.006
  windows = list(cut_recording(recording, WindowSettings()))
  assert windows[0].columns["hr_bpm"] == pytest.approx(HR_BPM, abs=1)


@pytest.mark.parametrize("changes", [{"sternum": {"x": 1.0}}, {"wrist": 3.0}])
def test_wildppg_of_another_kind(tmp_path, changes):
  _wild(tmp_path / "WildPPG_Part_an0.mat", **changes)
  with pytest.raises(DistillError, match=r"an0\.mat has no trace (sternum\.ecg|wrist\.ppg_g)"):
    wildppg.read(tmp_path / "WildPPG_Part_an0.mat")


# --- sleep-accel ---


def _sleep(root):
  for name in ("motion", "heart_rate", "labels"):
    (root / name).mkdir(parents=True)
  rng = np.random.default_rng(0)
  acc = pulses.acc_still(400.0, 50.0)
  times_s = -20 + np.arange(len(acc)) / 50 + rng.uniform(-0.003, 0.003, len(acc))
  times_s[0] = -5000.0  # a stray sample of the day before
  rows = np.column_stack([times_s, acc])
  np.savetxt(root / "motion" / "46343_acceleration.txt", rows, "%.6f")
  seconds = np.arange(-15, 380, 5.0)
  bpm = np.column_stack([seconds, np.where(seconds < 200, 60, 70)])
  np.savetxt(root / "heart_rate" / "46343_heartrate.txt", bpm, "%.5f", ",")
  stages = np.column_stack([np.arange(0, 360, 30), [-1, 0, 0, 1, 2, 2, 3, 3, 5, 5, 5, 0]])
  np.savetxt(root / "labels" / "46343_labeled_sleep.txt", stages, "%d")
  return root / "motion" / "46343_acceleration.txt"


def test_a_set_without_ppg_serves_probes(tmp_path):
  _sleep(tmp_path)
  recording = sleep_accel.read(tmp_path / "motion" / "46343_acceleration.txt")
  assert list(recording.signals) == ["acc"]
  assert recording.signals["acc"].start_s == pytest.approx(-20, abs=0.05)
  labels = [(one.label, one.start_s, one.stop_s) for one in recording.activities]
  assert labels[:3] == [("wake", 30.0, 90.0), ("N1", 90.0, 120.0), ("N2", 120.0, 180.0)]
  prepared = _prepared("sleep_accel", tmp_path)
  assert list(prepared.specs) == ["acc"]
  assert list(prepared[0]) == ["acc"]
  assert prepared[0]["acc"].shape == (3000, 3)
  assert not prepared.index["ppg_usable"].any()
  assert prepared.index["hr_bpm"][[0, 5]].tolist() == [60.0, 70.0]
  assert set(prepared.index["hr_origin"]) == {"ppg"}
  assert np.isnan(prepared.index["sdnn_ms"]).all()
  with pytest.raises(DistillError, match="set sleep_accel has acceleration but no PPG: it serves"):
    pipeline.check_pairs(prepared)
  folds = splits.Split((), (), ("46343",))
  rows = pipeline.select(prepared, folds, "test", overlapping=False, min_coverage=0.5)
  assert len(rows) == len(prepared) == 6


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("0 1 2 3\n1 2 x 4\n", r"46343_acceleration\.txt, line 2: expected 4 numbers, got '1 2 x 4'"),
    ("0 1 2 3\n1 2 3\n", r"line 2: expected 4 numbers, got '1 2 3'"),
    ("", "has no data"),
  ],
)
def test_sleep_accel_files_that_are_broken(tmp_path, text, message):
  path = _sleep(tmp_path)
  path.write_text(text)
  with pytest.raises(DistillError, match=message):
    sleep_accel.read(path)
  path.unlink()
  with pytest.raises(DistillError, match="no file"):
    sleep_accel.read(pathlib.Path(path))
