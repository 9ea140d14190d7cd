"""Rival of distillation: the same student, pretrained on acceleration alone by masking.

Half of each minute is hidden and its band energies are filled in (`distill.masked_envelope`). The
student, the people, the steps and the batches are those of the distilled one; PPG only chooses the
windows. The report has the row "masked". Shares and sizes are ours.

  distill run --config=configs/baseline_masked.py --workdir=runs/masked
  distill run --config=configs/baseline_masked.py:wrists --config.data.source=DIR \\
      --workdir=runs/masked

A student on raw patches, of which four fifths are hidden as in the papers, has another front end:
  --config.student.build=students.axes:build_patches
  --config.pretrain.objective.build=distill.objectives:MaskedAutoencoding
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
    config.name = f"baseline_masked:{variant}" if variant else "baseline_masked"
    config.method, config.supervised.shares = "rivals", ()
    config.evaluate.shares = (0.01, 0.1)
    config.pretrain.side, config.pretrain.row = "student", "masked"
    config.pretrain.objective = ConfigDict({"build": "distill.masked_envelope:MaskedEnvelope"})
    budget = ("steps", "batch_size", "optim", "log_every", "eval_every")
    config.pretrain.update({name: config[name] for name in budget})
  return config
