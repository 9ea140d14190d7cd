"""Fine-tuning that keeps what was learnt (Speech-FT, arXiv 2502.12672) beside its rivals.

  distill retention --config=configs/speech_ft.py --workdir=runs/speech_ft
  distill retention --config=configs/speech_ft.py:wrists --config.data.source=DIR --workdir=runs/ft

A student is distilled and then fine-tuned on heart rate in six ways; every result is judged on the
task, on every other probe, on retrieval and on how alike its layers are to the start's, for each
alpha from 0 to 1. Alpha is picked on validation people. Cohort, teacher and student are those of
quickstart.py or wrists.py; `--config.finetune.start=RUN/fold{fold}/student` and
`--config.teacher.load=RUN/fold{fold}/teacher` take them from a finished run. Stages and alpha's
meaning are the paper's; sizes, steps and rates are ours.
"""

from distill.config import ConfigDict, vary


def get_config(variant: str = "") -> ConfigDict:
  """Simulated; "wrists" for recorded ones, "smoke" in seconds and too small to learn anything."""
  config = vary(__file__, variant)
  config.finetune.steps = 100 if variant == "wrists" else 200
  config.finetune.eval_every = 20
  if variant == "smoke":
    config.finetune.steps, config.finetune.batch_size = 4, 8
    config.finetune.log_every = config.finetune.eval_every = 2
    config.retention.alphas = (0.25, 1.0)
  return config
