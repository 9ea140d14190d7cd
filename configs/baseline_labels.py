"""Rival of distillation: the same student, regressed on what the paired PPG says of the heart.

Heart rate, SDNN and RMSSD are read from the pulse of every training pair, also where ECG or true
beats are known. The student, the people, the steps and the batches are those of the distilled one.
The report has the row "label_distillation".

  distill run --config=configs/baseline_labels.py --workdir=runs/labels
  distill run --config=configs/baseline_labels.py:wrists --config.data.source=DIR \\
      --workdir=runs/labels
"""

from distill.config import ConfigDict, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  with config.unlocked():
    config.method, config.supervised.shares = "rivals", ()
    config.supervised.label_distillation = True
    config.evaluate.shares = (0.01, 0.1)
  return config
