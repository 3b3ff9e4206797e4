"""Decodes round by round, so that a test can look between."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import compiling
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.verifiers import matching

CAPACITY = 64


class Round(NamedTuple):
  """One round, on the host.

  Attributes:
    before: the state.
    proposed: the drafter's state after it drafted.
    tree: the drafts.
    outcome: what the target said.
    after: the state.
  """

  before: types.DecodeState
  proposed: Any
  tree: types.DraftTree
  outcome: types.Outcome
  after: types.DecodeState

  def emitted(self, row: int) -> list[int]:
    start, stop = self.before.length[row], self.after.length[row]
    return self.after.tokens[row, start:stop].tolist()

  def text(self, row: int) -> list[int]:
    """The committed text before the round."""
    return self.before.tokens[row, :self.before.length[row]].tolist()


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _round(system, params, state):
  tree, drafter = system_lib.propose(system, params, state)
  after, outcome = system_lib.judge(system, params, state, tree, drafter)
  return drafter, tree, outcome, after


_start = jax.jit(decoding.start, static_argnums=(0, 5))


@functools.partial(jax.jit, static_argnums=0, compiler_options=compiling.ONCE)
def propose_from_text(drafter, state, ctx):
  """What a drafter without parameters and noise drafts, and its state."""
  return drafter.propose(None, state, ctx, None)


def compose(drafter, target, sampling=sampling_lib.GREEDY, end_of_text=None):
  """A system around one drafter, verified by matching."""
  parts = registration.Parts(target, {}, end_of_text)
  return registration.compose(
      "tested", parts, drafter, matching.SampleAndMatch()
      ).with_sampling(sampling)


def play(system, params, prompts, budget, num_rounds=None):
  """Yields rounds until every row has stopped, or `num_rounds` are done."""
  batch = prompts.tokens.shape[0]
  state = _start(system, params, prompts, keys_lib.row_keys(0, batch),
                 jnp.full((batch,), budget, jnp.int32), CAPACITY)
  done = 0
  while bool(state.is_running.any()) and done != num_rounds:
    drafter, tree, outcome, after = _round(system, params, state)
    yield Round(*jax.device_get((_plain(state), drafter, tree, outcome,
                                 _plain(after))))
    state, done = after, done + 1


def _plain(state):
  return state.replace(keys=jax.random.key_data(state.keys), cache=None)


@dataclasses.dataclass(frozen=True)
class TableModel:
  """A target whose logits are a table row of the last token: a bigram model.

  Its parameters are the table `f32[V, V]`.
  """

  vocab_size: int
  dtype = jnp.dtype(jnp.float32)
  config = SimpleNamespace(
      num_layers=1, num_kv_heads=1, head_dim=1, max_positions=4096)

  def forward(self, params, tokens, positions, mask, cache=None, *, past=None,
              embeds=None, taps=(), gates=None, with_logits=True):
    zeros = jnp.zeros((tokens.shape[0], 1, tokens.shape[1], 1), self.dtype)
    fresh = types.FreshKV((zeros,), (zeros,), positions)
    features = {tap: jax.nn.one_hot(tokens, self.vocab_size) for tap in taps}
    return types.ModelOut(params[tokens], fresh, features)


def cycle(vocab_size, period=None) -> np.ndarray:
  """A table in which token t is followed by t + 1, after `period` by 0."""
  period = period or vocab_size
  rng = np.random.default_rng(0)
  table = rng.normal(size=(vocab_size, vocab_size)).astype(np.float32)
  tokens = np.arange(vocab_size)
  table[tokens, np.where(tokens + 1 < period, tokens + 1, 0)] += 20
  return table


def prompts_of(texts) -> decoding.Prompts:
  """Token lists as a batch."""
  tokens = np.zeros((len(texts), max(map(len, texts))), np.int32)
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  return decoding.Prompts(jnp.asarray(tokens), jnp.asarray(
      [len(text) for text in texts], jnp.int32))
