"""Makes the model folders that are shipped by name out of a finished run.

  python -m distill.ship runs/ours

writes teachers/weights/ours and students/weights/ours: float16, encoder and both heads in each, and
a card that says what they were trained on, whom they saw, and how they did on people held out.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill import models, numerals, registry, report
from distill.errors import DistillError

LARGEST_BYTES = 8_000_000
LICENCES = {
  "simulated": "drawn by this code (Apache-2.0)",
  "stress_predict": "MIT (doi 10.3390/s22218135)",
}
TARGETS = ("hr_bpm", "sdnn_ms", "rmssd_ms")


def ship(run: str | pathlib.Path, name: str = "ours") -> list[pathlib.Path]:
  """Writes the folders of teacher and student of fold 0.

  Args:
    run: judged work folder.
    name: what `teachers.load` and `students.load` will call them.

  Returns:
    Both folders.

  Raises:
    DistillError: no finished run, weights that float16 cannot hold or that are too large, or data
      whose licence is not known here.
  """
  fold = pathlib.Path(run) / "fold0"
  made = report.load(run)
  student = models.read(fold / "student" / "model")
  teacher = models.read(fold / "teacher" / "model")
  heads = {
    key: values
    for key, values in student.tensors.items()
    if key.startswith(("student_head.", "teacher_head."))
  }
  narrow = {side: _narrowed(one, heads) for side, one in (("t", teacher), ("s", student))}
  folders = []
  for side, stored, tensors in (
    ("teachers", teacher, narrow["t"]),
    ("students", student, narrow["s"]),
  ):
    folder = registry.resolve(f"{side}:WEIGHTS", key=side) / name
    fields = stored.fields | {
      "licence": _licences(stored.fields["sets"]),
      "metrics": _metrics(made, stored.fields["role"]),
      "teachers": [models.digest(narrow["t"])] if side == "students" else [],
    }
    models.write(folder, tensors, fields, _card(name, fields, tensors))
    folders.append(folder)
  return folders


def _narrowed(stored: models.ModelFolder, heads: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Encoder and heads in half precision."""
  encoder = {key: values for key, values in stored.tensors.items() if key.startswith("encoder.")}
  tensors = {key: values.astype(np.float16) for key, values in (encoder | dict(heads)).items()}
  broken = [key for key, values in tensors.items() if not np.isfinite(values).all()]
  size = sum(values.nbytes for values in tensors.values())
  if broken or size > LARGEST_BYTES:
    raise DistillError(
      f"{stored.folder} cannot be shipped: {size / 1e6:.1f} MB in float16, at most"
      f" {LARGEST_BYTES / 1e6:g}; beyond its range: {broken[:3]}"
    )
  return tensors


def _licences(sets: list[str]) -> dict[str, str]:
  unknown = sorted(set(sets) - set(LICENCES))
  if unknown:
    raise DistillError(f"weights made of {', '.join(unknown)} may not be shipped without a licence")
  return {name: LICENCES[name] for name in sets}


def _metrics(made: Mapping[str, Any], role: str) -> dict[str, Any]:
  """MAE of the model's probes beside the mean, and retrieval, on people held out."""
  found: dict[str, Any] = {}
  for name, one in made["sets"].items():
    probes = {
      target: {
        "mae": one["probes"][target][role]["mae"],
        "mae_of_mean": one["probes"][target]["mean"]["mae"],
        "labels": one["probes"][target][role]["label_origin"],
      }
      for target in TARGETS
      if target in one["probes"]
    }
    retrieval = one["retrieval"].get("acc_to_ppg", [])[:1]
    found[name] = {"probes": probes, "retrieval": retrieval, "windows": one["windows"]["all"]}
    found[name]["simulated"] = one["simulated"]
  return found


def _card(name: str, fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
  signal, role = fields["signal"], fields["role"]
  count = sum(values.size for values in tensors.values())
  lines = [
    f"# {name}: {role}",
    "",
    f"An encoder of {signal['modality']} windows: {signal['window_s']:g} s at"
    f" {signal['rate_hz']:g} Hz in {signal['unit']}, {fields['dim']} numbers. {count} parameters"
    " with both projection heads, stored in float16.",
    "",
    "## Data",
    "",
    f"Training people of fold 0 of: {', '.join(fields['sets'])} (config `{fields['config']}`). Best"
    f" step chosen on validation people. Hashes of the {len(fields['people_seen'])} people seen"
    " stand in `spec.json`, `people_seen`; runs refuse to hold them out.",
    "",
    *(f"- {one}: {licence}" for one, licence in fields["licence"].items()),
    "",
    "## Metrics",
    "",
    "On people held out, 95 % intervals over participants:",
    "",
    "| set | target | MAE | 95 % | mean predictor | labels |",
    "| --- | --- | ---: | ---: | ---: | --- |",
  ]
  for one, found in fields["metrics"].items():
    mark = " (simulated)" if found["simulated"] and "simulated" not in one else ""
    for target, row in found["probes"].items():
      mae, mean = row["mae"], row["mae_of_mean"]["value"]
      lines.append(
        f"| {one}{mark} | {target} | {numerals.number(mae['value'])} |"
        f" {numerals.span(mae['lo'], mae['hi'])} | {numerals.number(mean)} | {row['labels']} |"
      )
  lines.append("")
  for one, found in fields["metrics"].items():
    lines += [
      f"- {one}: acceleration finds its PPG among {row['gallery']:.0f} in {100 * row['top1']:.1f} %"
      f" of {row['n_queries']} windows (chance {100 * row['chance_top1']:.1f} %)"
      for row in found["retrieval"]
    ]
  lines += [
    "",
    "## Licence",
    "",
    "Apache-2.0, as the code; attribution of the data as above.",
    "",
    "## Limits",
    "",
    "Small, trained on two CPU cores, mostly on simulated people; one wrist device of record. PPG"
    " labels of Stress-Predict come from the pulses themselves. Heart rhythm disorders, skin tones"
    " and motion beyond the training data are not covered. Not a medical device.",
    "",
  ]
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(prog="python -m distill.ship", description=__doc__)
  parser.add_argument("run", help="judged work folder")
  parser.add_argument("--name", default="ours")
  options = parser.parse_args(argv)
  try:
    for folder in ship(options.run, options.name):
      print(folder)  # noqa: T201
  except DistillError as error:
    print(f"ship: {error}", file=sys.stderr)  # noqa: T201
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
