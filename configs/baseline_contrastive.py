"""Rival of distillation: the same student, pretrained on acceleration alone by comparing people.

Two windows of one person are alike, those of others are not (InfoNCE both ways against a moving
average, plus KoLeo; arXiv 2312.05409). The student, the people, the steps and the batches are those
of the distilled one, and each step reads two windows where distillation reads one. The report has
the row "contrastive".

  distill run --config=configs/baseline_contrastive.py --workdir=runs/contrastive
  distill run --config=configs/baseline_contrastive.py:wrists --config.data.source=DIR \\
      --workdir=runs/contrastive
"""

import pathlib

from distill.config import ConfigDict, choose, load

HERE = pathlib.Path(__file__).parent
VARIANTS = {"": "quickstart.py", "smoke": "quickstart.py:smoke", "wrists": "wrists.py"}


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  if variant not in VARIANTS:
    raise ValueError(f"unknown variant {variant!r}; there are: smoke, wrists")
  config = load(f"{HERE}/{VARIANTS[variant]}")
  with config.unlocked():
    config.name = f"baseline_contrastive:{variant}" if variant else "baseline_contrastive"
    config.method, config.supervised.shares = "rivals", ()
    config.evaluate.shares = (0.01, 0.1)
    config.pretrain.side, config.pretrain.row = "student", "contrastive"
    budget = ("steps", "batch_size", "optim", "log_every", "eval_every")
    config.pretrain.update({name: config[name] for name in budget})
  choose(config, "pretrain.objective", "distill.contrastive:ParticipantContrastive")
  return config
