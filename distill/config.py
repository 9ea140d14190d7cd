"""Experiment configs: the keys there are, their defaults, and how overrides are applied.

`base()` holds every key that any part of the toolkit reads, with its default. A file in configs/
starts from it and changes what its experiment needs; a key that is not in `base()` is read by
nobody and stops the run. The sections in BUILT hold the arguments of what their `build` key names;
those that a file leaves out get the function's own defaults.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from distill import registry
from distill.augment import Augment
from distill.data import store
from distill.embedding_store import DTYPES
from distill.errors import DistillError, nearest
from distill.losses import REGRESSIONS

ConfigDict: TypeAlias = ml_collections.ConfigDict

# Keys that say how fast a run is made and not what comes out: a resumed run may change them.
FREE = ("data.workers", "data.readers", "data.runner")


# Keys of a section in BUILT that its build function does not get.
NOT_ARGUMENTS = ("build", "load", "also", "weights", "stored", "in_step")
# Section -> arguments of its build function that the program supplies.
BUILT = {
  "teacher": ("seed",),
  "student": ("seed",),
  "pretrain.objective": ("encoder", "rngs"),
  "layers.random": ("seed", "modality", "window_s"),
}


# Keys of which a config names one.
CHOICES = {
  "method": ("distil", "joint", "rivals"),
  "pretrain.side": ("teacher", "student"),
  "finetune.keep": ("best", "last"),
  "loss.regression_kind": tuple(REGRESSIONS),
  "teacher.stored": tuple(DTYPES),
}
# Last word of a key -> the least that it may be, in whatever section it stands.
LEAST = {
  **dict.fromkeys(("steps", "batch_size", "log_every", "eval_every"), 1),
  **dict.fromkeys(("hidden", "dim", "repeats"), 1),
  **dict.fromkeys(("seed", "warmup_steps", "weight_decay", "l2_to_start", "lora_rank"), 0),
  **dict.fromkeys(("workers", "readers"), 0),
  **dict.fromkeys(("contrastive", "regression", "rhythm", "train_people", "train_minutes"), 0),
}
POSITIVE = ("learning_rate", "clip_norm", "temperature")
SHARES = ("direction", "gaps", "pair_coverage")
ELEMENTS = {  # of tuples that are empty unless given
  "data.external": str,
  "teacher.also": str,
  "teacher.weights": float,
  "layers.encoders": str,
  "evaluate.shares": float,
}
# Columns of prepared sets that hold numbers, which probes and supervision can have as targets.
NUMBERS = tuple(name for name, kind in store.COLUMNS.items() if np.issubdtype(kind, np.floating))
_BUILT = tuple(section + "." for section in BUILT)


def _optim(learning_rate: float) -> ConfigDict:
  return ConfigDict(
    {"learning_rate": learning_rate, "warmup_steps": 50, "weight_decay": 0.01, "clip_norm": 1.0}
  )


def _augment() -> ConfigDict:
  """Probabilities, all 0, and strengths; `distill.augment` says what they are."""
  return ConfigDict(dataclasses.asdict(Augment()))


def base() -> ConfigDict:
  """Every key there is, with its default."""
  config = ConfigDict()
  config.name = "unnamed"
  config.seed = 0
  config.folds = (0,)  # held-out folds to run; every fold trains its own teacher and student

  config.data = ConfigDict()
  config.data.sets = ("simulated",)
  config.data.source = ""  # folder with the official files; the simulated cohort needs none
  config.data.splits = (
    ""  # folder of split files <set>.txt; "": by a hash of the participant's name
  )
  # Sets that the models of the first fold are judged on and that nothing is trained on.
  config.data.external = ()
  config.data.train_people = 0  # of each set, the same ones first; 0 for all
  config.data.train_minutes = 0.0  # the first ones of each of their recordings; 0 for all
  config.data.prepared_dir = "prepared"
  config.data.ppg_rate_hz = 64.0
  config.data.acc_rate_hz = 50.0
  config.data.window_s = 60.0
  config.data.hop_s = 60.0
  config.data.min_coverage = 0.5
  config.data.min_template_r = 0.8
  config.data.min_spectral_purity = 0.3
  config.data.workers = 2  # processes that prepare
  config.data.readers = 0  # processes that read training batches ahead; 0 reads in two threads
  config.data.runner = ""  # of Apache Beam, such as "DirectRunner"; "" cuts in `workers` processes
  config.data.simulated = ConfigDict(
    {
      "participants": 40,
      "minutes": 20,
      "device": "fine",
      "amplitude": 1.0,
      "gaps": True,
      "seed": 0,
      "first": 0,  # index of the first participant: others than a run's are people it has not seen
    }
  )

  config.teacher = ConfigDict()
  config.teacher.build = "teachers.transformer:build"
  # "ours", the folder of a pretrained teacher, "{fold}" for the fold, or .parquet / .npz file of
  # its embeddings; "" pretrains one.
  config.teacher.load = ""
  config.teacher.also = ()  # folders or files of further teachers
  config.teacher.weights = ()  # share of each teacher in the loss; () = 1 each
  config.teacher.stored = "float32"  # precision of stored embeddings, or "float16"
  # Embeds in the training step, augmented PPG, instead of reading what was stored once.
  config.teacher.in_step = False
  config.pretrain = ConfigDict()
  config.pretrain.objective = ConfigDict({"build": "distill.objectives:MaskedAutoencoding"})
  config.pretrain.side = "teacher"  # | "student": of what `distill pretrain` pretrains
  config.pretrain.row = "self_supervised"  # name of a pretrained student in the report
  config.pretrain.steps = 400
  config.pretrain.batch_size = 64
  # A teacher whose own heart-rate probe does not beat the mean stops the run before distillation.
  config.pretrain.check_probe = True
  config.pretrain.augment = _augment()
  config.pretrain.optim = _optim(2e-3)
  config.pretrain.log_every = 20
  config.pretrain.eval_every = 200

  # "distil" a student from a frozen teacher | train both encoders together, "joint" | its "rivals"
  # alone: the supervised students, and the one pretrained on acceleration if that is pretrain.side.
  config.method = "distil"
  config.student = ConfigDict()
  config.student.build = "students.transformer:build"
  # "ours" or the model folder that the student starts from, "{fold}" for the fold; "" for none.
  config.start = ""
  config.steps = 400
  config.batch_size = 128
  config.pair_coverage = 0.5  # of both signals that must be observed for a pair to be trained on
  # A control: each window learns from the PPG of another window of the same participant.
  config.shuffled_pairs = False
  config.head = ConfigDict({"hidden": 256, "dim": 64})
  config.loss = ConfigDict()
  config.loss.contrastive = 1.0
  config.loss.temperature = 0.04
  config.loss.direction = 0.5  # lambda: 1 is acceleration queries only
  config.loss.regression = 1.0
  config.loss.regression_kind = "mse"  # mse | cosine | huber
  config.loss.rhythm = 1.0  # of the beats' places, where the student reads them
  config.loss.gaps = 0.0  # share of the student's windows that get artificial gaps
  config.augment = _augment()  # of acceleration; of PPG where its encoder runs in the step
  config.optim = _optim(1e-3)
  config.log_every = 20
  config.eval_every = 100

  config.supervised = ConfigDict()
  # Of the training people whose labels are used; a student for each.
  config.supervised.shares = (1.0,)
  # Also a student regressed on what the paired PPG says, in the steps of distillation.
  config.supervised.label_distillation = False
  config.supervised.steps = 400
  config.supervised.batch_size = 128
  config.supervised.optim = _optim(1e-3)
  config.supervised.log_every = 20
  config.supervised.eval_every = 100

  config.finetune = ConfigDict()
  config.finetune.start = ""  # "ours" or a model folder, "{fold}" for the fold
  config.finetune.target = "hr_bpm"  # a label column: numbers are regressed, texts are classes
  config.finetune.steps = 400
  config.finetune.batch_size = 64
  config.finetune.head_share = 0.1  # of the steps, for the head alone
  config.finetune.freeze_front_end = True
  config.finetune.l2_to_start = 0.0  # weight of the squared distance from the start
  config.finetune.lora_rank = 0  # of the adapters that train in place of the weights; 0 for none
  config.finetune.keep = "best"  # on validation people | "last" step
  config.finetune.optim = ConfigDict({"learning_rate": 5e-4, "clip_norm": 1.0})
  config.finetune.log_every = 20
  config.finetune.eval_every = 50

  config.retention = ConfigDict()
  config.retention.alphas = (0.1, 0.25, 0.5, 0.75, 1.0)  # 1 is fine-tuned without a step back
  config.retention.probes = ("hr_bpm", "sdnn_ms", "rmssd_ms", "activity")
  config.retention.l2_to_start = 0.01  # of the rival that is pulled back while it trains
  config.retention.lora_rank = 4
  config.retention.share = 0.9  # of plain fine-tuning's gain that the chosen alpha must reach
  config.retention.loss = 0.02  # of any other measure that its interval must exclude

  config.layers = ConfigDict()
  config.layers.tasks = ("simulated/activity", "simulated/arrhythmia")  # SET/COLUMN
  # NAME=MODEL_FOLDER, none of which has seen held-out people; "{fold}" is the fold's number
  config.layers.encoders = ()
  config.layers.random = ConfigDict({"build": "teachers.speech:small"})
  config.layers.shares = (0.03, 0.1, 0.3)  # of the training people, beside all of them

  config.day = ConfigDict({"participants": 4000, "seed": 0})  # of the cohort of `distill day`

  config.evaluate = ConfigDict()
  config.evaluate.galleries = (100,)  # sizes of repeated galleries; the whole set is always added
  config.evaluate.repeats = 20
  config.evaluate.targets = ("hr_bpm", "sdnn_ms", "rmssd_ms")
  config.evaluate.alphas = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)
  config.evaluate.shares = ()  # of the training people, below 1, with whose labels alone to probe
  config.evaluate.seed = 0
  return config


def choose(config: ConfigDict, section: str, build: str, **arguments: Any) -> None:
  """Makes a section of BUILT build something else; the arguments of what it built before go.

  Args:
    config: changed in place, such as one of another file that `load` gave.
    section: its name, such as "teacher" or "pretrain.objective".
    build: "package.module:name".
    **arguments: of it; the function's own defaults for the others.
  """
  outer, _, last = section.rpartition(".")
  place = config[outer] if outer else config
  kept = {name: value for name, value in place[last].items() if name in NOT_ARGUMENTS}
  with config.unlocked():
    place[last] = ConfigDict({**kept, "build": build, **arguments})


def vary(file: str, variant: str, also: Sequence[str] = ()) -> ConfigDict:
  """The demo's config, or that of recorded wrists, under the name of a file beside them.

  Args:
    file: path of that file, which goes on to change what its experiment needs.
    variant: "" for the demo's cohort, "smoke" for the same in seconds, "wrists" for recorded ones.
    also: further variants of the file, of the demo's cohort.

  Raises:
    DistillError: another variant.
  """
  bases = {"": "quickstart.py", "smoke": "quickstart.py:smoke", "wrists": "wrists.py"}
  bases |= dict.fromkeys(also, bases[""])
  if variant not in bases:
    known = ", ".join(filter(None, bases))
    raise DistillError(f"{file}: unknown variant {variant!r}; there are: {known}")
  place = pathlib.Path(file)
  config = load(place.with_name(bases[variant]))
  with config.unlocked():
    config.name = f"{place.stem}:{variant}" if variant else place.stem
  return config


def same_budget(config: ConfigDict, section: str) -> None:
  """Gives a section the steps, batches and optimiser of distillation, in place."""
  with config.unlocked():
    names = ("steps", "batch_size", "optim", "log_every", "eval_every")
    config[section].update({name: config[name] for name in names})


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ConfigDict:
  """The locked config of a file with dotted overrides applied and every key checked.

  Args:
    path: a Python file with `get_config()`; `path:argument` calls `get_config(argument)`, such as
      "configs/quickstart.py:smoke". "" takes the defaults of `base()`.
    overrides: strings "--config.optim.learning_rate=3e-4".

  Raises:
    DistillError: no such file, an override that cannot be applied, a key that nobody reads.
  """
  config = read(path) if str(path) else base()
  # What is built decides which other keys there are.
  builds = [text for text in overrides if text.partition("=")[0].endswith(".build")]
  config = _filled(_apply(config, builds))
  check(config)
  return _apply(config, [text for text in overrides if text not in builds], checked=True)


def _filled(config: ConfigDict) -> ConfigDict:
  """With the defaults of the build functions in the sections of BUILT."""
  with config.unlocked():
    for section, supplied in BUILT.items():
      if section + ".build" in flatten(config):
        for name, parameter in _arguments(config, section).items():
          has_default = parameter.default is not inspect.Parameter.empty
          if has_default and name not in supplied and name not in config[section]:
            config[section][name] = parameter.default
  return config


def _arguments(config: ConfigDict, section: str) -> Mapping[str, inspect.Parameter]:
  key = section + ".build"
  build = registry.resolve(flatten(config)[key], key=key)
  # The signature of an nnx class is that of its metaclass: *args, **kwargs.
  found = inspect.signature(build.__init__ if inspect.isclass(build) else build).parameters
  return {name: parameter for name, parameter in found.items() if name != "self"}


def read(path: str | pathlib.Path) -> ConfigDict:
  """What `get_config()` of a file returns, as it is; see `load`.

  Raises:
    DistillError: no such file, or one whose `get_config()` fails.
  """
  name, _, argument = str(path).partition(":")
  file = pathlib.Path(name)
  if not file.is_file():
    raise DistillError(f"no config file at {name}; the shipped ones are in configs/")
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise DistillError(f"{file} is not a Python file; a config is one with get_config()")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(argument) if argument else module.get_config()
  except DistillError:
    raise
  except Exception as error:  # the user's own code: report its message, whatever it raises
    raise DistillError(f"{file}: {type(error).__name__}: {error}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise DistillError(f"{file}: get_config() returned {type(config).__name__}, not a ConfigDict")
  return config


def _apply(config: ConfigDict, overrides: list[str], *, checked: bool = False) -> ConfigDict:
  """The locked config with overrides; `checked` checks their values too."""
  config.lock()
  if not overrides:
    return config
  known = flatten(config)
  for override in overrides:
    name, equals, _ = override.removeprefix("--config.").partition("=")
    if not equals:
      raise DistillError(f"override {override!r} has no value; write {override}=VALUE")
    if name not in known:
      raise DistillError(f"no key config.{name}{nearest(name, known)}")
  holder = flags.FlagValues()
  argv = ["distill", *overrides]
  config_flags.DEFINE_config_dict("config", config, flag_values=holder, sys_argv=argv)
  try:
    holder(argv)
  except (flags.Error, TypeError, ValueError) as error:
    reason = str(error).strip().splitlines()[0]
    raise DistillError(f"cannot apply {' '.join(overrides)}: {reason}") from error
  if checked:
    check(holder.config)
  return holder.config


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """Dotted key -> value, for every leaf."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def check(config: ConfigDict) -> None:
  """Refuses keys that nobody reads, and keys that are missing.

  Raises:
    DistillError: naming the key and the nearest known ones.
  """
  known = flatten(base())
  given = flatten(config)
  for section, supplied in BUILT.items():
    if f"{section}.build" not in given:
      raise DistillError(f"config.{section}.build is missing; start from distill.config.base()")
    arguments = _arguments(config, section)
    known |= {f"{section}.{n}": one.default for n, one in arguments.items() if n not in supplied}
  for name in given:
    if name not in known:
      raise DistillError(f"config.{name} is read by nobody{nearest(name, known)}")
  for name, default in known.items():
    if name not in given and (name in flatten(base()) or default is inspect.Parameter.empty):
      raise DistillError(f"config.{name} is missing; start from distill.config.base()")
  for name, value in given.items():
    _check_type(name, value, known[name])
  _check_values(config)


def _check_type(name: str, value: Any, default: Any) -> None:
  """Refuses a value of another type than the default's; a default of None says nothing."""
  accepted: dict[type, Any] = {
    bool: bool,
    int: int,
    float: (int, float),
    str: str,
    tuple: (tuple, list),
  }
  wanted = accepted.get(type(default))
  if wanted is None or (isinstance(default, str) and name.startswith(_BUILT)):
    return  # an argument of a build function may take more than its default's kind of text
  if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
    raise DistillError(
      f"config.{name} is {value!r}, {_a(value)}; expected {type(default).__name__},"
      f" such as {default!r}"
    )
  if isinstance(default, tuple):
    _check_elements(name, value, type(default[0]) if default else ELEMENTS.get(name, object))


def _check_elements(name: str, values: Sequence[Any], wanted: type) -> None:
  accepted = (int, float) if wanted is float else wanted
  for value in values:
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not object):
      raise DistillError(f"config.{name} holds {value!r}, {_a(value)}; expected {wanted.__name__}")


def _a(value: Any) -> str:
  """Its type with the article."""
  name = type(value).__name__
  return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _check_values(config: ConfigDict) -> None:
  values = flatten(config)
  for name, value in values.items():
    if not name.startswith(_BUILT):
      _check_range(name, value)
  for name, known in CHOICES.items():
    if values[name] not in known:
      raise DistillError(f"config.{name} is {values[name]!r}; expected one of {', '.join(known)}")
  if config.batch_size < 2:
    raise DistillError(
      f"config.batch_size is {config.batch_size}; contrastive distillation needs at least 2: the"
      " other windows of the batch are the negatives"
    )
  if not 0 <= config.finetune.head_share < 1:
    raise DistillError(
      f"config.finetune.head_share is {config.finetune.head_share}; expected a"
      " share from 0 up to but not including 1"
    )
  _check_people(config)
  _check_augment(config)
  _check_teacher(config)
  _check_loss(config)
  _check_evaluate(config.evaluate)


def _check_range(name: str, value: Any) -> None:
  """Refuses a number that its key cannot be."""
  last = name.rpartition(".")[2]
  if last in LEAST and not value >= LEAST[last]:
    raise DistillError(f"config.{name} is {value}; expected {LEAST[last]} or more")
  if last in POSITIVE and not value > 0:
    raise DistillError(f"config.{name} is {value}; give a positive one")
  if last in SHARES and not 0 <= value <= 1:
    raise DistillError(f"config.{name} is {value}; expected a share from 0 to 1")


def _check_people(config: ConfigDict) -> None:
  """Who is trained on, held out and counted."""
  for section in ("supervised", "evaluate", "layers"):
    shares = tuple(config[section].shares)
    if len(set(shares)) < len(shares) or not all(0 < share <= 1 for share in shares):
      raise DistillError(
        f"config.{section}.shares is {shares}; expected different shares above 0 and up to 1, such"
        " as (0.01, 0.1, 1.0)"
      )
  both = sorted(set(config.data.sets) & set(config.data.external))
  if both:
    raise DistillError(
      f"config.data.external names {both[0]}, which config.data.sets trains on; expected other sets"
    )
  if not config.folds:
    raise DistillError("config.folds is empty; name at least one held-out fold, such as (0,)")
  folds = tuple(config.folds)
  if len(set(folds)) < len(folds) or not all(k >= 0 for k in folds):
    raise DistillError(f"config.folds is {folds}; expected different whole numbers, such as (0, 1)")


def _check_teacher(config: ConfigDict) -> None:
  given = config.teacher.load or config.teacher.also
  if config.method == "joint" and (given or config.loss.regression):
    raise DistillError(
      "config.method=joint trains its own PPG encoder, which is nothing fixed to regress on; leave"
      " config.teacher.load and config.teacher.also empty and give config.loss.regression=0.0"
    )
  teachers = 1 + len(config.teacher.also)
  if len(config.teacher.weights) not in (0, teachers):
    raise DistillError(
      f"config.teacher.weights is {tuple(config.teacher.weights)} for {teachers} teacher(s); give a"
      " share for each, or () for 1 each"
    )
  if config.teacher.in_step and config.method != "distil":
    raise DistillError(
      f"config.teacher.in_step is for distillation; with config.method={config.method} give False"
    )


def _check_loss(config: ConfigDict) -> None:
  loss = config.loss
  if config.method != "rivals" and not (loss.contrastive or loss.regression or loss.rhythm):
    raise DistillError(
      "config.loss.contrastive, regression and rhythm are all 0: a student would learn nothing;"
      " give one of them a weight"
    )
  if config.shuffled_pairs and (config.teacher.in_step or config.method != "distil"):
    raise DistillError(
      "config.shuffled_pairs gives other windows' stored teacher embeddings; it needs"
      " config.method=distil and config.teacher.in_step=False"
    )


def _check_evaluate(section: ConfigDict) -> None:
  for name in section.targets:
    if name not in NUMBERS:
      raise DistillError(f"config.evaluate.targets names {name!r}{nearest(name, NUMBERS)}")
  if not section.targets:
    raise DistillError("config.evaluate.targets is empty; name at least one, such as ('hr_bpm',)")
  if not section.alphas or not all(alpha > 0 for alpha in section.alphas):
    raise DistillError(
      f"config.evaluate.alphas is {tuple(section.alphas)}; expected penalties above 0, such as"
      " (0.1, 1.0, 10.0)"
    )
  if not all(size >= 2 for size in section.galleries):
    raise DistillError(
      f"config.evaluate.galleries is {tuple(section.galleries)}; expected sizes of 2 or more, or ()"
      " for the whole set alone"
    )


def _check_augment(config: ConfigDict) -> None:
  for section in (config.augment, config.pretrain.augment):
    Augment(**section)  # says what is out of range
  if config.augment.time_warp and config.method != "joint" and not config.teacher.in_step:
    raise DistillError(
      "config.augment.time_warp changes heart rate and its variability, which stored teacher"
      " embeddings and labels do not follow; give config.augment.time_warp=0.0, or"
      " config.teacher.in_step=True, which warps both sides alike"
    )


def build_arguments(section: ConfigDict) -> dict[str, Any]:
  """The arguments of the section's build function: every key but those that say which one."""
  return {name: value for name, value in section.items() if name not in NOT_ARGUMENTS}


def to_json(config: ConfigDict) -> str:
  """The resolved config as text, the same for the same values."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list)


def identity(config: ConfigDict) -> str:
  """Hash of all that decides what a run computes."""
  values = json.loads(to_json(config))
  for key in FREE:
    section, _, name = key.partition(".")
    values[section].pop(name, None)
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def from_json(text: str) -> ConfigDict:
  """The locked config that `to_json` wrote.

  Raises:
    DistillError: not such a text, a key that this version does not read, or one that it needs.
  """
  try:
    config = ConfigDict(dict(json.loads(text)))
  except (TypeError, ValueError) as error:
    raise DistillError(f"not a stored config: {error}") from error
  check(config)
  return config.lock()


def versions() -> dict[str, str]:
  """Versions of what the numbers of a run depend on."""
  from importlib import metadata

  packages = [
    *("ppg2accel", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("scipy", "scikit-learn", "neurokit2", "tensorflow-datasets"),
  ]
  found = {"python": sys.version.split()[0]}
  for package in packages:
    try:
      found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      found[package] = "not installed"
  return found
