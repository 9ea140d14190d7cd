"""Pretrains the accelerometer student by adaptive and inherited masking, without any PPG teacher.

Raw patches of each axis in tokens of their own; half of the tokens are dropped. The pretrained
student is then distilled by naming it as the start of a run with the same student. Sizes are ours.

  distill pretrain --config=configs/student_aim.py --workdir=runs/student_aim
  distill run --config=configs/student_aim.py:distil --workdir=runs/distilled \\
    "--config.start=runs/student_aim/fold{fold}/pretrained"
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """Pretraining; "distil" is the run that starts from it, "smoke" is pretraining in seconds."""
  config = base()
  config.name = f"student_aim:{variant}" if variant else "student_aim"
  config.data.simulated.participants = 700
  config.student = ConfigDict({"build": "students.axes:build_patches"})
  config.loss.gaps = 0.75
  if variant == "distil":
    return config
  config.pretrain.side = "student"
  config.pretrain.objective = ConfigDict(
    {"build": "distill.aim:AIM", "width": 32, "depth": 1, "heads": 2}
  )
  if variant == "smoke":
    _shrink(config)
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there are: distil, smoke")
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
