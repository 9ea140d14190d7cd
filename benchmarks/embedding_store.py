"""Student steps per second with stored teacher embeddings against the teacher in the step.

  python benchmarks/embedding_store.py [--batch=64] [--steps=20] [--teacher=DIR]

The same student, windows, loss and optimiser twice; the teacher is the demo's kind, freshly
initialised, or a model folder. Prints both rates and what the store costs.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import students.transformer
import teachers
import teachers.transformer
from distill import config as configs
from distill.nn.encoder import Encoder, Forward
from distill.objectives import Distillation
from distill.spec import PPG
from distill.state import Step, optimiser


class TeacherInTheStep(Distillation):
  """Distillation whose batches hold PPG and the teacher's weights instead of its embedding."""

  def __init__(self, graphdef: Any, encoder: Encoder, **settings: Any):
    super().__init__(encoder, **settings)
    self.teach = lambda batch: nnx.merge(graphdef, batch["weights"])(
      batch[PPG], batch[PPG + "_mask"]
    )

  def terms(self, batch, key):
    embedding = jax.lax.stop_gradient(self.teach(batch))
    return super().terms({**batch, "teacher": embedding}, key)


def _windows(spec, n: int, seed: int) -> dict[str, np.ndarray]:
  signal = np.random.default_rng(seed).normal(size=(n, *spec.shape)).astype(np.float32)
  return {spec.modality: signal, spec.modality + "_mask": np.ones(signal.shape, bool)}


def _rate(objective: Distillation, batch: dict[str, Any], steps: int) -> float:
  step = Step(objective, optimiser(configs.base().optim, steps))
  state, _ = step(step.init(0), batch)  # compiles
  jax.block_until_ready(state)
  start = time.perf_counter()
  for _ in range(steps):
    state, _ = step(state, batch)
  jax.block_until_ready(state)
  return steps / (time.perf_counter() - start)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--teacher", default="", help="model folder; default: the demo's, random")
  options = parser.parse_args()
  teacher = (
    teachers.load(options.teacher)
    if options.teacher
    else teachers.transformer.build(seed=0, pool="mean_sd")
  )
  ppg = _windows(teacher.spec, options.batch, 0)
  graphdef, weights = nnx.split(teacher)
  student = students.transformer.build(seed=0)
  forward = Forward(teacher, batch_size=options.batch)
  forward(*ppg.values())  # compiles
  start = time.perf_counter()
  vectors = forward(*ppg.values())
  filling = options.batch / (time.perf_counter() - start)
  base = configs.base()
  settings: dict[str, Any] = {
    "teacher_mean": vectors.mean(axis=0),
    "teacher_sd": np.maximum(vectors.std(axis=0), 1e-6),
    **base.head,
    **base.loss,
  }
  batch = _windows(student.spec, options.batch, 1)
  batch |= {"recording": np.arange(options.batch, dtype=np.int32)}
  batch |= {"t0_s": np.zeros(options.batch, np.float32)}
  rates = {
    "store": _rate(
      Distillation(student, **settings, rngs=nnx.Rngs(1)),
      jax.device_put({**batch, "teacher": vectors}),
      options.steps,
    ),
    "teacher in the step": _rate(
      TeacherInTheStep(graphdef, student, **settings, rngs=nnx.Rngs(1)),
      jax.device_put({**batch, **ppg, "weights": weights}),
      options.steps,
    ),
  }
  for name, rate in rates.items():
    print(f"{name}: {rate:.2f} steps/s at batch {options.batch}")  # noqa: T201
  print(  # noqa: T201
    f"ratio {rates['store'] / rates['teacher in the step']:.2f}; the store is filled once at"
    f" {filling:.0f} windows/s and takes {2 * teacher.dim} (float16) or {4 * teacher.dim} bytes a"
    f" window; {jax.device_count()} {jnp.zeros(1).device.platform} device(s)"
  )


if __name__ == "__main__":
  main()
