"""Probes of classes and of people against scikit-learn on the rows that they should use."""

import numpy as np
import pytest
from scipy import stats
from sklearn import linear_model, metrics, pipeline, preprocessing

from distill import cli, embeddings, evaluate, probes, traits
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError

PEOPLE, WINDOWS = 120, 4


@pytest.fixture(name="table", scope="module")
def _table():
  """Sex is written into one direction of a person's embeddings, age into another."""
  rng = np.random.default_rng(0)
  sex, age = rng.choice(["female", "male"], PEOPLE), rng.uniform(20, 80, PEOPLE)
  embedding = rng.normal(0, 2, (PEOPLE * WINDOWS, 6))
  embedding[:, 0] += np.repeat(1.5 * (sex == "male"), WINDOWS)
  embedding[:, 1] += np.repeat((age - 50) / 10, WINDOWS)
  walks = rng.uniform(size=len(embedding)) < 0.4
  embedding[:, 2] += 3 * walks
  age[7] = np.nan
  columns = {
    "participant": np.repeat([f"p{k:03d}" for k in range(PEOPLE)], WINDOWS),
    "split": np.repeat(np.resize(["train", "train", "validation", "test"], PEOPLE), WINDOWS),
    "sex": np.repeat(sex, WINDOWS),
    "age": np.repeat(age, WINDOWS),
    "activity": np.where(walks, "walking", "sitting"),
  }
  columns["activity"][::9] = ""
  return EmbeddingTable(embedding.astype(np.float32), columns)


def _means(table, part, label):
  rows = (table["split"] == part) & (
    np.isfinite(table[label]) if label == "age" else table[label] != ""
  )
  names = np.unique(table["participant"][rows])
  x = [table.embedding[table["participant"] == name].mean(axis=0) for name in names]
  y = [table[label][table["participant"] == name][0] for name in names]
  return np.stack(x), np.array(y)


def test_age_is_probed_with_one_mean_embedding_a_person(table):
  found = traits.people([{"student": table}], "age")
  row = found["student"]
  x, y = _means(table, "train", "age")
  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(), linear_model.Ridge(alpha=_alpha(table, x, y))
  ).fit(x, y)
  held, true = _means(table, "test", "age")
  error = np.abs(model.predict(held) - true)
  assert row["mae"]["value"] == pytest.approx(error.mean(), rel=1e-5)
  assert row["n_windows"] == row["n_participants"] == len(true) == 29  # one has no age
  assert row["mae"]["value"] < 0.8 * found["mean"]["mae"]["value"]
  assert found["mean"]["mae"]["value"] == pytest.approx(np.abs(true - y.mean()).mean())
  assert not row["claim"]  # below 50 people


def _alpha(table, x, y):
  held, true = _means(table, "validation", "age")
  fits = probes.ridge_path(x, y, probes.ALPHAS)
  return min(fits, key=lambda fit: np.abs(fit.predict(held) - true).mean()).alpha


def test_sex_has_an_area_over_people(table):
  row = traits.people([{"student": table}], "sex")["student"]
  held, true = _means(table, "test", "sex")
  fitted = list(probes.logistic_path(*_means(table, "train", "sex"), probes.STRENGTHS))
  areas = [metrics.roc_auc_score(true == "male", f.probabilities(held)[:, 1]) for f in fitted]
  assert np.min(np.abs(np.array(areas) - row["auc"]["value"])) < 1e-6
  assert row["auc"]["lo"] < row["auc"]["value"] < row["auc"]["hi"]
  assert row["n_windows"] == len(true) == 30
  blank = traits.people([{"student": table}], "sex")["mean"]
  assert blank["auc"]["value"] == 0.5


def test_folds_are_pooled_until_there_are_people_enough_for_a_claim(table):
  swapped = {"train": "train", "validation": "test", "test": "validation"}
  split = np.array([swapped[part] for part in table["split"].tolist()])
  second = EmbeddingTable(table.embedding, table.columns | {"split": split})
  row = traits.people([{"student": table}, {"student": second}], "sex")["student"]
  assert (row["n_participants"], row["claim"]) == (60, True)


@pytest.mark.parametrize(
  ("above", "below", "apart"),
  [(25, 35, 1.0), (3, 12, 1.5), (6, 9, 2.0), (15, 15, 2.5), (10, 10, 0)],
)
def test_area_equals_scikit_learn_and_its_interval_covers(above, below, apart):
  rng = np.random.default_rng(1)
  true, covered = stats.norm.cdf(apart / np.sqrt(2)), 0  # of two normals
  positive = np.arange(above + below) < above
  for _ in range(400):
    score = rng.normal(size=above + below) + apart * positive
    interval = traits.auc_interval(positive, score)
    assert 0 <= interval.lo <= interval.value <= interval.hi <= 1
    assert interval.lo < interval.hi
    covered += interval.lo <= true <= interval.hi
  assert interval.value == pytest.approx(metrics.roc_auc_score(positive, score))
  assert 0.92 < covered / 400 < (0.99 if apart > 2 else 0.98)  # near 1 it is a little wide
  assert np.isnan(traits.auc_interval(np.ones(4, bool), np.arange(4.0)).value)


def test_classes_of_windows_are_told_apart_and_shuffled_ones_are_not(table):
  row = traits.classes([{"student": table}], "activity")["student"]
  labelled = (table["split"] == "test") & (table["activity"] != "")
  assert row["n_windows"] == labelled.sum()
  assert row["auc_pooled"] > 0.8
  order = np.random.default_rng(2).permutation(len(table))
  blind = EmbeddingTable(table.embedding[order], table.columns)
  assert abs(traits.classes([{"s": blind}], "activity")["s"]["auc_pooled"] - 0.5) < 0.15


def test_a_table_from_anywhere_is_probed_for_names_and_traits(table, tmp_path, capsys):
  assert set(evaluate.probe_table(table, "activity")["classes"]["activity"]) == {"embedding"}
  told = evaluate.probe_table(table, "sex")["traits"]["sex"]
  assert told["embedding"] == traits.people([{"embedding": table}], "sex")["embedding"]
  leak = table["split"].copy()
  leak[0] = "test"
  path = tmp_path / "leak.npz"
  embeddings.save(EmbeddingTable(table.embedding, table.columns | {"split": leak}), path)
  for target in ("sex", "age", "activity"):
    assert cli.main(["probe", f"--embeddings={path}", f"--target={target}"]) == 2
    assert "'p000' stands in both train and test" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("label", "message"), [("", "nobody has a label"), ("male", "two classes")]
)
def test_what_nobody_or_everybody_is_cannot_be_probed(table, label, message):
  alike = EmbeddingTable(table.embedding, table.columns | {"sex": np.full(len(table), label)})
  with pytest.raises(DistillError, match=message):
    traits.people([{"student": alike}], "sex")
