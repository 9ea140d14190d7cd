"""The grids of `distill benchmark`: every cell is an ordinary config with overrides.

  distill benchmark --config=configs/benchmark.py --workdir=runs/benchmark --out=docs/benchmark.md
  distill benchmark --config=configs/benchmark.py:wrists --workdir=runs/wrists_benchmark \\
    --config.data.source=DIR

The simulated cohort: the fine sensor and the one of 1/64 g steps, beat-locked movement of 0 (there
is nothing to see) to 2 times what is known of wrists, and the rivals of distillation, three seeds.
"wrists": recorded wrists in five folds, and a set that nothing is fitted to. "scaling": training
people, minutes and students of several sizes. "small" is a part of the simulated grid with a
reduced cohort and one seed; "smoke" shows in minutes that it runs. Sizes and steps are ours.
"""

import pathlib

from distill.config import ConfigDict

HERE = pathlib.Path(__file__).parent
QUICKSTART = str(HERE / "quickstart.py")
DEVICES = {"fine": "fine", "coarse": "e4"}  # name in cells -> of the simulated cohort
LABELS = {"fine": "fine sensor", "coarse": "1/64 g sensor"}
RIVALS = ("masked", "contrastive", "joint", "labels", "supervised")  # configs/baseline_*.py
AMPLITUDE = "beat-locked movement, times the known one"


def get_config(variant: str = "") -> ConfigDict:
  """One of the grids."""
  grids = {"": _simulated, "wrists": _wrists, "scaling": _scaling, "small": _small, "smoke": _smoke}
  if variant not in grids:
    raise ValueError(f"unknown variant {variant!r}; there are: {', '.join(filter(None, grids))}")
  return grids[variant]()


def _grid(name, cells, curves, *, reference: str, seeds=(0, 1, 2)) -> ConfigDict:
  """See `distill.benchmark.load`."""
  fields = {"name": name, "cells": tuple(cells), "seeds": seeds, "reference": reference}
  return ConfigDict({**fields, "curves": curves})


def _by_amplitude(config: str, amplitudes, overrides=(), devices=tuple(DEVICES)):
  """The same config on some sensors at several amplitudes, and their curve."""
  lines = {
    LABELS[device]: tuple(f"{device}-x{amplitude:g}" for amplitude in amplitudes)
    for device in devices
  }
  cells = [
    (
      f"{device}-x{amplitude:g}",
      config,
      (
        f"data.simulated.device={DEVICES[device]}",
        f"data.simulated.amplitude={float(amplitude)}",
        *overrides,
      ),
    )
    for device in devices
    for amplitude in amplitudes
  ]
  x = "data.simulated.amplitude"
  return cells, {"amplitude": {"x": x, "label": AMPLITUDE, "lines": tuple(lines.items())}}


def _rival(name: str, variant: str = "") -> str:
  return f"{HERE}/baseline_{name}.py" + (f":{variant}" if variant else "")


def _simulated() -> ConfigDict:
  overrides = (
    "supervised.shares=(0.01,0.1,1.0)",
    "supervised.label_distillation=True",
    "evaluate.shares=(0.01,0.1)",
    "evaluate.galleries=(30,100,300,1000)",
  )
  cells, curves = _by_amplitude(QUICKSTART, (0, 0.25, 0.5, 1, 2), overrides)
  cells += [
    (
      f"{device}-{rival}",
      _rival(rival),
      (f"data.simulated.device={DEVICES[device]}", overrides[-1]),
    )
    for device in DEVICES
    for rival in RIVALS
  ]
  return _grid("simulated", cells, curves, reference="fine-x1")


def _small() -> ConfigDict:
  # Estimated from what the parts of the demo take: some 20 minutes on two cores.
  overrides = (
    "data.simulated.participants=700",
    "steps=200",
    "eval_every=50",
    "supervised.steps=130",
    "supervised.eval_every=50",
    "evaluate.shares=(0.01,0.1)",
    "evaluate.galleries=(30,100,300,1000)",
  )
  cells, curves = _by_amplitude(QUICKSTART, (0, 1, 2), overrides, devices=("fine",))
  cells += _by_amplitude(QUICKSTART, (1,), overrides, devices=("coarse",))[0]
  return _grid("small", cells, curves, reference="fine-x1", seeds=(0,))


def _smoke() -> ConfigDict:
  cells, curves = _by_amplitude(f"{QUICKSTART}:smoke", (0, 1), devices=("fine",))
  cells.append(("fine-masked", _rival("masked", "smoke"), ()))
  return _grid("smoke", cells, curves, reference="fine-x1", seeds=(0,))


def _wrists() -> ConfigDict:
  config, away = str(HERE / "wrists.py"), ("data.external=('ieee_spc_2015',)",)
  cells = [
    ("wrists", config, away),
    ("contrastive-alone", config, (*away, "loss.regression=0.0")),
    ("regression-alone", config, (*away, "loss.contrastive=0.0")),
    *((rival, _rival(rival, "wrists"), away) for rival in RIVALS),
  ]
  return _grid("wrists", cells, {}, reference="wrists")


def _scaling() -> ConfigDict:
  people = {f"people-{n}": (f"data.train_people={n}",) for n in (80, 320)}
  minutes = {f"minutes-{n}": (f"data.train_minutes={float(n)}",) for n in (2, 4)}
  widths = {f"width-{n}": (f"student.width={n}",) for n in (16, 32, 128)}
  cells: list[tuple] = [("all", QUICKSTART, ())]
  cells += [(name, QUICKSTART, some) for name, some in (people | minutes | widths).items()]
  curves = {
    name: {"x": x, "label": f"{label} (log scale)", "lines": lines, "log": True}
    for name, x, label, lines in (
      ("people", "train_people", "training people", (("fine sensor", (*people, "all")),)),
      ("minutes", "train_minutes", "training minutes", (("fine sensor", (*minutes, "all")),)),
      (
        "size",
        "student_parameters",
        "the student's parameters",
        (("fine sensor", (*widths, "all")),),
      ),
    )
  }
  return _grid("scaling", cells, curves, reference="all")
