"""Rival of distillation: the same student, supervised from scratch by some or all training people.

With the labels of 1, 10 and 100 % of them, the same people as for the probes, in as many steps as
the distilled student gets. A share of less than one person is left out.

  distill run --config=configs/baseline_supervised.py --workdir=runs/supervised
  distill run --config=configs/baseline_supervised.py:wrists --config.data.source=DIR \\
      --workdir=runs/supervised
"""

import pathlib

from distill.config import ConfigDict, load

HERE = pathlib.Path(__file__).parent
VARIANTS = {"": "quickstart.py", "smoke": "quickstart.py:smoke", "wrists": "wrists.py"}


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  if variant not in VARIANTS:
    raise ValueError(f"unknown variant {variant!r}; there are: smoke, wrists")
  config = load(f"{HERE}/{VARIANTS[variant]}")
  with config.unlocked():
    config.name = f"baseline_supervised:{variant}" if variant else "baseline_supervised"
    config.method, config.supervised.shares = "rivals", (0.01, 0.1, 1.0)
    budget = ("steps", "batch_size", "optim", "log_every", "eval_every")
    config.supervised.update({name: config[name] for name in budget})
  return config
