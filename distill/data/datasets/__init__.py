"""Data sets by name: subclasses of `distill.data.builder.PairedBuilder`, imported on use."""

import importlib
from typing import Any

from distill.errors import DistillError, nearest

DATASETS = {
  "bami": "distill.data.datasets.bami:Bami",
  "bami2": "distill.data.datasets.bami:Bami2",
  "empatica_e4": "distill.data.datasets.empatica:EmpaticaE4",
  "galaxyppg": "distill.data.datasets.galaxyppg:GalaxyPpg",
  "ieee_spc_2015": "distill.data.datasets.ieee_spc_2015:IeeeSpc2015",
  "own": "distill.data.datasets.own:Own",
  "physionet_wrist": "distill.data.datasets.physionet_wrist:PhysionetWrist",
  "ppg_dalia": "distill.data.datasets.ppg_dalia:PpgDalia",
  "simulated": "distill.data.datasets.simulated:Simulated",
  "sleep_accel": "distill.data.datasets.sleep_accel:SleepAccel",
  "stress_predict": "distill.data.datasets.stress_predict:StressPredict",
  "wearable_device": "distill.data.datasets.wearable_device:WearableDevice",
  "wesad": "distill.data.datasets.wesad:Wesad",
  "wildppg": "distill.data.datasets.wildppg:WildPpg",
}


def find(name: str) -> Any:
  """The builder class of a set.

  Raises:
    DistillError: no set has this name.
  """
  if name not in DATASETS:
    raise DistillError(f"unknown data set {name!r} in data.sets{nearest(name, DATASETS)}")
  module, _, attribute = DATASETS[name].partition(":")
  return getattr(importlib.import_module(module), attribute)
