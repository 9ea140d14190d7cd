"""Embeds the windows of a fold once and keeps the tables that judging reads.

Judging reads one table a model over non-overlapping windows. Windows are read a stretch at a time,
so that memory stays flat, and every model sees each stretch while it is there. The vectors of
frozen teachers come from `distill.frozen`.
"""

import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from distill import baselines, controls, embeddings, evaluate, models, objectives, signals
from distill.data import pipeline, splits, units
from distill.data.store import PreparedSet, open_set
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError
from distill.evaluate import FoldTables
from distill.frozen import Teacher
from distill.nn.encoder import Encoder, Forward
from distill.objectives import Distillation, Supervised
from distill.spec import ACC, ERRORS, PPG
from distill.workdir import Fold

BATCH = 128
STRETCH = 8 * BATCH  # windows in memory at a time
TABLE = "table.json"
# Columns of a prepared set that travel with its embeddings.
COLUMNS = (
  *("participant", "recording", "t0_s", "hr_bpm", "sdnn_ms", "rmssd_ms", "pnn50"),
  *("sdnn_detrended_ms", "activity"),
  *ERRORS.values(),
  *("age", "sex", "bmi", "skin_tone", "motion_g", "complete", "ppg_usable"),
  *("hr_origin", "hrv_origin"),
)

CADENCE = "cadence_hz"  # of every window of acceleration, steps or not

Windows = dict[str, np.ndarray]  # modality -> [n, time, channels], NaN where missing


def _in_stretches(
  prepared: PreparedSet, rows: np.ndarray, label: str, read: Callable[[Windows], Windows]
) -> Windows:
  """Calls `read` on the windows of each stretch of rows; joins what it returns, key by key."""
  parts = []
  with tqdm(total=len(rows), desc=label, unit="window", mininterval=1.0) as bar:
    for start in range(0, len(rows), STRETCH):
      some = rows[start : start + STRETCH]
      parts.append(read(prepared.windows(some)))
      bar.update(len(some))
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- every model of a fold ----------------------------------------------------------------------


def write(
  config,
  fold: Fold,
  *,
  teachers: Sequence[Teacher],
  encoders: Mapping[str, Encoder],
  regressed: Mapping[str, Supervised],
  distilled: Distillation | None = None,
  teacher: Encoder | None = None,
) -> None:
  """Writes <fold>/embeddings/<set>/ for every set: one table a model, projections, predictions.

  Args:
    config: of the run.
    fold: whose windows are embedded: non-overlapping ones of every part that has people.
    teachers: frozen ones; the first is the one that retrieval searches.
    encoders: row -> student, the distilled one and those it is compared with.
    regressed: row -> student of `encoders` with a head of its own, which predicts directly.
    distilled: student and both heads; without them there is nothing to retrieve.
    teacher: encoder of the first teacher, where there is one, for partners that start later.
  """
  rhythm = bool(distilled and distilled.rhythm)
  forwards = {
    name: Forward(encoder, batch_size=BATCH, rhythm=rhythm and name == "student")
    for name, encoder in encoders.items()
  }
  pair = models.pair_hash(models.parameters(distilled)) if distilled else ""
  sides: dict[str, controls.Side] = {}
  if distilled:
    sides[ACC] = distilled.encoder, forwards["student"], distilled.student_head
    if teacher is not None:
      forward = Forward(teacher, batch_size=BATCH, rhythm=rhythm)
      sides[PPG] = teacher, forward, distilled.teacher_head
  vectors = {teacher.name: teacher.vectors(fold) for teacher in teachers}
  dims = {name: encoder.dim for name, encoder in encoders.items()}
  dims |= {teacher.name: teacher.dim for teacher in teachers}
  rows = {p: fold.rows(config, p, overlapping=False) for p in PARTS if fold.people(p)}
  for name, (prepared, people) in fold.sets.items():
    folder = fold.folder / "embeddings" / name
    if (folder / TABLE).is_file():
      continue
    picked = [rows[part][name].rows for part in rows]
    split = np.repeat(list(rows), [len(some) for some in picked])
    order = np.concatenate(picked)
    found, cadence_hz = _embed_acc(prepared, order, encoders, forwards, f"students embed {name}")
    found |= {teacher: sets[name][order] for teacher, sets in vectors.items()}
    projections = _project(distilled, found, split == "test") if distilled else {}
    found = {model: one[:, : dims.get(model)] for model, one in found.items()}  # no rhythm
    predictions = _own_heads(regressed, found)
    predictions |= _signal_processing(prepared, order, split, f"signal processing on {name}")
    columns = {column: prepared.index[column][order] for column in COLUMNS}
    columns["coverage"] = prepared.index["acc_coverage"][order]
    columns[evaluate.LABELLED_SHARE] = np.where(
      split == "train", labelled_share(columns["participant"], people.train, config), np.nan
    )
    columns[CADENCE] = cadence_hz
    if prepared.simulated:
      columns["arrhythmia"] = prepared.arrhythmia(order)
    columns |= {"split": split}
    marks = {"pair": pair, "simulated": prepared.simulated}
    _write(folder, found, projections, predictions, columns, marks)
    fields = {
      "window_s": prepared.specs[ACC].window_s,
      "simulated": prepared.simulated,
      "models": sorted(found),
      "projections": sorted(projections),
    }
    held, seed = order[split == "test"], config.evaluate.seed
    fields["rest"] = controls.rest(prepared, held, seed=seed)
    more = {
      "rhythm": controls.rhythms(prepared, held, seed=seed) if distilled else {},
      "shifted": controls.shifted(prepared, held, sides, pair=pair, seed=seed),
    }
    for kind, some in more.items():
      fields[kind] = sorted(some)
      for side, table in some.items():
        embeddings.save(table, folder / f"{kind}_{side}.parquet")
    (folder / TABLE).write_text(json.dumps(fields))  # last: without it the folder is not whole


def embed_set(
  model: str | pathlib.Path,
  prepared: str | pathlib.Path,
  *,
  projected: bool = False,
  teacher: str | pathlib.Path | None = None,
) -> dict[str, EmbeddingTable]:
  """Embeds every window of a prepared set with one model folder.

  Args:
    model: model folder of a student or a teacher.
    prepared: folder of a prepared set.
    projected: also project, by the heads of a distilled student's folder.
    teacher: embed with this teacher's folder instead, and project with the teacher's head of
      `model`.

  Returns:
    "embedding" and, if `projected`, "projection" -> table with the set's columns, `coverage`,
    `valid`: False where too little was observed, and `seen`: whose the model was trained on.

  Raises:
    DistillError: a folder that cannot be read, a set of another rate or window, or heads that are
      not there.
  """
  stored, opened = models.read(models.model_folder(model)), open_set(prepared)
  encoder = models.load_encoder(teacher or model)
  pipeline.check_spec(opened, encoder.spec, who="teacher" if teacher else "model")
  modality, head = encoder.spec.modality, None
  if projected:
    head = objectives.load_head(stored, "teacher_head" if modality == PPG else "student_head")
  forward = Forward(encoder, batch_size=BATCH, rhythm=head is not None and head.rhythm)

  def embed(raw: Windows) -> Windows:
    out = {"embedding": forward(*pipeline.prepare_windows(raw[modality], encoder.spec))}
    return out | {CADENCE: baselines.cadence_hz(raw[ACC], opened.specs[ACC].rate_hz)}

  found = _in_stretches(opened, np.arange(len(opened)), f"embed {opened.name}", embed)
  wide = found["embedding"]
  columns = {column: opened.index[column] for column in COLUMNS}
  columns["coverage"] = opened.index[f"{modality}_coverage"]
  columns[CADENCE] = found[CADENCE]
  columns[embeddings.VALID] = embeddings.embedded(wide)
  columns["seen"] = _seen(opened, models.read(models.model_folder(teacher)) if teacher else stored)
  marks: dict[str, Any] = {"side": modality, "simulated": opened.simulated}
  made = {"embedding": EmbeddingTable(wide[:, : encoder.dim], columns, "embedding", **marks)}
  if head is not None:
    vectors, pair = np.asarray(head(jnp.asarray(wide))), stored.fields["pair"]
    made["projection"] = EmbeddingTable(vectors, columns, "projection", pair=pair, **marks)
  return made


def _seen(prepared: PreparedSet, stored: models.ModelFolder) -> np.ndarray:
  """[n] bool: windows of people on whom the model was trained; says how many people those are."""
  known, who = set(stored.fields.get("people_seen", [])), prepared.index["participant"]
  people = [one for one in np.unique(who) if models.person_hash(f"{prepared.name}/{one}") in known]
  if people:
    told = f"{len(people)} of these people were seen in training (column seen)"
    tqdm.write(f"{stored.folder}: {told}", file=sys.stderr)
  return np.isin(who, people)


def embed_recording(
  model: str | pathlib.Path,
  samples: np.ndarray,
  *,
  rate_hz: float,
  hop_s: float | None = None,
  where: str = "the recording",
) -> EmbeddingTable:
  """Embeds one raw recording, gaps and all, with one model folder.

  Args:
    model: model folder of a student or a teacher.
    samples: [time, channels] in the spec's unit, NaN where missing.
    rate_hz: samples per second.
    hop_s: seconds between window starts; the window's own length if None.
    where: what messages call the recording.

  Returns:
    Embeddings with `t0_s` after the first sample, `coverage` (share of the window's samples that
    were observed, all channels together) and `valid`.

  Raises:
    DistillError: a folder that cannot be read, wrong channels, acceleration in which gravity is
      not 1 g, or less than one window.
  """
  encoder = models.load_encoder(model)
  if encoder.spec.modality == ACC and np.ndim(samples) == 2 and samples.shape[1] == 3:
    samples = units.in_g(samples, encoder.spec.unit, where)
  windows, mask, t0_s = signals.to_windows(samples, rate_hz, encoder.spec, hop_s)
  vectors = Forward(encoder, batch_size=min(BATCH, len(windows)))(windows, mask)
  columns = {"t0_s": t0_s, "coverage": mask.mean(axis=(1, 2))}
  columns[embeddings.VALID] = embeddings.embedded(vectors)
  return EmbeddingTable(vectors, columns, space="embedding", side=encoder.spec.modality)


def _embed_acc(
  prepared: PreparedSet,
  rows: np.ndarray,
  encoders: Mapping[str, Encoder],
  forwards: Mapping[str, Forward],
  label: str,
) -> tuple[Windows, np.ndarray]:
  """(model -> vectors, cadence)."""
  specs = {encoder.spec for encoder in encoders.values()}
  rate_hz = prepared.specs[ACC].rate_hz

  def embed(raw: Windows) -> Windows:
    ready = {spec: pipeline.prepare_windows(raw[ACC], spec) for spec in specs}
    out = {name: forward(*ready[encoders[name].spec]) for name, forward in forwards.items()}
    features = baselines.motion_features(raw[ACC], rate_hz)
    return out | {"motion_features": features, CADENCE: baselines.cadence_hz(raw[ACC], rate_hz)}

  found = _in_stretches(prepared, rows, label, embed)
  return found, found.pop(CADENCE)


def _own_heads(
  regressed: Mapping[str, Supervised], found: Windows
) -> dict[tuple[str, str], np.ndarray]:
  """Direct predictions of each student that has a head of its own."""
  predictions: dict[tuple[str, str], np.ndarray] = {}
  for row, one in regressed.items():
    predicted = np.asarray(one.predict(jnp.asarray(found[row])))
    predictions |= {(row, target): predicted[:, i] for i, target in enumerate(one.names)}
  return predictions


def labelled_share(participant: np.ndarray, people: Sequence[str], config) -> np.ndarray:
  """[n] smallest share of the config that holds each participant; 1 for those whom none does.

  Args:
    participant: [n] names.
    people: all training people of the set.
    config: of the run; its shares of supervision and of probes.
  """
  found = np.ones(len(participant))
  shares = {*config.supervised.shares, *config.evaluate.shares}
  for share in sorted(shares, reverse=True):
    found[np.isin(participant, splits.labelled(people, share, config.seed))] = share
  return found


def _signal_processing(
  prepared: PreparedSet, rows: np.ndarray, split: np.ndarray, label: str
) -> dict[tuple[str, str], np.ndarray]:
  """Heart rate without learning; training windows, which it does not need, stay NaN."""
  held = split != "train"
  rates = {name: prepared.specs[name].rate_hz for name in (ACC, PPG)}

  def estimate(raw: Windows) -> Windows:
    return {
      "acc_signal_processing": baselines.acc_heart_rate(raw[ACC], rates[ACC]),
      "acc_jerk": baselines.acc_jerk_heart_rate(raw[ACC], rates[ACC]),
      "acc_curve": baselines.acc_curve_heart_rate(raw[ACC], rates[ACC]),
      "ppg_signal_processing": baselines.ppg_heart_rate(raw[PPG], rates[PPG]),
    }

  found = _in_stretches(prepared, rows[held], label, estimate)
  out = {}
  for name, values in found.items():
    out[name, "hr_bpm"] = np.full(len(rows), np.nan)
    out[name, "hr_bpm"][held] = values
  return out


def _project(distilled: Distillation, found: Windows, test: np.ndarray) -> Windows:
  heads: dict[str, nnx.Module] = {
    "student": distilled.student_head,
    "teacher": distilled.teacher_head,
  }
  return {name: np.asarray(head(found[name][test])) for name, head in heads.items()}


def _write(folder, found, projections, predictions, columns, marks: Mapping[str, Any]) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for name, vectors in found.items():
    valid = {embeddings.VALID: embeddings.embedded(vectors)}
    table = EmbeddingTable(
      *(vectors, columns | valid, "embedding"), side=_side(name), simulated=marks["simulated"]
    )
    embeddings.save(table, folder / f"{name}.parquet")
  test = columns["split"] == "test"
  held = {name: column[test] for name, column in columns.items()}
  for name, vectors in projections.items():
    valid = {embeddings.VALID: embeddings.embedded(found[name][test])}
    table = EmbeddingTable(vectors, held | valid, "projection", side=_side(name), **marks)
    embeddings.save(table, folder / f"{name}_projection.parquet")
  direct = {f"{model}/{target}": values for (model, target), values in predictions.items()}
  np.savez(folder / "predictions.npz", **direct)


def _side(model: str) -> str:
  return PPG if model.startswith("teacher") else ACC


def read(folder: pathlib.Path) -> FoldTables:
  """The tables of one set and fold, as `write` left them.

  Raises:
    DistillError: no tables there, or they are not whole.
  """
  if not (folder / TABLE).is_file():
    raise DistillError(f"no embeddings in {folder}; make them with: distill embed")
  try:
    fields = json.loads((folder / TABLE).read_text())
  except ValueError:
    fields = None
  if not isinstance(fields, dict) or "models" not in fields:
    raise DistillError(f"{folder / TABLE} is damaged; delete {folder} and run: distill embed")
  with open(folder / "predictions.npz", "rb") as stream, np.load(stream) as file:
    direct = {tuple(key.split("/")): file[key] for key in file.files}
  return FoldTables(
    {name: embeddings.load(folder / f"{name}.parquet") for name in fields["models"]},
    {n: embeddings.load(folder / f"{n}_projection.parquet") for n in fields["projections"]},
    direct,
    shifted=_read_more(folder, fields, "shifted"),
    rhythms=_read_more(folder, fields, "rhythm"),
    window_s=fields["window_s"],
    simulated=fields["simulated"],
    rest=fields.get("rest", {}),
  )


def _read_more(folder: pathlib.Path, fields: dict, kind: str) -> dict[str, EmbeddingTable]:
  return {side: embeddings.load(folder / f"{kind}_{side}.parquet") for side in fields.get(kind, [])}
