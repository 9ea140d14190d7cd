"""The whole job on a simulated cohort, in minutes on two cores; variant "smoke" shows that it runs.

Sizes, steps and rates are ours; what the paper confirms is said in the README.
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The demo; "smoke" is the same in seconds, too small to learn anything."""
  config = base()
  config.name = "quickstart"
  # Many people and few minutes each: passes over the same people teach identities, not beats.
  config.data.simulated.participants = 2100
  config.data.simulated.minutes = 8
  config.teacher.patch = 40
  config.teacher.pool = "mean_sd"
  config.teacher.profile = config.student.profile = True
  config.pretrain.steps = 600
  config.pretrain.batch_size = 32
  config.pretrain.objective.depth = 1
  config.pretrain.eval_every = 150
  config.loss.temperature = 0.1
  config.steps = 300
  config.supervised.steps = 190
  for section in (config, config.supervised):
    section.optim.learning_rate = 2e-3
    section.optim.weight_decay = 0.05
    section.eval_every = 60
  if variant == "smoke":
    return _smoke(config)
  if variant:
    raise ValueError(f"unknown variant {variant!r}; there is: smoke")
  return config


def _smoke(config: ConfigDict) -> ConfigDict:
  config.name = "quickstart:smoke"
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
  config.evaluate.galleries = (5,)
  config.evaluate.repeats = 2
  return config
