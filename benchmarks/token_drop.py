"""What dropping tokens saves in a pretraining step with AIM; prints one line of JSON.

  python benchmarks/token_drop.py --config=configs/teacher_aim.py --batch=16 --rounds=9

Both steps, with the config's share of tokens dropped and with none, are compiled first and then
take turns, so that whatever else the machine does hits both; the numbers are medians of the rounds.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
from flax import nnx

from distill import config as configs
from distill import registry
from distill.nn.encoder import Encoder
from distill.state import Step, optimiser


def _encoder(config: configs.ConfigDict) -> Encoder:
  build = registry.resolve(config.teacher.build, key="teacher.build")
  return build(seed=config.seed, **configs.build_arguments(config.teacher))


def _prepared(config: configs.ConfigDict, batch: dict[str, np.ndarray], **changes):
  """A function that makes one step and returns its seconds."""
  section = config.pretrain.objective
  objective = registry.resolve(section.build, key="pretrain.objective.build")(
    _encoder(config), rngs=nnx.Rngs(0), **{**configs.build_arguments(section), **changes}
  )
  step = Step(objective, optimiser(config.pretrain.optim, 1000))
  state = step.init(0)

  def turn() -> float:
    nonlocal state
    start = time.perf_counter()
    state, terms = step(state, batch)
    jax.block_until_ready((state.params, terms))
    return time.perf_counter() - start

  turn()  # compiles
  return turn


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="configs/teacher_aim.py")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=9)
  options = parser.parse_args()
  config = configs.load(options.config)
  spec = _encoder(config).spec
  signal = np.random.default_rng(0).normal(size=(options.batch, *spec.shape)).astype(np.float32)
  batch = {spec.modality: signal, spec.modality + "_mask": np.ones(signal.shape, bool)}
  turns = {"dropped": _prepared(config, batch), "none": _prepared(config, batch, drop=0.0)}
  seconds: dict[str, list[float]] = {name: [] for name in turns}
  for _ in range(options.rounds):
    for name, turn in turns.items():
      seconds[name].append(turn())
  medians = {name: statistics.median(some) for name, some in seconds.items()}
  found = {
    "config": options.config,
    "device": jax.devices()[0].device_kind,
    "batch": options.batch,
    "rounds": options.rounds,
    "drop": config.pretrain.objective.drop,
    "step_s": {name: round(value, 4) for name, value in medians.items()},
    "ratio": round(medians["none"] / medians["dropped"], 3),
    "ratios": [round(b / a, 3) for a, b in zip(seconds["dropped"], seconds["none"], strict=True)],
  }
  print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
  main()
