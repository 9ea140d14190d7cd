"""The official layouts: made-up files of each, broken ones, and the real ones where present."""

import pickle
import zipfile

import numpy as np
import pytest
import scipy.io

from distill import beats
from distill.data import windows
from distill.data.datasets import bami, empatica, stress_predict, wesad
from distill.data.prepare import prepare
from distill.data.recording import Stretch
from distill.data.store import open_set
from distill.data.windows import WindowSettings
from distill.errors import DistillError
from tests import pulses, toy_set

START_S = 1644227574.0


def _e4(folder, seconds=130.0, **texts):
  """An E4 session; `texts` replaces whole files."""
  folder.mkdir(parents=True, exist_ok=True)
  ppg = 50 * pulses.ppg_of(pulses.beat_times(seconds), seconds, noise=0.01)
  acc = np.rint(64 * pulses.acc_still(seconds)).astype(int)
  files = {
    "BVP": f"{START_S:.2f}\n64.000000\n" + "".join(f"{value:.2f}\n" for value in ppg),
    "ACC": ", ".join([f"{START_S:.6f}"] * 3)
    + "\n32.000000, 32.000000, 32.000000\n"
    + "".join(f"{x},{y},{z}\n" for x, y, z in acc),
  }
  for name, text in (files | texts).items():
    if text is not None:
      (folder / f"{name}.csv").write_text(text)
  return ppg, acc


# --- Empatica E4 ---


@pytest.mark.parametrize("zipped", [False, True])
def test_e4_session(tmp_path, zipped):
  session = tmp_path / "S1"
  ppg, acc = _e4(session)
  if zipped:
    path = tmp_path / "S1_E4_Data.zip"
    with zipfile.ZipFile(path, "w") as archive:
      for name in ("ACC.csv", "BVP.csv"):
        archive.write(session / name, name)
    session = path
  found = empatica.read(session)
  assert (found["ppg"].rate_hz, found["acc"].rate_hz) == (64.0, 32.0)
  assert found["ppg"].start_s == found["acc"].start_s == START_S
  np.testing.assert_allclose(found["ppg"].samples[:, 0], ppg, atol=0.006)
  np.testing.assert_array_equal(found["acc"].samples, (acc / 64).astype(np.float32))
  assert found["acc"].samples.dtype == np.float32


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    ({"ACC": "1, 1, 1\n32, 32, 32\n1,2,3\n4,5\n"}, r"ACC\.csv, line 4: expected 3 .*got '4,5'"),
    ({"ACC": "1, 1, 1\n32, 32, 32\n1,2,3\n4,5,a\n"}, r"ACC\.csv, line 4: expected 3 .*'4,5,a'"),
    ({"ACC": "1, 1, 1\n32, 32, 32\n1,2\n4,5\n"}, r"ACC\.csv has 2 columns; expected 3"),
    ({"ACC": "1, 1, 1\n32, 32, 32\n"}, r"ACC\.csv has no data"),
    ({"ACC": "1, 1, 1\n"}, r"ACC\.csv has no data"),
    ({"ACC": ""}, r"ACC\.csv has no data"),
    ({"ACC": "1, 1, 1\n25, 25, 25\n1,2,3\n"}, r"ACC\.csv, line 2: rate 25 Hz; expected 32 Hz"),
    ({"ACC": "x\n32\n1,2,3\n"}, r"ACC\.csv, line 1: expected a number, got 'x'"),
    ({"BVP": None}, r"no .*BVP\.csv; expected an Empatica E4 session"),
    ({"BVP": "1\n64\n1.0\nü\n"}, r"BVP\.csv cannot be read"),
  ],
)
def test_e4_files_that_are_broken_say_where(tmp_path, texts, message):
  _e4(tmp_path / "S1", 2.0, **texts)
  with pytest.raises(DistillError, match=message) as caught:
    empatica.read(tmp_path / "S1")
  assert "\n" not in str(caught.value)


def test_e4_zip_that_is_none(tmp_path):
  (tmp_path / "a.zip").write_text("no archive")
  with pytest.raises(DistillError, match=r"a\.zip/BVP\.csv cannot be read"):
    empatica.read(tmp_path / "a.zip")


# --- BAMI ---


def _bami(path, n=500, **changes):
  rng = np.random.default_rng(0)
  acc_g = np.array([0.0, -1.0, 0.5])[:, None] + rng.normal(0, 0.01, (3, n))
  content = {
    "rawPPG": rng.integers(30000, 31000, (3, n)).astype(np.uint16),
    "rawAcc": np.rint(acc_g * 4096 + 32768).astype(np.uint16),
    "bpm_ecg": np.array([[80.0], [90.0], [20.0], [400.0]]),
    "bpm_proposed": np.zeros((4, 1)),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(path, {k: v for k, v in (content | changes).items() if v is not None})
  return content, acc_g


def test_bami_units_and_labels(tmp_path):
  content, acc_g = _bami(tmp_path / "BAMI1_1.mat")
  recording = bami.read(tmp_path / "BAMI1_1.mat", "P01")
  np.testing.assert_allclose(recording.signals["acc"].samples, acc_g.T, atol=1 / 4096)
  upright = -content["rawPPG"][0].astype(np.float32)
  np.testing.assert_array_equal(recording.signals["ppg"].samples[:, 0], upright)
  track = recording.heart_rate
  np.testing.assert_array_equal(track.t0_s, [0, 2, 4, 6])
  np.testing.assert_array_equal(track.hr_bpm, np.float32([80, 90, np.nan, np.nan]))
  assert (track.window_s, track.origin) == (8.0, "ecg")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"bpm_ecg": None}, "holds no array bpm_ecg"),
    ({"rawAcc": np.zeros((2, 500), np.uint16)}, r"rawAcc \(2, 500\).*expected \(3, N\)"),
    ({"rawPPG": np.zeros((0, 0))}, "holds no array rawPPG"),
  ],
)
def test_bami_files_of_another_kind(tmp_path, changes, message):
  _bami(tmp_path / "BAMI1_1.mat", **changes)
  with pytest.raises(DistillError, match=message):
    bami.read(tmp_path / "BAMI1_1.mat", "P01")


def test_bami_file_that_is_cut_off(tmp_path):
  path = tmp_path / "BAMI1_1.mat"
  _bami(path, n=20000)
  path.write_bytes(path.read_bytes()[:60000])
  with pytest.raises(DistillError, match="cannot be read as a MAT file"):
    bami.read(path, "P01")


def test_bami_sources_are_ordered_by_number_and_skip_other_files(tmp_path):
  for name in ("BAMI1_10", "BAMI1_2", "BAMI2_1", "BAMI1_x"):
    _bami(tmp_path / "bami" / "BAMI-1" / f"{name}.mat")
  builder = bami.Bami(toy_set.config(tmp_path), tmp_path / "out")
  assert [source.name for source in builder.sources()] == ["P02", "P10"]


# --- Stress-Predict ---


def _stress(root, label_rows, header=stress_predict.LABEL_HEADER):
  _e4(root / "Raw_data" / "S02")
  path = root / stress_predict.LABEL_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(header + "\n" + "".join(f"{row}\n" for row in label_rows))
  return root / "Raw_data" / "S02", path


def test_stress_predict_labels_become_stretches(tmp_path):
  times = [START_S + t for t in (0, 1, 2, 3, 10, 11)]
  rows = [f"2,80,12,{t:.0f},{label}" for t, label in zip(times, (0, 0, 1, 1, 1, 0))]
  session, labels = _stress(tmp_path, [*rows, f"3,80,12,{START_S:.0f},1"])
  recording = stress_predict.read(session, labels)
  expected = [(0, 2, "baseline"), (2, 4, "stress"), (10, 11, "stress"), (11, 12, "baseline")]
  assert recording.activities == tuple(
    Stretch(START_S + start, START_S + stop, name) for start, stop, name in expected
  )
  assert stress_predict.read(session, tmp_path / "absent.csv").activities == ()


@pytest.mark.parametrize(
  ("rows", "header", "message"),
  [
    (["2,80,12,1,0"], "Participant,HR", "line 1: 'Participant,HR'; expected"),
    (["2,80,12,1,0", "2,80"], stress_predict.LABEL_HEADER, "row"),
    (["2,80,12,1,7"], stress_predict.LABEL_HEADER, "labels other than 0 and 1"),
  ],
)
def test_stress_predict_label_file_that_is_broken(tmp_path, rows, header, message):
  session, labels = _stress(tmp_path, rows, header)
  with pytest.raises(DistillError, match=message) as caught:
    stress_predict.read(session, labels)
  assert str(labels) in str(caught.value)


# --- WESAD ---


README = "### Personal information ###\nAge: 27\nHeight (cm): 175\nGender: female\n"


def _segments(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return path


def test_wesad_from_e4_files_with_derived_conditions(tmp_path):
  _e4(tmp_path / "S2" / "S2_E4_Data")
  (tmp_path / "S2" / "S2_readme.txt").write_text(README)
  segments = _segments(
    tmp_path / "derived.csv",
    "subject,label_name,e4_start_s,e4_end_s\nS3,stress,0,9\nS2,baseline,10.5,100\n",
  )
  recording = wesad.read(tmp_path / "S2", segments)
  assert recording.activities == (Stretch(START_S + 10.5, START_S + 100, "baseline"),)
  assert (recording.age, recording.sex, recording.beats) == (27.0, "female", None)
  (tmp_path / "S2" / "S2_readme.txt").unlink()
  bare = wesad.read(tmp_path / "S2", tmp_path / "absent.csv")
  assert (bare.activities, bare.sex) == ((), "")
  assert np.isnan(bare.age)


def test_wesad_broken_segments_and_empty_participant(tmp_path):
  _e4(tmp_path / "S2" / "S2_E4_Data")
  segments = _segments(tmp_path / "derived.csv", "subject,label_name\nS2,stress\n")
  with pytest.raises(DistillError, match=r"derived\.csv has a broken row or header"):
    wesad.read(tmp_path / "S2", segments)
  (tmp_path / "S3").mkdir()
  with pytest.raises(DistillError, match=r"holds neither S3\.pkl nor S3_E4_Data"):
    wesad.read(tmp_path / "S3", segments)


def _wesad_pickle(folder, scale=64.0, **changes):
  seconds = 100.0
  times = pulses.beat_times(seconds)
  t = np.arange(round(seconds * 700)) / 700
  ecg = sum(np.exp(-(((t - beat) / 0.012) ** 2)) for beat in times)
  label = np.where(t < 30, 0, np.where(t < 70, 1, np.where(t < 80, 5, 4)))
  wrist = {
    "ACC": scale * pulses.acc_still(seconds),
    "BVP": pulses.ppg_of(times, seconds)[:, None],
  }
  content = {"subject": folder.name, "label": label}
  content |= {"signal": {"wrist": wrist, "chest": {"ECG": ecg[:, None]}}} | changes
  folder.mkdir(exist_ok=True)
  # Named as NumPy 1 named it, as the official files do.
  written = pickle.dumps(content, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")
  (folder / f"{folder.name}.pkl").write_bytes(written)
  return times


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_wesad_pickle_gives_ecg_beats_conditions_and_g(tmp_path, scale):
  times = _wesad_pickle(tmp_path / "S2", scale)
  recording = wesad.read(tmp_path / "S2", tmp_path / "absent.csv")
  acc = recording.signals["acc"].samples
  assert np.median(np.linalg.norm(acc, axis=1)) == pytest.approx(1.0, abs=0.02)
  assert recording.beats.origin == "ecg"
  assert np.median(np.abs(recording.beats.times_s[:, None] - times).min(1)) < 0.003
  names = [(one.label, round(one.start_s), round(one.stop_s)) for one in recording.activities]
  assert names == [("baseline", 30, 70), ("meditation", 80, 100)]


class _Bomb:
  def __reduce__(self):
    return (print, ("ran",))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"signal": {}}, "KeyError"),
    ({"label": _Bomb()}, "print, which is no NumPy array"),
  ],
)
def test_wesad_pickle_of_another_kind(tmp_path, capsys, changes, message):
  _wesad_pickle(tmp_path / "S2", **changes)
  with pytest.raises(DistillError, match=rf"S2\.pkl cannot be read.*{message}"):
    wesad.read(tmp_path / "S2", tmp_path / "absent.csv")
  assert "ran" not in capsys.readouterr().out


def test_wesad_acceleration_in_an_unknown_unit(tmp_path):
  _wesad_pickle(tmp_path / "S2", scale=9.81)
  with pytest.raises(DistillError, match=r"median acceleration is 9\..*; expected 1 \(g\) or 64"):
    wesad.read(tmp_path / "S2", tmp_path / "absent.csv")


# --- the real recordings ---


def test_real_bami_pulse_rate_against_ecg(shared_data):
  """The label road of the sets without ECG, on the set that has it."""
  settings, errors, still = WindowSettings(), [], []
  for number in (3, 6, 11, 12, 14, 15, 22, 23, 24):
    path = shared_data / "bami" / "BAMI-1" / f"BAMI1_{number}.mat"
    recording = bami.read(path, "P")
    prepared = windows._prepare(recording, settings)
    for t0_s in windows.starts(recording, settings):
      found = beats.labels(prepared.pulse, t0_s, 60.0).hr_bpm
      if found.valid:
        truth = beats.track_hr(recording.heart_rate, t0_s, 60.0).value
        errors.append(abs(found.value - truth))
        motion = windows.motion_g(prepared.at("acc", t0_s), 50.0)
        still.append(motion <= windows.WALKING_G)
  errors, still = np.array(errors), np.array(still)
  assert still.sum() >= 8
  assert errors[still].max() < 5
  assert errors[still].mean() < 1.5
  assert errors[~still].mean() > 5  # why a walking wrist gives no label


def test_real_bami_gravity(shared_data):
  recording = bami.read(shared_data / "bami" / "BAMI-1" / "BAMI1_14.mat", "P14")
  acc = recording.signals["acc"].samples
  assert np.median(np.linalg.norm(acc, axis=1)) == pytest.approx(1.0, abs=0.05)


def test_real_wesad_conditions_and_gravity(shared_data):
  root = shared_data / "wesad"
  recording = wesad.read(root / "WESAD" / "S2", root / wesad.SEGMENT_FILE)
  minutes = {}
  for one in recording.activities:
    minutes[one.label] = minutes.get(one.label, 0) + (one.stop_s - one.start_s) / 60
  assert minutes["baseline"] == pytest.approx(19.07, abs=0.1)
  assert (recording.age, recording.sex) == (27.0, "male")
  acc = recording.signals["acc"].samples
  assert np.median(np.linalg.norm(acc, axis=1)) == pytest.approx(0.985, abs=0.03)


def test_real_stress_predict_pulse_rate_against_the_device(shared_data):
  """E4's own trusted intervals are another detector on the same signal."""
  root = shared_data / "stress_predict"
  session = root / "Raw_data" / "S13"
  recording = stress_predict.read(session, root / stress_predict.LABEL_FILE)
  assert {one.label for one in recording.activities} == {"baseline", "stress"}
  signal = recording.signals["ppg"]
  found = beats.detect_ppg(signal.samples[:, 0], signal.rate_hz)
  ibi = np.loadtxt(session / "IBI.csv", delimiter=",", skiprows=1)
  errors = []
  for t0_s in np.arange(0, len(signal.samples) / 64 - 60, 60):
    label = beats.labels(found, t0_s, 60.0).hr_bpm
    theirs = ibi[(ibi[:, 0] >= t0_s) & (ibi[:, 0] < t0_s + 60), 1]
    if label.valid and len(theirs) > 30:
      errors.append(abs(label.value - 60 / theirs.mean()))
  assert len(errors) > 20
  assert np.mean(errors) < 1.5


def test_real_set_is_prepared(shared_data, tmp_path):
  config = toy_set.config(tmp_path, sets=("bami",), source=str(shared_data), hop_s=60.0)
  prepared = open_set(prepare(config, progress=False)["bami"])
  assert len(prepared) == 304
  assert len(set(prepared.index["participant"])) == 25
  assert np.isfinite(prepared.index["hr_bpm"]).all()
  assert set(prepared.index["hr_origin"]) == {"ecg"}
  assert prepared.left_out == {"recordings": [], "windows": 0}
