"""The main job on recorded wrists: BAMI-1, WESAD and Stress-Predict, each held out in five folds.

Needs `--config.data.source=DIR` with the official files (`distill prepare` says where to get them).
Participant folds are the committed files in configs/splits. Sizes, steps and rates are ours.
"""

import pathlib

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """All five folds; variant "one" is the first fold alone, "smoke" shows that it runs."""
  config = base()
  config.name = f"wrists:{variant}" if variant else "wrists"
  config.folds = (0,) if variant else (0, 1, 2, 3, 4)
  config.data.sets = ("bami", "wesad", "stress_predict")
  config.data.splits = str(pathlib.Path(__file__).parent / "splits")
  config.data.hop_s = 20.0  # real minutes are few: training cuts them at three offsets
  config.teacher.patch = 40
  config.teacher.pool = "mean_sd"
  config.teacher.profile = config.student.profile = True
  config.pretrain.steps = 600
  config.pretrain.batch_size = 32
  config.pretrain.objective.depth = 1
  config.pretrain.eval_every = 150
  config.loss.temperature = 0.1
  for section in (config, config.supervised):
    section.steps = 200
    section.optim.learning_rate = 2e-3
    section.optim.weight_decay = 0.05
    section.eval_every = 40
  config.evaluate.galleries = (30, 100)
  if variant == "smoke":
    config.data.hop_s = 60.0
    for section in (config.pretrain, config, config.supervised):
      section.steps = 2
      section.batch_size = 8
      section.eval_every = 2
    config.pretrain.check_probe = False
    config.evaluate.repeats = 2
  elif variant not in ("", "one"):
    raise ValueError(f"unknown variant {variant!r}; there are: one, smoke")
  return config
