"""The demo's job with a teacher pretrained by adaptive and inherited masking.

The teacher is told which samples are missing and learns to fill in what was hidden beside what was
never there (AIM: LSM-2, arXiv 2506.05321), so that PPG with gaps or a duty cycle is read as it is.
Half of its tokens are dropped in training. Sizes, steps and rates are ours.

  distill run --config=configs/teacher_aim.py --workdir=runs/teacher_aim
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The run on the demo's cohort; "smoke" is the same in seconds, too small to learn anything."""
  config = base()
  config.name = f"teacher_aim:{variant}" if variant else "teacher_aim"
  config.data.simulated.participants = 700
  config.teacher.build = "teachers.gaps:build"
  config.teacher.depth = 4
  config.pretrain.objective = ConfigDict(
    {"build": "distill.aim:AIM", "width": 32, "depth": 1, "heads": 2}
  )
  config.pretrain.steps = 600
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
    section.steps = 4
    section.batch_size = 8
    section.log_every = 2
    section.eval_every = 2
  config.evaluate.galleries = (5,)
  config.evaluate.repeats = 2
