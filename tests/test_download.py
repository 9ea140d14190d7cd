"""distill.data.download: official archives over HTTP from this machine, checksums, and damage."""

import functools
import http.server
import io
import sys
import threading
import zipfile

import pytest

from distill.data import datasets, download
from distill.data.datasets import stress_predict
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.errors import DistillError
from tests import pulses, toy_set


@pytest.fixture
def site(tmp_path, monkeypatch):
  """(folder that is served, its address, paths asked for)."""
  folder = tmp_path / "site"
  folder.mkdir()
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  asked: list[str] = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
      asked.append(self.path)

  handler = functools.partial(Handler, directory=str(folder))
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield folder, f"http://127.0.0.1:{server.server_port}", asked
  server.shutdown()
  server.server_close()


def _zip(files) -> bytes:
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return stream.getvalue()


def _session(seconds=70):
  """Files of an E4 session of one participant, in the layout of Stress-Predict's repository."""
  times = pulses.beat_times(seconds)
  ppg, acc = pulses.ppg_of(times, seconds), 64 * pulses.acc_still(seconds)
  rows = {
    "BVP": [f"{50 * v:.2f}" for v in ppg],
    "ACC": [f"{x:.0f},{y:.0f},{z:.0f}" for x, y, z in acc],
  }
  heads = {"BVP": ("1644226731.0", "64.0"), "ACC": (", ".join(["1644226731.0"] * 3), "32, 32, 32")}
  top = "Stress-Predict-Dataset-main/Raw_data/S02"
  return {f"{top}/{name}.csv": "\n".join([*heads[name], *rows[name], ""]) for name in rows}


def test_a_set_without_a_source_is_fetched_once_and_prepared(tmp_path, site, monkeypatch, capsys):
  folder, address, asked = site
  (folder / "main.zip").write_bytes(_zip(_session()))
  monkeypatch.setattr(stress_predict.StressPredict, "URL", f"{address}/main.zip")
  config = toy_set.config(tmp_path, sets=("stress_predict",), source="")
  prepared = open_set(prepare(config)["stress_predict"])
  assert list(prepared.index["participant"]) == ["S02"]
  told = capsys.readouterr().err
  assert f"stress_predict: fetching {address}/main.zip (licence: MIT)" in told
  downloads = tmp_path / "prepared" / "downloads"
  (line,) = (downloads / download.CHECKSUMS).read_text().splitlines()
  assert line.split("\t")[0] == f"{address}/main.zip"
  assert line.split("\t")[1] == str((folder / "main.zip").stat().st_size)
  config.hop_s = 20.0  # prepared anew, from the same files
  prepare(config, progress=False)
  assert asked == ["/main.zip"]
  assert "tensorflow" not in sys.modules


def _fetch(tmp_path, url, layout="x/*.csv"):
  return download.fetch("toy", url, layout, tmp_path / "down", licence="free", progress=False)


def test_archives_in_archives_and_folders_around_them(tmp_path, site):
  folder, address, _ = site
  inner = _zip({"data/x/1.csv": "1"})
  (folder / "a.zip").write_bytes(_zip({"readme.txt": "", "top/data.zip": inner}))
  found = _fetch(tmp_path, f"{address}/a.zip")
  assert found.relative_to(tmp_path / "down").parts[1:] == ("top", "data", "data")
  assert _fetch(tmp_path, f"{address}/a.zip") == found
  with pytest.raises(DistillError, match=r"a\.zip holds no y/\*; it was unpacked into"):
    _fetch(tmp_path, f"{address}/a.zip", "y/*")


def test_an_archive_that_changed_is_refused(tmp_path, site):
  folder, address, _ = site
  (folder / "a.zip").write_bytes(_zip({"x/1.csv": "1"}))
  place = _fetch(tmp_path, f"{address}/a.zip")
  for path in (tmp_path / "down").iterdir():
    if path.name != download.CHECKSUMS:
      path.rename(tmp_path / path.name)
  (folder / "a.zip").write_bytes(_zip({"x/1.csv": "2"}))
  with pytest.raises(DistillError, match=r"a\.zip cannot be fetched: .*wrong checksum"):
    _fetch(tmp_path, f"{address}/a.zip")
  assert not place.exists()


def test_a_known_checksum_is_held_to(tmp_path, site, monkeypatch):
  folder, address, _ = site
  (folder / "a.zip").write_bytes(_zip({"x/1.csv": "1"}))
  known = tmp_path / "known.tsv"
  known.write_text(f"# a comment\n{address}/a.zip\t5\t{'0' * 64}\ta.zip\n")
  monkeypatch.setattr(download, "KNOWN", known)
  with pytest.raises(DistillError, match="wrong checksum"):
    _fetch(tmp_path, f"{address}/a.zip")


def test_a_page_in_place_of_an_archive_is_not_kept(tmp_path, site):
  folder, address, _ = site
  (folder / "a.zip").write_text("<html>please log in</html>")
  with pytest.raises(DistillError, match="cannot be read: File is not a zip file"):
    _fetch(tmp_path, f"{address}/a.zip")
  (folder / "a.zip").write_bytes(_zip({"x/1.csv": "1"}))
  assert (_fetch(tmp_path, f"{address}/a.zip") / "x" / "1.csv").is_file()


def test_what_cannot_be_fetched_says_where_else_it_is(tmp_path, site, monkeypatch):
  _, address, _ = site
  monkeypatch.setattr(stress_predict.StressPredict, "URL", f"{address}/gone.zip")
  config = toy_set.config(tmp_path, sets=("stress_predict",), source="")
  with pytest.raises(
    DistillError, match=r"set stress_predict: .*404.*or get it from https://.* set data\.source"
  ) as caught:
    prepare(config, progress=False)
  assert "\n" not in str(caught.value)


HOMES = {  # set -> (a file as its archive names it, the folder that the builder wants)
  "bami": ("CNN-master/BAMI-1/BAMI1_1.mat", "CNN-master"),
  "bami2": ("CNN-master/BAMI-2/BAMI2_1.mat", "CNN-master"),
  "galaxyppg": ("GalaxyPPG/Dataset/P02/Event.csv", "GalaxyPPG"),
  "physionet_wrist": ("wrist-1.0.0/s1_walk.hea", "wrist-1.0.0"),
  "ppg_dalia": ("data/PPG_FieldStudy/S1/S1.pkl", "data"),
  "sleep_accel": ("sleep-1.0.0/motion/1_acceleration.txt", "sleep-1.0.0"),
  "stress_predict": (
    "Stress-Predict-Dataset-main/Raw_data/S01/BVP.csv",
    "Stress-Predict-Dataset-main",
  ),
  "wearable_device": ("w-1.0.1/Wearable_Dataset/STRESS/S01/BVP.csv", ""),
  "wesad": ("WESAD/S2/S2.pkl", ""),
}


def test_every_layout_finds_its_folder(tmp_path):
  sets = {name for name in datasets.DATASETS if datasets.find(name).URL}
  assert sets == set(HOMES)
  for name, (file, home) in HOMES.items():
    path = tmp_path / name / file
    path.parent.mkdir(parents=True)
    path.touch()
    found = download._find(tmp_path / name, datasets.find(name).LAYOUT)
    assert found == tmp_path / name / home, name
    config = toy_set.config(tmp_path, source=str(found))
    assert datasets.find(name)(config, tmp_path / "out").sources(), name
