"""The teacher and the student whose weights are shipped as "ours".

The demo's recipe on the training people of fold 0 of the simulated cohort and of the committed
split of Stress-Predict, so that both can be judged on the people of that fold who are held out and
on any other set. Sizes, steps and rates are ours; variant "smoke" shows that it runs.

  distill run --config=configs/ours.py --config.data.source=DIR --workdir=runs/ours
  python -m distill.ship runs/ours
"""

import pathlib

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The run that made the shipped weights; "smoke" is the same in seconds on twelve people."""
  config = base()
  config.name = f"ours:{variant}" if variant else "ours"
  config.data.sets = ("simulated", "stress_predict")
  config.data.splits = str(pathlib.Path(__file__).parent / "splits")
  config.data.simulated.participants = 1400
  config.data.simulated.minutes = 10
  config.teacher.patch = 40
  config.teacher.pool = "mean_sd"
  config.pretrain.steps = 900
  config.pretrain.batch_size = 32
  config.pretrain.objective.depth = 1
  config.pretrain.eval_every = 150
  config.loss.temperature = 0.1
  config.steps = 400
  config.supervised.steps = 300
  for section in (config, config.supervised):
    section.optim.learning_rate = 2e-3
    section.optim.weight_decay = 0.05
    section.eval_every = 60
  if variant == "smoke":
    _shrink(config)
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there is: smoke")
  return config


def _shrink(config: ConfigDict) -> None:
  config.data.simulated.participants = 12
  config.data.simulated.minutes = 6
  config.data.workers = 0
  config.teacher.width, config.teacher.depth = 32, 1
  config.student.width, config.student.depth = 32, 1
  config.pretrain.check_probe = False
  for section in (config.pretrain, config, config.supervised):
    section.steps = 2
    section.batch_size = 8
    section.log_every = section.eval_every = 2
  config.evaluate.galleries = (5,)
  config.evaluate.repeats = 2
