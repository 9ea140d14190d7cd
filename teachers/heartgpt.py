"""HeartGPT's PPG-PT (Davies et al. 2024, github.com/harryjdavies/HeartGPT): 10 s at 50 Hz -> 64.

A small causal transformer that was trained to predict the next of 500 samples, each one of 101
levels between the window's minimum and maximum. It has no pooled output of its own: "mean" over
time of the last hidden states is the default; "mean_sd" adds their spread, "block_sd" is the spread
of every block's output, which carries heart rate best on the wrist, and "last" is the last state.
The original expects filtered windows and names no filter; the band here is the one of that check.

The eight heads of a block are separate matrices in the checkpoint and one matrix here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.errors import DistillError
from distill.nn.layers import masked_mean
from distill.nn.pieces import PieceEncoder, PieceNet
from distill.nn.torch_layout import EXACT, LayerNorm, Linear
from distill.published import Family, Tensors, count
from distill.spec import SignalSpec

SPEC = SignalSpec(
  modality="ppg",
  rate_hz=50.0,
  window_s=10.0,
  channels=("green",),
  unit="au",
  band_hz=(0.5, 8.0),
  normalisation="none",
)
OUTPUTS = ("mean", "mean_sd", "block_sd", "last")
QUERIES = 125  # attended in one step
LEVELS = 100  # the highest level; the vocabulary has one entry more than there are levels


class Attention(nnx.Module):
  """Causal self-attention; scaled by the width of the model, not of a head, as the original is."""

  def __init__(self, width: int, heads: int, head_width: int):
    self.shape = (3, heads, head_width)
    self.qkv = Linear(width, 3 * heads * head_width, bias=False)
    self.proj = Linear(heads * head_width, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    batch, time, width = x.shape
    heads = jnp.moveaxis(self.qkv(x).reshape(batch, time, *self.shape), 1, 3)
    query, key, value = jnp.moveaxis(heads, 1, 0)
    query = query * width**-0.5
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    parts = []
    for start in range(0, time, QUERIES):  # in steps, so that most of what is masked is never made
      stop = start + QUERIES
      parts.append(_attend(query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop]))
    mixed = jnp.moveaxis(jnp.concatenate(parts, axis=2), 1, 2)
    return self.proj(mixed.reshape(batch, time, -1))


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Causal attention of the last queries [batch, heads, n, width] over all keys before them.

  The last channel of `value` is one, so that the product with the weights carries their sum: one
  pass over the scores less than normalising first.
  """
  scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, precision=EXACT)
  causal = jnp.tril(jnp.ones(scores.shape[2:], bool), key.shape[2] - query.shape[2])
  scores = jnp.where(causal[None, None], scores, -jnp.inf)
  weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  mixed = jnp.matmul(weights, value, precision=EXACT)
  return mixed[..., :-1] / mixed[..., -1:]


class Block(nnx.Module):
  """Pre-norm block with a ReLU layer of its own width."""

  def __init__(self, width: int, heads: int, head_width: int, hidden: int):
    self.ln1, self.ln2 = LayerNorm(width), LayerNorm(width)
    self.sa = Attention(width, heads, head_width)
    self.ffwd_in, self.ffwd_out = Linear(width, hidden), Linear(hidden, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x + self.sa(self.ln1(x))
    return x + self.ffwd_out(jax.nn.relu(self.ffwd_in(self.ln2(x))))


def tokenise(piece: jax.Array, mask: jax.Array) -> jax.Array:
  """Levels 0 ... 100 between the smallest and largest observed sample, rounded half to even.

  [batch, time, 1] -> [batch, time] int32. Missing samples take the level of zero, the middle of a
  band-passed signal; a constant piece is all level 0.
  """
  value, seen = piece[:, :, 0], mask[:, :, 0]
  low = jnp.min(jnp.where(seen, value, jnp.inf), axis=1, keepdims=True)
  high = jnp.max(jnp.where(seen, value, -jnp.inf), axis=1, keepdims=True)
  flat = ~(high > low)
  share = (value - jnp.where(flat, 0.0, low)) / jnp.where(flat, 1.0, high - low)
  level = jnp.clip(jnp.round(share * LEVELS), 0, LEVELS)
  return jnp.where(flat, 0.0, level).astype(jnp.int32)


class HeartGPT(PieceNet):
  """Tokens, blocks and a pooling over the observed samples."""

  def __init__(
    self, vocabulary: int, positions: int, width: int, blocks: int, heads: int, head_width: int,
    hidden: int, output: str,
  ):  # fmt: skip
    self.token_embedding_table = nnx.Param(jnp.zeros((vocabulary, width)))
    self.position_embedding_table = nnx.Param(jnp.zeros((positions, width)))
    self.blocks = nnx.List([Block(width, heads, head_width, hidden) for _ in range(blocks)])
    self.ln_f = LayerNorm(width)
    self.output = output
    self.dim = width * {"mean": 1, "last": 1, "mean_sd": 2, "block_sd": blocks}[output]

  def states(self, tokens: jax.Array) -> list[jax.Array]:
    """[batch, time] int32 -> each block's output and the normed last, [batch, time, width]."""
    positions = self.position_embedding_table[...][: tokens.shape[1]]
    states = [self.token_embedding_table[...][tokens] + positions[None]]
    for block in self.blocks:
      states.append(block(states[-1]))
    return [*states[1:], self.ln_f(states[-1])]

  def __call__(self, piece: jax.Array, mask: jax.Array) -> jax.Array:
    *blocks, final = self.states(tokenise(piece, mask))
    seen = mask[:, :, 0]
    if self.output == "last":
      return final[:, -1]
    if self.output == "block_sd":
      return jnp.concatenate([_spread(state, seen) for state in blocks], axis=1)
    mean = masked_mean(final, seen)
    if self.output == "mean":
      return mean
    return jnp.concatenate([mean, _spread(final, seen)], axis=1)


def _spread(states: jax.Array, seen: jax.Array) -> jax.Array:
  centred = states - masked_mean(states, seen)[:, None, :]
  return jnp.sqrt(masked_mean(jnp.square(centred), seen))


def build(
  *,
  vocabulary: int,
  positions: int,
  width: int,
  blocks: int,
  heads: int,
  head_width: int,
  hidden: int,
  window_s: float | None = None,
  output: str = "mean",
) -> PieceEncoder:
  """An empty encoder, to be filled with weights.

  Args:
    vocabulary: entries of the token table.
    positions: entries of the position table; no piece can be longer.
    width: of the states.
    blocks: number of them.
    heads: of the attention.
    head_width: of one head.
    hidden: width inside a block's feed-forward layer.
    window_s: see `distill.published.load`.
    output: one of `OUTPUTS`.

  Raises:
    DistillError: fewer positions than a piece has samples, or fewer entries than levels.
  """
  if positions < SPEC.samples or vocabulary <= LEVELS:
    raise DistillError(
      f"this HeartGPT checkpoint has {positions} positions and {vocabulary} levels; PPG-PT needs"
      f" {SPEC.samples} and at least {LEVELS + 1}"
    )
  net = HeartGPT(vocabulary, positions, width, blocks, heads, head_width, hidden, output)
  return PieceEncoder(SPEC, net, window_s=window_s)


def convert(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Arguments of `build`, and the heads' matrices stacked to one for each block."""
  vocabulary, width = tensors["token_embedding_table.weight"].shape
  arguments = {
    "vocabulary": vocabulary,
    "positions": len(tensors["position_embedding_table.weight"]),
    "width": width,
    "blocks": count(tensors, r"blocks\.(\d+)\."),
    "heads": count(tensors, r"blocks\.0\.sa\.heads\.(\d+)\."),
    "head_width": len(tensors["blocks.0.sa.heads.0.key.weight"]),
    "hidden": len(tensors["blocks.0.ffwd.net.0.weight"]),
  }
  left = dict(tensors)
  renamed = {}
  for block in range(arguments["blocks"]):
    heads = [f"blocks.{block}.sa.heads.{h}." for h in range(arguments["heads"])]
    parts = [left.pop(f"{h}{part}.weight") for part in ("query", "key", "value") for h in heads]
    renamed[f"blocks.{block}.sa.qkv.weight"] = np.concatenate(parts)
  for name, tensor in left.items():
    short = name.replace(".net.0.", "_in.").replace(".net.2.", "_out.")
    renamed[short.replace("_table.weight", "_table")] = tensor
  return arguments, renamed


FAMILIES = (
  Family(
    name="heartgpt",
    build="teachers.heartgpt:build",
    spec=SPEC,
    convert=convert,
    dropped=(r".*\.tril", r"lm_head\..*"),  # causal masks; the predictor of the next sample
    outputs=OUTPUTS,
    embedding="64 (mean), 128 (mean_sd), 512 (block_sd)",
    licence="MIT",
    commercial="yes",
    weights="github.com/harryjdavies/HeartGPT, Model_files/PPGPT_500k_iters.zip",
    reference="github.com/harryjdavies/HeartGPT",
  ),
)
