"""The demo's job with a teacher pretrained by comparing people instead of masking.

A 1-D EfficientNet learns that two windows of one participant are alike and those of others are not
(InfoNCE both ways against a moving average of 0.99, plus 0.1 KoLeo; arXiv 2312.05409). Cohort,
steps and student are those of quickstart.py; sizes are ours; views are not augmented.

  distill run --config=configs/teacher_contrastive.py --workdir=runs/contrastive
"""

import pathlib

from distill.config import ConfigDict, choose, load

QUICKSTART = pathlib.Path(__file__).with_name("quickstart.py")


def get_config(variant: str = "") -> ConfigDict:
  """The run on the demo's cohort; "smoke" is the same in seconds, too small to learn anything."""
  config = load(f"{QUICKSTART}:{variant}" if variant else QUICKSTART)
  # What two cores train in minutes.
  sizes = {"widths": (4, 8), "depths": (1, 1)} if variant else {"depths": (1,) * 4, "expand": 2}
  choose(config, "teacher", "teachers.efficientnet:build", **sizes)
  choose(config, "pretrain.objective", "distill.contrastive:ParticipantContrastive")
  with config.unlocked():
    config.name = f"teacher_contrastive:{variant}" if variant else "teacher_contrastive"
  return config
