"""Exact ranks by cosine in memory-bounded blocks, and the metrics made of them.

The rank of the true partner counts every candidate that is as near or nearer: ties count against
the model, so a collapsed encoder scores last and not first. Nothing here knows what the vectors are
of; `distill.retrieval` chooses the queries, the galleries and the controls.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
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
# (queries, gallery) rows of one call. An accelerator wants few and large ones: 512 MB of cosines. A
# processor makes the product of CPU_TILE gallery rows at a time: 512 kB stay in a core's own cache
# from the product to the count.
CPU_BLOCK, ACCELERATOR_BLOCK = (512, 4096), (8192, 16384)
CPU_TILE = 256


@dataclasses.dataclass(frozen=True)
class Condition:
  """Rows i and j agree when every |values[i] - values[j]| <= tolerance; NaN agrees with nothing.

  Attributes:
    values: [n, features] numbers, one row for each query.
    tolerance: [features] numbers.
    gallery: [m, features] numbers of the gallery rows; None where these are those of the queries.
  """

  values: np.ndarray
  tolerance: tuple[float, ...]
  gallery: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Question:
  """Which partners of which queries are ranked, among which candidates.

  Attributes:
    rows: [k] int, the queries that it is asked of; None for all of them.
    positive: [k] int, gallery row of each query's partner; None where it is the query's own row. Or
      [draws, k], several partners of each query, ranked one by one for little more than one.
    partners: [k, dim] vectors of the partners, where these are no rows of the gallery.
    only: candidates of a query are the gallery rows that agree with it; values for all queries.
    without: gallery rows that agree with a query are no candidates; values for all queries.
  """

  rows: np.ndarray | None = None
  positive: np.ndarray | None = None
  partners: np.ndarray | None = None
  only: Condition | None = None
  without: Condition | None = None


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
  question: Question | None = None,
  *,
  block: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The answer to one question, or to the plain one: `answers`."""
  return answers(queries, gallery, [question or Question()], block=block)[0]


def answers(
  queries: np.ndarray,
  gallery: np.ndarray,
  questions: Sequence[Question],
  *,
  block: tuple[int, int] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rank of each query's partner by cosine, exact, ties against the model, for several questions.

  The product of queries and gallery, which is most of the work, is made once for all of them.

  Args:
    queries: [n, dim] vectors of any scale; or [views, n, dim], then the cosine of a pair is the
      largest over the views of the query.
    gallery: [m, dim] vectors of any scale.
    questions: what is asked.
    block: (queries, gallery) rows of one call; None for `default_block`.

  Returns:
    (rank, candidates) of each question, int64 of [k], or [draws, k] as its `positive` is; both
    count the partner, which is always a candidate.

  Raises:
    DistillError: empty input, dimensions or row counts that do not fit, NaN, or zero vectors.
  """
  views = np.asarray(queries, np.float32)
  views = views[None] if views.ndim == 2 else views
  views = np.stack([_unit(view, "query") for view in views])
  gallery = _unit(gallery, "gallery")
  n, m = views.shape[1], len(gallery)
  if views.shape[2] != gallery.shape[1]:
    raise DistillError(
      f"queries have {views.shape[2]} dimensions and the gallery {gallery.shape[1]}; compare"
      " projections of one aligned pair of heads"
    )
  asked = [_Asked.of(question, n, m, views.shape[2]) for question in questions]
  block = block or default_block()
  size = min(block[0], _power_of_two(n)), min(block[1], _power_of_two(m))
  tile = _tile(size[1])
  blocks = []
  for start in range(0, m, size[1]):
    part = slice(start, start + size[1])
    # NaN is as near as nothing, so rows of padding are counted nowhere.
    vectors = jnp.asarray(_padded(gallery[part], size[1], np.nan))
    index = jnp.asarray(_padded(np.arange(m, dtype=np.int32)[part], size[1], -1))
    conditions = [one.of_gallery(part, size[1]) for one in asked]
    blocks.append((vectors, index, conditions))
  counts = [np.empty((2, *one.partner.shape), np.int64) for one in asked]

  def count_queries(start: int) -> None:
    part = slice(start, start + size[0])
    seen = jnp.asarray(np.stack([_padded(view[part], size[0], 0).T for view in views]))
    told = [one.of_queries(views, gallery, part, size[0]) for one in asked]
    found = [jnp.zeros((2, len(one.partner), size[0]), jnp.int32) for one in asked]
    # Blocks with a partner, who does not count; under a condition every block is looked at alike.
    own = [one.partner[:, part] for one in asked if one.plain]
    holds = set(np.unique(np.concatenate(own) // size[1])) if own else set()
    for k, candidate in enumerate(blocks):
      found = _counted(found, seen, told, candidate, k in holds, tile)
    for count, here in zip(counts, found, strict=True):
      count[:, :, part] = np.asarray(here)[:, :, : min(size[0], n - start)]

  with concurrent.futures.ThreadPoolExecutor(_lanes()) as pool:
    for _ in pool.map(count_queries, range(0, n, size[0])):
      pass
  return [one.answer(count, m) for one, count in zip(asked, counts, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Asked:
  """A question that was checked, with a place for every query; `rows` says which are asked."""

  rows: np.ndarray  # [k]
  shape: tuple[int, ...]  # of the answer
  partner: np.ndarray  # [draws, n] int, -1 where not asked or outside
  outside: np.ndarray | None  # [n, dim] vectors of partners that are no gallery rows
  same: tuple[np.ndarray, np.ndarray, np.ndarray]  # of `only`: `_features`
  other: tuple[np.ndarray, np.ndarray, np.ndarray]  # of `without`

  @classmethod
  def of(cls, question: Question, n: int, m: int, dim: int) -> "_Asked":
    rows = np.arange(n) if question.rows is None else np.asarray(question.rows, np.int64)
    same, other = _features(question.only, n, m), _features(question.without, n, m)
    if question.partners is not None:
      given = _unit(question.partners, "partner")
      if given.shape != (len(rows), dim):
        raise DistillError(f"partners must be {(len(rows), dim)}, got {given.shape}")
      outside = np.zeros((n, dim), np.float32)
      outside[rows] = given
      return cls(rows, rows.shape, np.full((1, n), -1), outside, same, other)
    if n != m and question.positive is None:
      raise DistillError(f"{n} queries and {m} gallery rows: rows must be aligned pairs")
    positive = rows if question.positive is None else np.asarray(question.positive, np.int64)
    fits = positive.ndim in (1, 2) and positive.shape[-1] == len(rows)
    if not fits or (positive.size and not 0 <= positive.min() <= positive.max() < m):
      raise DistillError(
        f"positive must be [{len(rows)}] or [draws, {len(rows)}] gallery rows within 0..{m - 1}"
      )
    partner = np.full((np.atleast_2d(positive).shape[0], n), -1)
    partner[:, rows] = positive
    return cls(rows, positive.shape, partner, None, same, other)

  @property
  def plain(self) -> bool:
    """Whether every gallery row is a candidate."""
    return not (self.same[2].size or self.other[2].size)

  def of_gallery(self, part: slice, size: int) -> tuple[jax.Array, jax.Array]:
    """Of a block of gallery rows, what the conditions look at."""
    same, other = (_padded(some[1][part], size, np.nan) for some in (self.same, self.other))
    return jnp.asarray(same), jnp.asarray(other)

  def of_queries(self, views: np.ndarray, gallery: np.ndarray, part: slice, size: int):
    """Of a block of queries: cosine and row of each partner, and what the conditions look at."""
    partner = self.partner[:, part]
    beside = [gallery[one] if self.outside is None else self.outside[part] for one in partner]
    near = np.stack([np.einsum("vnd,nd->vn", views[:, part], b).max(axis=0) for b in beside])
    arrays = near.T, partner.T.astype(np.int32), self.same[0][part], self.other[0][part]
    tolerances = jnp.asarray(self.same[2]), jnp.asarray(self.other[2])
    return (*(jnp.asarray(_padded(array, size, 0)) for array in arrays), *tolerances)

  def answer(self, counts: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """(rank, candidates) of the queries that are asked."""
    rank, candidates = 1 + counts[:, :, self.rows]
    if self.plain:
      candidates[:] = m if self.outside is None else m + 1
    return rank.reshape(self.shape), candidates.reshape(self.shape)


def default_block() -> tuple[int, int]:
  """Rows of one call that suit the device at hand."""
  return CPU_BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK


def _tile(rows: int) -> int:
  """Gallery rows of one product, of those of one call."""
  return CPU_TILE if jax.default_backend() == "cpu" and rows % CPU_TILE == 0 else rows


def _lanes() -> int:
  """Blocks of queries that are counted side by side.

  One for each core: the count after a product runs on one core, and the others wait for it
  unless they have a block of their own. An accelerator fills itself.
  """
  return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


@functools.partial(jax.jit, static_argnums=(4, 5))
def _counted(counts, views, questions, candidates, partners: bool, tile: int) -> list[jax.Array]:
  """`counts` of each question with those of one block added.

  A question's counts are [draws, queries] each: as near as the partner; candidates. Gallery rows
  come first in what is counted, so that a processor adds whole rows of queries at a time. Without
  conditions every row is a candidate, and the second count is left to the caller: it would take as
  long as the first. `views` are [views, dim, queries]. `partners`: whether the block holds a
  partner of a question without conditions.
  """

  def add(counts, candidates):
    others, index, conditions = candidates
    cosine = _cosine(others, views[0])
    if len(views) > 1:
      cosine = jax.lax.fori_loop(
        1, len(views), lambda k, best: jnp.maximum(best, _cosine(others, views[k])), cosine
      )
    return [
      _of_question(count, cosine, index, question, condition, partners)
      for count, question, condition in zip(counts, questions, conditions, strict=True)
    ], None

  tiles = jax.tree.map(
    lambda rows: rows.reshape(len(rows) // tile, tile, *rows.shape[1:]), candidates
  )
  return jax.lax.scan(add, counts, tiles)[0]


def _of_question(counts, cosine, index, question, condition, partners: bool) -> jax.Array:
  near, partner, same, other, within_same, within_other = question
  same_of, other_of = condition
  draws = range(near.shape[1])
  ahead = [cosine >= near[None, :, k] - TIE for k in draws]
  plain = not (same.shape[1] or other.shape[1])
  if plain and not partners:
    return counts.at[0].add(_summed(ahead))
  met = [index[:, None] != partner[None, :, k] for k in draws]
  if plain:
    return counts.at[0].add(_summed(a & m for a, m in zip(ahead, met, strict=True)))
  allowed = (index >= 0)[:, None]
  if same.shape[1]:
    allowed &= _agree(same_of, same, within_same)
  if other.shape[1]:
    allowed &= ~_agree(other_of, other, within_other)
  met = [m & allowed for m in met]
  nearer = _summed(a & m for a, m in zip(ahead, met, strict=True))
  return counts + jnp.stack([nearer, _summed(met)])


def _summed(seen: Iterable[jax.Array]) -> jax.Array:
  """Draws of [gallery, queries] bool -> [draws, queries] numbers of rows."""
  return jnp.stack([jnp.sum(one, axis=0, dtype=jnp.int32) for one in seen])


def _cosine(others: jax.Array, queries: jax.Array) -> jax.Array:
  return jnp.matmul(others, queries, precision=jax.lax.Precision.HIGHEST)


def _agree(others: jax.Array, values: jax.Array, tolerance: jax.Array) -> jax.Array:
  """[gallery, queries] bool; True everywhere when there are no features."""
  distance = jnp.abs(others[:, None, :] - values[None, :, :])
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


def _features(
  condition: Condition | None, n: int, m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """([n, features], [m, features], [features] tolerance), float32; none without a condition."""
  if condition is None:
    return np.empty((n, 0), np.float32), np.empty((m, 0), np.float32), np.empty(0, np.float32)
  size = len(condition.tolerance)
  sides = condition.values, condition.values if condition.gallery is None else condition.gallery
  for values, rows in zip(sides, (n, m)):
    if np.shape(values) != (rows, size):
      raise DistillError(f"a condition needs values [{rows}, {size}], got {np.shape(values)}")
  first, second = (np.asarray(values, np.float64).astype(np.float32) for values in sides)
  return first, second, np.asarray(condition.tolerance, np.float32)


def _padded(rows: np.ndarray, size: int, fill: float) -> np.ndarray:
  """`rows` lengthened to `size`, so that every block compiles once."""
  pad = [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(rows, pad, constant_values=fill)


def _power_of_two(n: int) -> int:
  return 1 << max(n - 1, 0).bit_length()


def metrics(ranked: Ranked) -> dict[str, Any]:
  """Retrieval metrics of a set of ranks; people weigh the same, however many queries they have.

  Returns:
    gallery (mean number of candidates over queries); top1, top3, top5, top10 (shares); lo, hi (95 %
    t interval of top-1 over participants, clipped to [0, 1]); mean_rank, mrr and chance_top1 (of
    1 / candidates), over participants as the shares are; median_rank, over queries; n_queries,
    n_participants. NaN where there is no query.
  """
  rank, candidates = ranked.rank, ranked.candidates
  shares = {k: (rank <= k).astype(float) for k in TOP}
  return _over_people(ranked, shares, rank, 1 / rank, 1 / candidates)


def oracle_metrics(ranked: Ranked) -> dict[str, Any]:
  """Expected metrics of a guesser that knows the oracle's values and draws among the candidates.

  Args:
    ranked: candidates are the rows that the oracle cannot tell apart; its ranks are not read.

  Returns:
    As `metrics`: with c candidates, top-k is min(1, k / c) and the mean rank (c + 1) / 2.
  """
  size = np.asarray(ranked.candidates, np.int64)
  shares = {k: np.minimum(1, k / size) for k in TOP}
  harmonic = np.cumsum(1 / np.arange(1, size.max(initial=0) + 1))
  return _over_people(ranked, shares, (size + 1) / 2, harmonic[size - 1] / size, 1 / size)


def _over_people(
  ranked: Ranked, shares: dict[int, np.ndarray], rank, reciprocal, chance
) -> dict[str, Any]:
  def mean(values: np.ndarray) -> float:
    return statistics.over_participants(values, ranked.participant).value

  top1 = statistics.over_participants(shares[1], ranked.participant)
  return {
    "gallery": float(np.mean(ranked.candidates)) if len(rank) else np.nan,
    **{f"top{k}": mean(share) for k, share in shares.items()},
    "lo": float(np.clip(top1.lo, 0, 1)),
    "hi": float(np.clip(top1.hi, 0, 1)),
    "mean_rank": mean(rank),
    "median_rank": float(np.median(rank)) if len(rank) else np.nan,
    "mrr": mean(reciprocal),
    "chance_top1": mean(chance),
    "n_queries": len(rank),
    "n_participants": top1.n,
  }
