"""Text of numbers, in reports, tables and what stands for a picture."""


def number(value: float | None, digits: int = 2, *, sign: bool = False, missing: str = "") -> str:
  """Text of a number; `missing` if there is none."""
  return missing if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
  """Text of a share in per cent, without the sign; empty if there is none."""
  return "" if share is None else f"{100 * share:.{digits}f}"


def span(lo: float | None, hi: float | None, *, scale: float = 1) -> str:
  """Text of an interval's ends; a scale of 100 makes shares per cent. Empty if one is not known."""
  digits = 1 if scale == 100 else 2
  return "" if lo is None or hi is None else f"{scale * lo:.{digits}f} to {scale * hi:.{digits}f}"


def seconds(value: float) -> str:
  """Text of how long something took."""
  return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
