"""Recordings that no run knows: embeds a folder in any layout with a distilled student.

This is how a model is tried on people it has never seen: one call prepares the recordings as the
student expects them and writes embedding files that `distill probe` and `distill retrieve` read.
"""

import pathlib
import sys

from tqdm import tqdm

from distill import config as configs
from distill import embeddings, models, tables
from distill.config import ConfigDict
from distill.data import datasets, manifest
from distill.data.prepare import prepare
from distill.data.store import open_set
from distill.errors import DistillError
from distill.spec import PPG, SignalSpec

OWN = "own"
GENERIC = "empatica_e4"  # the sessions of several public sets, too
SHIPPED = "ours"  # student and teacher of this name belong together


def embed(
  student: str | pathlib.Path,
  source: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  layout: str = "",
  teacher: str | pathlib.Path = "",
) -> dict[str, pathlib.Path]:
  """Embeds every non-overlapping window of a folder of recordings.

  Args:
    student: folder of a distilled student, or "ours", which brings its teacher.
    source: folder of recordings; one's own with a manifest, or a public set as it is published.
    out: folder to write; prepared windows are kept in it.
    layout: name of the data set whose layout it is; "" finds out.
    teacher: the PPG teacher that the student learnt from, for retrieval; "" = none but "ours".

  Returns:
    What was written: "student" and "student_projection", and with a teacher "teacher" and
    "teacher_projection" -> .parquet. Rows of people whom a model was trained on are marked in
    column `seen`.

  Raises:
    DistillError: a model that cannot be read, heads that do not belong to the teacher, or a folder
      in no known layout or in several.
  """
  if not teacher and str(student) == SHIPPED:
    teacher = SHIPPED
  student = models.find(student, side="students")
  folders = {"student": student}
  if teacher:
    folders["teacher"] = models.find(teacher, side="teachers")
  stored = {name: models.read(folder) for name, folder in folders.items()}
  if teacher:
    _check_belongs(stored["student"], stored["teacher"])
  out = pathlib.Path(out)
  specs = [SignalSpec.from_json(one.fields["signal"]) for one in stored.values()]
  settings = _settings(source, out, specs, layout)
  (name,) = settings.sets
  prepared = prepare(settings)[name]
  written = {}
  for model in stored:
    given = folders["teacher"] if model == "teacher" else None
    if given is not None and PPG not in open_set(prepared).specs:
      tqdm.write(f"{name} has no PPG: the teacher embeds nothing", file=sys.stderr)
      continue
    made = tables.embed_set(student, prepared, teacher=given, projected=True)
    for space, ending in (("embedding", ""), ("projection", "_projection")):
      written[model + ending] = out / f"{model}{ending}.parquet"
      embeddings.save(made[space], written[model + ending])
  return written


def _check_belongs(student: models.ModelFolder, teacher: models.ModelFolder) -> None:
  known = student.fields.get("teachers", [])
  if teacher.fields["sha256"] not in known:
    raise DistillError(
      f"the student in {student.folder} did not learn from the teacher in {teacher.folder}: their"
      " projections cannot be compared; give the teacher it was distilled from"
    )


def _settings(
  source: str | pathlib.Path, out: pathlib.Path, specs: list[SignalSpec], layout: str
) -> ConfigDict:
  """The data section that prepares `source` as the encoders expect it."""
  data = configs.base().data
  data.source, data.prepared_dir = str(source), str(out / "prepared")
  data.window_s = data.hop_s = specs[0].window_s
  for spec in specs:
    data[f"{spec.modality}_rate_hz"] = spec.rate_hz
  data.sets = (layout or find_layout(data),)
  return data


def find_layout(data: ConfigDict) -> str:
  """The one data set whose layout the folder `data.source` has.

  Raises:
    DistillError: none has it, or several; the message says how to go on.
  """
  if not pathlib.Path(data.source).is_dir():
    raise DistillError(f"there is no folder {data.source}")
  if manifest.find(pathlib.Path(data.source)):
    return OWN  # also where the manifest is wrong, which reading it says
  fitting = []
  public = sorted(set(datasets.DATASETS) - {"simulated", OWN})
  for name in public:
    try:
      if datasets.find(name)(data, data.prepared_dir, progress=False).sources():
        fitting.append(name)
    except DistillError:
      continue
  special = [name for name in fitting if name != GENERIC] or fitting
  if len(special) == 1:
    return special[0]
  if special:
    raise DistillError(f"{data.source} could be {' or '.join(special)}; say which with --layout")
  raise DistillError(
    f"{data.source} has no known layout; put a manifest.toml or manifest.csv beside your own"
    f" recordings, or name one with --layout: {', '.join(public)}"
  )
