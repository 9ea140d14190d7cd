"""Rival of distillation: the same student, pretrained on acceleration alone by masking.

Half of each minute is hidden and its band energies are filled in (`distill.masked_envelope`). The
student, the people, the steps and the batches are those of the distilled one; PPG only chooses the
windows. The report has the row "masked". Shares and sizes are ours.

  distill run --config=configs/baseline_masked.py --workdir=runs/masked
  distill run --config=configs/baseline_masked.py:wrists --config.data.source=DIR \\
      --workdir=runs/masked

Variant "patches" has another front end: raw patches of each axis, of which four fifths are hidden.
"""

from distill.config import ConfigDict, choose, same_budget, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, "patches" see above."""
  config = vary(__file__, variant, ("patches",))
  with config.unlocked():
    config.method, config.supervised.shares = "rivals", ()
    config.evaluate.shares = (0.01, 0.1)
    config.pretrain.side, config.pretrain.row = "student", "masked"
  same_budget(config, "pretrain")
  if variant == "patches":
    choose(config, "student", "students.axes:build_patches")
    choose(config, "pretrain.objective", "distill.objectives:MaskedAutoencoding", mask_ratio=0.8)
  else:
    choose(config, "pretrain.objective", "distill.masked_envelope:MaskedEnvelope")
  return config
