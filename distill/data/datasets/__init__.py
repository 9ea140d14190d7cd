"""Data sets by name: subclasses of `distill.data.builder.PairedBuilder`, imported on use."""

import importlib
from typing import Any

from distill.errors import DistillError, nearest

DATASETS = {
  "bami": "distill.data.datasets.bami:Bami",
  "own": "distill.data.datasets.own:Own",
  "simulated": "distill.data.datasets.simulated:Simulated",
  "stress_predict": "distill.data.datasets.stress_predict:StressPredict",
  "wesad": "distill.data.datasets.wesad:Wesad",
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
