"""Made-up embeddings with known content, for the tests of judging and of the report."""

import dataclasses

import numpy as np

from distill.embeddings import EmbeddingTable
from distill.evaluate import FoldTables

PEOPLE = 15
WINDOWS = 24


def fold_tables(
  fold: int = 0, *, folds: int = 3, seed: int = 0, origin: str = "ecg", simulated: bool = False
) -> FoldTables:
  """One fold: the teacher knows the labels well, the student less, the untrained one nothing."""
  rng = np.random.default_rng(seed)
  columns = _columns(rng, fold, folds, origin)
  n = len(columns["participant"])
  labels = np.stack([columns[name] for name in ("hr_bpm", "sdnn_ms", "rmssd_ms")], axis=1)
  labels = np.nan_to_num(labels, nan=50.0)
  clean = (labels - labels.mean(axis=0)) / labels.std(axis=0) @ rng.normal(size=(3, 16))
  identity = rng.normal(size=(n, 16))  # what is particular to the window, seen by both sensors
  content = clean + identity
  embeddings = {
    "teacher": content + 0.4 * rng.normal(size=(n, 16)),
    "student": content + 1.2 * rng.normal(size=(n, 16)),
    "untrained": rng.normal(size=(n, 16)),
    "supervised": clean + 2.0 * rng.normal(size=(n, 16)),
    "motion_features": np.log(columns["motion_g"])[:, None] + rng.normal(size=(n, 4)),
  }
  hr_bpm = columns["hr_bpm"]
  predictions = {
    ("supervised", "hr_bpm"): hr_bpm + rng.normal(0, 6, n),
    ("acc_signal_processing", "hr_bpm"): rng.uniform(40, 180, n),
    ("ppg_signal_processing", "hr_bpm"): hr_bpm + rng.normal(0, 2, n),
  }
  test = columns["split"] == "test"
  return FoldTables(
    {
      model: EmbeddingTable(values.astype(np.float32), columns, "embedding")
      for model, values in embeddings.items()
    },
    {
      side: EmbeddingTable(
        embeddings[side][test].astype(np.float32),
        {name: column[test] for name, column in columns.items()},
        "projection",
        f"pair{fold}",
      )
      for side in ("student", "teacher")
    },
    predictions,
    simulated=simulated,
  )


def _columns(rng, fold: int, folds: int, origin: str) -> dict[str, np.ndarray]:
  people = np.array([f"p{k:02d}" for k in range(PEOPLE)])
  participant = np.repeat(people, WINDOWS)
  part = np.array(["train", "validation", "test"])[
    np.where(
      np.arange(PEOPLE) % folds == fold,
      2,
      np.where(np.arange(PEOPLE) % folds == (fold + 1) % folds, 1, 0),
    )
  ]
  n = len(participant)
  motion_g = np.exp(rng.normal(-3, 1.2, n))
  person = np.repeat(rng.normal(75, 8, PEOPLE), WINDOWS)
  hr_bpm = person + 6 * np.log(motion_g / 0.05) + rng.normal(0, 6, n)
  sdnn_ms, rmssd_ms = rng.normal(50, 15, n), rng.normal(40, 15, n)
  sdnn_ms[rng.uniform(size=n) < 0.3] = np.nan
  rmssd_ms[np.isnan(sdnn_ms)] = np.nan
  return {
    "split": np.repeat(part, WINDOWS),
    "participant": participant,
    "recording": np.full(n, "session"),
    "t0_s": np.tile(60.0 * np.arange(WINDOWS), PEOPLE),
    "motion_g": motion_g,
    "hr_bpm": hr_bpm,
    "sdnn_ms": sdnn_ms,
    "rmssd_ms": rmssd_ms,
    "hr_origin": np.full(n, origin),
    "hrv_origin": np.full(n, "ppg"),
    "ppg_usable": rng.uniform(size=n) < 0.8,
    "complete": rng.uniform(size=n) < 0.5,
  }


def with_columns(fold: FoldTables, **changed: np.ndarray) -> FoldTables:
  """The fold with other columns in every table of embeddings."""
  embeddings = {
    model: dataclasses.replace(table, columns={**table.columns, **changed})
    for model, table in fold.embeddings.items()
  }
  return dataclasses.replace(fold, embeddings=embeddings)
