"""distill.config: overrides keep their types, and what cannot be applied or read stops the run."""

import pytest

from distill import config as configs
from distill.errors import DistillError
from tests.conftest import ROOT

SMOKE = ("", ":smoke")
QUICKSTART = f"{ROOT}/configs/quickstart.py"


def needs_size(*, seed, size):
  """A build function without a default."""


def _load(*overrides, path=f"{QUICKSTART}:smoke"):
  return configs.load(path, [f"--config.{text}" for text in overrides])


def _refused(*overrides, path=f"{QUICKSTART}:smoke") -> str:
  with pytest.raises(DistillError) as caught:
    _load(*overrides, path=path)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("override", "key", "value"),
  [
    ("optim.learning_rate=3e-4", "optim.learning_rate", 3e-4),
    ("optim.learning_rate=1", "optim.learning_rate", 1.0),
    ("steps=7", "steps", 7),
    ("name=mine", "name", "mine"),
    ("name=1", "name", "1"),
    ("folds=(0,1)", "folds", (0, 1)),
    ("data.sets=('bami','wesad')", "data.sets", ("bami", "wesad")),
    ("evaluate.alphas=(1.0,)", "evaluate.alphas", (1.0,)),
    ("pretrain.check_probe=False", "pretrain.check_probe", False),
    ("pretrain.check_probe=true", "pretrain.check_probe", True),
    ("data.simulated.gaps=false", "data.simulated.gaps", False),
    ("student.width=16", "student.width", 16),
    ("student.taps=9", "student.taps", 9),  # an argument of build that the file does not name
    ("pretrain.objective.mask_ratio=0.5", "pretrain.objective.mask_ratio", 0.5),
  ],
)
def test_an_override_is_applied_with_the_type_of_its_key(override, key, value):
  found = configs.flatten(_load(override))[key]
  assert found == value
  assert type(found) is type(value)


def test_overrides_change_their_keys_and_no_other():
  plain, changed = (
    configs.flatten(one) for one in (_load(), _load("steps=9", "data.window_s=30.0"))
  )
  different = {name for name in plain | changed if plain.get(name) != changed.get(name)}
  assert different == {"steps", "data.window_s"}


def test_the_last_of_two_overrides_counts():
  assert _load("steps=9", "steps=5").steps == 5


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    (
      "optim.learnin_rate=1",
      "no key config.optim.learnin_rate; did you mean 'optim.learning_rate'",
    ),
    ("optim=1", "no key config.optim;"),
    ("zzz=1", "no key config.zzz; known: "),
    ("steps", "has no value; write --config.steps=VALUE"),
    ("optim.learning_rate=abc", "--config.optim.learning_rate=abc"),
    ("steps=1.5", "--config.steps=1.5"),
    ("steps=", "--config.steps="),
    ("folds=abc", "config.folds holds 'abc', a str; expected int"),
    ("folds=(0, 1.0)", "config.folds holds 1.0, a float; expected int"),
    ("folds=(0, 0)", "expected different whole numbers"),
    ("retention.alphas=(0.5, 'a')", "config.retention.alphas holds 'a', a str; expected float"),
    ("evaluate.galleries=(True,)", "config.evaluate.galleries holds True, a bool; expected int"),
    ("evaluate.shares=('half',)", "config.evaluate.shares holds 'half', a str; expected float"),
    ("data.external=(2,)", "config.data.external holds 2, an int; expected str"),
    ("pretrain.check_probe=maybe", "--config.pretrain.check_probe=maybe"),
    ("student.foo=1", "no key config.student.foo"),
    ("student.build=students.transformr:build", "no module named 'students.transformr'"),
    ("student.build=students.transformer:bild", "has no 'bild'; did you mean 'build'"),
    ("student.build=students", "expected 'package.module:name'"),
  ],
)
def test_an_override_that_cannot_be_applied_stops_and_names_it(override, expected):
  assert expected in _refused(override)


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    ("batch_size=1", "config.batch_size is 1; contrastive distillation needs at least 2"),
    ("steps=0", "config.steps is 0; expected 1 or more"),
    ("pretrain.eval_every=-1", "config.pretrain.eval_every is -1; expected 1 or more"),
    ("loss.temperature=0.0", "config.loss.temperature is 0.0; give a positive one"),
    ("loss.temperature=nan", "config.loss.temperature is nan"),
    ("optim.learning_rate=0.0", "config.optim.learning_rate is 0.0; give a positive one"),
    ("pretrain.optim.clip_norm=-1.0", "config.pretrain.optim.clip_norm is -1.0; give a positive"),
    ("supervised.optim.warmup_steps=-5", "optim.warmup_steps is -5; expected 0 or more"),
    ("seed=-1", "config.seed is -1; expected 0 or more"),
    ("head.dim=0", "config.head.dim is 0; expected 1 or more"),
    ("loss.direction=2.0", "config.loss.direction is 2.0; expected a share from 0 to 1"),
    ("loss.gaps=nan", "config.loss.gaps is nan; expected a share from 0 to 1"),
    ("loss.contrastive=-1.0", "config.loss.contrastive is -1.0; expected 0 or more"),
    ("loss.regression_kind=mea", "is 'mea'; expected one of mse, cosine, huber"),
    ("teacher.weights=(1.0,2.0)", "config.teacher.weights is (1.0, 2.0) for 1 teacher(s)"),
    ("teacher.stored=float64", "config.teacher.stored is 'float64'; expected one of float32"),
    ("data.train_minutes=-1.0", "config.data.train_minutes is -1.0; expected 0 or more"),
    ("evaluate.repeats=0", "config.evaluate.repeats is 0; expected 1 or more"),
    ("evaluate.targets=('hr',)", "config.evaluate.targets names 'hr'"),
    ("evaluate.targets=('sdn_ms',)", "names 'sdn_ms'; did you mean 'sdnn_ms'"),
    ("evaluate.targets=('activity',)", "config.evaluate.targets names 'activity'"),
    ("evaluate.targets=()", "config.evaluate.targets is empty"),
    ("evaluate.alphas=()", "config.evaluate.alphas is ()"),
    ("evaluate.alphas=(1.0,-1.0)", "config.evaluate.alphas is (1.0, -1.0)"),
    ("evaluate.galleries=(0,)", "config.evaluate.galleries is (0,)"),
    ("folds=()", "config.folds is empty"),
    ("folds=(0,0)", "config.folds"),
  ],
)
def test_a_value_that_cannot_work_is_refused_before_anything_runs(override, expected):
  assert expected in _refused(override)


@pytest.mark.parametrize(
  ("body", "expected"),
  [
    ("config.optim.learning_rte = 1.0", "optim.learning_rte is read by nobody; did you mean"),
    ("config.student.foo = 1", "config.student.foo is read by nobody"),
    ("config.teacher.widht = 1", "teacher.widht is read by nobody; did you mean 'teacher.width'"),
    ("config.pretrain.objective.ratio = 0.5", "config.pretrain.objective.ratio is read by nobody"),
    ("config.own = 1", "config.own is read by nobody"),
    ("del config.loss.temperature", "config.loss.temperature is missing"),
    ("del config.student", "config.student.build is missing"),
    ("config.student = 3", "'student'"),
    ("config.steps = 'many'", "'steps'"),
    ("config.student.width = 'wide'", "config.student.width is 'wide', a str; expected int"),
    ("config.student.width = True", "config.student.width is True, a bool; expected int"),
    ("del config.steps; config.steps = '4'", "config.steps is '4', a str; expected int"),
    ("config.student.build = 'tests.test_config:needs_size'", "config.student.size is missing"),
    ("raise KeyError('oops')", "mine.py: KeyError: 'oops'"),
    ("return 3", "get_config() returned int, not a ConfigDict"),
    ("import absent_package", "ModuleNotFoundError: No module named 'absent_package'"),
    ("return (", "SyntaxError"),
  ],
)
def test_a_file_of_the_user_that_is_wrong_says_where(tmp_path, body, expected):
  path = tmp_path / "mine.py"
  path.write_text(
    "from distill.config import base\n\n"
    f"def get_config():\n  config = base()\n  {body}\n  return config\n"
  )
  assert expected in _refused(path=path)


def test_a_config_without_get_config_and_no_config_at_all(tmp_path):
  (tmp_path / "empty.py").write_text("")
  assert "get_config" in _refused(path=tmp_path / "empty.py")
  (tmp_path / "text.txt").write_text("x = 1")
  assert "text.txt is not a Python file" in _refused(path=tmp_path / "text.txt")
  assert f"no config file at {tmp_path}/absent.py" in _refused(path=tmp_path / "absent.py")
  assert "no config file" in _refused(path=tmp_path)


def test_losses_that_teach_nothing_are_refused():
  with pytest.raises(DistillError, match="a student would learn nothing"):
    _load("loss.contrastive=0.0", "loss.regression=0.0", "loss.rhythm=0.0")
  assert _load("loss.contrastive=0.0", "loss.rhythm=0.0").loss.regression == 1.0


def test_an_unknown_variant_stops():
  assert "smok" in _refused(path=f"{QUICKSTART}:smok")
  assert "onne" in _refused(path=f"{ROOT}/configs/wrists.py:onne")


SHIPPED = [
  *(
    path.name + variant
    for path in sorted(ROOT.glob("configs/*.py"))
    for variant in SMOKE
    if path.name != "benchmark.py"  # a list of configs, see test_benchmark.py
  ),
  "wrists.py:one",
  "missing.py:wrists",
  "baseline_masked.py:wrists",
  "baseline_masked.py:patches",
  "student_aim.py:distil",
  "aim_day.py:small",
  "speech_ft.py:wrists",
  "speech_probe.py:mood",
  "speech_probe.py:motion",
  "speech_probe.py:heart",
]


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_config_is_whole_locked_and_comes_back_from_its_text(path):
  config = configs.load(f"{ROOT}/configs/{path}")
  assert config.is_locked
  text = configs.to_json(config)
  back = configs.from_json(text)
  assert back.is_locked
  assert configs.to_json(back) == text
  assert set(configs.flatten(back)) == set(configs.flatten(config))


def test_a_stored_config_with_a_foreign_or_missing_key_or_no_json_is_refused():
  config = _load()
  with pytest.raises(DistillError, match="stepz is read by nobody"):
    configs.from_json(configs.to_json(config).replace('"steps"', '"stepz"', 1))
  with pytest.raises(DistillError, match="not a stored config"):
    configs.from_json("{")
  with pytest.raises(DistillError, match="not a stored config"):
    configs.from_json("[1]")


def test_versions_name_every_package_that_numbers_depend_on():
  versions = configs.versions()
  assert {"python", "ppg2accel", "jax", "jaxlib", "flax", "optax", "numpy"} <= set(versions)
  assert "not installed" not in versions.values()
