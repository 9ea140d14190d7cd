"""The demo's job with a teacher pretrained by adaptive and inherited masking.

The teacher is told which samples are missing and learns to fill in what was hidden beside what was
never there (AIM: LSM-2, arXiv 2506.05321), so that PPG with gaps or a duty cycle is read as it is.
Half of its tokens are dropped in training. Cohort, steps and student are those of quickstart.py;
sizes are ours.

  distill run --config=configs/teacher_aim.py --workdir=runs/teacher_aim
"""

import pathlib

from distill.config import ConfigDict, choose, load

QUICKSTART = pathlib.Path(__file__).with_name("quickstart.py")


def get_config(variant: str = "") -> ConfigDict:
  """The run on the demo's cohort; "smoke" is the same in seconds, too small to learn anything."""
  config = load(f"{QUICKSTART}:{variant}" if variant else QUICKSTART)
  sizes = {"width": 32, "depth": 1} if variant else {"depth": 4}
  choose(config, "teacher", "teachers.gaps:build", **sizes)
  choose(config, "pretrain.objective", "distill.aim:AIM", width=32, depth=1, heads=2)
  with config.unlocked():
    config.name = f"teacher_aim:{variant}" if variant else "teacher_aim"
  return config
