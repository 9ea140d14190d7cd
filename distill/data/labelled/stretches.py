"""A class for every sample -> stretches of one class."""

import numpy as np

from distill.data.recording import Stretch


def runs(label: np.ndarray, rate_hz: float, start_s: float = 0.0) -> tuple[Stretch, ...]:
  """Stretches of equal labels, those of "" left out.

  Args:
    label: [time] names, "" where there is none.
    rate_hz: samples per second.
    start_s: time of the first sample.
  """
  ends = np.flatnonzero(label[1:] != label[:-1]) + 1
  pairs = zip([0, *ends.tolist()], [*ends.tolist(), len(label)], strict=True)
  return tuple(
    Stretch(start_s + a / rate_hz, start_s + b / rate_hz, str(label[a]))
    for a, b in pairs
    if label[a]
  )
