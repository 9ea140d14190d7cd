"""The demo's job with a teacher pretrained by comparing people instead of masking.

A 1-D EfficientNet learns that two windows of one participant are alike and those of others are not
(InfoNCE both ways against a moving average of 0.99, plus 0.1 KoLeo; arXiv 2312.05409). Cohort,
steps and student are those of quickstart.py; sizes are ours; views are not augmented.

  distill run --config=configs/teacher_contrastive.py --workdir=runs/contrastive
"""

from distill.config import ConfigDict, choose, vary

SMALL = {"widths": (4, 8), "depths": (1, 1)}
MINUTES = {"depths": (1, 1, 1, 1), "expand": 2}  # what two cores train in minutes


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  sizes = SMALL if variant == "smoke" else MINUTES
  choose(config, "teacher", "teachers.efficientnet:build", **sizes)
  choose(config, "pretrain.objective", "distill.contrastive:ParticipantContrastive")
  return config
