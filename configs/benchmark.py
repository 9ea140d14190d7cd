"""The grids of `distill benchmark`: every cell is an ordinary config with overrides.

  distill benchmark --config=configs/benchmark.py --workdir=runs/benchmark
  distill benchmark --config=configs/benchmark.py:small --workdir=runs/small --out=docs/benchmark.md
  distill benchmark --config=configs/benchmark.py:wrists --workdir=runs/wrists_benchmark \\
    --config.data.source=DIR

The simulated cohort: the fine sensor and the one of 1/64 g steps, beat-locked movement of 0 (there
is nothing to see) to 2 times what is known of wrists, and the rivals of distillation, three seeds.
"wrists": recorded wrists in five folds, and a set that nothing is fitted to. Every cell of these
two, distillation and rivals alike, has the same trials of its learning rate (TRIALS), chosen on
validation people; students, steps and batches are the same.

"ablations": the demo without one part of it, or with one augmentation. "scaling": training people,
minutes and students of several sizes. For two cores there are parts of these, hours each:
"scaling_one" with one seed, "wrists_one" with one seed, without trials and without ablations,
"small" with a reduced simulated cohort and one seed, and "ablations_small", the ablations of that
size; "smoke" shows in minutes that it runs. Sizes and steps are ours.
"""

import pathlib

from distill.config import ConfigDict

HERE = pathlib.Path(__file__).parent
QUICKSTART = str(HERE / "quickstart.py")
DEVICES = {"fine": "fine", "coarse": "e4"}  # name in cells -> of the simulated cohort
LABELS = {"fine": "fine sensor", "coarse": "1/64 g sensor"}
RIVALS = ("masked", "contrastive", "joint", "labels", "supervised")  # configs/baseline_*.py
GALLERIES = "evaluate.galleries=(30,100,300,1000)"
ALONE = ("supervised.shares=()", GALLERIES)  # the student without its supervised rival
AWAY = ("data.external=('ieee_spc_2015',)",)  # judged on, never fitted to
AMPLITUDE = "beat-locked movement, times the known one"
TRIALS = (0.5, 1.0, 2.0)  # factors on the learning rate
# Probabilities are those of the predecessor's recipe for PPG; that of rotation is ours. A warp of
# time changes the heart: both sides are warped alike, and the teacher embeds the PPG in the step.
AUGMENTATIONS = {
  "cut-out": ("augment.cut_out=0.4",),
  "magnitude-warp": ("augment.magnitude_warp=0.25",),
  "noise": ("augment.noise=0.25",),
  "permutation": ("augment.permute=0.25",),
  "rotation": ("augment.rotate=0.25",),
  "time-warp": ("augment.time_warp=0.15", "teacher.in_step=True"),
}
OTHER_PARTS = {
  "zscore": ("student.normalisation=zscore",),  # takes away how much the wrist moves
  "no-regression": ("loss.regression=0.0",),
  "no-contrastive": ("loss.contrastive=0.0",),
  "no-profile": ("student.profile=False", "teacher.profile=False"),
  "no-rhythm": ("student.rhythm=0", "student.profile=False"),
  "shuffled-pairs": ("shuffled_pairs=True",),  # a control: another minute of the same person
}
REDUCED = ("data.simulated.participants=700", "steps=200", "eval_every=50")


def get_config(variant: str = "") -> ConfigDict:
  """One of the grids."""
  grids = {
    "": _simulated,
    "wrists": _wrists,
    "wrists_one": _wrists_one,
    "ablations": _ablations,
    "ablations_small": lambda: _ablations(REDUCED, seeds=(0,)),
    "scaling": _scaling,
    "scaling_one": lambda: _scaling(seeds=(0,)),
    "small": _small,
    "smoke": _smoke,
  }
  if variant not in grids:
    raise ValueError(f"unknown variant {variant!r}; there are: {', '.join(filter(None, grids))}")
  return grids[variant]()


def _grid(name, cells, curves, *, reference: str, seeds=(0, 1, 2), trials=(1.0,)) -> ConfigDict:
  """See `distill.benchmark.load`."""
  fields = {"name": name, "cells": tuple(cells), "seeds": seeds, "reference": reference}
  return ConfigDict({**fields, "curves": curves, "trials": trials})


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
    GALLERIES,
  )
  cells, curves = _by_amplitude(QUICKSTART, (0, 0.25, 0.5, 1, 2), overrides)
  cells += [
    (
      f"{device}-{rival}",
      _rival(rival),
      (f"data.simulated.device={DEVICES[device]}", GALLERIES),
    )
    for device in DEVICES
    for rival in RIVALS
  ]
  return _grid("simulated", cells, curves, reference="fine-x1", trials=TRIALS)


def _small() -> ConfigDict:
  overrides = (
    *REDUCED,
    "supervised.shares=(0.01,0.1,1.0)",
    "supervised.steps=130",
    "supervised.eval_every=50",
    "evaluate.shares=(0.01,0.1)",
    GALLERIES,
  )
  cells, curves = _by_amplitude(QUICKSTART, (0, 1, 2), overrides, devices=("fine",))
  cells += _by_amplitude(QUICKSTART, (1,), overrides, devices=("coarse",))[0]
  pretrained = ("pretrain.steps=200", "pretrain.eval_every=50")
  steps = {"masked": pretrained, "contrastive": pretrained, "joint": (), "labels": ()}
  cells += [
    (f"fine-{name}", _rival(name), (*REDUCED, *some, GALLERIES)) for name, some in steps.items()
  ]
  twice = (*REDUCED, *pretrained, GALLERIES, "data.simulated.amplitude=2.0")
  cells.append(("fine-masked-x2", _rival("masked"), twice))
  return _grid("small", cells, curves, reference="fine-x1", seeds=(0,))


def _ablations(overrides=(), seeds=(0, 1, 2)) -> ConfigDict:
  alone = (*ALONE, *overrides)
  everything = tuple(word for words in AUGMENTATIONS.values() for word in words)
  parts = {"demo": (), **OTHER_PARTS, "all-augmentations": everything, **AUGMENTATIONS}
  cells = [(name, QUICKSTART, (*alone, *words)) for name, words in parts.items()]
  return _grid("ablations", cells, {}, reference="demo", seeds=seeds)


def _smoke() -> ConfigDict:
  cells, curves = _by_amplitude(f"{QUICKSTART}:smoke", (0, 1), devices=("fine",))
  cells.append(("fine-masked", _rival("masked", "smoke"), ()))
  return _grid("smoke", cells, curves, reference="fine-x1", seeds=(0,))


def _wrists() -> ConfigDict:
  config = str(HERE / "wrists.py")
  cells = [
    ("wrists", config, AWAY),
    ("contrastive-alone", config, (*AWAY, "loss.regression=0.0")),
    ("regression-alone", config, (*AWAY, "loss.contrastive=0.0")),
    *((rival, _rival(rival, "wrists"), AWAY) for rival in RIVALS),
  ]
  return _grid("wrists", cells, {}, reference="wrists", trials=TRIALS)


def _wrists_one() -> ConfigDict:
  rivals = ("masked", "labels", "contrastive", "joint")  # the supervised one is in the first cell
  cells = [("wrists", str(HERE / "wrists.py"), AWAY)]
  cells += [(rival, _rival(rival, "wrists"), AWAY) for rival in rivals]
  return _grid("wrists, one seed", cells, {}, reference="wrists", seeds=(0,))


def _scaling(seeds=(0, 1, 2)) -> ConfigDict:
  people = {f"people-{n}": (f"data.train_people={n}",) for n in (80, 320)}
  minutes = {f"minutes-{n}": (f"data.train_minutes={float(n)}",) for n in (2, 4)}
  widths = {f"width-{n}": (f"student.width={n}",) for n in (16, 32, 128)}
  changes = {"all": (), **people, **minutes, **widths}
  cells = [(name, QUICKSTART, (*ALONE, *words)) for name, words in changes.items()]
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
  return _grid("scaling", cells, curves, reference="all", seeds=seeds)
