"""Cross-modal knowledge distillation: a frozen PPG encoder teaches an accelerometer encoder."""

from importlib import metadata

try:
  __version__ = metadata.version("ppg2accel")
except metadata.PackageNotFoundError:  # a checkout that is on the path but not installed
  __version__ = "0+unknown"
