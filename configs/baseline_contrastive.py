"""Rival of distillation: the same student, pretrained on acceleration alone by comparing people.

Two windows of one person are alike, those of others are not (InfoNCE both ways against a moving
average, plus KoLeo; arXiv 2312.05409). The student, the people, the steps and the batches are those
of the distilled one, and each step reads two windows where distillation reads one. The report has
the row "contrastive".

  distill run --config=configs/baseline_contrastive.py --workdir=runs/baseline_contrastive
  distill run --config=configs/baseline_contrastive.py:wrists --config.data.source=DIR \\
      --workdir=runs/baseline_contrastive
"""

from distill.config import ConfigDict, choose, same_budget, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  with config.unlocked():
    config.method, config.supervised.shares = "rivals", ()
    config.evaluate.shares = (0.01, 0.1)
    config.pretrain.side, config.pretrain.row = "student", "contrastive"
  same_budget(config, "pretrain")
  choose(config, "pretrain.objective", "distill.contrastive:ParticipantContrastive")
  return config
