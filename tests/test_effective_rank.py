"""Smooth effective rank: closed forms, invariances, and where it stands in a report."""

import json

import jsonschema
import numpy as np
import pytest

from distill import evaluate, report
from distill.errors import DistillError
from distill.similarity import effective_rank
from tests.fold_tables import fold_tables


def _table(singular, rows=50, seed=0):
  """[rows, n] with these singular values."""
  rng = np.random.default_rng(seed)
  left, _ = np.linalg.qr(rng.normal(size=(rows, len(singular))))
  right, _ = np.linalg.qr(rng.normal(size=(len(singular), len(singular))))
  return left * np.array(singular) @ right


@pytest.mark.parametrize(
  ("singular", "rank"),
  [
    ([1.0, 1.0, 1.0, 1.0], 4.0),
    ([5.0, 0.0, 0.0], 1.0),
    ([2.0, 2.0, 0.0, 0.0], 2.0),
    ([3.0, 1.0], 4.0 / 3.0**0.75),  # shares 3/4 and 1/4: H = ln 4 - 3/4 ln 3
    ([0.0, 0.0], 0.0),
  ],
)
def test_closed_forms(singular, rank):
  assert effective_rank(_table(singular)) == pytest.approx(rank, rel=1e-6)


def test_rotation_scale_and_order_of_rows_change_nothing():
  table = _table([4.0, 2.0, 1.0, 0.5])
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
  for same in (table @ rotation, 1e4 * table, table[::-1]):
    assert effective_rank(same) == pytest.approx(effective_rank(table), rel=1e-9)


@pytest.mark.parametrize("table", [np.zeros(3), np.zeros((0, 3)), np.full((3, 2), np.nan)])
def test_what_has_no_rank_is_refused(table):
  with pytest.raises(DistillError, match="effective rank"):
    effective_rank(table)


def test_the_report_gives_the_rank_of_held_out_windows_and_their_dimensions():
  folds = [fold_tables(k) for k in range(2)]
  judged = evaluate.evaluate({"toy": folds}, evaluate.Settings(galleries=(5,), repeats=1))
  made = report.build(judged, timing={}, versions={}, config={}, seed=0)
  jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(made)
  ranks = made["sets"]["toy"]["effective_rank"]
  held = [fold.embeddings["teacher"].embedding[fold.columns["split"] == "test"] for fold in folds]
  assert ranks["teacher"]["rank"] == pytest.approx(np.mean([effective_rank(x) for x in held]))
  assert ranks["teacher"]["dim"] == 16
  assert ranks["motion_features"]["dim"] == 4
  assert "Smooth effective rank" in report.markdown(made)
  del made["sets"]["toy"]["effective_rank"]  # a report from before it was there
  assert "Smooth effective rank" not in report.markdown(made)
