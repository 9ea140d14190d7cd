"""A data set of made-up recordings, some of them broken, for the tests of builder and store."""

import dataclasses
import functools
import json
import pathlib

import ml_collections
import numpy as np

from distill.data.builder import PairedBuilder
from distill.data.cutting import Source
from distill.data.datasets import empatica
from distill.data.recording import Beats, Recording
from tests import pulses


def config(folder, **changes) -> ml_collections.ConfigDict:
  """A data section that prepares the toy set of `folder`/toy.json."""
  fields = {"sets": ("toy",), "source": str(folder), "prepared_dir": str(folder / "prepared")}
  fields |= {"ppg_rate_hz": 64.0, "acc_rate_hz": 50.0, "window_s": 60.0, "hop_s": 30.0}
  fields |= {"min_coverage": 0.5, "min_template_r": 0.8, "min_spectral_purity": 0.3, "workers": 0}
  return ml_collections.ConfigDict(fields | changes)


def write(folder: pathlib.Path, kinds: dict[str, str]) -> None:
  """Says which recordings the toy set has: name -> "good", "gap", "constant", "row", ..."""
  (folder / "toy.json").write_text(json.dumps(kinds))


class Toy(PairedBuilder):
  """Recordings named in toy.json."""

  SOURCE = "nowhere"

  def sources(self):
    kinds = json.loads((self.folder() / "toy.json").read_text())
    return [Source(name, functools.partial(load, name, kind)) for name, kind in kinds.items()]


def load(name: str, kind: str) -> Recording:
  """Picklable, so that worker processes can be tested."""
  seconds, seed = 30.0 if kind == "short" else 200.0, sum(name.encode())
  if kind == "twin":  # the same samples under any name
    seed = 0
  recording = pulses.recording(name, seconds=seconds, acc_start_s=0.3, seed=seed)
  ppg = recording.signals["ppg"]
  samples = ppg.samples.copy()
  if kind == "gap":
    samples[64 * 50 : 64 * 140] = np.nan
  if kind == "constant":
    samples[:] = 7.0
  if kind == "noise":
    samples[:] = np.random.default_rng(seed).normal(size=samples.shape)
  if kind == "row":
    empatica._rows("1.0\n2.0\nx\n", 1, f"{name}/BVP.csv")
  if kind == "beats":
    recording = dataclasses.replace(recording, beats=beats(name))
  return dataclasses.replace(
    recording, signals={**recording.signals, "ppg": dataclasses.replace(ppg, samples=samples)}
  )


def beats(name: str) -> Beats:
  """Reference beats of a recording of kind "beats", every seventh one ectopic."""
  times_s = np.sort(np.random.default_rng(len(name)).uniform(0, 200, 240))
  return Beats(times_s, np.arange(240) % 7 != 0, "ecg")
