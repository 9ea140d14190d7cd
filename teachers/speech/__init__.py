"""wav2vec 2.0 and HuBERT as encoders of sensor windows, from Hugging Face folders or at random."""

from teachers.speech.features import SPECS, SpeechFeatures, build, small
from teachers.speech.network import ARCHITECTURES, Architecture, SpeechNetwork
from teachers.speech.weights import FAMILIES

__all__ = [
  "ARCHITECTURES",
  "FAMILIES",
  "SPECS",
  "Architecture",
  "SpeechFeatures",
  "SpeechNetwork",
  "build",
  "small",
]
