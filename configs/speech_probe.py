"""What each layer of a speech network knows of wearable signals, beside ours and hand-made ones.

  distill layers --config=configs/speech_probe.py --workdir=runs/speech_probe

Activity and ectopic beats of the simulated cohort, by logistic probes on frozen layers with
participants held out (arXiv 2509.00221 does so with wav2vec 2.0 and HuBERT). No checkpoint comes
with this toolkit: the speech network is small and at random, a strong control for convolutions, and
is called so. Give your own, imported with `distill import-teacher wav2vec2 FOLDER --out=DIR`, and
finished students and teachers as `--config.layers.encoders="('wav2vec2=DIR',)"`; "{fold}" in DIR is
the fold's number, as in `student=runs/wrists/fold{fold}/student`. Every layer is probed with all
labels, and with those of some training people (`config.layers.shares`).

Variant "mood" is WESAD (`--config.data.source=DIR`): baseline, stress, amusement, meditation.
"motion" reads PAMAP2, HHAR and MotionSense, "heart" MIT-BIH, for those who have the files. Sizes
are ours.
"""

import pathlib

from distill.config import ConfigDict, base

FEW = (0.35, 0.5, 0.7)  # shares of sets of few people: 2, 3 and 4 of six


def get_config(variant: str = "") -> ConfigDict:
  """Simulated; "mood", "motion" and "heart" for recorded sets; "smoke" shows that it runs."""
  config = base()
  config.name = f"speech_probe:{variant}" if variant else "speech_probe"
  config.folds = (0, 1, 2, 3, 4)
  config.data.simulated.participants = 40
  if variant == "mood":
    config.data.sets = ("wesad",)
    config.data.splits = str(pathlib.Path(__file__).parent / "splits")
    config.layers.tasks = ("wesad/activity",)
    config.layers.shares = FEW
  elif variant in ("motion", "heart"):
    sets = {"motion": ("pamap2", "hhar", "motionsense"), "heart": ("mitbih",)}[variant]
    target = {"motion": "activity", "heart": "arrhythmia"}[variant]
    config.data.sets = ()
    config.data.window_s = config.data.hop_s = {"motion": 10.0, "heart": 60.0}[variant]
    config.layers.tasks = tuple(f"{name}/{target}" for name in sets)
    if variant == "motion":
      config.layers.shares = FEW
  elif variant == "smoke":
    config.folds = (0,)
    config.data.simulated.participants = 12
    config.data.simulated.minutes = 6
    config.data.workers = 0
    config.layers.shares = FEW
    config.layers.tasks = ("simulated/activity",)
  elif variant:
    raise ValueError(f"unknown variant {variant!r}; there are: mood, motion, heart, smoke")
  return config
