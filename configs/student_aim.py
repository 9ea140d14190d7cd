"""Pretrains the accelerometer student by adaptive and inherited masking, without any PPG teacher.

Raw patches of each axis in tokens of their own; half of the tokens are dropped. The pretrained
student is then distilled by naming it as the start of a run with the same student. Cohort and
steps are those of quickstart.py; sizes are ours.

  distill pretrain --config=configs/student_aim.py --workdir=runs/student_aim
  distill run --config=configs/student_aim.py:distil --workdir=runs/distilled \\
    "--config.start=runs/student_aim/fold{fold}/pretrained"
"""

from distill.config import ConfigDict, choose, vary


def get_config(variant: str = "") -> ConfigDict:
  """Pretraining, "wrists" on recorded ones, "smoke" in seconds; "distil" is what starts from it."""
  config = vary(__file__, variant, ("distil",))
  sizes = {"width": 32, "depth": 1} if variant == "smoke" else {}
  choose(config, "student", "students.axes:build_patches", **sizes)
  with config.unlocked():
    config.loss.gaps = 0.75
  if variant != "distil":
    with config.unlocked():
      config.pretrain.side = "student"
    choose(config, "pretrain.objective", "distill.aim:AIM", width=32, depth=1, heads=2)
  return config
