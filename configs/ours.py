"""The teacher and the student whose weights are shipped as "ours".

The demo's recipe (quickstart.py) on the training people of fold 0, of its simulated cohort and of
the committed split of Stress-Predict, so that both can be judged on the people of that fold who are
held out and on any other set. Variant "smoke" shows that it runs.

  distill run --config=configs/ours.py --config.data.source=DIR --workdir=runs/ours
  python -m distill.ship runs/ours
"""

import pathlib

from distill.config import ConfigDict, load

HERE = pathlib.Path(__file__).parent


def get_config(variant: str = "") -> ConfigDict:
  """The run that made the shipped weights; "smoke" is the same in seconds on twelve people."""
  config = load(f"{HERE}/quickstart.py:{variant}" if variant else HERE / "quickstart.py")
  with config.unlocked():
    config.name = f"ours:{variant}" if variant else "ours"
    config.data.sets = ("simulated", "stress_predict")
    config.data.splits = str(HERE / "splits")
  return config
