"""Drafts from every column of a text at once.

A drafter that reads its own guesses sees the text up to a column, and beyond it
only what it guessed from there. So the chain of column c attends to the pairs
of the text up to c and to its own steps: keys of later steps are visible on the
diagonal alone (EAGLE-3, Li et al. 2025, arXiv 2503.01840, Sec. 3.2, training-
time test). A target judges chains from every column in the same way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import feature_model


def shifted(array: jax.Array, by: int, width: int) -> jax.Array:
  """Columns `by`, `by + 1`, ... of `[B, T, ...]`, zeros behind the end."""
  missing = max(0, by + width - array.shape[1])
  pad = ((0, 0), (0, missing)) + ((0, 0),) * (array.ndim - 2)
  return jnp.pad(array, pad)[:, by:by + width]


def run(model: feature_model.FeatureModel, params: Any, tokens: jax.Array,
        features: jax.Array, num_steps: int,
        choose_fn: Callable[[int, types.ModelOut], jax.Array] | None = None,
        is_detached: bool = False) -> list[types.ModelOut]:
  """The net's forwards from every column, a list of steps.

  Column c starts with the pair (`features[:, c]`, `tokens[:, c + 1]`); step j
  reads the guess of step j - 1 at the same column and the token
  `tokens[:, c + 1 + j]`, or the one that was chosen.

  Args:
    model: the net.
    params: by part.
    tokens: `i32[B, T]`.
    features: `f[B, T, E]`, the target's, from `model.enter`.
    num_steps: n.
    choose_fn: `(step, out) -> i32[B, T - 1]`, the token that follows; None for
      that of the text (teacher forcing; 0 behind its end).
    is_detached: whether a step's guess is a constant to the next one.

  Returns:
    n outputs over T - 1 columns, column c of step j a guess of the feature of
    token c + 1 + j.
  """
  width = tokens.shape[1] - 1
  positions = jnp.arange(width, dtype=jnp.int32)[None]
  inputs, past, outs = features[:, :-1], None, []
  current = tokens[:, 1:]
  for step in range(num_steps):
    out = model.forward(
        params, current, inputs,
        jnp.broadcast_to(positions + step, current.shape),
        jnp.broadcast_to(seen(width, width, step, 0),
                         (tokens.shape[0], width, (step + 1) * width)),
        past=past, level=step or None)
    outs.append(out)
    past = out.fresh if past is None else past.then(out.fresh)
    inputs = jax.lax.stop_gradient(out.taps) if is_detached else out.taps
    current = shifted(tokens, step + 2, width) if choose_fn is None else (
        choose_fn(step, out))
  return outs


def seen(width: int, text: int, step: int, offset: int) -> jax.Array:
  """`bool[1, width, text + step * width]`: the text, then own steps.

  Args:
    width: columns.
    text: keys of the text.
    step: how many keys follow of each column, its own included.
    offset: column c sees the first `c + offset + 1` keys of the text.
  """
  columns = jnp.arange(width)
  before = columns[:, None] + offset >= jnp.arange(text)[None]
  own = jnp.tile(jnp.eye(width, dtype=bool), (1, step))
  return jnp.concatenate([before, own], axis=1)[None]


def accepted(model: feature_model.FeatureModel, params: Any,
             tokens: jax.Array, depth: int) -> jax.Array:
  """Which greedy drafts a target that decodes greedily would accept.

  As a round of decoding at temperature 0 with a chain of `depth` drafts says
  it for the prefixes of 2, 3, ... tokens of each text. A net that speaks for
  tokens ahead does so for as many as there may be.

  Args:
    model: the net.
    params: by part, the target's under "target".
    tokens: `i32[B, T]`.
    depth: D.

  Returns:
    `bool[B, T - 1, D]`, whether draft d was accepted, those before included.
  """
  own = params["target"]
  text = model.target.score(own, tokens, taps=model.taps)
  drafts = []

  def choose(step, out):
    del step
    drafts.append(best_tokens(model, params, out.logits))
    return drafts[-1]

  num_ahead = min(model.net.num_ahead, depth - model.net.num_serial)
  outs = run(model, params, tokens, model.enter(params, text.taps),
             depth - num_ahead, choose)
  if num_ahead:
    ahead = best_tokens(model, params, model.ahead(params, outs[-1].taps)[1])
    drafts += [ahead[:, :, place] for place in range(num_ahead)]
  return judged(model.target, own, text, drafts, 1)


def judged(target: contract.LinenModel, params: Any, text: types.ModelOut,
           drafts: list[jax.Array], offset: int) -> jax.Array:
  """Which drafts a target that decodes greedily would accept.

  Args:
    target: the model.
    params: its parameters.
    text: what it says of texts `i32[B, T]`.
    drafts: D times `i32[B, T - offset]`; those of column c follow the token
      `c + offset`.
    offset: 0 or more.

  Returns:
    `bool[B, T - offset, D]`, whether draft d was accepted, those before
    included.
  """
  wanted = jnp.argmax(text.logits[:, offset:], axis=-1)
  hits, past = [drafts[0] == wanted], text.fresh
  batch, width = wanted.shape
  positions = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None] + offset, (batch, width))
  for step in range(1, len(drafts)):
    mask = seen(width, text.logits.shape[1], step, offset)
    out = target.forward(
        params, drafts[step - 1], positions + step,
        jnp.broadcast_to(mask, (batch,) + mask.shape[1:]), past=past)
    past = past.then(out.fresh)
    hits.append(hits[-1] & (drafts[step] == jnp.argmax(out.logits, axis=-1)))
  return jnp.stack(hits, axis=-1)


def best_tokens(model: feature_model.FeatureModel, params: Any,
                logits: jax.Array) -> jax.Array:
  """The most likely tokens, `i32[...]`, of a net's logits `f32[..., Z]`."""
  ids = model.token_ids(params)
  best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return best if ids is None else ids[best]


def greedy(feed_fn: Callable[..., types.ModelOut], tokens: jax.Array,
           depth: int) -> list[jax.Array]:
  """Most likely drafts of a model that reads tokens alone.

  Args:
    feed_fn: `(tokens, positions, mask, past, step) -> types.ModelOut`, over T
      columns; step 0 is the text itself.
    tokens: `i32[B, T]`.
    depth: D.

  Returns:
    D times `i32[B, T]`; those of column c follow token c.
  """
  batch, width = tokens.shape
  positions = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None], (batch, width))
  current, past, drafts = tokens, None, []
  for step in range(depth):
    mask = seen(width, width, step, 0)
    out = feed_fn(current, positions + step, jnp.broadcast_to(
        mask, (batch,) + mask.shape[1:]), past, step)
    past = out.fresh if past is None else past.then(out.fresh)
    current = jnp.argmax(out.logits, axis=-1).astype(jnp.int32)
    drafts.append(current)
  return drafts


def evaluator(accepted_fn: Callable[[Any, Any, jax.Array], jax.Array],
              frozen: Any, windows: np.ndarray, batch: int = 8
              ) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics` on held-out windows.

  Args:
    accepted_fn: `(params, frozen, i32[B, T]) -> bool[B, W, D]`, whether the
      greedy chain of column w is accepted up to its d-th draft.
    frozen: what is not trained.
    windows: `u16[n, T]`.
    batch: windows at once.

  Returns:
    A function. Of its metrics "accept_d" is the share of prefixes at which a
    chain is accepted up to its d-th draft by a target that decodes greedily,
    "tokens_per_call" one more than their sum.
  """
  batch = min(batch, len(windows))
  judged = windows[:len(windows) // batch * batch].astype(np.int32)

  @jax.jit
  def measure(params, frozen, tokens):
    return accepted_fn(params, frozen, tokens).astype(
        jnp.float32).mean((0, 1))

  def evaluate(params):
    rates = np.mean([measure(params, frozen, part) for part in np.split(
        judged, len(judged) // batch)], axis=0)
    return {f"accept_{d + 1}": rate for d, rate in enumerate(rates)} | {
        "tokens_per_call": 1 + rates.sum()}

  return evaluate
