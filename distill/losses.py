"""Losses: contrastive and regression distillation, masked reconstruction, supervised regression.

Pure and unreduced: one value a row, shapes checked at entry, finite in value and gradient on
degenerate input. Weights and reductions belong to `distill.objectives`.
"""

import jax
import jax.numpy as jnp

REGRESSIONS = ("mse", "cosine", "huber")  # see `regression`
# Slope of the normalisation at zero is 1 / sqrt(EPS): 1e3, steep but finite.
EPS = 1e-6
# Products of unit vectors at full float32: TF32 moves a logit by about 0.1 at temperature 0.04.
PRECISION = jax.lax.Precision.HIGHEST


def _check_same_shape(name_a: str, a: jax.Array, name_b: str, b: jax.Array) -> None:
  if a.shape != b.shape or a.ndim != 2:
    raise ValueError(
      f"{name_a} and {name_b} must both be [batch, dim]; got {a.shape} and {b.shape}"
    )


def normalise(vectors: jax.Array) -> jax.Array:
  """[batch, dim] -> unit vectors; a zero vector stays zero, with a finite gradient."""
  return vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=1, keepdims=True) + EPS**2)


def similarity(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Cosines [n, m] of [n, dim] and [m, dim] vectors of any scale, at full float32."""
  return jnp.matmul(normalise(student), normalise(teacher).T, precision=PRECISION)


def info_nce(
  student: jax.Array,
  teacher: jax.Array,
  *,
  temperature: float,
  weight: float = 1.0,
  recording: jax.Array | None = None,
  t0_s: jax.Array | None = None,
  exclude_s: float = 0.0,
) -> jax.Array:
  """Two-way contrastive loss between paired student and teacher projections.

  Row i of both inputs is the same window. With logits[i, j] = <s_i, t_j> / temperature on unit
  vectors, the value is weight * (row-wise) + (1 - weight) * (column-wise) cross entropy at j = i.
  Under data parallelism the batch is the global batch: every device sees every negative.

  Args:
    student: [batch, dim] float32 projections, any scale; normalised here.
    teacher: [batch, dim] float32 projections, any scale; normalised here. The gradient stops
      earlier, at the frozen encoder, so that the teacher's head still learns.
    temperature: positive scalar, no unit.
    weight: in [0, 1], share of the student-to-teacher direction (1: acceleration queries only).
    recording: optional [batch] int32 recording ids. Pairs i != j of one recording that start less
      than `exclude_s` seconds apart share samples and are no negatives; they are left out.
    t0_s: optional [batch] float32 window starts, seconds; needed with `recording`.
    exclude_s: seconds, see `recording`.

  Returns:
    [batch] float32 values, not reduced. Identical logits give ln(batch).

  Raises:
    ValueError: shapes differ, or batch < 2 (no negatives).

  Reference: van den Oord et al. 2018, arXiv 1807.03748; two-way form: Radford et al. 2021, arXiv
  2103.00020.
  """
  _check_same_shape("student", student, "teacher", teacher)
  if len(student) < 2:
    raise ValueError("info_nce needs at least 2 rows: a batch of one has no negatives")
  logits = similarity(student, teacher) / temperature
  if recording is not None and t0_s is not None:
    near = jnp.abs(t0_s[:, None] - t0_s[None, :]) < exclude_s
    overlap = (recording[:, None] == recording[None, :]) & near
    overlap = overlap & ~jnp.eye(len(logits), dtype=bool)
    logits = jnp.where(overlap, -1e9, logits)
  matched = jnp.diagonal(logits)
  rows = jax.nn.logsumexp(logits, axis=1) - matched
  columns = jax.nn.logsumexp(logits, axis=0) - matched
  return weight * rows + (1.0 - weight) * columns


def regression(prediction: jax.Array, target: jax.Array, *, kind: str) -> jax.Array:
  """Distance between the student's prediction and the (standardised) teacher embedding.

  Args:
    prediction: [batch, dim] float32.
    target: [batch, dim] float32, about unit variance per dimension for "mse" and "huber".
    kind: "mse" mean over dim of the squared difference; "cosine" 1 - cosine; "huber" mean over dim
      of Huber's loss with delta 1 (0.5 d^2 inside, |d| - 0.5 outside).

  Returns:
    [batch] float32.

  Raises:
    ValueError: shapes differ or an unknown kind.
  """
  _check_same_shape("prediction", prediction, "target", target)
  if kind == "mse":
    return jnp.mean(jnp.square(prediction - target), axis=1)
  if kind == "cosine":
    return 1.0 - jnp.sum(normalise(prediction) * normalise(target), axis=1)
  if kind == "huber":
    size = jnp.abs(prediction - target)
    inside = jnp.minimum(size, 1.0)
    return jnp.mean(0.5 * jnp.square(inside) + (size - inside), axis=1)
  raise ValueError(f"unknown regression {kind!r}; known: {', '.join(REGRESSIONS)}")


def koleo(vectors: jax.Array) -> jax.Array:
  """Kozachenko-Leonenko term: spreads a batch evenly over the sphere.

  With unit vectors x_i, the value of row i is -log |x_i - x_j| for the nearest other row j.

  Args:
    vectors: [batch, dim] float32, any scale; normalised here.

  Returns:
    [batch] float32; rows that coincide give a large finite value and a gradient of zero.

  Raises:
    ValueError: not [batch, dim], or batch < 2 (no other row).

  Reference: Sablayrolles et al. 2019, arXiv 1806.03198, section 3.
  """
  _check_same_shape("vectors", vectors, "vectors", vectors)
  if len(vectors) < 2:
    raise ValueError("koleo needs at least 2 rows: a batch of one has no other row")
  cosine = jnp.where(jnp.eye(len(vectors), dtype=bool), -2.0, similarity(vectors, vectors))
  units = normalise(vectors)
  # From the difference, not from 2 - 2 cosine, which has few digits left where rows are near.
  apart = jnp.sum(jnp.square(units - units[jnp.argmax(cosine, axis=1)]), axis=1)
  return -0.5 * jnp.log(apart + EPS**2)


def masked_reconstruction(prediction: jax.Array, target: jax.Array, scored: jax.Array) -> jax.Array:
  """Mean squared error over the scored samples of each row (He et al. 2021, arXiv 2111.06377).

  Args:
    prediction: [batch, tokens, samples] float32.
    target: [batch, tokens, samples] float32; unscored values may hold anything, NaN included.
    scored: [batch, tokens, samples] bool, True where a sample was hidden and is known.

  Returns:
    [batch] float32; 0 for a row with nothing scored.

  Raises:
    ValueError: shapes differ.
  """
  if not prediction.shape == target.shape == scored.shape:
    raise ValueError(
      f"prediction {prediction.shape}, target {target.shape} and scored {scored.shape} must agree"
    )
  # The double where keeps NaN out of the gradient too: NaN times zero is NaN.
  error = jnp.square(prediction - jnp.where(scored, target, 0.0))
  total = jnp.sum(jnp.where(scored, error, 0.0), axis=(1, 2))
  return total / jnp.maximum(jnp.sum(scored, axis=(1, 2), dtype=jnp.float32), 1.0)


def masked_huber(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Huber's loss (delta 1) over the targets a row has, for supervised training.

  Args:
    prediction: [batch, targets] float32.
    target: [batch, targets] float32, NaN where there is no label.

  Returns:
    [batch] float32, mean over the labelled targets; 0 for a row without labels.

  Raises:
    ValueError: shapes differ.
  """
  _check_same_shape("prediction", prediction, "target", target)
  known = jnp.isfinite(target)
  size = jnp.abs(prediction - jnp.where(known, target, 0.0))
  inside = jnp.minimum(size, 1.0)
  value = 0.5 * jnp.square(inside) + (size - inside)
  count = jnp.maximum(jnp.sum(known, axis=1, dtype=jnp.float32), 1.0)
  return jnp.sum(jnp.where(known, value, 0.0), axis=1) / count
