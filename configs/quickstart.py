"""The whole job on a simulated cohort, in minutes on two cores; variant "smoke" shows that it runs.

Sizes, steps and rates are ours; what the paper confirms is said in the README.
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The demo; "smoke" is the same in seconds, too small to learn anything."""
  config = base()
  config.name = "quickstart"
  config.data.simulated.participants = 700
  config.data.simulated.minutes = 20
  config.teacher.pool = "mean_sd"
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
