"""Whole days with gaps: AIM against the same encoder trained without it; `distill day`.

Both encoders are pretrained on the same days of training people without labels. The rival is a
masked autoencoder that knows no missing data: what was not observed is filled with the mean, which
is zero, and counts as observed. Probes on the frozen embeddings are fitted on days as they were
worn and scored on unseen people with the night or a sensor removed; the decoder's infilling is
compared with the mean, with interpolation and with the nearest days of training people.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from distill import config as configs
from distill import fold_training, probes, registry, report, signals, statistics, workdir
from distill.aim import AIM
from distill.config import ConfigDict
from distill.data import day, splits
from distill.data.day import Days
from distill.embeddings import PARTS, EmbeddingTable
from distill.errors import DistillError
from distill.nn.encoder import Forward, PatchTransformer
from distill.objectives import MaskedAutoencoding
from distill.spec import DAY, DAY_CHANNELS, DAY_SPEC
from distill.train import fit

Path = pathlib.Path
Parts = Mapping[str, Days]
RESULT = "day.json"
BATCH = 16
NEIGHBOURS = 5
# What is hidden to be filled in, each with its share; those of AIM.
INFILL = {"random": 0.8, "temporal": 0.5, "channel": 0.5}
PLAIN_RATIO = 0.8  # of the rival, the usual one of masked autoencoding


def run(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
  """Simulates the cohort, pretrains both encoders, and judges them.

  Args:
    config: its `student` section builds the encoder of days, `pretrain` says how it is pretrained,
      `day` describes the cohort.
    folder: work folder; gets aim/, plain/ and day.json.

  Returns:
    What day.json holds: {people, simulated, observed, tokens, probes, infill}.

  Raises:
    DistillError: an encoder of other signals, or an objective other than AIM.
  """
  with workdir.claimed(config, folder) as place:
    cohort = day.simulate(config.day.participants, config.day.seed)
    split = splits.assign(cohort.participant.tolist()).split(config.folds[0])
    of = split.part_of(cohort.participant)
    parts = {part: cohort.where(of == part) for part in PARTS}
    aim = _trained(config, place / "aim", _aim(config), parts)
    plain = _trained(config, place / "plain", _plain(config), _filled(parts))
    found = {
      "people": {part: len(some.participant) for part, some in parts.items()},
      "simulated": True,
      "observed": float(cohort.mask.mean()),
      "tokens": aim.encoder.stem.tokens,
      "probes": {
        "aim": _probe(aim.encoder, parts, fill=False),
        "plain": _probe(plain.encoder, parts, fill=True),
      },
      "infill": _infill(aim, parts, config.seed),
    }
    (place / RESULT).write_text(report.to_json(report.plain(found)))
  return found


# --- pretraining ----------------------------------------------------------------------------------


def _encoder(config: ConfigDict) -> PatchTransformer:
  build = registry.resolve(config.student.build, key="student.build")
  encoder = build(seed=config.seed, **configs.build_arguments(config.student))
  if encoder.spec != DAY_SPEC:
    raise DistillError(
      f"config.student builds an encoder of {encoder.spec.modality} windows; distill day needs one"
      " of whole days, such as students.day:build"
    )
  return encoder


def _aim(config: ConfigDict) -> AIM:
  section = config.pretrain.objective
  build = registry.resolve(section.build, key="pretrain.objective.build")
  objective = build(
    _encoder(config), rngs=nnx.Rngs(config.seed + 1), **configs.build_arguments(section)
  )
  if not isinstance(objective, AIM):
    raise DistillError(f"distill day compares AIM with its rival; {section.build} is not AIM")
  return objective


def _plain(config: ConfigDict) -> MaskedAutoencoding:
  section = config.pretrain.objective
  sizes = {name: section[name] for name in ("width", "depth", "heads")}
  rngs = nnx.Rngs(config.seed + 1)
  return MaskedAutoencoding(_encoder(config), mask_ratio=PLAIN_RATIO, rngs=rngs, **sizes)


def _trained(config: ConfigDict, place: Path, objective, parts: Parts):
  train = parts["train"]

  def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
    for k in range(start, config.pretrain.steps):
      rng = np.random.default_rng([config.seed, k])
      size = config.pretrain.batch_size
      yield _batch(train.where(rng.choice(len(train.values), size, size > len(train.values))))

  held = _batch(parts["validation"].where(np.arange(min(64, len(parts["validation"].values)))))
  return fit(
    objective,
    batches,
    fold_training.validation(held),
    workdir=place,
    settings=config.pretrain,
    seed=config.seed,
    identity={
      "config": configs.identity(config),
      "role": place.name,
      "devices": jax.device_count(),
    },
    label=f"{place.name} on days",
  )


def _batch(days: Days) -> dict[str, np.ndarray]:
  return {DAY: np.where(days.mask, days.values, 0), DAY + "_mask": days.mask}


def _filled(parts: Parts) -> Parts:
  """Every day complete, the mean in place of what was not observed."""
  return {part: _with_mask(some, fill=True) for part, some in parts.items()}


def _with_mask(days: Days, *, fill: bool) -> Days:
  values = np.where(days.mask, days.values, np.float32(0))
  mask = np.ones_like(days.mask) if fill else days.mask
  return Days(values, mask, days.participant, days.hypertension, days.bmi)


# --- probes ---------------------------------------------------------------------------------------


def without(days: Days, what: str) -> Days:
  """The days with "night" or the channels of a sensor removed; "" removes nothing."""
  mask = days.mask.copy()
  if what == "night":
    mask[:, slice(*day.NIGHT)] = False
  elif what:
    mask[:, :, day.columns_of(what)] = False
  return Days(days.values, mask, days.participant, days.hypertension, days.bmi)


def _probe(encoder: PatchTransformer, parts: Parts, *, fill: bool) -> dict[str, Any]:
  """What is removed ("" for nothing) -> scores of both probes on test people."""
  forward = Forward(encoder, batch_size=BATCH)

  def table(days: Days) -> EmbeddingTable:
    ready = _with_mask(days, fill=fill)
    columns = {name: getattr(days, name) for name in ("participant", "hypertension", "bmi")}
    return EmbeddingTable(forward(ready.values, ready.mask), columns)

  train, validation = table(parts["train"]), table(parts["validation"])
  classes = probes.fit_classes(train, validation, "hypertension")
  ridge = probes.fit(train, validation, "bmi")
  found = {}
  for what in ("", "night", *DAY_CHANNELS):
    test = table(without(parts["test"], what))
    chances = classes.probabilities(test.embedding)
    label = probes.score_classes(
      test["hypertension"], chances, classes.classes, test["participant"]
    )
    number = probes.score(
      test["bmi"], ridge.predict(test.embedding), test["participant"], target="bmi"
    )
    found[what or "nothing"] = {
      "hypertension": {name: label[name] for name in ("auc_pooled", "f1_pooled", "accuracy")},
      "bmi": {name: number[name] for name in ("mae", "r", "r2")},
    }
  return found


# --- infilling ------------------------------------------------------------------------------------


def _infill(aim: AIM, parts: Parts, seed: int) -> dict[str, Any]:
  """Kind of gap -> method -> mean squared error of what was hidden, over participants."""
  test, found = parts["test"], {}
  for kind, share in INFILL.items():
    hidden = _hidden(aim.encoder, len(test.values), kind, share, seed)
    seen = test.mask & ~hidden
    scored = test.mask & hidden
    guesses = {
      "aim": _by_aim(aim, test, hidden),
      "mean": np.broadcast_to(_means(parts["train"]), test.values.shape),
      "linear": _by_line(test, seen, parts["train"]),
      "neighbours": _by_neighbours(test, seen, parts["train"]),
    }
    errors = {name: _error(guess, test.values, scored) for name, guess in guesses.items()}
    found[kind] = {
      name: {
        "mse": statistics.over_participants(error, test.participant).to_json(),
        "aim_minus_this": statistics.paired_difference(
          errors["aim"], error, test.participant
        ).to_json(),
      }
      for name, error in errors.items()
    }
  return found


def _hidden(encoder: PatchTransformer, people: int, kind: str, share: float, seed: int):
  """[people, minutes, channels] bool, whole tokens, True where hidden."""
  lanes = encoder.stem.lanes
  times = encoder.stem.tokens // lanes
  rng = np.random.default_rng([seed, list(INFILL).index(kind)])
  shape = {"random": (people, times, lanes), "temporal": (people, times, 1)}
  draw = rng.random(shape.get(kind, (people, 1, lanes)))
  flat = draw.reshape(people, -1)
  rank = flat.argsort(axis=1).argsort(axis=1)
  hidden = (rank < round(share * flat.shape[1])).reshape(draw.shape)
  return np.repeat(np.broadcast_to(hidden, (people, times, lanes)), encoder.stem.patch, axis=1)


def _by_aim(aim: AIM, days: Days, hidden: np.ndarray) -> np.ndarray:
  stem = aim.encoder.stem
  graphdef, state = nnx.split(aim)

  @jax.jit
  def infill(state, values, mask, hidden):
    tokens = stem.patches(hidden).all(axis=2)
    return nnx.merge(graphdef, state).infill(values, mask, tokens)

  out = []
  for start in range(0, len(days.values), BATCH):
    some = [one[start : start + BATCH] for one in (*_batch(days).values(), hidden)]
    pad = [(0, BATCH - len(some[0])), (0, 0), (0, 0)]
    tokens = np.asarray(infill(state, *(np.pad(one, pad) for one in some)))[: len(some[0])]
    out.append(np.moveaxis(tokens.reshape(len(tokens), stem.lanes, -1), 1, 2))
  return np.concatenate(out)


def _means(train: Days) -> np.ndarray:
  """[minutes, channels] over the training people who were observed."""
  count = np.maximum(train.mask.sum(axis=0), 1)
  return np.where(train.mask, train.values, 0).sum(axis=0) / count


def _by_line(days: Days, seen: np.ndarray, train: Days) -> np.ndarray:
  """Between the neighbours of each channel; the mean where nothing of a channel was seen."""
  lines = signals.fill_gaps(days.values, seen)
  return np.where(seen.any(axis=1, keepdims=True), lines, _means(train)[None])


def _by_neighbours(days: Days, seen: np.ndarray, train: Days) -> np.ndarray:
  """Mean of the training days nearest in what both saw; the mean of all where they saw nothing."""
  query = np.where(seen, days.values, 0).reshape(len(seen), -1).astype(np.float32)
  known = np.where(train.mask, train.values, 0).reshape(len(train.values), -1).astype(np.float32)
  a, b = seen.reshape(len(seen), -1).astype(np.float32), train.mask.reshape(len(known), -1)
  b = b.astype(np.float32)
  apart = query**2 @ b.T - 2 * query @ known.T + a @ (known**2).T
  distance = apart / np.maximum(a @ b.T, 1.0) + np.where(a @ b.T < 1, np.inf, 0.0)
  out = np.empty(days.values.shape, np.float32)
  for i, nearest in enumerate(np.argsort(distance, axis=1)[:, :NEIGHBOURS]):
    mask = train.mask[nearest]
    total = np.where(mask, train.values[nearest], 0).sum(axis=0)
    out[i] = np.where(mask.any(axis=0), total / np.maximum(mask.sum(axis=0), 1), _means(train))
  return out


def _error(guess: np.ndarray, true: np.ndarray, scored: np.ndarray) -> np.ndarray:
  """[people] mean squared error over the scored samples; NaN where there are none."""
  count = scored.sum(axis=(1, 2))
  total = np.where(scored, (guess - true) ** 2, 0.0).sum(axis=(1, 2))
  return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def table(found: Mapping[str, Any]) -> str:
  """Probes and infilling as text."""
  people = found["people"]
  lines = [
    f"simulated days: {people['test']} unseen people, {100 * found['observed']:.0f} % observed,"
    f" {found['tokens']} tokens",
    f"{'removed':12} {'hypertension AUC':>24} {'body mass r':>20}",
    f"{'':12} {'AIM':>12}{'without':>12} {'AIM':>10}{'without':>10}",
  ]
  aim, plain = found["probes"]["aim"], found["probes"]["plain"]
  for what in aim:
    auc = (some[what]["hypertension"]["auc_pooled"] for some in (aim, plain))
    r = (some[what]["bmi"]["r"] for some in (aim, plain))
    lines.append(
      f"{what:12} " + "".join(f"{v:12.3f}" for v in auc) + " " + "".join(f"{v:10.3f}" for v in r)
    )
  lines.append(
    f"{'infill, MSE':12} " + "".join(f"{name:>12}" for name in found["infill"]["random"])
  )
  for kind, methods in found["infill"].items():
    lines.append(
      f"{kind:12} " + "".join(f"{one['mse']['value']:12.3f}" for one in methods.values())
    )
  return "\n".join(lines)
