"""Days of 26 channels with gaps, pretrained by adaptive and inherited masking; `distill day`.

Without a variant these are the sizes of LSM-2 in its open version (arXiv 2506.05321: 3744 tokens of
10 minutes, encoder 384 x 12 x 6, decoder 256 x 4 x 4, half of the tokens dropped), which need an
accelerator. "small" has patches of four hours (156 tokens) and runs on two cores; "smoke" shows
that it runs. The cohort is simulated (`distill.data.day`); steps and rates are ours.

  distill day --config=configs/aim_day.py:small --workdir=runs/day
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The paper's sizes; variants "small" and "smoke"."""
  config = base()
  config.name = f"aim_day:{variant}" if variant else "aim_day"
  config.student = ConfigDict({"build": "students.day:build"})
  config.pretrain.objective = ConfigDict(
    {"build": "distill.aim:AIM", "width": 256, "depth": 4, "heads": 4}
  )
  config.pretrain.batch_size = 64
  config.pretrain.steps = 4000
  config.pretrain.optim.learning_rate = 1e-4
  config.pretrain.optim.weight_decay = 0.05
  if variant in ("small", "smoke"):
    config.day.participants = 600
    config.student.update({"width": 64, "depth": 2, "heads": 4, "patch": 240, "pool": "mean_sd"})
    config.pretrain.objective.update({"width": 32, "depth": 1, "heads": 2})
    config.pretrain.batch_size = 16
    config.pretrain.steps = 2000
    config.pretrain.optim.learning_rate = 2e-3
    config.pretrain.log_every = 50
    config.pretrain.eval_every = 250
  if variant == "smoke":
    config.day.participants = 40
    config.student.update({"width": 16, "depth": 1, "heads": 2})
    config.pretrain.batch_size = 8
    config.pretrain.steps = 4
    config.pretrain.log_every = 2
    config.pretrain.eval_every = 2
  elif variant not in ("", "small"):
    raise ValueError(f"unknown variant {variant!r}; there are: small, smoke")
  return config
