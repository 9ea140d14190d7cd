"""Layers of frozen encoders: every layer is probed on people held out, labels of ectopic beats."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill import baselines, cli, layer_plots, layer_probe, models, probes, workdir
from distill import config as configs
from distill.data import pipeline
from distill.data.cohort import Cohort, simulate
from distill.data.store import open_set
from distill.embeddings import EmbeddingTable
from distill.errors import DistillError
from distill.nn.encoder import Forward
from teachers import speech
from tests import runs
from tests.conftest import ROOT


def tiny(*, seed, modality, window_s):
  """A speech network of two convolutions and one block."""
  architecture = {
    "conv_dim": (4, 4),
    "conv_kernel": (10, 8),
    "conv_stride": (5, 4),
    "width": 8,
    "depth": 1,
    "heads": 2,
    "mlp_width": 8,
    "position_kernel": 7,
    "position_groups": 2,
  }
  return speech.build(
    seed=seed,
    modality=modality,
    window_s=window_s,
    architecture=architecture,
    output="last",
    rate_factor=1,
  )


def _overrides(smoke):
  return [
    f"--config={ROOT}/configs/speech_probe.py:smoke",
    f"--config.data.prepared_dir={smoke.prepared}",
    "--config.layers.random.build=tests.test_layer_probe:tiny",
  ]


@pytest.fixture(name="found", scope="module")
def _found(smoke, tmp_path_factory):
  folder = tmp_path_factory.mktemp("layers") / "run"
  assert cli.main(["layers", *_overrides(smoke), f"--workdir={folder}"]) == 0
  fold = workdir.open_folds(workdir.read_config(folder), folder)[0]
  return folder, layer_probe.load(folder)["simulated/activity"], fold


def test_every_layer_of_every_encoder_is_probed(found):
  _, rows, _ = found
  layers = ["conv0", "conv1", "projected", "hidden0", "hidden1", "last", "embedding"]
  expected = {(f"speech, random ({m})", layer) for m in ("ppg", "acc") for layer in layers}
  expected |= {("hand-made (acc)", "motion"), ("hand-made (ppg)", "rhythm"), ("guess", "")}
  assert {(row["encoder"], row["layer"]) for row in rows} == expected
  labelled = {row["share"]: row["labelled"] for row in rows}
  assert labelled == {0.35: [2], 0.5: [3], 0.7: [4], 1.0: [6]}
  of = {(row["encoder"], row["layer"], row["share"]): row for row in rows}
  assert of["guess", "", 1.0]["auc"]["value"] == 0.5
  assert of["speech, random (acc)", "conv0", 1.0]["dim"] == 2 * 4 * 3  # mean and SD, three axes


def test_the_figure_draws_every_layer_and_share_from_the_stored_numbers(found, monkeypatch):
  folder, rows, _ = found
  for name in ("layers_simulated_activity", "layers_simulated_activity_people"):
    assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
    assert (folder / "plots" / f"{name}.svg").is_file()
  panels = []
  monkeypatch.setattr(layer_plots, "_panel", lambda *given: panels.append(given))
  layer_plots.by_layer("simulated/activity", rows)
  monkeypatch.undo()
  assert [name for _, name, _, _ in panels] == ["speech, random (ppg)", "speech, random (acc)"]
  assert list(panels[0][3]) == ["hand-made (acc)", "hand-made (ppg)", "guess"]
  axes = Figure().subplots()
  layer_plots._panel(axes, *panels[1][1:])
  lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
  for share in (0.35, 1.0):
    own = [r for r in rows if r["encoder"] == "speech, random (acc)" and r["share"] == share]
    drawn = lines[f"labels of {100 * share:g} % of the training people"]
    np.testing.assert_array_equal(
      drawn, [np.nan if (v := r["auc"]["value"]) is None else v for r in own]
    )
  plot = layer_plots.by_layer("simulated/activity", rows)
  assert "speech, random (acc) is best at" in plot.alt
  assert "guess 0.50" in plot.alt


def test_scores_are_those_of_probes_on_the_split(found):
  folder, rows, fold = found
  prepared, split = fold.sets["simulated"]
  known = np.flatnonzero(prepared.index["activity"] != "")
  raw = np.stack([prepared[int(row)]["acc"] for row in known])
  columns = {name: prepared.index[name][known] for name in ("participant", "activity")}
  table = EmbeddingTable(baselines.motion_features(raw, 50.0), columns)
  part = split.part_of(columns["participant"])
  parts = [table.where(part == name) for name in ("train", "validation", "test")]
  model = probes.fit_classes(*parts[:2], "activity")
  test = parts[2].where(np.isin(parts[2]["activity"], model.classes))
  expected = probes.score_classes(
    test["activity"], model.probabilities(test.embedding), model.classes, test["participant"]
  )
  (row,) = [r for r in rows if r["encoder"] == "hand-made (acc)" and r["share"] == 1.0]
  assert row["strengths"] == [model.strength]
  if len(test) == len(parts[2]):
    assert row["auc"]["value"] == pytest.approx(expected["auc"]["value"])
    assert row["f1"]["value"] == pytest.approx(expected["f1"]["value"])
  text = (folder / "layers.md").read_text()
  assert f"{row['auc']['value']:.3f}" in text
  assert "| AUC, 70 % (4 people) | AUC, 50 % (3 people) | AUC, 35 % (2 people) |" in text
  assert "labels of 6 training people" in text
  assert "speech, random (ppg), conv1" in text


@pytest.mark.parametrize(
  ("task", "message"),
  [
    ("simulated", "expected SET/COLUMN"),
    ("wesad/activity", "names the set 'wesad'; there are: simulated, pamap2"),
    ("simulated/mood", "has no classes 'mood'; it has: activity"),
    ("simulated/hr_bpm", "has no classes 'hr_bpm'"),
  ],
)
def test_tasks_that_there_are_not_are_refused(found, smoke, tmp_path, task, message):
  config = configs.load(
    f"{ROOT}/configs/speech_probe.py:smoke",
    [f"--config.data.prepared_dir={smoke.prepared}", f"--config.layers.tasks=('{task}',)"],
  )
  with pytest.raises(DistillError, match=message):
    layer_probe.run(config, tmp_path / "run")


def test_an_encoder_named_with_the_fold_is_another_one_in_each(smoke, tmp_path):
  for k, role in enumerate(("student", "supervised")):
    (tmp_path / f"fold{k}").symlink_to(smoke.folder / "fold0" / role)
  words = [*_overrides(smoke)[1:], "--config.folds=(0,1)"]
  words.append(f"--config.layers.encoders=('s={tmp_path}/fold{{fold}}',)")
  config = configs.load(f"{ROOT}/configs/speech_probe.py:smoke", words)
  prepared, rows = open_set(smoke.set_folder), np.array([3, 0])
  first, second = layer_probe._features(config, prepared, rows)
  assert first.keys() == second.keys()
  for k, found in enumerate((first, second)):
    encoder = models.load_encoder(tmp_path / f"fold{k}")
    ready = pipeline.prepare_windows(prepared.windows(rows)["acc"], encoder.spec)
    expected = Forward(encoder, batch_size=2)(*ready)
    np.testing.assert_allclose(found["s", "embedding"], expected, atol=1e-5)
  differing = {name for name in first if not np.array_equal(first[name], second[name])}
  assert {name for name, _ in differing} == {"s"}


def _labels_of(shares, label, people=20):
  """What `_fewer_labels` keeps of `people` training people and two held out, three windows each."""
  participant = np.repeat([f"p{i:02d}" for i in range(people + 2)], 3)
  part = np.repeat(["train"] * people + ["validation", "test"], 3)
  words = [f"--config.layers.shares={shares}"]
  config = configs.load(f"{ROOT}/configs/speech_probe.py:smoke", words)
  label = np.resize(label, len(part))
  found = layer_probe._fewer_labels(config, "set/column", participant, label, [part])
  return participant, part, {share: of_folds[0] for share, of_folds in found.items()}


def test_people_of_a_share_lie_within_those_of_a_larger_one_and_no_others_change():
  participant, part, found = _labels_of((0.5, 0.1, 0.2), ["a", "b", "a"])
  kept = [np.unique(participant[some == "train"]).tolist() for some in found.values()]
  assert list(found) == [0.1, 0.2, 0.5, 1.0]
  assert [len(people) for people in kept] == [2, 4, 10, 20]
  assert set(kept[0]) < set(kept[1]) < set(kept[2])
  for some in found.values():
    np.testing.assert_array_equal(some[part != "train"], part[part != "train"])
    assert set(some[part == "train"]) <= {"train", ""}


def test_shares_of_less_than_two_people_or_classes_are_left_out_aloud(capfd):
  *_, found = _labels_of((0.09, 0.1), ["a", "b"])
  assert list(found) == [0.1, 1.0]
  told = capfd.readouterr().err
  assert "set/column: 9 % of the training people are less than two participants in a fold" in told
  *_, found = _labels_of((0.5,), ["a"])
  assert list(found) == [1.0]
  assert (
    "50 % of the training people have one class alone in a fold; left out" in capfd.readouterr().err
  )


def test_shares_that_are_none_are_refused():
  for shares in ("(0.1,0.1)", "(0.0,)", "(3.0,)"):
    with pytest.raises(
      DistillError, match=r"config.layers.shares is .* such as \(0.01, 0.1, 1.0\)"
    ):
      configs.load(f"{ROOT}/configs/speech_probe.py:smoke", [f"--config.layers.shares={shares}"])


def _curve_rows():
  """Rows of made numbers: two encoders of several layers, two of one."""
  layers = {
    "speech": [f"conv{i}" for i in range(4)] + ["hidden0", "hidden1", "last", "embedding"],
    "ours": ["tokens", "block1", "block2", "embedding"],
    "hand-made": ["motion"],
    "guess": [""],
  }
  rng, rows = np.random.default_rng(0), []
  for encoder, layer in ((e, layer) for e, some in layers.items() for layer in some):
    for share, labelled in ((0.3, [3, 4]), (1.0, [11, 12]), (0.1, [2, 2])):
      value = float(rng.uniform(0.6, 0.9))
      auc = {"value": value, "lo": value - 0.1, "hi": value + 0.05}
      row = {"encoder": encoder, "layer": layer, "share": share, "labelled": labelled, "auc": auc}
      rows.append(row | {"n_participants": 5, "n_windows": 50})
  return rows


def _figure_by_people(rows, monkeypatch):
  """The figure itself and its plot."""
  figures = []
  finished = layer_plots.finished
  monkeypatch.setattr(
    layer_plots, "finished", lambda *given: figures.append(given[0]) or finished(*given)
  )
  return layer_plots.by_people("set/column", rows), figures[0]


def test_curves_hold_the_stored_numbers_by_people_and_their_bars(monkeypatch):
  rows = _curve_rows()
  plot, figure = _figure_by_people(rows, monkeypatch)
  titles = [axes.get_title(loc="left") for axes in figure.axes]
  assert titles == ["speech", "ours", "one layer alone: thin lines beside"]
  for encoder, axes in zip(("speech", "ours"), figure.axes, strict=False):
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "3.5", "11.5"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    expected = ["conv0", "conv1", "conv3", "hidden1", "embedding"]
    expected = expected if encoder == "speech" else ["tokens", "block1", "block2", "embedding"]
    named = [name for name in lines if not name.startswith("_")]
    assert named == expected
    looks = {(lines[n].get_marker(), lines[n].get_linestyle()) for n in named}
    assert len(looks) == len(named)  # told apart without colour
    for layer, bars in zip(named, axes.collections, strict=True):
      own = [r for r in rows if (r["encoder"], r["layer"]) == (encoder, layer)]
      own.sort(key=lambda r: r["share"])
      np.testing.assert_allclose(lines[layer].get_xdata(), [2, 3.5, 11.5], rtol=0.06)
      np.testing.assert_array_equal(lines[layer].get_ydata(), [r["auc"]["value"] for r in own])
      ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
      assert ends == [[r["auc"]["lo"], r["auc"]["hi"]] for r in own]
    assert len(axes.get_lines()) == len(named) + 2  # those of one layer beside them
  assert "with the labels of 2, 3.5, 11.5 training people. speech, conv0 0." in plot.alt
  assert "speech, conv2" not in plot.alt
  assert "hand-made 0." in plot.alt


def test_no_words_of_the_curves_overlap(monkeypatch):
  _, figure = _figure_by_people(_curve_rows(), monkeypatch)
  FigureCanvasAgg(figure).draw()
  words = [*figure.texts]
  for axes in figure.axes:
    words += [axes.yaxis.label, axes.xaxis.label, axes._left_title, *axes.get_legend().get_texts()]
    words += [*axes.get_xticklabels(), *axes.get_yticklabels()]
  words = list(
    {id(text): text for text in words if text.get_visible() and text.get_text()}.values()
  )
  boxes = [text.get_window_extent() for text in words]
  legends = [axes.get_legend().get_window_extent() for axes in figure.axes]
  frames = [axes.get_window_extent() for axes in figure.axes]
  assert len(boxes) > 20
  for some in (boxes, legends, frames):
    assert not [(a, b) for a, b in itertools.combinations(some, 2) if a.overlaps(b)]
  assert not any(frame.overlaps(legend) for frame in frames for legend in legends)
  whole = figure.bbox
  assert all(whole.contains(*box.min) and whole.contains(*box.max) for box in boxes)


def test_one_number_of_people_is_no_curve():
  rows = [row for row in _curve_rows() if row["share"] == 1.0]
  assert [plot.name for plot in layer_plots.draw("set/column", rows)] == ["layers_set_column"]
  drawn = layer_plots.draw("set/column", _curve_rows())
  assert [plot.name for plot in drawn] == ["layers_set_column", "layers_set_column_people"]


def test_ectopic_windows_are_those_with_an_early_beat(smoke):
  config = configs.load(runs.CONFIG.removeprefix("--config="))
  prepared = open_set(smoke.set_folder)
  who = [int(name.removeprefix("sim")) for name in prepared.index["participant"].tolist()]
  cohort = Cohort(**config.data.simulated)
  beats = {i: simulate(cohort, i).beats for i in set(who)}
  got = layer_probe._label(prepared, "arrhythmia")
  expected = [
    np.any((beats[i].times_s >= t) & (beats[i].times_s < t + 60) & ~beats[i].normal)
    for i, t in zip(who, prepared.index["t0_s"], strict=True)
  ]
  np.testing.assert_array_equal(got == "ectopic", expected)
  assert 0 < np.sum(expected) < len(expected)


def test_rhythm_features_read_rate_and_regularity():
  time_s = np.arange(3840) / 64
  steady = np.sin(2 * np.pi * 1.2 * time_s)
  rng = np.random.default_rng(0)
  phase = np.cumsum(1.2 + 0.9 * np.repeat(rng.normal(size=60), 64)) / 64
  uneven = np.sin(2 * np.pi * phase)
  gap = np.where((time_s > 10) & (time_s < 14), np.nan, steady)
  wave = np.stack([steady, uneven, gap, np.ones(3840), np.full(3840, np.nan)])[:, :, None]
  got = layer_probe.rhythm_features(wave, 64.0)
  assert got.shape == (5, 16)
  assert np.isfinite(got).all()
  assert got[0, 0] == pytest.approx(72.0, abs=0.5)
  assert got[2, 0] == pytest.approx(72.0, abs=1.5)
  lag_s, height = got[:, 13], got[:, 12]
  assert lag_s[0] == pytest.approx(1 / 1.2, abs=0.02)
  assert height[0] > 0.9 > height[1]
  assert got[0, 1] < 1.0 < got[1, 1]  # spread of the rate over parts of the window
