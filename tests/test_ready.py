"""distill.data.ready under TrainingSource: the same bits, whatever happened to the file."""

import dataclasses
import errno
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import students.transformer
import teachers.transformer
from distill import signals
from distill.data import datasets, pipeline, ready
from distill.data.prepare import prepare
from distill.data.ready import ReadyWindows
from distill.data.store import PreparedSet, open_set
from tests import toy_set
from tests.conftest import ROOT

SPECS = [teachers.transformer.SPEC, students.transformer.SPEC]
KINDS = {"a": "good", "c": "gap", "n": "noise"}
NAMES = ("ppg", "ppg_mask", "acc", "acc_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A prepared set with gaps, without ready windows; copy it."""
  folder = tmp_path_factory.mktemp("made")
  return _prepared(folder, tuple)


@pytest.fixture
def folder(made, tmp_path):
  return shutil.copytree(made, tmp_path / "set")


@pytest.fixture
def read(monkeypatch):
  """The rows that were read from the records, in order."""
  rows_read = []
  windows = PreparedSet.windows

  def spied(self, rows):
    rows_read.extend(rows.tolist())
    return windows(self, rows)

  monkeypatch.setattr(PreparedSet, "windows", spied)
  return rows_read


def _prepared(folder, ready_for=lambda: SPECS, **changes) -> pathlib.Path:
  """The set of `made`, prepared in `folder` for encoders."""
  toy_set.write(folder, KINDS)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "toy", "tests.toy_set:Toy")
    return prepare(toy_set.config(folder, **changes), ready_for, progress=False)["toy"]


def _source(folder, rows=None, specs=SPECS):
  prepared = open_set(folder)
  rows = np.arange(len(prepared)) if rows is None else np.array(rows)
  return pipeline.TrainingSource([pipeline.Rows(prepared, rows)], specs, {})


def _batch(folder, rows=None, specs=SPECS):
  source = _source(folder, rows, specs)
  return source.batch(np.arange(len(source)))


def _expected(folder, rows):
  found, raw = {}, open_set(folder).windows(np.array(rows))
  for spec in SPECS:
    ready_now = pipeline.prepare_windows(raw[spec.modality], spec)
    found |= zip((spec.modality, spec.modality + "_mask"), ready_now, strict=True)
  return found


def _same(batch, expected):
  for name in NAMES:
    assert batch[name].dtype == expected[name].dtype
    assert batch[name].tobytes() == expected[name].tobytes(), name


def _file(folder, modality="ppg") -> pathlib.Path:
  (path,) = (folder / ready.FOLDER).glob(f"{modality}-*")
  return path


def _row_bytes(spec):
  return 4 * spec.samples * len(spec.channels) + ready.HASH_BYTES


def test_what_is_kept_is_what_preparing_gives_for_every_split_and_training(folder, read):
  rows = list(range(len(open_set(folder))))
  expected = _expected(folder, rows)
  assert not expected["ppg_mask"].all()
  read.clear()
  _same(_batch(folder), expected)
  assert read == rows
  _same(_batch(folder), expected)
  some = [4, 1, 4, 2]
  _same(_batch(folder, some), {name: values[some] for name, values in expected.items()})
  assert read == rows, "nothing was read again"
  assert sum(path.stat().st_size for path in (folder / ready.FOLDER).iterdir()) == len(rows) * sum(
    map(_row_bytes, SPECS)
  )


def test_several_sets_stand_in_one_batch(made, folder, tmp_path):
  other = shutil.copytree(made, tmp_path / "other")
  parts = [pipeline.Rows(open_set(f), np.array(r)) for f, r in ((folder, [5, 2]), (other, [1, 0]))]
  for _ in ("first pass", "later"):
    source = pipeline.TrainingSource(parts, SPECS, {"label": np.arange(4.0)})
    batch = source.batch(np.array([3, 0, 2, 3]))
    _same(batch, _expected(folder, [0, 5, 1, 0]))
    np.testing.assert_array_equal(batch["label"], [3.0, 0.0, 2.0, 3.0])


def test_rows_that_are_not_there_are_read_and_then_kept(folder, read):
  _batch(folder, [3, 0])
  assert read == [3, 0]
  _same(_batch(folder, [0, 1, 3, 5]), _expected(folder, [0, 1, 3, 5]))
  assert read[2:4] == [1, 5]


def test_one_signal_that_is_kept_does_for_it_alone(folder, read):
  _batch(folder, [0, 1], SPECS[:1])
  _same(_batch(folder, [0, 1]), _expected(folder, [0, 1]))
  del read[:]
  _batch(folder, [1, 0], SPECS[1:])
  assert not read


def _no_hash(data, start, size):
  data[start + size - ready.HASH_BYTES : start + size] = bytes(ready.HASH_BYTES)


def _half_a_hash(data, start, size):
  data[start + size - 4 : start + size] = bytes(4)


def _no_second_half(data, start, size):
  data[start + size // 2 : start + size] = bytes(size - size // 2)


def _lost_page(data, start, size):
  data[start + 4096 : start + 8192] = bytes(4096)


def _swapped_pages(data, start, size):
  first, second = slice(start, start + 4096), slice(start + 4096, start + 8192)
  data[first], data[second] = data[second], data[first]


def _a_flipped_bit(data, start, size):
  data[start + 1000] ^= 1


def _another_row(data, start, size):
  data[start : start + size] = data[:size]


def _cut_off(data, start, size):
  del data[start + size // 3 :]


def _emptied(data, start, size):
  data.clear()


def _garbage(data, start, size):
  data[:] = bytes(range(256)) * (len(data) // 256)


DAMAGES = [_no_hash, _half_a_hash, _no_second_half, _lost_page, _a_flipped_bit, _swapped_pages]
DAMAGES += [_another_row, _cut_off, _emptied, _garbage]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_row_that_is_not_whole_is_made_again(folder, read, damage):
  _batch(folder)
  path, size = _file(folder), _row_bytes(SPECS[0])
  sound = path.read_bytes()
  data = bytearray(sound)
  damage(data, 2 * size, size)
  path.write_bytes(data)
  expected = _expected(folder, [1, 2])
  del read[:]
  _same(_batch(folder, [1, 2]), expected)
  assert 2 in read
  assert (1 in read) == (damage in (_emptied, _garbage))
  _batch(folder)
  assert path.read_bytes() == sound


WRITER = """
import pathlib, sys
import numpy as np
from distill.data.ready import ReadyWindows
file = ReadyWindows(pathlib.Path(sys.argv[1]), "x", 10**6, (250_000, 1))
for row in range(10**6):
  file.write(np.array([row]), np.full((1, 250_000, 1), row % 7 + 1, np.float32))
  print(row, flush=True)
"""


def test_a_killed_process_leaves_no_wrong_row(tmp_path):
  """A real one, SIGKILL while it writes a megabyte a row."""
  process = subprocess.Popen(
    [sys.executable, "-c", WRITER, str(tmp_path / "ready")], stdout=subprocess.PIPE, cwd=ROOT
  )
  for _ in range(20):
    process.stdout.readline()
  process.send_signal(signal.SIGKILL)
  process.communicate()
  file, rows = ReadyWindows(tmp_path / "ready", "x", 200, (250_000, 1)), np.arange(60)
  out = np.empty((60, 250_000, 1), np.float32)
  there = file.read(rows, out, rows)
  assert there[:20].all()
  for row in np.flatnonzero(there):
    assert (out[row] == row % 7 + 1).all()


def test_what_has_been_written_is_told_without_reading_it(folder, monkeypatch):
  source, everything = _source(folder), np.arange(len(open_set(folder)))
  assert not source.kept(everything).any()
  _batch(folder, [3, 0])
  _batch(folder, [1], SPECS[:1])
  monkeypatch.setattr(os, "preadv", None)
  assert np.flatnonzero(source.kept(everything)).tolist() == [0, 3]
  assert np.flatnonzero(_source(folder, specs=SPECS[:1]).kept(everything)).tolist() == [0, 1, 3]


def test_a_batch_goes_to_the_device_as_it_lies_in_memory(folder):
  batch = _batch(folder, [0, 1, 2])
  for name in NAMES:
    assert jax.device_put(batch[name]).unsafe_buffer_pointer() == batch[name].ctypes.data, name


def test_another_spec_set_code_or_format_is_another_file(folder, monkeypatch):
  def name(spec=SPECS[0]):
    return pipeline.ready_windows(open_set(folder), spec)._arguments[1]

  names = [name(), name(students.transformer.SPEC), name(students.transformer.ZSCORED)]
  moved = folder.rename(folder.with_name("moved"))
  assert pipeline.ready_windows(open_set(moved), SPECS[0])._arguments[1] == names[0]
  folder = moved
  whole = signals.preprocess
  monkeypatch.setattr(signals, "preprocess", lambda *given: whole(*given) * np.float32(1.0000001))
  pipeline._fingerprint.cache_clear()
  names.append(name())
  monkeypatch.undo()
  pipeline._fingerprint.cache_clear()
  monkeypatch.setattr(ready, "FORMAT", ready.FORMAT + 1)
  names.append(name())
  monkeypatch.undo()
  index = open_set(folder).index
  index["hr_bpm"][0] += 1
  np.savez(folder / "index.npz", **index)
  names.append(name())
  assert len(set(names)) == len(names)


def test_a_set_with_ready_windows_is_the_set_and_they_can_be_deleted(folder, monkeypatch, tmp_path):
  source = _source(folder)
  expected = source.batch(np.arange(3))
  shutil.rmtree(folder / ready.FOLDER)
  _same(source.batch(np.arange(3)), expected)
  _same(_batch(folder, [0, 1, 2]), expected)
  assert len(open_set(folder)) == len(source)


@pytest.mark.parametrize("size", [0, 3 * _row_bytes(SPECS[0]) - 5])
def test_a_file_that_is_cut_off_under_a_running_training_is_filled_again(folder, size):
  source, rows = _source(folder), np.array([0, 1, 2])
  source.batch(rows)
  _same(source.batch(rows), _expected(folder, rows))  # by now their hashes have been seen to fit
  os.truncate(_file(folder), size)
  _batch(folder, [5])  # a hole before it, where the others were
  _same(source.batch(rows), _expected(folder, rows))


REFUSED = "ready windows cannot be kept in"


def test_a_folder_that_cannot_be_written_is_told_once(folder, read, capsys):
  (folder / ready.FOLDER).write_text("in the way")
  rows = list(range(len(open_set(folder))))
  for _ in range(2):
    _same(_batch(folder), _expected(folder, rows))
  told = capsys.readouterr().err.strip().splitlines()
  assert len(told) == 1
  assert told[0].startswith(f"{REFUSED} {folder / ready.FOLDER} (File exists): each pass reads")


def test_what_the_owner_of_a_read_only_folder_kept_is_used(folder, read, monkeypatch, capsys):
  _batch(folder, [0, 1])
  del read[:]
  opened = os.open

  def read_only(path, flags, *mode, **where):
    if flags & os.O_RDWR:
      raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return opened(path, flags, *mode, **where)

  monkeypatch.setattr(os, "open", read_only)
  source = _source(folder)
  source.batch(np.array([1, 0]))
  assert not read
  assert REFUSED not in capsys.readouterr().err
  for _ in range(2):
    source.batch(np.array([2]))
  assert read == [2, 2]
  assert capsys.readouterr().err.count(f"{REFUSED} {folder / ready.FOLDER} (Read-only file") == 1


def _full(file, parts, at):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITE = os.pwritev


def _full_half_way(file, parts, at):
  return WRITE(file, [bytes(parts[0])[:5000]], at)


@pytest.mark.parametrize("pwritev", [_full, _full_half_way])
def test_a_full_disk_is_told_once_and_training_reads_on(folder, read, monkeypatch, capsys, pwritev):
  _batch(folder, [0])
  monkeypatch.setattr(os, "pwritev", pwritev)
  source = _source(folder)
  for _ in range(2):
    _same(source.batch(np.array([0, 1, 2])), _expected(folder, [0, 1, 2]))
  assert capsys.readouterr().err.count(f"{REFUSED} {folder / ready.FOLDER} (No space left") == 1
  monkeypatch.undo()
  _same(_batch(folder, [0, 1, 2]), _expected(folder, [0, 1, 2]))


def test_the_disk_is_not_filled_up(folder, monkeypatch, capsys):
  monkeypatch.setattr(ready, "LEFT_FREE_BYTES", 2**60)
  _same(_batch(folder, [0, 1]), _expected(folder, [0, 1]))
  assert "GiB would be left free): each pass reads" in capsys.readouterr().err
  assert _file(folder).stat().st_size == 0


def test_a_disk_that_cannot_be_read_costs_time_alone(folder, monkeypatch):
  _batch(folder)

  def bad(*given):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(os, "preadv", bad)
  _same(_batch(folder, [1, 0]), _expected(folder, [1, 0]))


def test_worker_processes_write_one_file_and_read_it(folder, read):
  rows = len(open_set(folder))
  settings = {"seed": 0, "batch_size": 2, "start": 0}
  batches = pipeline.training_batches(_source(folder), workers=2, **settings)
  seen = [next(batches) for _ in range(rows // 2 + 1)]
  here = pipeline.training_batches(_source(folder), **settings)
  assert not read
  for batch in seen:
    _same(batch, next(here))
  assert not read, "all of them were kept by the workers"


def test_a_copy_for_another_process_opens_the_file_anew(folder, read):
  source = _source(folder)
  source.batch(np.array([0]))
  copy = pickle.loads(pickle.dumps(source))
  assert len(pickle.dumps(source)) < 100_000
  del source
  _same(copy.batch(np.array([0])), _expected(folder, [0]))


# --- made ready as the set is prepared ------------------------------------------------------------


def _usable(folder) -> np.ndarray:
  """Rows that training reads; the toy set has others."""
  usable = open_set(folder).index["ppg_usable"]
  assert 2 < usable.sum() < len(usable)
  return np.flatnonzero(usable)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_pass_over_a_set_that_was_prepared_for_its_encoders_reads_no_record(
  folder, tmp_path, read, workers
):
  rows = _usable(folder)
  _batch(folder, rows)
  expected = _expected(folder, rows)
  prepared = _prepared(tmp_path, workers=workers)
  del read[:]
  _same(_batch(prepared, rows), expected)
  assert not read
  for name in ("ppg", "acc"):
    lazy, at_once = _file(folder, name), _file(prepared, name)
    assert lazy.name == at_once.name
    assert lazy.read_bytes() == at_once.read_bytes()
  other = np.setdiff1d(np.arange(len(open_set(prepared))), rows)
  assert not _source(prepared).kept(other).any(), "no training reads windows without usable PPG"


def test_a_set_is_made_ready_for_the_encoders_that_it_fits_alone(tmp_path):
  others = dataclasses.replace(SPECS[0], rate_hz=32.0), dataclasses.replace(SPECS[0], unit="V")
  prepared = _prepared(tmp_path, lambda: [*others, SPECS[1]])
  assert [path.name[:4] for path in (prepared / ready.FOLDER).iterdir()] == ["acc-"]


def test_a_set_that_was_there_is_left_to_its_first_pass(folder, tmp_path, read):
  prepared = _prepared(tmp_path, tuple)
  assert _prepared(tmp_path, lambda: pytest.fail("asked for the encoders")) == prepared
  assert not read
  assert not (prepared / ready.FOLDER).exists()


def test_a_disk_that_is_full_is_told_and_the_set_is_prepared(tmp_path, read, monkeypatch, capsys):
  monkeypatch.setattr(os, "pwritev", _full)
  monkeypatch.setattr(pipeline, "MADE_TOGETHER", 2)
  prepared = _prepared(tmp_path)
  assert capsys.readouterr().err.count(f"{REFUSED} {prepared / ready.FOLDER} (No space left") == 1
  rows = _usable(prepared)
  assert read == rows[:2].tolist(), "no more is read than shows that nothing is kept"
  monkeypatch.undo()
  _same(_batch(prepared, rows), _expected(prepared, rows))


PREPARER = """
import os, pathlib, signal, sys
import students.transformer, teachers.transformer
from distill.data import datasets
from distill.data.prepare import prepare
from tests import toy_set
datasets.DATASETS["toy"] = "tests.toy_set:Toy"
write, rows = os.pwritev, []
def killed_at_the_third(file, parts, at):
  rows.append(at)
  if len(rows) < 3:
    return write(file, parts, at)
  write(file, [bytes(parts[0])[:9000]], at)
  os.kill(os.getpid(), signal.SIGKILL)
os.pwritev = killed_at_the_third
specs = [teachers.transformer.SPEC, students.transformer.SPEC]
prepare(toy_set.config(pathlib.Path(sys.argv[1])), lambda: specs, progress=False)
"""


def test_a_process_that_is_killed_while_it_makes_a_set_ready_leaves_the_set(tmp_path, read):
  toy_set.write(tmp_path, KINDS)
  run = subprocess.run([sys.executable, "-c", PREPARER, str(tmp_path)], cwd=ROOT, check=False)
  assert run.returncode == -signal.SIGKILL
  prepared = _prepared(tmp_path, lambda: pytest.fail("built again"))
  rows = _usable(prepared)
  assert _source(prepared, specs=SPECS[:1]).kept(rows).tolist() == [
    *(True, True),
    *(False for _ in rows[2:]),
  ]
  expected = _expected(prepared, rows)
  del read[:]
  _same(_batch(prepared, rows), expected)
  assert read == rows.tolist()
