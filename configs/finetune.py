"""Fine-tunes a finished run's students on heart rate, front end frozen, head first (Speech-FT).

  distill run      --config=configs/quickstart.py --workdir=runs/demo
  distill finetune --config=configs/finetune.py   --workdir=runs/finetune
  distill merge runs/demo/fold0/student/model runs/finetune/fold0/finetuned/model --out=runs/merged

The cohort and folds are those of the run that made the start, so that nobody who is held out was
ever trained on; `--config.finetune.start=RUN/fold{fold}/student` names another run. Any label
column is a task: `--config.finetune.target=activity` learns its classes. The stages and their
shares are those of arXiv 2502.12672 (its peak rate is 1e-4, for encoders of 95 million weights);
steps and rate are ours.
"""

from distill.config import ConfigDict, vary


def get_config(variant: str = "") -> ConfigDict:
  """After the demo; "wrists" after configs/wrists.py, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  config.finetune.start = "runs/demo/fold{fold}/student"
  if variant == "wrists":
    config.finetune.start = "runs/wrists/fold{fold}/student"
  if variant == "smoke":
    config.finetune.steps, config.finetune.batch_size = 10, 8
    config.finetune.log_every = config.finetune.eval_every = 5
  return config
