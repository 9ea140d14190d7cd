"""What features look like without labels: how alike two tables are, how many directions one uses.

Linear centred kernel alignment (CKA) tells, layer by layer, how far fine-tuning or merging moved an
encoder from where it started; the smooth effective rank tells whether embeddings have collapsed.
"""

import numpy as np

from distill.errors import DistillError

_ROWS = 4096  # in float64 at a time, so that a large table is never copied whole


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
  """Linear CKA between two feature tables whose rows are the same windows.

  With centred X [n, d] and Y [n, e]:

      CKA = |X^T Y|^2 / (|X^T X| |Y^T Y|)      (Frobenius norms)

  This form needs memory for d * e numbers, whatever n is. The value does not change when either
  table is rotated, shifted, or scaled as a whole. With fewer rows than columns it is near 1 for any
  two tables, so use many more rows than columns.

  Args:
    first: [n, d] features.
    second: [n, e] features of the same rows.

  Returns:
    In [0, 1]; 1 = the same up to rotation, shift and scale.

  Raises:
    DistillError: no tables of the same number of rows (at least 2), values that are not finite, or
      a table whose rows are all alike.

  Reference: Kornblith et al. 2019, arXiv 1905.00414, section 3.
  """
  first, second = np.asarray(first), np.asarray(second)
  if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
    raise DistillError(
      f"feature similarity needs two tables [rows, features] of the same rows, at least 2; got"
      f" {first.shape} and {second.shape}"
    )
  cross = _squared_norm(first, second)
  own = np.sqrt(_squared_norm(first, first)) * np.sqrt(_squared_norm(second, second))
  if not np.isfinite(own):
    raise DistillError("feature similarity met values that are not finite; did training diverge?")
  if any(_alike(table) for table in (first, second)):
    raise DistillError("feature similarity is not defined: all rows of one table are alike")
  return float(cross / own)


def _alike(table: np.ndarray) -> bool:
  """Whether all rows are the same; their mean, and so what is left of them, is rounded."""
  return bool((table == table[:1]).all())


def _squared_norm(x: np.ndarray, y: np.ndarray) -> float:
  """|X^T Y|^2 of the centred tables."""
  x_mean = x.mean(axis=0, dtype=np.float64, keepdims=True)
  y_mean = y.mean(axis=0, dtype=np.float64, keepdims=True)
  product = np.zeros((x.shape[1], y.shape[1]))
  for start in range(0, len(x), _ROWS):
    rows = slice(start, start + _ROWS)
    product += (x[rows] - x_mean).T @ (y[rows] - y_mean)
  return float(np.sum(np.square(product)))


def effective_rank(features: np.ndarray) -> float:
  """Smooth effective rank: how many directions a table of embeddings uses.

  With the singular values s_k of the table, and p_k = s_k / sum(s):

      rank = exp(-sum_k p_k log p_k)

  It lies between 1 and min(n, d), does not change with rotation or scale, and needs several times
  more rows than columns. The table is not centred, as in the reference.

  Args:
    features: [n, d], finite.

  Returns:
    The rank; 0 for a table of zeros.

  Raises:
    DistillError: not a table with rows, or values that are not finite.

  Reference: Garrido et al. 2023 (RankMe), arXiv 2210.02885, equation 1; Roy and Vetterli 2007.
  """
  features = np.asarray(features)
  if features.ndim != 2 or 0 in features.shape:
    raise DistillError(f"effective rank needs a table [rows, features], got {features.shape}")
  if not np.isfinite(features).all():
    raise DistillError("effective rank met values that are not finite; leave those rows out")
  singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
  if not singular.any():
    return 0.0
  shares = singular / singular.sum()
  shares = shares[shares > 0]
  return float(np.exp(-np.sum(shares * np.log(shares))))
