"""How often can a minute of acceleration be told from its beats' movement? Prints Markdown.

  python benchmarks/ideal_observer.py                 # 20 000 windows of 2500 people
  python benchmarks/ideal_observer.py --people=300    # a trial
  python benchmarks/ideal_observer.py --people=40 --observers=told,energies,waveforms

A measure of what retrieval on the simulated cohort could reach, by observers that have learnt
nothing and are given the true beats of every candidate; a student's gallery is the PPG's. Gaps are
left out. Ties count against the observers.

"told" knows, of each person, how a beat moves the wrist, in which direction and how strongly at
each moment, and the spectrum of everything else around it. It ranks candidates by their likelihood
under the acceleration: the whitened signal goes through the person's own matched filter, and the
outputs at a candidate's beats, which have a phase, are summed. No student is told any of that.

"energies" knows nothing of a person. The acceleration is whitened by its own short-time spectrum;
the power of damped oscillations of all frequencies that beats may have, summed over the axes, is
correlated with a candidate's beats. That is what adding up powers can do without learning.

"waveforms" knows nothing of a person either, and supposes of each candidate that its beats are the
true ones: if they are, every beat moves the wrist alike, so the oscillations at them are added up
with their phase before the power is taken. It has to hear every window once more for each
candidate, which no embedding can, and holds all of them in memory: for some tens of people.
"""

import argparse
import functools
import multiprocessing
import sys

import numpy as np
import scipy.ndimage
import scipy.signal
from tqdm import tqdm

from distill import statistics
from distill.data import physiology, wrist

STEP_S = 0.01  # grid of beat times
WAVE_S = 0.5  # of a beat's movement that the filter uses
HIGH_PASS_HZ = 2.0  # gravity and posture would leak into the band of the beats
SPECTRUM = {"nperseg": 128, "noverlap": 96}  # short-time Fourier transform, samples
AROUND = (5, 5)  # frequencies and times over which the power of the noise is averaged
STILL = ("lying", "sitting")
BANDS_HZ, DECAY_S = np.geomspace(4.0, 14.0, 8), 0.1  # of the oscillations "energies" listens for
MOST, BLUR_S = 8.0, 0.04  # of a moment's energy over the median; SD of where an oscillation began
MINUTES = 8
OBSERVERS = ("told", "energies", "waveforms")


def listen(
  person: int, amplitude: float, device: physiology.Device, observers: tuple[str, ...]
) -> list[dict]:
  """One person's windows: who, whether still, true beats, and what each observer heard.

  The beats are places in a grid; "told" and "energies" heard a score at each place [grid],
  "waveforms" complex oscillations [bands * axes, grid].
  """
  duration_s, rate_hz = 60.0 * MINUTES, device.rate_hz
  body = physiology.draw_body(0, person, duration_s)
  late_s = wrist.pre_ejection(physiology.stream(0, person, "pre-ejection"), body)
  samples = round(duration_s * rate_hz)
  movement = wrist.draw_movement(0, person, body, late_s, samples, rate_hz)
  acc = wrist.measure(physiology.stream(0, person, "sensor"), movement, device, amplitude)
  postures = wrist.draw_postures(physiology.stream(0, person, "posture"), body)
  beats = amplitude * movement.beats
  heard, expected = _matched(acc, acc - beats, beats, body, postures, amplitude, rate_hz)
  onset_s = body.beat_s + body.person.beat_onset_s + late_s
  at = np.round(onset_s / STEP_S).astype(int)
  inside = (at >= 0) & (at < len(heard))
  # log-likelihood of a beat at t: what is heard there, less half of what a beat would be heard as.
  grid_s = np.arange(len(heard)) * STEP_S
  energy = np.interp(grid_s, onset_s[inside], np.maximum(expected[at[inside]], 0.0))
  told = (heard - 0.5 * energy).astype(np.float32)
  energies, waveforms = _oscillations(acc, rate_hz, len(heard))
  count, found = round(60 / STEP_S), []
  for minute in range(MINUTES):
    own = onset_s[(onset_s >= 60 * minute) & (onset_s < 60 * (minute + 1))] - 60 * minute
    every_s = 60 * minute + np.arange(0, 60, 2)
    kinds = np.searchsorted(body.bouts.start_s, every_s, side="right") - 1
    labels = {physiology.ACTIVITIES[k].label for k in body.bouts.kind[np.maximum(kinds, 0)]}
    part = slice(minute * count, (minute + 1) * count)
    here = {
      "told": told[part],
      "energies": energies[part] - np.mean(energies[part]),
      "waveforms": waveforms[:, part],
    }
    row = {"who": person, "still": labels <= set(STILL), "beats": np.floor(own / STEP_S)}
    row["beats"] = np.minimum(row["beats"].astype(int), count - 1)
    found.append(row | {name: here[name] for name in observers})
  return found


def _oscillations(acc, rate_hz, grid):
  """Of oscillations of all bands that begin at each place of the grid: power, and complex size.

  Returns:
    [grid] power over its median, all bands and axes together, and [bands * axes, grid] complex64.
  """
  sos = scipy.signal.butter(6, HIGH_PASS_HZ, "highpass", fs=rate_hz, output="sos")
  signal = scipy.signal.sosfiltfilt(sos, acc, axis=0).T
  _, _, spectrum = scipy.signal.stft(signal, rate_hz, **SPECTRUM)
  weights = np.ones((1, *AROUND)) / np.prod(AROUND)
  power = scipy.signal.convolve(np.abs(spectrum) ** 2, weights, mode="same").mean(axis=0) + 1e-12
  _, white = scipy.signal.istft(spectrum / np.sqrt(power), rate_hz, **SPECTRUM)
  wave_s = np.arange(0, WAVE_S, 1 / rate_hz)
  total, sizes = np.zeros(acc.shape[0]), []
  for band_hz in BANDS_HZ:
    wave = np.exp((-1 / DECAY_S + 2j * np.pi * band_hz) * wave_s)
    through = scipy.signal.fftconvolve(white, np.conj(wave)[None, ::-1], axes=1)
    through = through[:, len(wave_s) - 1 :][:, : len(acc)]
    energy = np.sum(np.abs(through) ** 2, axis=0)
    energy /= np.median(energy)
    total += np.minimum(energy, MOST)
    # No moment counts more than MOST, whatever shakes the wrist there.
    limited = through * np.sqrt(np.minimum(1.0, MOST / np.maximum(energy, 1e-12)))
    sizes.append(limited / np.sqrt(np.mean(np.abs(limited) ** 2)))
  total = scipy.ndimage.gaussian_filter1d(total, BLUR_S * rate_hz)
  total = np.interp(np.arange(grid) * STEP_S, np.arange(len(acc)) / rate_hz, total)
  fine = scipy.signal.resample(np.concatenate(sizes), grid, axis=1)
  return total.astype(np.float32), fine.astype(np.complex64)


def _matched(acc, noise, beats, body, postures, amplitude, rate_hz):
  """Output of the matched filter at each place of the grid: of the signal, and of beats alone."""
  sos = scipy.signal.butter(6, HIGH_PASS_HZ, "highpass", fs=rate_hz, output="sos")
  acc, noise, beats = (scipy.signal.sosfiltfilt(sos, one, axis=0).T for one in (acc, noise, beats))
  _, _, spectrum = scipy.signal.stft(noise, rate_hz, **SPECTRUM)
  weights = np.ones((1, *AROUND)) / np.prod(AROUND)
  power = scipy.signal.convolve(np.abs(spectrum) ** 2, weights, mode="same") + 1e-12
  wave_s = np.arange(0, WAVE_S, STEP_S, dtype=np.float32)
  person = body.person
  waves = wrist.beat_wave(wave_s, person.beat_hz, person.beat_decay_s)
  grid = round(acc.shape[1] / rate_hz / STEP_S)
  owner = np.searchsorted(postures.start_s, np.arange(grid) * STEP_S, side="right") - 1
  owner = np.maximum(owner, 0)
  reach = 1e-3 * amplitude * postures.beat_mg[owner][:, None, None] * postures.beat_axes[owner]
  return tuple(_heard(one, power, waves, reach, rate_hz) for one in (acc, beats))


def _heard(signal, power, waves, reach, rate_hz):
  _, _, spectrum = scipy.signal.stft(signal, rate_hz, **SPECTRUM)
  _, white = scipy.signal.istft(spectrum / power, rate_hz, **SPECTRUM)
  fine = scipy.signal.resample(white[:, : signal.shape[1]], len(reach), axis=1)
  total = np.zeros(len(reach))
  for k, wave in enumerate(waves):
    full = scipy.signal.fftconvolve(fine, wave[None, ::-1], axes=1)[:, len(wave) - 1 :]
    total += np.einsum("ta,at->t", reach[:, k], full[:, : len(reach)])
  return total


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--people", type=int, default=2500)
  parser.add_argument("--amplitudes", default="1,2", help="times the known movement")
  parser.add_argument("--device", default="fine", choices=sorted(physiology.DEVICES))
  parser.add_argument("--observers", default="told,energies", help=f"of {', '.join(OBSERVERS)}")
  options = parser.parse_args()
  observers = tuple(options.observers.split(","))
  if unknown := sorted(set(observers) - set(OBSERVERS)):
    parser.error(f"unknown observers {', '.join(unknown)}; there are {', '.join(OBSERVERS)}")
  sys.stdout.write(
    f"| beat-locked movement, {options.device} sensor | windows | queries |"
    f" {' | '.join(f'{name}: top-1 of all, %' for name in observers)} |\n"
    f"| --- | --- | --- |{' --- |' * len(observers)}\n"
  )
  device = physiology.DEVICES[options.device]
  for amplitude in map(float, options.amplitudes.split(",")):
    one = functools.partial(listen, amplitude=amplitude, device=device, observers=observers)
    with multiprocessing.Pool() as pool:
      people = tqdm(pool.imap(one, range(options.people), chunksize=4), total=options.people)
      rows = [row for found in people for row in found]
    who, still = (np.array([row[name] for row in rows]) for name in ("who", "still"))
    first = [FIRST[name](rows) for name in observers]
    for label, part in (("all", np.ones(len(rows), bool)), ("still", still), ("other", ~still)):
      tops = [statistics.over_participants(100.0 * f[part], who[part].astype(str)) for f in first]
      cells = " | ".join(f"{top.value:.1f} ({top.lo:.1f} to {top.hi:.1f})" for top in tops)
      sys.stdout.write(
        f"| {amplitude:g} times the known one | {len(rows)} of {options.people} people |"
        f" {label}: {part.sum()} | {cells} |\n"
      )


def _by_scores(rows, name: str, *, normed: bool) -> np.ndarray:
  """[n] bool: the window's own beats score more than those of every other window.

  A likelihood counts beats by itself; where scores are none, sums are divided by the root of the
  number of beats.
  """
  scores = np.stack([row[name] for row in rows])
  trains = np.zeros(scores.shape, np.float32)
  for train, row in zip(trains, rows, strict=True):
    train[row["beats"]] = 1
    if normed:
      train /= np.sqrt(max(np.sum(train), 1.0))
  own = np.sum(scores * trains, axis=1)
  beaten = np.zeros(len(rows), bool)
  for start in range(0, len(rows), 1000):
    likelihood = scores @ trains[start : start + 1000].T
    candidates = np.arange(start, start + likelihood.shape[1])
    likelihood[candidates, candidates - start] = -np.inf  # itself
    beaten |= np.any(likelihood >= own[:, None], axis=1)
  return ~beaten


def _by_waveforms(rows) -> np.ndarray:
  """[n] bool: as `_by_scores`, of the power of what was added up at a candidate's beats.

  Less what each beat has by itself, over the number of beats: the mean over all pairs of beats of
  how alike they move the wrist, times the number of pairs' root.
  """
  heard = np.stack([row["waveforms"] for row in rows])
  scores = np.empty((len(rows), len(rows)))
  for k, row in enumerate(rows):
    at_beats = heard[:, :, row["beats"]]
    together = np.sum(np.abs(np.sum(at_beats, axis=2)) ** 2, axis=1)
    alone = np.sum(np.abs(at_beats) ** 2, axis=(1, 2))
    scores[:, k] = (together - alone) / max(len(row["beats"]), 1)
  own = np.diag(scores).copy()
  np.fill_diagonal(scores, -np.inf)
  return own > np.max(scores, axis=1)


FIRST = {
  "told": functools.partial(_by_scores, name="told", normed=False),
  "energies": functools.partial(_by_scores, name="energies", normed=True),
  "waveforms": _by_waveforms,
}


if __name__ == "__main__":
  main()
