"""What fine-tuning gains and costs: paired changes, alpha from validation people, layers."""

import json
import shutil

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
from flax import nnx

import students.transformer
from distill import cli, embeddings, finetune, models, plots, report, retention, stages, workdir
from distill import config as configs
from distill.errors import DistillError
from distill.nn import layers
from distill.nn.encoder import POOLINGS
from distill.retention import Errors, Scored
from teachers import speech
from tests.conftest import ROOT

PEOPLE = np.repeat(["a", "b", "c"], 2)
ONES = np.ones(6)


def _errors(task, other):
  values = {"hr_bpm": np.asarray(task, float), "activity": np.asarray(other, float)}
  return Errors(values, dict.fromkeys(values, PEOPLE))


def _scored(task, other, *, alpha=np.nan, validation=(1.0, 1.0), cka=1.0):
  """`validation`: errors of the task and of the other measure, alike for everyone there."""
  held = _errors(*(value * ONES for value in validation))
  return Scored(alpha, held, _errors(task, other), {"embedding": cka})


def _settings(**changes):
  section = configs.base().retention
  with section.unlocked():
    section.update(changes)
  return section


TABLE = {
  "start": _scored(10 * ONES, ONES, alpha=0.0, validation=(10, 1)),
  # Persons a, b and c gain 1, 2 and 3 of 10; the other measure gets worse by 0, 1 and 5 %.
  "speech_ft_0.5": _scored(
    [9, 9, 8, 8, 7, 7], [1, 1, 1.02, 1.0, 1.05, 1.05], alpha=0.5, validation=(8, 1)
  ),
  "speech_ft_1": _scored(6 * ONES, 0.9 * ONES, alpha=1.0, validation=(6, 1)),
  "plain": _scored(6 * ONES, 1.1 * ONES, validation=(6.5, 1)),
}


def test_changes_are_paired_by_participant_in_shares_of_the_start():
  found = retention.judge(TABLE, "hr_bpm", _settings(share=0.5))
  row = found["variants"]["speech_ft_0.5"]
  assert row["gain"] == pytest.approx(0.2)
  assert row["gain_share"] == pytest.approx(0.5)  # plain fine-tuning gains 0.4
  change = row["measures"]["activity"]["change"]
  half = 4.303 * np.std([0, 0.01, 0.05], ddof=1) / np.sqrt(3)  # t with 2 degrees of freedom
  assert change["value"] == pytest.approx(0.02)
  assert change["hi"] == pytest.approx(0.02 + half, rel=1e-3)
  kept = {name: one["measures"]["activity"]["kept"] for name, one in found["variants"].items()}
  assert kept == {"start": True, "speech_ft_0.5": False, "speech_ft_1": True, "plain": False}
  assert retention.judge(TABLE, "hr_bpm", _settings(loss=0.3))["variants"]["plain"]["measures"][
    "activity"
  ]["kept"]


def _picked(plain, share, **others):
  """Alpha for validation errors of plain fine-tuning, and (task, other) by alpha."""
  table = {"start": TABLE["start"], "plain": _scored(ONES, ONES, validation=(plain, 1))}
  for name, (alpha, *validation) in others.items():
    table[f"speech_ft_{name}"] = _scored(ONES, ONES, alpha=alpha, validation=validation)
  return retention.choose_alpha(table, "hr_bpm", _settings(share=share))


@pytest.mark.parametrize(
  ("plain", "share", "alpha"),
  [
    (6.5, 0.5, 0.5),  # 8.0 is below 10 - 0.5 * 3.5
    (6.5, 0.9, 1.0),  # 8.0 is not below 6.85
    (5.0, 0.9, 1.0),  # none gains as much: the best
    (11.0, 0.9, 1.0),  # plain fine-tuning loses: the best
  ],
)
def test_alpha_is_the_smallest_that_gains_enough_on_validation_people(plain, share, alpha):
  assert _picked(plain, share, half=(0.5, 8, 1), whole=(1.0, 6, 1)) == alpha


@pytest.mark.parametrize(
  ("half", "whole", "alpha"),
  [
    (1.01, 1.03, 0.5),  # the whole of it costs the other measure 3 %, though it alone gains enough
    (1.03, 1.01, 1.0),
    (1.03, 1.04, 1.0),  # neither keeps it: what gains enough
  ],
)
def test_an_alpha_that_costs_the_rest_is_not_picked(half, whole, alpha):
  assert _picked(6.5, 0.9, half=(0.5, 8, half), whole=(1.0, 6, whole)) == alpha


def test_validation_people_say_what_alpha_was_picked_by():
  found = retention.judge(TABLE, "hr_bpm", _settings())["variants"]
  assert found["speech_ft_0.5"]["validation"] == 8.0
  assert found["speech_ft_0.5"]["validation_kept"] == ["activity"]
  costly = {**TABLE, "plain": _scored(ONES, ONES, validation=(6.5, 1.03))}
  found = retention.judge(costly, "hr_bpm", _settings())["variants"]
  assert found["plain"]["validation_kept"] == []


def test_a_task_without_labels_is_refused():
  with pytest.raises(DistillError, match="windows of 'mood'"):
    retention.judge(TABLE, "mood", _settings())


def test_rivals_differ_in_how_and_in_nothing_else():
  settings = configs.base().finetune
  found = retention.rivals(settings, _settings())
  plain = configs.flatten(found["plain"])

  def changed(name):
    flat = configs.flatten(found[name])
    return {key: value for key, value in flat.items() if value != plain[key]}

  assert changed("early_stopping") == {"keep": "best"}
  assert changed("probe_then_tune") == {"keep": "best", "head_share": 0.1}
  assert changed("l2_to_start") == {"keep": "best", "l2_to_start": 0.01}
  assert changed("lora") == {"keep": "best", "lora_rank": 4}
  assert changed("speech_ft") == {"keep": "best", "head_share": 0.1, "freeze_front_end": True}
  assert configs.flatten(settings) == configs.flatten(configs.base().finetune)


def test_table_and_plot_say_what_was_picked():
  found = report.plain(retention.judge(TABLE, "hr_bpm", _settings(share=0.5)))
  found["simulated"] = True
  text = report.retention_text("toy", found)
  assert "SIMULATED" in text
  line = next(line for line in text.splitlines() if "alpha 0.5 *" in line)
  assert "20.0" in line  # gain, per cent
  assert "+2.0 (-4.6 to +8.6)" in line
  plot = plots.retention("toy", found)
  assert "Speech-FT, alpha 0.5: task +20.0 %, others -2.0 %" in plot.alt
  assert "plain fine-tuning: task +40.0 %, others -10.0 %" in plot.alt


def test_plot_of_a_task_that_the_start_never_gets_wrong():
  found = report.plain(retention.judge(TABLE, "hr_bpm", _settings(share=0.5)))
  found["simulated"] = True
  for row in found["variants"].values():
    row["gain"] = None  # no per cent of an error of 0
  alt = plots.retention("toy", found).alt
  assert "plain fine-tuning: task not known, others -10.0 %" in alt
  assert "nan" not in alt.replace("fine-tuning", "")


# --- the whole comparison -------------------------------------------------------------------------


def _shifted(config, fold, start, place, settings):
  """Stands in for training, which has its own tests: weights moved by a tenth of their spread."""
  stored, rng = models.read(start), np.random.default_rng(0)
  moved = {
    n: (a + 0.1 * a.std() * rng.normal(size=a.shape)).astype(a.dtype)
    for n, a in stored.tensors.items()
  }
  (place / "checkpoints").mkdir(parents=True, exist_ok=True)
  models.write(place / "model", moved, stored.fields, "test")
  return place / "model"


@pytest.fixture(name="found", scope="module")
def _found(smoke, tmp_path_factory):
  folder = tmp_path_factory.mktemp("retention")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(finetune, "tune", _shifted)
    code = cli.main(
      [
        "retention",
        f"--config={ROOT}/configs/speech_ft.py:smoke",
        f"--config.data.prepared_dir={smoke.prepared}",
        f"--config.teacher.load={smoke.folder / 'fold0' / 'teacher'}",
        f"--config.finetune.start={smoke.folder / 'fold0' / 'student'}",
        f"--workdir={folder / 'run'}",
      ]
    )
  assert code == 0
  return folder / "run", retention.load(folder / "run")["simulated"]


def test_the_start_has_not_changed_and_all_else_has(found):
  _, one = found
  start = one["variants"]["start"]
  assert list(start["cka"]) == ["tokens", "block1", "embedding"]
  assert all(value == pytest.approx(1.0, abs=1e-9) for value in start["cka"].values())
  assert all(m["change"]["value"] == 0.0 for m in start["measures"].values())
  assert set(start["measures"]) >= {"hr_bpm", "retrieval"}
  likeness = [one["variants"][n]["cka"]["embedding"] for n in ("speech_ft_0.25", "speech_ft_1")]
  assert 1.0 > likeness[0] > likeness[1]


def test_retrieval_of_the_start_is_that_of_the_run(found, smoke):
  folder = smoke.folder / "fold0" / "embeddings" / "simulated"
  student, teacher = (
    embeddings.load(folder / f"{side}_projection.parquet") for side in ("student", "teacher")
  )
  unit = [
    t.embedding / np.linalg.norm(t.embedding, axis=1, keepdims=True) for t in (student, teacher)
  ]
  cosine = unit[0].astype(np.float64) @ unit[1].T.astype(np.float64)
  rank = (cosine >= np.diagonal(cosine)[:, None] - 1e-6).sum(axis=1)
  people = student["participant"]
  expected = np.mean([np.mean(1 - 1 / rank[people == who]) for who in np.unique(people)])
  got = found[1]["variants"]["start"]["measures"]["retrieval"]["error"]["value"]
  assert got == pytest.approx(expected, rel=1e-3)


def test_the_comparison_leaves_table_and_plot(found, capsys):
  folder, one = found
  assert "Speech-FT, alpha 0.25" in (folder / "retention.md").read_text()
  assert (folder / "plots" / "simulated_retention.png").stat().st_size > 10_000
  shutil.rmtree(folder / "plots")
  retention.draw(folder)
  assert (folder / "plots" / "simulated_retention.svg").is_file()
  assert json.loads((folder / retention.FILE).read_text())["simulated"] == one
  with pytest.raises(DistillError, match=r"no retention.json"):
    retention.load(folder / "plots")


def test_the_report_of_the_run_shows_it(found, smoke, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(smoke.folder, run)
  shutil.copy(found[0] / retention.FILE, run)
  made = stages.judge(workdir.read_config(run), run)
  jsonschema.validate(made, json.loads(report.SCHEMA.read_text()))
  assert made["sets"]["simulated"]["retention"] == found[1]
  assert "Speech-FT, alpha 0.25" in report.markdown(made)
  assert (run / "plots" / "simulated_retention.svg").is_file()


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("finetune.start=nowhere/fold{fold}/student", "nowhere/fold0/student is no model folder"),
    ("finetune.target=mood", "prepared sets have no column 'mood'"),
    ("retention.alphas=(2.0,)", r"retention.alphas is \(2.0,\); expected numbers from 0"),
    ("retention.alphas=()", r"retention.alphas is \(\); expected numbers from 0"),
  ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_trained(
  smoke, tmp_path, words, message
):
  config = configs.load(
    f"{ROOT}/configs/speech_ft.py:smoke",
    [f"--config.data.prepared_dir={smoke.prepared}", f"--config.{words}"],
  )
  with pytest.raises(DistillError, match=message):
    retention.compare(config, tmp_path / "run")
  assert not list(tmp_path.glob("run/*/teacher"))


# --- layers ---------------------------------------------------------------------------------------


def test_layers_of_a_student_are_its_tokens_its_blocks_and_its_embedding():
  small = {"width": 8, "depth": 2, "heads": 2, "filters": 4, "mixes": 2, "waves": 4}
  encoder = students.transformer.build(seed=0, **small)
  signal = np.random.default_rng(0).normal(size=(2, 3000, 3)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  mask[0, :1500] = False

  @nnx.jit
  def both(one, x, m):
    tokens, observed = one.tokens(x, m)
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.float32), observed.shape)
    block = one.transformer.block_0(tokens, layers.attendable(observed), places)
    pool = POOLINGS[one.pool]
    expected = {"tokens": pool(tokens, observed), "block1": pool(block, observed)}
    return one.by_layer(x, m), expected | {"embedding": one(x, m)}

  found, expected = both(encoder, signal, mask)
  assert set(found) == set(encoder.layer_names) == {"tokens", "block1", "block2", "embedding"}
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, atol=1e-5)
  assert np.abs(found["block2"] - found["block1"]).max() > 0.01


def test_layers_of_a_speech_encoder_are_those_of_its_network():
  architecture = {
    "conv_dim": (4, 4),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "width": 8,
    "depth": 1,
    "heads": 2,
    "mlp_width": 8,
    "position_kernel": 7,
    "position_groups": 2,
  }
  encoder = speech.build(architecture=architecture, output=("hidden1", "conv0"), pool="mean")
  signal = np.random.default_rng(0).normal(size=(2, 3840, 1)).astype(np.float32)
  mask = np.ones(signal.shape, bool)
  found, alone = nnx.jit(lambda one, x, m: (one.by_layer(x, m), one(x, m)))(encoder, signal, mask)
  assert set(found) == set(encoder.layer_names)
  assert {"conv0", "conv1", "projected", "hidden0", "hidden1", "last"} < set(found)
  both = np.concatenate([found["hidden1"], found["conv0"]], axis=1)
  np.testing.assert_allclose(found["embedding"], both, atol=1e-6)
  np.testing.assert_allclose(found["embedding"], alone, atol=1e-5)
