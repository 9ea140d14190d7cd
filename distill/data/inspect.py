"""What lies in a folder, before anything is prepared: people, minutes, rates, units, gaps, quality.

Says what is wrong and how to mend it, recording by recording. Where a folder has no manifest and is
no public set, it proposes a manifest from the files.
"""

import copy
import dataclasses
import math
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from scipy import ndimage, stats

from distill import beats
from distill.data import cutting, datasets, manifest, tables, units
from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import own
from distill.data.recording import Recording, Signal
from distill.data.windows import cut_recording
from distill.errors import DistillError
from distill.spec import ACC, PPG

GAP_S = 1.0  # shorter losses are counted as missing, not as gaps
LOOSE_PPG = 0.2  # share of usable windows below which something is wrong with the sensor or column
UNCALIBRATED_G = 0.1  # of gravity off 1 g
UPSIDE_DOWN = -0.15  # skewness of the slope: a pulse rises faster than it falls
UNEQUAL = 0.03  # share by which two signals of one start may differ in length
DRIFT_PPM = 100.0
FEW_PEOPLE = 5  # the number of folds
GENERIC = ("own", "simulated", "empatica_e4")  # sets that are not told by their layout alone
PPG_WORDS = ("ppg", "bvp", "green", "pleth", "infrared", "ir", "red")
UNIX_TIMES = {"ns": 1e17, "us": 1e14, "ms": 1e11}  # from 1973 on
ACC_WORDS = ("acc", "accel", "accelerometer", "acceleration")


@dataclasses.dataclass(frozen=True)
class SignalFound:
  """One signal of a recording.

  Attributes:
    minutes: from its first to its last sample.
    rate_hz: samples per second, by the clock of the time stamps where there are any.
    unit: as stored, with what gravity says of acceleration.
    observed: share of its samples that are there.
    gaps: number of stretches of a second or more without samples.
    longest_gap_s: the longest of them.
    gravity_g: median magnitude of acceleration; NaN of PPG.
  """

  minutes: float
  rate_hz: float
  unit: str
  observed: float
  gaps: int
  longest_gap_s: float
  gravity_g: float


@dataclasses.dataclass(frozen=True)
class RecordingFound:
  """One recording.

  Attributes:
    name: "participant/recording".
    participant: its participant, "" where it cannot be read.
    signals: what was found of each.
    overlap_minutes: that all signals share.
    windows: number of windows with enough observed.
    usable: share of these with usable PPG.
    labelled: share of these with a heart rate.
    hr_bpm: median heart rate of its windows, NaN without any.
    origin: where heart rate comes from.
    problems: what is wrong and how to mend it.
    timeline: [windows, 2] minutes from the first sample, and 1 where the PPG is usable.
    digest: of its first window, "" without any.
  """

  name: str
  participant: str
  signals: dict[str, SignalFound]
  overlap_minutes: float
  windows: int
  usable: float
  labelled: float
  hr_bpm: float
  origin: str
  problems: tuple[str, ...]
  timeline: np.ndarray = dataclasses.field(repr=False)
  digest: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
  """What `inspect` found.

  Attributes:
    folder: that was looked at.
    set_name: data set that reads it, "" for none.
    recordings: in the order of the set.
    problems: of the folder as a whole.
    proposal: text of a manifest that could be written, "" where none is needed.
  """

  folder: str
  set_name: str
  recordings: tuple[RecordingFound, ...]
  problems: tuple[str, ...]
  proposal: str = ""

  @property
  def participants(self) -> int:
    """Number of people with at least one window."""
    return len({one.participant for one in self.recordings if one.windows})

  def to_json(self) -> dict[str, Any]:
    """Plain values; NaN becomes None."""
    fields = dataclasses.asdict(self) | {"participants": self.participants}
    for one in fields["recordings"]:
      del one["timeline"], one["digest"]
    return {key: _plain(value) for key, value in fields.items()}

  def to_text(self) -> str:
    """For the terminal: a line a recording, then what is wrong."""
    return "\n".join(_lines(self))


def inspect(
  folder: str | pathlib.Path, data_config: Any, *, set_name: str = "", progress: bool = False
) -> Found:
  """Looks at every recording of a folder as `prepare` would, and writes nothing.

  Args:
    folder: one's own recordings with a manifest, or a public set's official files.
    data_config: the config's data section; its `source` is not looked at.
    set_name: data set to read it as; "" to find out.
    progress: show a progress bar on standard error.

  Raises:
    DistillError: no such folder, a broken manifest, or files that are not those of `set_name`.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise DistillError(f"no folder {folder}")
  data_config = copy.deepcopy(data_config)
  data_config.source = str(folder)
  with tempfile.TemporaryDirectory() as scratch:
    builder = _builder(folder, data_config, set_name, scratch)
    if builder is None:
      problem = f"{folder} has no manifest and is the layout of no public set"
      return Found(str(folder), "", (), (problem,), propose(folder))
    sources = tqdm.tqdm(builder.sources(), desc="inspect", unit="recording", disable=not progress)
    found = _without_twins([_look(source, builder) for source in sources])
  people = {one.participant for one in found if one.windows}
  problems = []
  if len(people) < FEW_PEOPLE:
    problems.append(
      f"{len(people)} participant(s) with usable windows; judging holds people out and needs"
      f" {FEW_PEOPLE} or more, or a split file with fewer folds"
    )
  if not builder.same_device:
    problems.append("PPG and acceleration come from two devices: not for distillation or retrieval")
  return Found(str(folder), builder.name, found, tuple(problems))


def _builder(
  folder: pathlib.Path, data_config: Any, set_name: str, scratch: str
) -> PairedBuilder | None:
  """The set that reads a folder: the one named, its manifest's, or the first whose files it has."""
  if not set_name and manifest.find(folder):
    set_name = "own"
  named = [set_name] if set_name else [n for n in datasets.DATASETS if n not in GENERIC]
  for name in named if set_name else [*named, "empatica_e4"]:
    builder: PairedBuilder = datasets.find(name)(data_config, scratch, progress=False)
    try:
      builder.sources()
      return builder
    except DistillError:
      if set_name:
        raise
  return None


# --- one recording -------------------------------------------------------------------------------


def _look(source: Source, builder: PairedBuilder) -> RecordingFound:
  try:
    recording = source.load()
  except DistillError as error:
    return _unreadable(source.name, "", {}, 0.0, (str(error),))
  found = {name: _signal(name, one) for name, one in recording.signals.items()}
  problems = [*_signal_problems(recording, found), *_clock_problems(source)]
  start_s = max(one.start_s for one in recording.signals.values())
  stop_s = min(one.stop_s for one in recording.signals.values())
  overlap = max(stop_s - start_s, 0.0) / 60
  name = f"{recording.participant}/{recording.name}"
  try:
    digest, columns = "", []
    for window in cut_recording(recording, builder.settings, builder.SIGNALS):
      digest = digest or cutting.digest(window)
      columns.append(window.columns)
  except DistillError as error:
    problems.append(f"{error}{_apart(recording, overlap)}")
    return _unreadable(name, recording.participant, found, overlap, tuple(problems))
  if not columns:
    problems.append("no window has enough observed: the gaps of the two signals leave nothing")
    return _unreadable(name, recording.participant, found, overlap, tuple(problems))
  usable = np.array([one["ppg_usable"] for one in columns])
  hr_bpm = np.array([one["hr_bpm"] for one in columns])
  labelled = np.isfinite(hr_bpm)
  if PPG in found and usable.mean() < LOOSE_PPG:
    problems.append(
      f"PPG is usable in {usable.mean():.0%} of the windows: is this the PPG column, at the right"
      " rate? a loose or covered sensor looks the same and cannot be mended"
    )
  minutes = np.array([one["t0_s"] - start_s for one in columns]) / 60
  return RecordingFound(
    name,
    recording.participant,
    found,
    overlap,
    len(columns),
    float(usable.mean()),
    float(labelled.mean()),
    float(np.median(hr_bpm[labelled])) if labelled.any() else math.nan,
    next((one["hr_origin"] for one in columns if one["hr_origin"]), ""),
    tuple(problems),
    np.stack([minutes, usable], axis=1),
    digest,
  )


def _without_twins(found: Sequence[RecordingFound]) -> tuple[RecordingFound, ...]:
  """The recordings; those with the samples of another person's have no window, as in `prepare`."""
  owners: dict[str, str] = {}
  kept = []
  for one in found:
    owner = owners.setdefault(one.digest, one.participant) if one.digest else one.participant
    if owner != one.participant:
      problem = f"it holds the same samples as a recording of {owner} and is left out"
      one = dataclasses.replace(one, windows=0, problems=(*one.problems, problem))
    kept.append(one)
  return tuple(kept)


def _unreadable(
  name: str, participant: str, found: dict, overlap: float, problems: tuple[str, ...]
) -> RecordingFound:
  nothing = np.zeros((0, 2))
  return RecordingFound(
    name, participant, found, overlap, 0, 0.0, 0.0, math.nan, "", problems, nothing
  )


def _signal(name: str, signal: Signal) -> SignalFound:
  seen = np.isfinite(signal.samples).all(axis=1)
  lengths_s = _runs(~seen) / signal.rate_hz
  gaps_s = lengths_s[lengths_s >= GAP_S]
  return SignalFound(
    minutes=len(signal.samples) / signal.rate_hz / 60,
    rate_hz=signal.rate_hz,
    unit=signal.unit,
    observed=float(seen.mean()) if len(seen) else 0.0,
    gaps=len(gaps_s),
    longest_gap_s=float(gaps_s.max(initial=0.0)),
    gravity_g=units.gravity(signal.samples) if name == ACC else math.nan,
  )


def _runs(mask: np.ndarray) -> np.ndarray:
  """Lengths of the stretches of True."""
  labels, n = ndimage.label(mask)
  return np.bincount(labels, minlength=n + 1)[1:]


def _signal_problems(recording: Recording, found: dict[str, SignalFound]) -> Iterator[str]:
  if ACC in found and abs(found[ACC].gravity_g - 1) > UNCALIBRATED_G:
    yield (
      f"gravity reads {found[ACC].gravity_g:.2f} g: the accelerometer is not calibrated, or"
      " moves most of the time; the shape of movement does not suffer"
    )
  for name, one in found.items():
    if one.observed < 0.8:
      yield (
        f"{1 - one.observed:.0%} of {name} is missing, in {one.gaps} gap(s) of up to"
        f" {one.longest_gap_s:.0f} s"
      )
  if PPG in found and ACC in found:
    ppg, acc = recording.signals[PPG], recording.signals[ACC]
    same_start = abs(ppg.start_s - acc.start_s) < 60
    ratio = found[PPG].minutes / max(found[ACC].minutes, 1e-9)
    if same_start and abs(ratio - 1) > UNEQUAL:
      yield (
        f"ppg lasts {found[PPG].minutes:.1f} min and acc {found[ACC].minutes:.1f} min from the same"
        f" start: is a rate wrong by {max(ratio, 1 / ratio):.2f}?"
      )
    if len(ppg.samples) > 60 * ppg.rate_hz and _upside_down(ppg):
      yield "ppg falls faster than it rises: if it is upside down, set inverted = true"


def _upside_down(ppg: Signal) -> bool:
  """Whether pulses rise slowly and fall fast, over the stretches that hold pulses at all."""
  clean = beats.clean_ppg(ppg.samples[:, 0], ppg.rate_hz)
  slope = np.diff(clean)
  length = round(10 * ppg.rate_hz)
  slope = slope[: len(slope) // length * length].reshape(-1, length)
  moving = slope.std(axis=1)
  # The calmer half: bursts of motion have a slope of their own.
  calm = slope[(moving > 0) & (moving <= np.median(moving))]
  return bool(len(calm) and np.median(stats.skew(calm, axis=1)) < UPSIDE_DOWN)


def _clock_problems(source: Source) -> Iterator[str]:
  """What the time stamps of one's own files show."""
  arguments = getattr(source.load, "args", ())
  if not arguments or not isinstance(arguments[0], manifest.Session):
    return
  for name, entry in arguments[0].signals.items():
    if name not in (PPG, ACC) or not entry.time:
      continue
    signal, stamps = own.read_signal(entry, name)
    if stamps is None:
      continue
    if stamps.duplicates or stamps.late:
      yield (
        f"{name}: {stamps.duplicates} row(s) repeat a time and were left out, {stamps.late} came"
        " late and were put in order"
      )
    nominal = float(round(signal.rate_hz))
    drift_ppm = 1e6 * (signal.rate_hz / nominal - 1) if nominal else 0.0
    if DRIFT_PPM < abs(drift_ppm) < 1e4:
      yield f"{name}: the clock runs at {signal.rate_hz:.4f} Hz, {drift_ppm:+.0f} ppm; put right"


def _apart(recording: Recording, overlap: float) -> str:
  """A hint where two clocks are far apart."""
  starts = [one.start_s for one in recording.signals.values()]
  apart_s = max(starts) - min(starts)
  if overlap or apart_s < 60:
    return ""
  hours = apart_s / 3600
  if abs(hours - round(hours)) < 0.02 and round(hours) <= 14:
    return f"; the starts are {round(hours)} h apart: is one of them in another time zone?"
  return f"; the starts are {apart_s:.0f} s apart: are the two clocks the same?"


# --- a manifest from files -----------------------------------------------------------------------


def propose(folder: pathlib.Path) -> str:
  """Text of a manifest.toml for the files of a folder, to be corrected by hand.

  Raises:
    DistillError: no file that could be read.
  """
  paths = sorted(
    path
    for path in folder.rglob("*")
    if path.is_file() and pathlib.Path(path.name.removesuffix(".gz")).suffix in tables.SUFFIXES
  )
  if not paths:
    raise DistillError(
      f"{folder} holds no recordings; known are files {', '.join(tables.SUFFIXES)} and the layouts"
      f" of {', '.join(name for name in datasets.DATASETS if name not in GENERIC)}"
    )
  blocks: dict[str, dict[str, str]] = {}
  unread = []
  for path in paths:
    try:
      guessed = _guess(folder, path, tables.names(path))
    except DistillError as error:
      unread.append(f"# left out: {error}")
      continue
    for kind, line in guessed.items():
      who = path.relative_to(folder).parts[0] if path.parent != folder else _person(path.stem)
      blocks.setdefault(who, {}).setdefault(kind, line)
  lines = [
    "# Proposed from the files: check participants, columns and units of time.",
    "# Write the true samples per second where rate_hz = 0.",
    *unread,
  ]
  for who, entries in blocks.items():
    lines += ["", "[[recording]]", f'participant = "{who}"']
    lines += [f"{kind} = {{ {entry} }}" for kind, entry in sorted(entries.items(), reverse=True)]
    lines += [f"# no {kind} found" for kind in (PPG, ACC) if kind not in entries]
  return "\n".join(lines) + "\n"


def _person(stem: str) -> str:
  """The file's name without what names the signal: anna_ppg and anna_acc are both anna."""
  words = stem.replace("-", "_").split("_")
  kept = [word for word in words if word.lower() not in (*PPG_WORDS, *ACC_WORDS)]
  return "_".join(kept) or stem


def _guess(folder: pathlib.Path, path: pathlib.Path, columns: Sequence[str]) -> dict[str, str]:
  """Signal -> fields of its entry, from the names of the columns and the first time."""
  lower = {name.lower(): name for name in columns}
  time = tables.time_column(columns)
  clock = f'time = "{time}", time_unit = "{_time_unit(path, time)}"' if time else "rate_hz = 0"
  if path.suffix in (".edf", ".bdf", ".hea"):
    clock = ""
  found = {}
  ppg = next((n for word in PPG_WORDS for key, n in lower.items() if word in key.split("_")), "")
  axes = [_axis(axis, lower) for axis in "xyz"]
  if path.suffix == ".npz" and not all(axes):  # an array [rows, 3]
    axes = [next((lower[word] for word in ACC_WORDS if word in lower), "")]
  for kind, names in ((PPG, [ppg]), (ACC, axes)):
    if all(names):
      quoted = ", ".join(f'"{name}"' for name in names)
      place = path.relative_to(folder).as_posix()
      fields = [f'file = "{place}"', f"columns = [{quoted}]", *([clock] if clock else [])]
      found[kind] = ", ".join(fields)
  return found


def _time_unit(path: pathlib.Path, time: str) -> str:
  """Of a column of times by the first: a date, or how large the Unix time of a recording is."""
  first = tables.first_field(path, time)
  if re.match(r"\d{4}-\d\d-\d\d", first):
    return tables.ISO
  try:
    size = float(first)
  except ValueError:
    return "s"
  return next((unit for unit, least in UNIX_TIMES.items() if size >= least), "s")


def _axis(axis: str, lower: dict[str, str]) -> str:
  """The column of one axis of acceleration: x, acc_x, accx, x_acc, ..."""
  plain = [n for key, n in lower.items() if key in (axis, f"acc{axis}", f"a{axis}")]
  worded = [n for key, n in lower.items() if axis in key.split("_") and "gyr" not in key]
  return next(iter([*plain, *worded]), "")


# --- for people ----------------------------------------------------------------------------------


def _lines(found: Found) -> Iterator[str]:
  yield f"{found.folder}: {f'set {found.set_name}' if found.set_name else 'no set'}"
  if found.recordings:
    minutes = sum(one.overlap_minutes for one in found.recordings)
    yield (
      f"{found.participants} participants, {len(found.recordings)} recordings, {minutes:.0f}"
      " minutes with all signals"
    )
    yield f"{'recording':24} {'min':>6} {'ppg Hz':>8} {'acc Hz':>8} {'g':>5} {'gaps':>5}" + (
      f" {'usable':>7} {'hr bpm':>7} from"
    )
  for one in found.recordings:
    rates = [one.signals[name].rate_hz if name in one.signals else None for name in (PPG, ACC)]
    gravity_g = one.signals[ACC].gravity_g if ACC in one.signals else None
    gaps = sum(signal.gaps for signal in one.signals.values())
    yield (
      f"{one.name[:24]:24} {one.overlap_minutes:6.1f} {_number(rates[0], 8, 2)}"
      f" {_number(rates[1], 8, 2)} {_number(gravity_g, 5, 2)} {gaps:5d}"
      f" {one.usable:7.0%} {_number(one.hr_bpm, 7, 0)} {one.origin}"
    )
  for one in found.recordings:
    for problem in one.problems:
      yield f"! {one.name}: {problem}"
  for problem in found.problems:
    yield f"! {problem}"
  if found.proposal:
    yield f"A manifest for these files could be (save it as {found.folder}/manifest.toml):"
    yield found.proposal


def _number(value: float | None, width: int, digits: int) -> str:
  return f"{'-':>{width}}" if value is None or value != value else f"{value:{width}.{digits}f}"


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _plain(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def picture(found: Found, path: str | pathlib.Path) -> None:
  """Draws which minutes of each recording are there and usable, one row a recording, as PNG."""
  from matplotlib.figure import Figure

  shown = [one for one in found.recordings if one.windows][:60]
  figure = Figure(figsize=(10, 1.5 + 0.25 * max(len(shown), 1)), layout="constrained")
  axes = figure.subplots()
  for row, one in enumerate(shown):
    minutes, usable = one.timeline[:, 0], one.timeline[:, 1] > 0
    axes.plot([0, one.overlap_minutes], [row, row], color="#d0d0d0", linewidth=1, zorder=0)
    axes.scatter(minutes[~usable], np.full((~usable).sum(), row), marker="|", color="#767676", s=30)
    axes.scatter(minutes[usable], np.full(usable.sum(), row), marker="s", color="#0b4f8a", s=9)
  axes.set_yticks(range(len(shown)), [one.name for one in shown], fontsize=7)
  axes.set_ylim(len(shown) - 0.5, -0.5)
  axes.set_xlabel("minutes; square: window with usable PPG, stroke: not usable, blank: missing")
  axes.set_title(
    f"{found.set_name or found.folder}: {found.participants} participants", fontsize=10
  )
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format="png", dpi=120)
