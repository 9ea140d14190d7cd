"""Exact ranks by cosine in memory-bounded blocks, and the metrics made of them.

The rank of the true partner counts every candidate that is as near or nearer: ties count against
the model, so a collapsed encoder scores last and not first. Nothing here knows what the vectors are
of; `distill.retrieval` chooses the queries, the galleries and the controls.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill import statistics
from distill.errors import DistillError

TOP = (1, 3, 5, 10)
# Cosines of float32 unit vectors carry rounding of about 1e-7, and that depends on how the product
# is blocked. Candidates closer than this to the partner cannot be told from it: they are ties.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Condition:
  """Rows i and j agree when every |values[i] - values[j]| <= tolerance; NaN agrees with nothing.

  Attributes:
    values: [n, features] numbers, one row for each window.
    tolerance: [features] numbers.
  """

  values: np.ndarray
  tolerance: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Ranked:
  """Ranks of the true partners.

  Attributes:
    rank: [queries] int, 1 is best.
    candidates: [queries] int, the partner included.
    participant: [queries] names.
  """

  rank: np.ndarray
  candidates: np.ndarray
  participant: np.ndarray

  @classmethod
  def pool(cls, parts: Sequence["Ranked"]) -> "Ranked":
    """All queries of all parts (folds, repeats), each against its own gallery."""
    joined = (np.concatenate([getattr(part, f.name) for part in parts]) for f in _FIELDS)
    return cls(*joined)

  def contested(self) -> "Ranked":
    """The queries that had at least one candidate beside the partner."""
    keep = self.candidates > 1
    return Ranked(self.rank[keep], self.candidates[keep], self.participant[keep])


_FIELDS = dataclasses.fields(Ranked)


def ranks(
  queries: np.ndarray,
  gallery: np.ndarray,
  *,
  positive: np.ndarray | None = None,
  only: Condition | None = None,
  without: Condition | None = None,
  block: tuple[int, int] = (2048, 8192),
) -> tuple[np.ndarray, np.ndarray]:
  """Rank of each query's partner by cosine, exact, ties against the model.

  Args:
    queries: [n, dim] vectors of any scale.
    gallery: [m, dim] vectors of any scale.
    positive: [n] int, gallery row of each query's partner; without it row i's partner is row i.
    only: candidates of query i are the gallery rows that agree with it. Needs n = m, row-aligned.
    without: gallery rows that agree with query i are no candidates. Needs n = m, row-aligned.
    block: (queries, gallery) rows of one product; 2048 x 8192 float32 are 64 MB.

  Returns:
    (rank [n] int64, candidates [n] int64); both count the partner, which is always a candidate.

  Raises:
    DistillError: empty input, dimensions or row counts that do not fit, NaN, or zero vectors.
  """
  queries, gallery = _unit(queries, "query"), _unit(gallery, "gallery")
  n, m = len(queries), len(gallery)
  if queries.shape[1] != gallery.shape[1]:
    raise DistillError(
      f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}; compare"
      " projections of one aligned pair of heads"
    )
  if n != m and (positive is None or only is not None or without is not None):
    raise DistillError(f"{n} queries and {m} gallery rows: rows must be aligned pairs")
  partner = np.arange(n) if positive is None else np.asarray(positive, np.int64)
  if partner.shape != (n,) or partner.min() < 0 or partner.max() >= m:
    raise DistillError(f"positive must be [{n}] gallery rows within 0..{m - 1}")
  rows = min(block[0], _power_of_two(n)), min(block[1], _power_of_two(m))
  same, other = _features(only, n), _features(without, n)
  blocks = [
    tuple(
      jnp.asarray(_padded(part[start : start + rows[1]], rows[1], fill))
      for part, fill in (
        (gallery, 0),
        (np.arange(m, dtype=np.int32), -1),
        (same[0], np.nan),
        (other[0], np.nan),
      )
    )
    for start in range(0, m, rows[1])
  ]
  tolerances = jnp.asarray(same[1]), jnp.asarray(other[1])
  rank, candidates = np.empty(n, np.int64), np.empty(n, np.int64)
  for start in range(0, n, rows[0]):
    part = slice(start, start + rows[0])
    near = np.einsum("nd,nd->n", queries[part], gallery[partner[part]])
    query = tuple(
      jnp.asarray(_padded(array, rows[0], 0))
      for array in (
        queries[part],
        near,
        partner[part].astype(np.int32),
        same[0][part],
        other[0][part],
      )
    )
    ahead, met = np.zeros(rows[0], np.int64), np.zeros(rows[0], np.int64)
    for candidate in blocks:
      counts = _count(query, candidate, tolerances)
      ahead += np.asarray(counts[0])
      met += np.asarray(counts[1])
    size = len(near)
    rank[part], candidates[part] = 1 + ahead[:size], 1 + met[:size]
  return rank, candidates


@jax.jit
def _count(query, candidate, tolerances) -> tuple[jax.Array, jax.Array]:
  """([queries] candidates as near as the partner or nearer, [queries] candidates); no partner."""
  vectors, near, partner, same, other = query
  others, index, same_of, other_of = candidate
  cosine = jnp.matmul(vectors, others.T, precision=jax.lax.Precision.HIGHEST)
  counted = (index[None, :] >= 0) & (index[None, :] != partner[:, None])
  counted &= _agree(same, same_of, tolerances[0])
  if other.shape[1]:
    counted &= ~_agree(other, other_of, tolerances[1])
  ahead = counted & (cosine >= near[:, None] - TIE)
  return jnp.sum(ahead, axis=1, dtype=jnp.int32), jnp.sum(counted, axis=1, dtype=jnp.int32)


def _agree(values: jax.Array, others: jax.Array, tolerance: jax.Array) -> jax.Array:
  """[queries, gallery] bool; True everywhere when there are no features."""
  distance = jnp.abs(values[:, None, :] - others[None, :, :])
  return jnp.all(distance <= tolerance[None, None, :], axis=-1)


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
  """[n, dim] float32 unit vectors; refuses what has no direction."""
  vectors = np.asarray(vectors, np.float32)
  if vectors.ndim != 2 or not vectors.size:
    raise DistillError(f"{what} vectors must be [n, dim] and not empty, got {vectors.shape}")
  norm = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
  bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
  if len(bad):
    raise DistillError(
      f"{len(bad)} of {len(vectors)} {what} vectors are NaN, infinite or zero (first: row"
      f" {bad[0]}); leave out windows that could not be embedded"
    )
  return vectors / norm.astype(np.float32)[:, None]


def _features(condition: Condition | None, n: int) -> tuple[np.ndarray, np.ndarray]:
  """([n, features] float32, [features] float32 tolerance); no features without a condition."""
  if condition is None:
    return np.empty((n, 0), np.float32), np.empty(0, np.float32)
  values = np.asarray(condition.values, np.float64)
  if values.ndim != 2 or values.shape != (n, len(condition.tolerance)):
    raise DistillError(
      f"a condition needs values [{n}, {len(condition.tolerance)}], got {values.shape}"
    )
  return values.astype(np.float32), np.asarray(condition.tolerance, np.float32)


def _padded(rows: np.ndarray, size: int, fill: float) -> np.ndarray:
  """`rows` lengthened to `size`, so that every block compiles once."""
  pad = [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(rows, pad, constant_values=fill)


def _power_of_two(n: int) -> int:
  return 1 << max(n - 1, 0).bit_length()


def metrics(ranked: Ranked) -> dict[str, Any]:
  """Retrieval metrics of a set of ranks.

  Returns:
    gallery (mean number of candidates); top1, top3, top5, top10 (shares); lo, hi (95 % t interval
    of top-1 over participants, clipped to [0, 1]); mean_rank, median_rank, mrr; chance_top1 (mean
    of 1 / candidates); n_queries, n_participants. NaN where there is no query.
  """
  rank, candidates = ranked.rank, ranked.candidates
  shares = {f"top{k}": _mean(rank <= k) for k in TOP}
  top1 = statistics.over_participants((rank == 1).astype(float), ranked.participant)
  return {
    "gallery": _mean(candidates),
    **shares,
    "lo": float(np.clip(top1.lo, 0, 1)),
    "hi": float(np.clip(top1.hi, 0, 1)),
    "mean_rank": _mean(rank),
    "median_rank": float(np.median(rank)) if len(rank) else np.nan,
    "mrr": _mean(1 / rank),
    "chance_top1": _mean(1 / candidates),
    "n_queries": len(np.atleast_1d(rank)),
    "n_participants": top1.n,
  }


def oracle_metrics(ranked: Ranked) -> dict[str, Any]:
  """Expected metrics of a guesser that knows the oracle's values and draws among the candidates.

  Args:
    ranked: candidates are the rows that the oracle cannot tell apart; its ranks are not read.

  Returns:
    As `metrics`: with c candidates, top-k is min(1, k / c) and the mean rank (c + 1) / 2.
  """
  size = ranked.candidates
  top1 = statistics.over_participants(1 / size, ranked.participant)
  return {
    "gallery": _mean(size),
    **{f"top{k}": _mean(np.minimum(1, k / size)) for k in TOP},
    "lo": float(np.clip(top1.lo, 0, 1)),
    "hi": float(np.clip(top1.hi, 0, 1)),
    "mean_rank": _mean((size + 1) / 2),
    "median_rank": float(np.median((size + 1) / 2)) if len(size) else np.nan,
    "mrr": _mean([np.mean(1 / np.arange(1, c + 1)) for c in size]),
    "chance_top1": _mean(1 / size),
    "n_queries": len(size),
    "n_participants": top1.n,
  }


def _mean(values: Any) -> float:
  values = np.asarray(values, np.float64)
  return float(values.mean()) if values.size else np.nan
