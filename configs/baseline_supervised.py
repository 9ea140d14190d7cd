"""Rival of distillation: the same student, supervised from scratch by some or all training people.

With the labels of 1, 10 and 100 % of them, the same people as for the probes, in as many steps as
the distilled student gets. A share of less than one person is left out.

  distill run --config=configs/baseline_supervised.py --workdir=runs/supervised
  distill run --config=configs/baseline_supervised.py:wrists --config.data.source=DIR \\
      --workdir=runs/supervised
"""

from distill.config import ConfigDict, same_budget, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  with config.unlocked():
    config.method, config.supervised.shares = "rivals", (0.01, 0.1, 1.0)
  same_budget(config, "supervised")
  return config
