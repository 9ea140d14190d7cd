"""A student that sees nothing but which samples were lost knows nothing of the heart.

Sensors that drop out together would let such a student pick the partner (SCIENCE: shared gaps
fingerprint a pair), which is why windows without gaps are scored by themselves.
"""

import numpy as np

import students.transformer
from distill import retrieval
from distill.embeddings import EmbeddingTable
from distill.nn.encoder import Forward

WINDOWS, PEOPLE = 40, 8


def _tables(embedding: np.ndarray, complete: np.ndarray) -> tuple[EmbeddingTable, EmbeddingTable]:
  columns = {
    "participant": np.repeat([f"P{i}" for i in range(PEOPLE)], WINDOWS // PEOPLE),
    "recording": np.full(WINDOWS, "R"),
    "t0_s": np.tile(np.arange(WINDOWS // PEOPLE) * 60.0, PEOPLE),
    "complete": complete,
  }
  ppg = np.random.default_rng(1).normal(size=(WINDOWS, embedding.shape[1])).astype(np.float32)
  return tuple(EmbeddingTable(x, columns, "projection", "pair") for x in (embedding, ppg))


def test_mask_only_student_is_at_chance_without_gaps():
  student = students.transformer.build(seed=0, width=16, depth=1, heads=2)
  mask = np.ones((WINDOWS, *student.spec.shape), bool)
  rng = np.random.default_rng(0)
  complete = rng.random(WINDOWS) < 0.5
  for i in np.flatnonzero(~complete):
    start = rng.integers(0, 2000)
    mask[i, start : start + 900] = False
  blind = Forward(student, batch_size=WINDOWS)(np.zeros(mask.shape, np.float32), mask)
  assert np.ptp(blind[complete], axis=0).max() < 1e-5  # all the same but for rounding
  assert np.ptp(blind[~complete], axis=0).max() > 0.01  # where there are gaps, they tell
  settings = retrieval.Settings(galleries=(), repeats=1, keep_people=0.0)
  judged = retrieval.retrieve([_tables(blind, complete)], settings)
  [row] = judged["controls"]["gap_free"][retrieval.ACC_TO_PPG]
  assert row["n_queries"] == complete.sum()
  assert row["top1"] <= row["chance_top1"] + 1e-9
