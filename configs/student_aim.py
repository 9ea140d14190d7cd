"""Pretrains the accelerometer student by adaptive and inherited masking, without any PPG teacher.

Raw patches of each axis in tokens of their own; half of the tokens are dropped. The pretrained
student is then distilled by naming it as the start of a run with the same student. Cohort and
steps are those of quickstart.py; sizes are ours.

  distill pretrain --config=configs/student_aim.py --workdir=runs/student_aim
  distill run --config=configs/student_aim.py:distil --workdir=runs/distilled \\
    "--config.start=runs/student_aim/fold{fold}/pretrained"
"""

import pathlib

from distill.config import ConfigDict, choose, load

QUICKSTART = pathlib.Path(__file__).with_name("quickstart.py")


def get_config(variant: str = "") -> ConfigDict:
  """Pretraining; "distil" is the run that starts from it, "smoke" is pretraining in seconds."""
  smoke = variant == "smoke"
  config = load(f"{QUICKSTART}:smoke" if smoke else QUICKSTART)
  sizes = {"width": 32, "depth": 1} if smoke else {}
  choose(config, "student", "students.axes:build_patches", **sizes)
  with config.unlocked():
    config.name = f"student_aim:{variant}" if variant else "student_aim"
    config.loss.gaps = 0.75
    if variant != "distil":
      config.pretrain.side = "student"
  if variant in ("", "smoke"):
    choose(config, "pretrain.objective", "distill.aim:AIM", width=32, depth=1, heads=2)
  elif variant != "distil":
    raise ValueError(f"unknown variant {variant!r}; there are: distil, smoke")
  return config
