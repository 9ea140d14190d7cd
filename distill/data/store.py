"""Reading prepared sets: `open_set(folder)` gives windows by row and the columns beside them.

A prepared set is a folder that can be moved anywhere: `set.json` (name, specs, flags), `index.npz`
(one array per column), `beats.npz` (reference beats, where a set has them), `left_out.json`, and
the windows as a TFDS data set in ArrayRecord files, which is read here without TensorFlow. What is
beside them, such as `ready/` of `distill.data.ready`, is no part of the set.
"""

import functools
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.data.recording import Beats
from distill.errors import DistillError
from distill.spec import MODALITIES, SignalSpec

SET_FILE, INDEX_FILE, LEFT_OUT_FILE = "set.json", "index.npz", "left_out.json"
BEATS_FILE = "beats.npz"  # of sets with reference beats
FORMAT = 6
SPLIT = "windows"  # the one TFDS split; participants are split by distill.data.splits

# Column -> dtype. Numbers that are not known or not valid are NaN, texts are "".
COLUMNS: dict[str, Any] = {
  "participant": np.str_,
  "recording": np.str_,
  "t0_s": np.float64,  # on the recording's clock
  "ppg_coverage": np.float32,  # share of the window that was observed
  "acc_coverage": np.float32,
  "ppg_quality": np.float32,  # 0 to 1
  "ppg_usable": np.bool_,
  "hr_bpm": np.float32,
  "sdnn_ms": np.float32,
  "rmssd_ms": np.float32,
  "sdnn_detrended_ms": np.float32,
  "pnn50": np.float32,  # percent
  # The label minus a second reading of the same pulses; 0 of simulated beats, NaN of others.
  "hr_error_bpm": np.float32,
  "sdnn_error_ms": np.float32,
  "rmssd_error_ms": np.float32,
  "hr_origin": np.str_,  # "ecg", "chest_strap", "simulated", "ppg", or "" where not valid
  "hrv_origin": np.str_,
  "activity": np.str_,
  "age": np.float32,
  "sex": np.str_,
  "bmi": np.float32,  # kg/m2
  "skin_tone": np.str_,  # in the words of one scale
  "motion_g": np.float32,  # SD of the high-passed acceleration magnitude
  "stationary": np.bool_,
  "complete": np.bool_,  # no sample missing in any signal
}


class PreparedSet:
  """Windows of one prepared set; open it with `open_set`.

  Attributes:
    folder: where it lies.
    name: of the set.
    specs: modality -> SignalSpec of the stored windows: working rate and unit, neither filtered nor
      normalised, NaN where missing.
    simulated: whether the recordings are drawn by a computer.
    same_device: whether all signals come from one device and clock.
    index: column -> [n] array in row order; see `COLUMNS`.
  """

  def __init__(self, folder: pathlib.Path, fields: dict[str, Any], index: dict[str, np.ndarray]):
    self.folder = folder
    self.name: str = fields["name"]
    self.simulated: bool = fields["simulated"]
    self.same_device: bool = fields["same_device"]
    self.specs = {name: SignalSpec.from_json(spec) for name, spec in fields["specs"].items()}
    self.index = index
    self._records: str = fields["records"]
    self._source: Any = None

  def __len__(self) -> int:
    return len(self.index["participant"])

  @functools.cached_property
  def digest(self) -> str:
    """Hash of what describes the set and each of its windows, wherever it lies."""
    parts = (self.folder / SET_FILE, self.folder / INDEX_FILE)
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()

  def windows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The windows `rows` [n]: modality -> [n, time, channels] float32, NaN where missing.

    They are fetched together, which takes a fraction of the time of fetching one after the other.
    """
    rows = np.asarray(rows, np.int64)
    outside = rows[(rows < 0) | (rows >= len(self))]
    if len(outside):
      raise IndexError(f"row {outside[0]} of set {self.name}, which has {len(self)} rows")
    found = {
      name: np.empty((len(rows), *spec.shape), np.float32) for name, spec in self.specs.items()
    }
    from tensorflow_datasets.proto import tf_example_pb2

    if self._source is None:
      self._source = _data_source(self.folder / self._records)
    try:
      records = self._source.__getitems__(rows.tolist())
    except RuntimeError as error:  # what ArrayRecord says of a damaged file
      raise DistillError(
        f"{self.folder} is damaged ({str(error).splitlines()[0]}); delete it and prepare again"
      ) from error
    for i, record in enumerate(records):
      # TFDS's own decoding, of all features, takes five times as long.
      feature = tf_example_pb2.Example.FromString(record).features.feature
      for name, windows in found.items():
        samples = np.frombuffer(feature[name].bytes_list.value[0], np.float32)
        windows[i] = samples.reshape(windows.shape[1:])
    return found

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """Window `i`: modality -> [time, channels] float32, NaN where missing."""
    return {name: one[0] for name, one in self.windows(np.array([i])).items()}

  def beats(self, rows: np.ndarray) -> list[Beats | None]:
    """Reference beats inside each of the windows `rows`, seconds after its start; None: unknown."""
    path = self.folder / BEATS_FILE
    if not path.is_file():
      return [None] * len(rows)
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
      stored = {name: file[name] for name in file.files}
    stop = np.cumsum(stored["count"])
    names = zip(stored["participant"].tolist(), stored["recording"].tolist(), strict=True)
    start = stop - stored["count"]
    whole = dict(zip(names, zip(start, stop, stored["origin"].tolist(), strict=True), strict=True))
    window_s = next(iter(self.specs.values())).window_s
    found: list[Beats | None] = []
    for row in rows:
      name = str(self.index["participant"][row]), str(self.index["recording"][row])
      if name not in whole:
        found.append(None)
        continue
      first, last, origin = whole[name]
      times_s, t0_s = stored["times_s"][first:last], self.index["t0_s"][row]
      inside = slice(*(first + np.searchsorted(times_s, (t0_s, t0_s + window_s))))
      found.append(Beats(stored["times_s"][inside] - t0_s, stored["normal"][inside], origin))
    return found

  def arrhythmia(self, rows: np.ndarray) -> np.ndarray:
    """Whether windows have an ectopic beat: "ectopic" or "regular"; "" where beats are unknown."""
    names = ("regular", "ectopic")
    known = self.beats(rows)
    return np.array(["" if one is None else names[int(not one.normal.all())] for one in known])

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_source": None}  # open files do not travel to worker processes

  @property
  def left_out(self) -> dict[str, Any]:
    """What was not stored and why, as `prepare` wrote it."""
    return dict(json.loads((self.folder / LEFT_OUT_FILE).read_text()))


def open_set(folder: str | pathlib.Path) -> PreparedSet:
  """Opens a prepared set.

  Raises:
    DistillError: no prepared set there, or one that is damaged or of another format.
  """
  folder = pathlib.Path(folder)
  if not (folder / SET_FILE).is_file():
    raise DistillError(
      f"no prepared set at {folder} (no {SET_FILE}); make one with: distill prepare"
    )
  try:
    fields = dict(json.loads((folder / SET_FILE).read_text()))
    # Opened here: NumPy leaves a damaged file open.
    with open(folder / INDEX_FILE, "rb") as stream, np.load(stream, allow_pickle=False) as file:
      index = {name: file[name] for name in file.files}
  except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise DistillError(f"{folder} is damaged ({error}); delete it and prepare again") from error
  if fields.get("format") != FORMAT or set(index) != set(COLUMNS):
    raise DistillError(
      f"{folder} has format {fields.get('format')}; this version reads {FORMAT}; delete the folder"
      " and prepare again"
    )
  return PreparedSet(folder, fields, index)


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Column -> [rows] array of the columns of windows."""
  return {
    name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in COLUMNS.items()
  }


def write_index(folder: pathlib.Path, columns: Sequence[Mapping[str, np.ndarray]]) -> None:
  """Writes the columns of all windows, in row order; `columns` are those of stretches of rows."""
  whole: dict[str, Any] = {name: np.concatenate([one[name] for one in columns]) for name in COLUMNS}
  np.savez_compressed(folder / INDEX_FILE, **whole)


def write_beats(folder: pathlib.Path, beats: Mapping[tuple[str, str], Beats]) -> None:
  """Writes the reference beats of (participant, recording), if there are any."""
  if not beats:
    return
  participant, recording = zip(*beats, strict=True)
  np.savez_compressed(
    folder / BEATS_FILE,
    participant=np.array(participant),
    recording=np.array(recording),
    origin=np.array([one.origin for one in beats.values()]),
    count=np.array([len(one.times_s) for one in beats.values()]),
    times_s=np.concatenate([one.times_s for one in beats.values()]),
    normal=np.concatenate([one.normal for one in beats.values()]),
  )


def write_set(
  folder: pathlib.Path,
  *,
  name: str,
  specs: dict[str, SignalSpec],
  simulated: bool,
  same_device: bool,
  records: pathlib.Path,
) -> None:
  """Writes set.json; `records` is the folder of the TFDS data set, inside `folder`."""
  fields = {
    "format": FORMAT,
    "name": name,
    "simulated": simulated,
    "same_device": same_device,
    "specs": {key: specs[key].to_json() for key in MODALITIES if key in specs},
    "records": records.relative_to(folder).as_posix(),
  }
  (folder / SET_FILE).write_text(json.dumps(fields, indent=2))


def _data_source(folder: pathlib.Path) -> Any:
  """Serialised examples by row."""
  import tensorflow_datasets as tfds  # half a second that only reading windows needs

  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  try:
    return tfds.builder_from_directory(folder).as_data_source(SPLIT, deserialize_method=raw)
  except (OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
    reason = str(error).strip().splitlines()[0]
    raise DistillError(f"{folder} is damaged ({reason}); delete it and prepare again") from error
