"""Ridge probes against scikit-learn, scores against NumPy, and the refusals."""

import numpy as np
import pytest
from sklearn import linear_model, metrics, pipeline, preprocessing

from distill import probes
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError


def _table(people: str, windows: int, seed: int, noise: float = 3.0) -> EmbeddingTable:
  rng = np.random.default_rng(seed)
  embedding = rng.normal(5, 3, (len(people) * windows, 12)).astype(np.float32)
  hr_bpm = 70 + 4 * embedding[:, 0] - 3 * embedding[:, 1] + rng.normal(0, noise, len(embedding))
  columns = {"participant": np.repeat(list(people), windows), "hr_bpm": hr_bpm.astype(np.float32)}
  return EmbeddingTable(embedding, columns)


@pytest.fixture(name="parts")
def _parts():
  return _table("abcdef", 20, 0), _table("ghi", 20, 1), _table("jklm", 20, 2)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("rows", [120, 8])  # more rows than features, and fewer
def test_ridge_equals_scikit_learn(parts, alpha, rows):
  x, y = parts[0].embedding[:rows].astype(np.float64), parts[0]["hr_bpm"][:rows].astype(np.float64)
  x[:, 3] = 7.7  # a constant feature
  ours = probes.ridge_path(x, y, [alpha])[0].predict(parts[2].embedding)
  reference = pipeline.make_pipeline(
    preprocessing.StandardScaler(), linear_model.Ridge(alpha=alpha)
  )
  np.testing.assert_allclose(ours, reference.fit(x, y).predict(parts[2].embedding), rtol=1e-5)


def test_ridge_of_a_large_set_on_the_device_equals_scikit_learn(parts, monkeypatch):
  monkeypatch.setattr(probes, "LARGE", 100)
  monkeypatch.setattr(probes, "_CHUNK", 50)
  x, y = parts[0].embedding, parts[0]["hr_bpm"]
  ours = probes.ridge_path(x, y, [0.5])[0].predict(parts[2].embedding)
  reference = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge(alpha=0.5))
  expected = reference.fit(x.astype(np.float64), y).predict(parts[2].embedding)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_alpha_is_the_best_one_on_validation_people(parts):
  train, validation, _ = parts
  alphas = [0.1, 30.0, 1e4, 1e6]
  errors = [
    np.mean(
      [
        np.abs(model.predict(validation.embedding) - validation["hr_bpm"])[
          validation["participant"] == name
        ].mean()
        for name in "ghi"
      ]
    )
    for model in probes.ridge_path(train.embedding, train["hr_bpm"], alphas)
  ]
  assert probes.fit(train, validation, "hr_bpm", alphas).alpha == alphas[int(np.argmin(errors))]


def test_probe_recovers_a_linear_target_and_no_order_matters(parts):
  scores = probes.probe(*parts, "hr_bpm")
  assert scores["mae"]["value"] < 3.2  # noise of SD 3 has a mean absolute value of 2.4
  assert scores["mae"]["lo"] < scores["mae"]["value"] < scores["mae"]["hi"]
  assert scores["r"] > 0.95
  assert (scores["n_windows"], scores["n_participants"]) == (80, 4)
  order = np.random.default_rng(3).permutation(80)
  again = probes.probe(*parts[:2], parts[2].where(order), "hr_bpm")
  assert again["mae"]["value"] == pytest.approx(scores["mae"]["value"], rel=1e-9)


def test_windows_without_a_label_are_skipped(parts):
  train, validation, test = parts
  for table in parts:
    table["hr_bpm"][::4] = np.nan
  scores = probes.probe(train, validation, test, "hr_bpm")
  kept = [table.where(np.isfinite(table["hr_bpm"])) for table in parts]
  assert scores == probes.probe(*kept, "hr_bpm")
  assert scores["n_windows"] == 60


def test_scores_equal_scikit_learn_and_numpy():
  rng = np.random.default_rng(4)
  participant = np.array(["a"] * 30 + ["b"] * 10)
  true = rng.normal(80, 12, 40)
  predicted = true + rng.normal(2, 5, 40)
  got = probes.score(true, predicted, participant, target="hr_bpm", label_origin="ecg")
  absolute = np.abs(predicted - true)
  assert got["mae"]["value"] == pytest.approx((absolute[:30].mean() + absolute[30:].mean()) / 2)
  assert got["mae_pooled"] == pytest.approx(metrics.mean_absolute_error(true, predicted))
  assert got["r2"] == pytest.approx(metrics.r2_score(true, predicted))
  assert got["r"] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
  centred = [
    np.concatenate([v[:30] - v[:30].mean(), v[30:] - v[30:].mean()]) for v in (true, predicted)
  ]
  assert got["r_within"] == pytest.approx(np.corrcoef(*centred)[0, 1])
  assert got["sd_error"] == pytest.approx(np.std(predicted - true))
  assert got["label_origin"] == "ecg"


def test_octave_errors_are_counted_for_heart_rate():
  true = np.array([60.0, 80, 100, 120])
  predicted = np.array([120.0, 41, 100, 118])
  got = probes.score(true, predicted, np.array(list("abcd")), target="hr_bpm")
  assert (got["half_rate"], got["double_rate"]) == (0.25, 0.25)
  assert "half_rate" not in probes.score(true, predicted, np.array(list("abcd")), target="sdnn_ms")


def test_constants_have_no_correlation_and_give_no_warning():
  true = np.array([60.0, 70, 80])
  got = probes.score(true, np.full(3, 0.1) * 700, np.array(["a", "a", "b"]), target="hr_bpm")
  assert np.isnan([got["r"], got["r_within"]]).all()
  assert got["sd_predicted"] == 0
  level = probes.score(np.full(6, 72.1), np.arange(6.0), np.array(list("aabbcc")), target="hr_bpm")
  assert np.isnan([level["r"], level["r2"]]).all()
  one = probes.score(true[:1], true[:1], np.array(["a"]), target="hr_bpm")
  assert np.isnan([one["r"], one["r2"], one["mae"]["lo"]]).all()


def test_a_target_with_noisy_labels_is_not_measurable():
  true = np.random.default_rng(5).normal(40, 10, 400)
  args = (true, true, np.repeat(["a", "b"], 200))
  assert probes.score(*args, target="rmssd_ms")["measurable"] is None
  assert probes.score(*args, target="rmssd_ms", label_error_sd=3.0)["measurable"] is True
  assert probes.score(*args, target="rmssd_ms", label_error_sd=7.0)["measurable"] is False


def test_one_participant_only_is_refused(parts):
  alone = _table("a", 30, 6)
  thirds = [alone.where(np.arange(k, 30, 3)) for k in range(3)]
  with pytest.raises(DistillError, match="one participant only \\('a'\\)"):
    probes.probe(*thirds, "hr_bpm")


def test_a_planted_leak_is_refused(parts):
  train, validation, test = parts
  test.columns["participant"][0] = "c"
  with pytest.raises(DistillError, match="'c' stands in both train and test"):
    probes.probe(train, validation, test, "hr_bpm")


def test_a_part_without_labels_is_refused(parts):
  parts[1]["hr_bpm"][:] = np.nan
  with pytest.raises(DistillError, match="none of the 60 validation windows has a label 'hr_bpm'"):
    probes.probe(*parts, "hr_bpm")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(parts, value):
  parts[0].embedding[3, 2] = value
  with pytest.raises(DistillError, match="NaN or infinite"):
    probes.probe(*parts, "hr_bpm")
  with pytest.raises(DistillError, match="hold NaN"):
    probes.score(np.ones(2), np.array([1, value]), np.array(["a", "b"]), target="hr_bpm")


# --- classes --------------------------------------------------------------------------------------


def _classes(people: str, windows: int, seed: int, names=("a", "b", "c")) -> EmbeddingTable:
  """Classes of unequal size that overlap; two thirds of the windows are of the first."""
  rng = np.random.default_rng(seed)
  n = len(people) * windows
  code = rng.choice(len(names), n, p=[0.6, *[0.4 / (len(names) - 1)] * (len(names) - 1)])
  embedding = rng.normal(5, 3, (n, 12)).astype(np.float32)
  embedding[:, :3] += 3 * np.eye(3)[code]
  columns = {"participant": np.repeat(list(people), windows), "mood": np.array(names)[code]}
  return EmbeddingTable(embedding, columns)


@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("names", [("a", "b", "c"), ("no", "yes")])
def test_logistic_equals_scikit_learn(strength, names):
  train, test = _classes("abcdef", 20, 0, names), _classes("gh", 20, 1, names)
  x = train.embedding.astype(np.float64)
  x[:, 5] = 7.7  # a constant feature
  ours = list(probes.logistic_path(x, train["mood"], [1.0, strength]))[1]
  reference = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(
      C=strength * (2 if len(names) == 2 else 1), class_weight="balanced", tol=1e-9, max_iter=10000
    ),
  )
  expected = reference.fit(x, train["mood"]).predict_proba(test.embedding)
  np.testing.assert_allclose(ours.probabilities(test.embedding), expected, atol=1e-5)


def test_logistic_equals_scikit_learn_where_little_holds_the_weights():
  """Features that go together, classes that can be told apart: first-order methods stop early."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 300)
  x = np.eye(3)[y] @ rng.normal(size=(3, 4)) @ rng.normal(size=(4, 40))
  x += 0.1 * rng.normal(size=(300, 4)) @ rng.normal(size=(4, 40)) + 1e-3 * rng.normal(size=x.shape)
  names = np.array(["a", "b", "c"])[y]
  ours = list(probes.logistic_path(x, names, (0.1, 100.0)))[-1]
  solver = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 500}
  theirs = linear_model.LogisticRegression(C=100.0, class_weight="balanced", **solver)
  scaled = (x - ours.mean) / ours.scale
  expected = theirs.fit(scaled, names).predict_proba(scaled)
  np.testing.assert_allclose(ours.probabilities(x), expected, atol=1e-6)


def test_class_scores_equal_scikit_learn():
  rng = np.random.default_rng(2)
  participant = np.array(["p"] * 30 + ["q"] * 20 + ["r"] * 10)
  true = np.array(["a", "b", "c"])[rng.choice(3, 60)]
  true[participant == "q"] = np.array(["a", "b"])[rng.choice(2, 20)]
  true[participant == "r"] = "b"  # one class: no AUC of this person
  probability = rng.dirichlet(np.ones(3), 60).round(1) + np.eye(3)[rng.choice(3, 60)] * 0.05
  got = probes.score_classes(true, probability, ("a", "b", "c"), participant)
  guess = np.array(["a", "b", "c"])[probability.argmax(axis=1)]

  def auc(rows):
    found = [
      metrics.roc_auc_score(true[rows] == name, probability[rows, k])
      for k, name in enumerate("abc")
      if name in true[rows]
    ]
    return np.mean(found)

  def f1(rows):
    labels = sorted(set(true[rows]))
    return metrics.f1_score(true[rows], guess[rows], labels=labels, average="macro")

  people = [participant == name for name in "pqr"]
  everyone = np.ones(60, bool)
  assert got["auc"]["value"] == pytest.approx(np.mean([auc(rows) for rows in people[:2]]))
  assert got["f1"]["value"] == pytest.approx(np.mean([f1(rows) for rows in people]))
  assert got["auc_pooled"] == pytest.approx(auc(everyone))
  assert got["f1_pooled"] == pytest.approx(f1(everyone))
  hits = [np.mean(true[rows] == guess[rows]) for rows in people]
  assert got["accuracy"]["value"] == pytest.approx(np.mean(hits))
  assert (got["n_windows"], got["n_participants"], got["n_auc"]) == (60, 3, 2)
  assert got["f1"]["lo"] < got["f1"]["value"] < got["f1"]["hi"]


def test_strength_is_the_best_on_validation_people_and_test_people_are_scored():
  parts = _classes("abcdef", 20, 0), _classes("ghi", 20, 1), _classes("jklm", 20, 2)
  parts[0]["mood"][::5] = ""  # not labelled
  got = probes.probe_classes(*parts, "mood")
  kept = parts[0].where(parts[0]["mood"] != "")
  models = list(probes.logistic_path(kept.embedding, kept["mood"], probes.STRENGTHS))
  validation, losses = parts[1], {}
  weight = {name: 1 / np.sum(validation["mood"] == name) for name in "abc"}
  for model in models:
    log = np.log(model.probabilities(validation.embedding))
    own = [weight[m] * row["abc".index(m)] for m, row in zip(validation["mood"], log, strict=True)]
    losses[model.strength] = -np.mean(own)  # as many windows of everybody
  assert got["strength"] == min(losses, key=losses.__getitem__)
  assert got["auc"]["value"] > 0.75
  shuffled = np.random.default_rng(0).permutation(len(kept))
  blind = EmbeddingTable(kept.embedding[shuffled], kept.columns)
  assert abs(probes.probe_classes(blind, *parts[1:], "mood")["auc"]["value"] - 0.5) < 0.15


def test_folds_are_told_together_and_those_that_teach_nothing_are_left_out():
  train, validation, test = _classes("abcdef", 20, 0), _classes("ghi", 20, 1), _classes("jk", 20, 2)
  fewer = train.where(train["mood"] != "c")
  alone = train.where(train["mood"] == "a")
  rest = {"validation": validation, "test": test}
  told = probes.tell_classes([{"train": t} | rest for t in (train, alone, fewer)], "mood")
  one, other = (probes.fit_classes(t, validation, "mood") for t in (train, fewer))
  first, second = np.split(told.probabilities, 2)
  np.testing.assert_array_equal(first, one.probabilities(test.embedding))
  np.testing.assert_array_equal(second[:, :2], other.probabilities(test.embedding))
  assert not second[:, 2].any()  # nobody to learn the third class from
  assert told.classes == ("a", "b", "c")
  assert told.labelled == (6, 6)
  np.testing.assert_array_equal(told.true, np.tile(test["mood"], 2))
  with pytest.raises(DistillError, match="of two classes to learn from"):
    probes.tell_classes([{"train": alone} | rest], "mood")
  with pytest.raises(DistillError, match="split by participant"):
    probes.tell_classes([{"train": train, "validation": validation, "test": train}], "mood")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t["mood"].fill("a"), "two classes"),
    (lambda t: t["mood"].fill(""), "none of the 40 training windows"),
    (lambda t: t.embedding.__setitem__(3, np.nan), "NaN or infinite embeddings"),
  ],
)
def test_class_probes_refuse_what_they_cannot_learn_from(change, message):
  train = _classes("ab", 20, 0)
  change(train)
  with pytest.raises(DistillError, match=message):
    probes.fit_classes(train, _classes("cd", 20, 1), "mood")
