"""Students that read minutes with gaps, against the same student trained on complete minutes.

The three axes have tokens of their own (three times the tokens), and three quarters of the
student's windows lose parts of what was observed while it is distilled. `distill missing` then
trains the rival, the same student on complete windows alone, and judges both as less and less is
observed. Cohort, teacher, steps and rates are those of quickstart.py or wrists.py.

  distill missing --config=configs/missing.py --workdir=runs/missing
  distill missing --config=configs/missing.py:wrists --config.data.source=DIR --workdir=runs/gaps

`--config.teacher.load=RUN/fold0/teacher` takes a teacher that is there already.
"""

from distill.config import ConfigDict, choose, vary


def get_config(variant: str = "") -> ConfigDict:
  """On a simulated cohort; "wrists" on recorded ones, "smoke" in seconds, to see that it runs."""
  config = vary(__file__, variant)
  sizes = {"width": 32, "depth": 1} if variant == "smoke" else {}
  choose(config, "student", "students.axes:build", **sizes)
  with config.unlocked():
    config.loss.gaps = 0.75
    if variant == "smoke":
      config.evaluate.targets = ("hr_bpm",)
  return config
