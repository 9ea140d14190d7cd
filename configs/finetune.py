"""Fine-tunes a finished run's students on heart rate, front end frozen, head first (Speech-FT).

  distill run      --config=configs/quickstart.py --workdir=runs/demo
  distill finetune --config=configs/finetune.py   --workdir=runs/finetune
  distill merge runs/demo/fold0/student/model runs/finetune/fold0/finetuned/model --out=runs/merged

Any label column is a task: `--config.finetune.target=activity` learns its classes. The stages and
their shares are those of arXiv 2502.12672 (its peak rate is 1e-4, for encoders of 95 million
weights); steps and rate are ours. Variant "smoke" shows that it runs.
"""

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """The cohort and folds of the demo, whose students are the start."""
  config = base()
  config.name = f"finetune:{variant}" if variant else "finetune"
  config.data.simulated.participants = 700
  config.finetune.start = "runs/demo/fold{fold}/student"
  if variant == "smoke":
    config.data.simulated.participants = 12
    config.data.simulated.minutes = 6
    config.data.workers = 0
    config.finetune.steps, config.finetune.batch_size = 10, 8
    config.finetune.log_every = config.finetune.eval_every = 5
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there is: smoke")
  return config
