"""The demo's job with a teacher pretrained by comparing people instead of masking.

A 1-D EfficientNet learns that two windows of one participant are alike and those of others are not
(InfoNCE both ways against a moving average of 0.99, plus 0.1 KoLeo; arXiv 2312.05409). Sizes, steps
and rates are ours; views are not augmented.

  distill run --config=configs/teacher_contrastive.py --workdir=runs/contrastive
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The run on the demo's cohort; "smoke" is the same in seconds, too small to learn anything."""
  config = base()
  config.name = f"teacher_contrastive:{variant}" if variant else "teacher_contrastive"
  config.data.simulated.participants = 700
  config.teacher.build = "teachers.efficientnet:build"
  config.pretrain.objective.build = "distill.contrastive:ParticipantContrastive"
  config.teacher.depths, config.teacher.expand = (1, 1, 1, 1), 2  # what two cores train in minutes
  if variant == "smoke":
    _shrink(config)
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there is: smoke")
  return config


def _shrink(config: ConfigDict) -> None:
  config.data.simulated.participants = 12
  config.data.simulated.minutes = 6
  config.data.workers = 0
  config.teacher.widths, config.teacher.depths = (4, 8), (1, 1)
  config.student.width, config.student.depth = 32, 1
  config.pretrain.check_probe = False
  for section in (config.pretrain, config, config.supervised):
    section.steps = 4
    section.batch_size = 8
    section.log_every = 2
    section.eval_every = 2
  config.evaluate.galleries = (5,)
  config.evaluate.repeats = 2
