"""Rival of distillation: both encoders trained together, without a frozen teacher.

Two-way InfoNCE between a PPG encoder and the student, both from scratch, on the pairs, steps and
batches of distillation; the PPG encoder is that of the demo's teacher, which is not pretrained. The
rows "student" and "teacher" are what comes of it, and retrieval searches the latter.

  distill run --config=configs/baseline_joint.py --workdir=runs/joint
  distill run --config=configs/baseline_joint.py:wrists --config.data.source=DIR \\
      --workdir=runs/joint
"""

from distill.config import ConfigDict, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  with config.unlocked():
    config.method, config.supervised.shares = "joint", ()
    config.evaluate.shares = (0.01, 0.1)
    config.loss.regression = 0.0  # there is no fixed embedding to regress on
  return config
