"""Distillation from windows with gaps: which pairs count, and what the student may see."""

import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

import students.axes
from distill import fold_training
from distill.data.pipeline import Rows
from distill.data.store import PreparedSet
from distill.errors import DistillError
from distill.objectives import Distillation
from students.transformer import SPEC


def test_a_pair_counts_when_both_sides_are_observed_enough():
  fields = {"name": "toy", "simulated": True, "same_device": True, "records": ""}
  specs = {name: SPEC.to_json() | {"modality": name} for name in ("ppg", "acc")}
  columns = {"participant": np.array(["a"] * 4)}
  columns["ppg_coverage"] = np.array([1.0, 0.4, 0.9, 0.6])
  columns["acc_coverage"] = np.array([1.0, 1.0, 0.3, 0.7])
  prepared = PreparedSet(pathlib.Path(), fields | {"specs": specs}, columns)
  (kept,) = fold_training.observed_enough([Rows(prepared, np.arange(4))], 0.5)
  np.testing.assert_array_equal(kept.rows, [0, 3])
  with pytest.raises(DistillError, match="lower pair_coverage=1"):
    fold_training.observed_enough([Rows(prepared, np.arange(1, 4))], 1.0)


def test_the_student_sees_less_only_when_asked():
  encoder = students.axes.build_patches(seed=0, width=16, depth=1, heads=2, patch=250)
  mean, sd = np.zeros(4, np.float32), np.ones(4, np.float32)
  objective = Distillation(
    encoder, teacher_mean=mean, teacher_sd=sd, hidden=8, dim=4, contrastive=1.0, temperature=0.1,
    direction=0.5, regression=1.0, regression_kind="mse", gaps=1.0, rngs=nnx.Rngs(0),
  )  # fmt: skip
  mask = np.ones((6, *SPEC.shape), bool)
  hide = jax.jit(lambda mask, key: objective._mask({"acc_mask": mask}, key))
  seen = np.asarray(hide(mask, jax.random.key(0)))
  share = seen.mean(axis=(1, 2))
  assert ((share > 0) & (share < 1)).all()
  edges = np.flatnonzero(np.diff(seen[:, :, 0].astype(int), axis=1).any(axis=0)) + 1
  assert (edges % 250 == 0).all()  # blocks of 5 s
  objective.gaps = 0.0
  assert objective._mask({"acc_mask": mask}, jax.random.key(0)) is mask
