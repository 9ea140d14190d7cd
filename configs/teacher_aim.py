"""The demo's job with a teacher pretrained by adaptive and inherited masking.

The teacher is told which samples are missing and learns to fill in what was hidden beside what was
never there (AIM: LSM-2, arXiv 2506.05321), so that PPG with gaps or a duty cycle is read as it is.
Half of its tokens are dropped in training. Cohort, steps and student are those of quickstart.py;
sizes are ours.

  distill run --config=configs/teacher_aim.py --workdir=runs/teacher_aim
"""

from distill.config import ConfigDict, choose, vary


def get_config(variant: str = "") -> ConfigDict:
  """On the demo's cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  sizes = {"width": 32, "depth": 1} if variant == "smoke" else {"depth": 4}
  choose(config, "teacher", "teachers.gaps:build", **sizes)
  choose(config, "pretrain.objective", "distill.aim:AIM", width=32, depth=1, heads=2)
  return config
