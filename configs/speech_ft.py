"""Fine-tuning that keeps what was learnt (Speech-FT, arXiv 2502.12672) beside its rivals.

  distill retention --config=configs/speech_ft.py --workdir=runs/speech_ft

A student is distilled and then fine-tuned on heart rate in six ways; every result is judged on the
task, on every other probe, on retrieval and on how alike its layers are to the start's, for each
alpha from 0 to 1. Alpha is picked on validation people. Variant "wrists" does so on recorded wrists
(`--config.data.source=DIR`), "smoke" shows that it runs. `--config.finetune.start` and
`--config.teacher.load` begin from a finished run instead. Stages and alpha's meaning are the
paper's; sizes, steps and rates are ours.
"""

import pathlib

from distill.config import ConfigDict, base


def get_config(variant: str = "") -> ConfigDict:
  """Simulated; "wrists" for recorded ones, "smoke" in seconds and too small to learn anything."""
  config = base()
  config.name = f"speech_ft:{variant}" if variant else "speech_ft"
  config.teacher.pool = "mean_sd"
  config.data.simulated.participants = 160
  if variant == "wrists":
    config.data.sets = ("bami", "wesad", "stress_predict")
    config.data.splits = str(pathlib.Path(__file__).parent / "splits")
    config.data.hop_s = 20.0
  elif variant == "smoke":
    _shrink(config)
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there are: wrists, smoke")
  return config


def _shrink(config: ConfigDict) -> None:
  config.data.simulated.participants = 12
  config.data.simulated.minutes = 6
  config.data.workers = 0
  config.teacher.width, config.teacher.depth = 32, 1
  config.student.width, config.student.depth = 32, 1
  config.pretrain.check_probe = False
  for section in (config.pretrain, config, config.finetune):
    section.steps, section.batch_size = 4, 8
    section.log_every = section.eval_every = 2
  config.retention.alphas = (0.25, 1.0)
