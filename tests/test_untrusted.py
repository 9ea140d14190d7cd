"""distill.data.untrusted: pickles that would run code, archives that would write elsewhere."""

import collections
import io
import os
import pathlib
import pickle
import subprocess
import types
import zipfile

import numpy as np
import pytest

from distill.data import untrusted
from distill.data.datasets import empatica, matlab, sleep_accel, stress_predict
from distill.errors import DistillError


def _write(folder, content, protocol=2):
  path = folder / "S1.pkl"
  path.write_bytes(pickle.dumps(content, protocol=protocol))
  return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_and_plain_containers_come_back(tmp_path, protocol):
  content = {
    "subject": "S1",
    "signal": {"ACC": np.arange(6, dtype=np.float64).reshape(2, 3), "n": np.int32(7)},
    "label": [np.zeros(3, np.int8), (1.5, None, True, b"raw")],
    "text": np.array(["a", "bc"]),
  }
  found = untrusted.load_pickle(_write(tmp_path, content, protocol))
  np.testing.assert_array_equal(found["signal"]["ACC"], content["signal"]["ACC"])
  np.testing.assert_array_equal(found["text"], content["text"])
  assert found["signal"]["n"] == 7
  assert found["label"][1] == (1.5, None, True, b"raw")


def test_pickles_of_an_older_numpy_and_of_python_2(tmp_path):
  path = _write(tmp_path, {"x": np.arange(3.0)})
  path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
  np.testing.assert_array_equal(untrusted.load_pickle(path)["x"], [0, 1, 2])
  path.write_bytes(b"(dU\x03keyU\x01\xe9s.")  # {"key": "\xe9"} as Python 2 wrote str
  assert untrusted.load_pickle(path) == {"key": "\xe9"}


class _Runs:
  def __init__(self, function, *arguments):
    self.reduced = (function, arguments)

  def __reduce__(self):
    return self.reduced


@pytest.mark.parametrize(
  ("function", "arguments", "named"),
  [
    (os.system, ("touch ran",), "posix.system|nt.system"),
    (subprocess.check_output, (["touch", "ran"],), "subprocess.check_output"),
    (eval, ("open('ran', 'w')",), "builtins.eval|__builtin__.eval"),
    (pathlib.Path, ("ran",), "pathlib.Path"),
    (np.load, ("ran",), "numpy.load|numpy.lib"),
    (collections.OrderedDict, (), "collections.OrderedDict"),
  ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(
  tmp_path, monkeypatch, function, arguments, named
):
  monkeypatch.chdir(tmp_path)
  path = _write(tmp_path, {"signal": np.arange(3), "label": [_Runs(function, *arguments)]}, 4)
  with pytest.raises(DistillError, match=rf"S1\.pkl cannot be read.*it holds ({named})") as caught:
    untrusted.load_pickle(path)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "ran").exists()


def test_a_pickle_that_refers_elsewhere_is_refused(tmp_path):
  (tmp_path / "S1.pkl").write_bytes(b"Pelsewhere\n.")
  with pytest.raises(DistillError, match="refers to 'elsewhere' outside of itself"):
    untrusted.load_pickle(tmp_path / "S1.pkl")


@pytest.mark.parametrize("keep", [0, 1, 40, 400, -1])
def test_a_pickle_that_is_cut_off(tmp_path, keep):
  path = _write(tmp_path, {"x": np.arange(100.0)})
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(DistillError, match=r"S1\.pkl cannot be read"):
    untrusted.load_pickle(path)


def test_no_pickle(tmp_path):
  with pytest.raises(DistillError, match="no pickle at"):
    untrusted.load_pickle(tmp_path / "absent.pkl")


def _zip(path, names):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in names:
      archive.writestr(name, "1.0\n")
  return path


@pytest.mark.parametrize("name", ["../x.csv", "a/../../x.csv", "/etc/x", "..\\x.csv", "C:\\x.csv"])
def test_an_archive_that_climbs_out_is_refused(tmp_path, name):
  path = _zip(tmp_path / "a.zip", ["BVP.csv", name])
  with pytest.raises(DistillError, match="climbs out of the folder"):
    untrusted.zip_member(path, "BVP.csv")


def test_members_of_archives(tmp_path, monkeypatch):
  path = _zip(tmp_path / "a.zip", ["BVP.csv", "a..b/x.csv"])
  assert untrusted.zip_member(path, "BVP.csv") == b"1.0\n"
  with pytest.raises(DistillError, match=r"no .*a\.zip/ACC\.csv"):
    untrusted.zip_member(path, "ACC.csv")
  with pytest.raises(DistillError, match=r"no .*absent\.zip"):
    untrusted.zip_member(tmp_path / "absent.zip", "ACC.csv")
  content = bytearray(path.read_bytes())
  content[35:45] = b"x" * 10
  path.write_bytes(bytes(content))
  with pytest.raises(DistillError, match="cannot be read"):
    untrusted.zip_member(path, "BVP.csv")
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(DistillError, match="cannot be read"):
    untrusted.zip_member(path, "BVP.csv")
  monkeypatch.setattr(untrusted, "MAX_TEXT_BYTES", 3)
  with pytest.raises(DistillError, match="expected one recording of at most"):
    untrusted.zip_member(_zip(tmp_path / "b.zip", ["BVP.csv"]), "BVP.csv")


@pytest.mark.parametrize(
  ("name", "read"),
  [
    ("S1.pkl", untrusted.load_pickle),
    ("a.mat", lambda path: matlab.load(path, ("x",))),
    ("BVP.csv", lambda path: empatica.read(path.parent)),
    ("1_acceleration.txt", lambda path: sleep_accel.read(path)),
    ("labels.csv", stress_predict._labels),
  ],
)
def test_a_file_of_ten_gigabytes_is_refused_unread(tmp_path, name, read):
  with open(tmp_path / name, "wb") as file:
    file.truncate(10 << 30)
  with pytest.raises(DistillError, match=rf"{name} takes 10240 MB; expected one recording of at"):
    read(tmp_path / name)


@pytest.mark.parametrize("free", [1, 1 << 40])
def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch, free):
  path = _zip(tmp_path / "a.zip", ["x/BVP.csv", "x/ACC.csv"])
  usage = types.SimpleNamespace(free=free)
  monkeypatch.setattr(untrusted.shutil, "disk_usage", lambda folder: usage)
  if free == 1:
    with pytest.raises(DistillError, match=r"a\.zip unpacks to .* GB; the disk has .* GB free"):
      untrusted.unpack(path, tmp_path / "out")
  else:
    untrusted.unpack(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.glob("out/x/*")) == ["ACC.csv", "BVP.csv"]
    with pytest.raises(DistillError, match="climbs out of the folder"):
      untrusted.unpack(_zip(tmp_path / "b.zip", ["ok.csv", "../x.csv"]), tmp_path / "b")
    content = bytearray(path.read_bytes())
    content[40:44] = b"xxxx"
    (tmp_path / "c.zip").write_bytes(bytes(content))
    with pytest.raises(DistillError, match=r"c\.zip cannot be read"):
      untrusted.unpack(tmp_path / "c.zip", tmp_path / "c")
  assert {p.name for p in tmp_path.iterdir()} <= {"a.zip", "b.zip", "c.zip", "out"}


def test_the_content_of_a_bad_pickle_is_not_kept_open(tmp_path):
  path = _write(tmp_path, {"x": _Runs(io.BytesIO)})
  with pytest.raises(DistillError):
    untrusted.load_pickle(path)
  path.unlink()
