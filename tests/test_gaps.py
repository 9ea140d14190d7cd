"""Recordings with gaps through the whole toolkit: vectors, coverage and validity, never NaN."""

import numpy as np
import pytest
from flax import nnx

import students.axes
from distill import cli, embeddings, evaluate, models, retrieval
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError


class Holder(nnx.Module):
  """What models.save wants: a module with an encoder."""

  def __init__(self, encoder):
    self.encoder = encoder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
  """Model folder of a tiny, untrained student with tokens for each axis."""
  sizes = {"width": 16, "depth": 1, "heads": 2, "patch": 250}
  build = "students.axes:build_patches"
  encoder = students.axes.build_patches(seed=0, **sizes)
  folder = tmp_path_factory.mktemp("student")
  models.save(
    folder, Holder(encoder), build=build, arguments={"seed": 0, **sizes}, fields={}, card=""
  )
  return folder


def _recording():
  """Five minutes: whole, half lost, wholly lost, one axis lost, single samples lost."""
  rng = np.random.default_rng(0)
  samples = (0.01 * rng.normal(size=(5 * 3000, 3)) + [0, 0, 1]).astype(np.float32)
  samples[3000:4500] = np.nan
  samples[6000:9000] = np.nan
  samples[9000:12000, 1] = np.nan
  samples[12000::50] = np.nan
  return samples


def test_a_recording_with_gaps_gives_vectors_coverage_and_validity(student, tmp_path):
  samples = _recording()
  lines = [",".join("" if np.isnan(v) else f"{v:.6f}" for v in row) for row in samples]
  (tmp_path / "raw.csv").write_text("x,y,z\n" + "\n".join(lines) + "\n")
  out = tmp_path / "out.parquet"
  command = ["embed", f"--model={student}", f"--recording={tmp_path / 'raw.csv'}", f"--out={out}"]
  assert cli.main([*command, "--rate-hz=50", "--columns=x,y,z"]) == 0
  table = embeddings.load(out)
  assert np.isfinite(table.embedding).all()
  np.testing.assert_array_equal(table["valid"], [True, True, False, True, True])
  np.testing.assert_allclose(table["coverage"], [1, 0.5, 0, 2 / 3, 0.98], atol=1e-6)
  np.testing.assert_allclose(table["t0_s"], 60.0 * np.arange(5))
  assert (table.embedding[2] == 0).all()


def test_a_recording_in_another_unit_is_refused(student, tmp_path, capsys):
  np.savetxt(
    tmp_path / "raw.csv", 9.80665 * _recording()[:3000], "%g", ",", header="x,y,z", comments=""
  )
  words = ["embed", f"--model={student}", f"--recording={tmp_path / 'raw.csv'}"]
  assert cli.main([*words, "--rate-hz=50", "--columns=x,y,z", f"--out={tmp_path}/o.npz"]) == 2
  told = capsys.readouterr().err
  assert "raw.csv: the median magnitude is 9.8" in told
  assert "it looks like m/s2: correct the unit" in told


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    (["--recording=x.csv"], "--rate-hz (or --time) and --columns"),
    (["--recording=x.csv", "--rate-hz=50", "--columns=x", "--space=projection"], "embeddings of"),
    ([], "--set (or --recording)"),
  ],
)
def test_what_is_needed_for_a_recording_is_said(student, capsys, extra, message):
  assert cli.main(["embed", f"--model={student}", "--out=o.npz", *extra]) == 2
  assert message in capsys.readouterr().err


def _table(rng, people=12, each=6):
  n = people * each
  columns = {
    "participant": np.repeat([f"p{k:02}" for k in range(people)], each),
    "recording": np.full(n, "r"),
    "t0_s": 60.0 * np.tile(np.arange(each), people),
    "hr_bpm": rng.uniform(50, 100, n),
    "valid": np.arange(n) % each != 2,
  }
  return EmbeddingTable(rng.normal(size=(n, 8)).astype(np.float32), columns)


def test_refused_windows_count_in_no_probe_and_no_gallery():
  rng = np.random.default_rng(0)
  table = _table(rng)
  kept = table.where(table["valid"])
  whole, without = (evaluate.probe_table(one, "hr_bpm")["probes"] for one in (table, kept))
  np.testing.assert_equal(whole["hr_bpm"]["embedding"], without["hr_bpm"]["embedding"])
  other = EmbeddingTable(table.embedding + 0.1, table.columns)
  settings = retrieval.Settings(repeats=1)
  found = retrieval.retrieve([(table, other)], settings, force=True)
  expected = retrieval.retrieve([(kept, other.where(table["valid"]))], settings, force=True)
  assert found["retrieval"] == expected["retrieval"]
  assert found["retrieval"]["acc_to_ppg"][-1]["gallery"] == len(kept)
  none = EmbeddingTable(table.embedding, {**table.columns, "valid": np.zeros(len(table), bool)})
  with pytest.raises(DistillError, match="no window was observed enough"):
    retrieval.retrieve([(none, other)], settings, force=True)
