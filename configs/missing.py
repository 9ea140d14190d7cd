"""Students that read minutes with gaps, against the same student trained on complete minutes.

The three axes have tokens of their own (three times the tokens), and three quarters of the
student's windows lose parts of what was observed while it is distilled. `distill missing` then
trains the rival, the same student on complete windows alone, and judges both as less and less is
observed. Sizes, steps and rates are ours.

  distill missing --config=configs/missing.py --workdir=runs/missing
  distill missing --config=configs/missing.py:wrists --config.data.source=DIR --workdir=runs/gaps
"""

import pathlib

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """On a simulated cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = base()
  config.name = f"missing:{variant}" if variant else "missing"
  config.data.simulated.participants = 500
  config.teacher.patch = 40
  config.teacher.pool = "mean_sd"
  config.pretrain.steps = 300
  config.pretrain.batch_size = 32
  config.pretrain.objective.depth = 1
  config.pretrain.eval_every = 100
  config.student = ConfigDict({"build": "students.axes:build"})
  config.loss.gaps = 0.75
  config.loss.temperature = 0.1
  config.steps = 250
  config.eval_every = 50
  config.optim.learning_rate = 2e-3
  config.optim.weight_decay = 0.05
  if variant == "smoke":
    _shrink(config)
  elif variant == "wrists":
    config.folds = (0, 1, 2, 3, 4)
    config.data.sets = ("bami", "wesad", "stress_predict")
    config.data.splits = str(pathlib.Path(__file__).parent / "splits")
    config.data.hop_s = 20.0  # real minutes are few: training cuts them at three offsets
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there are: smoke, wrists")
  return config


def _shrink(config: ConfigDict) -> None:
  config.data.simulated.participants = 12
  config.data.simulated.minutes = 6
  config.data.workers = 0
  config.teacher.width, config.teacher.depth = 32, 1
  config.student.width, config.student.depth = 32, 1
  config.pretrain.check_probe = False
  for section in (config.pretrain, config, config.supervised):
    section.steps = 4
    section.batch_size = 8
    section.log_every = 2
    section.eval_every = 2
  config.evaluate.targets = ("hr_bpm",)
