"""CLaSp: a dynamic programme picks the layers to skip after a verification.

Chen et al. 2025, arXiv:2505.24196, Sec. 3.3 (dynamic programme) and Algorithm 1
-> `skip_layers`; Sec. 3.4 (sequence parallelism) -> `_keep_states`; Sec. 3.5
(lower optimisation frequency) -> `interval`. The hidden states of the last
accepted token, saved from its verification, are the goal; M layers are left out
so that what remains tracks them by cosine. Departures: none known; the paper
types its objective as a minimum of the cosine, which must be a maximum, and
does not say what is skipped before the first verification (here: evenly spread
layers) nor the unit of the interval (here: rounds).
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import registry
from spec_jax.drafters import self_draft
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="CLaSp: In-Context Layer Skip for Self-Speculative Decoding",
    authors="Chen et al.", year=2025, arxiv="2505.24196", venue="ACL 2025")


@struct.dataclass
class ClaspState:
  """What the programme needs of the last verification.

  Attributes:
    skipped: `bool[B, M]`, layers that are left out.
    hidden: `f[B, M + 1, E]`, residual stream of the last accepted token before
      each layer, and after the last.
    rounds: `i32[B]`, verifications so far.
  """

  skipped: jax.Array
  hidden: jax.Array
  rounds: jax.Array


@dataclasses.dataclass(frozen=True)
class InContextSkip:
  """Skips `num_skipped` whole layers, chosen anew every `interval` rounds.

  Attributes:
    num_skipped: layers (the paper: 40 to 60 percent of them).
    depth: drafts at most.
    threshold: confidence at which drafting stops.
    interval: rounds between two runs of the programme.
  """

  num_skipped: int
  depth: int
  threshold: float = 0.7
  interval: int = 1

  def taps(self, model):
    return tuple(range(model.config.num_layers + 1))

  def init(self, model, batch):
    c = model.config
    skipped = np.zeros((c.num_layers,), bool)
    spread = np.linspace(0, c.num_layers - 1, self.num_skipped + 2)[1:-1]
    skipped[np.round(spread).astype(int)] = True
    return ClaspState(
        jnp.broadcast_to(jnp.asarray(skipped)[None], (batch, c.num_layers)),
        jnp.zeros((batch, c.num_layers + 1, c.d_model), model.dtype),
        jnp.zeros((batch,), jnp.int32))

  def choose(self, model, params, state, ctx, start):
    due = (state.rounds > 0) & ((state.rounds - 1) % self.interval == 0)
    if not self.num_skipped:
      return state

    def renew(state):
      chosen, _ = skip_layers(
          model, params, state.hidden, ctx.target_cache.truncate(
              ctx.length - 2), self.num_skipped)
      return state.replace(
          skipped=jnp.where(due[:, None], chosen, state.skipped))

    return jax.lax.cond(due.any(), renew, lambda state: state, state)

  def plan(self, model, state):
    batch = state.rounds.shape[0]
    gates = jnp.broadcast_to(
        ~state.skipped[:, :, None], state.skipped.shape + (2,))
    return self_draft.Plan(
        gates, jnp.full((batch,), self.depth, jnp.int32),
        jnp.full((batch,), self.threshold, jnp.float32))

  def update(self, model, params, state, plan, outcome):
    verdict = outcome.verdict
    node = jnp.take_along_axis(
        verdict.path, jnp.maximum(verdict.count - 1, 0)[:, None], axis=1)
    hidden = jnp.stack(
        [outcome.out.taps[layer] for layer in self.taps(model)], axis=2)
    last = jnp.take_along_axis(hidden, node[:, :, None, None], axis=1)[:, 0]
    learnt = verdict.count > 0
    return state.replace(
        hidden=jnp.where(learnt[:, None, None], last, state.hidden),
        rounds=state.rounds + learnt.astype(jnp.int32))


def skip_layers(model, params, hidden, cache, num_skipped
                ) -> tuple[jax.Array, jax.Array]:
  """The layers whose absence changes the last state's direction least.

  With g(i, j) the best state after i layers of which j were skipped, g(i, j) is
  the layer's output of g(i - 1, j) or g(i - 1, j - 1) itself, whichever has the
  larger cosine with the whole model's state after i layers. Greedy in the
  state, so not always the optimum.

  Args:
    model: a `contract.LinenModel`.
    params: its parameters.
    hidden: `f[B, M + 1, E]`, states of one token, see `ClaspState`.
    cache: committed tokens before that token.
    num_skipped: layers to skip, below the number of layers.

  Returns:
    `bool[B, M]` and the cosine `f32[B]` of the state that is left.
  """
  num_layers = hidden.shape[1] - 1
  ways = jnp.arange(num_skipped + 1)
  states = jnp.broadcast_to(
      hidden[:, :1], (hidden.shape[0], num_skipped + 1, hidden.shape[2]))
  choices = []
  for layer in range(num_layers):
    kept = _keep_states(model, params, layer, states, cache)
    passed = jnp.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    goal = hidden[:, layer + 1, None]
    impossible = jnp.float32(-2)
    keep_score = jnp.where(ways <= layer, _cosine(kept, goal), impossible)
    skip_score = jnp.where((ways >= 1) & (ways <= layer + 1),
                           _cosine(passed, goal), impossible)
    is_skip = skip_score > keep_score
    states = jnp.where(is_skip[:, :, None], passed, kept)
    choices.append(is_skip)
  left = jnp.full((hidden.shape[0],), num_skipped, jnp.int32)
  skipped = []
  for is_skip in reversed(choices):
    here = jnp.take_along_axis(is_skip, left[:, None], axis=1)[:, 0]
    skipped.append(here)
    left -= here.astype(jnp.int32)
  cosine = _cosine(states[:, -1:], hidden[:, -1:])[:, 0]
  return jnp.stack(skipped[::-1], axis=1), cosine


def _keep_states(model, params, layer, states, cache):
  """Runs one layer on all states, each as if it were the next token alone."""
  batch, ways, _ = states.shape
  itself = jnp.broadcast_to(jnp.eye(ways, dtype=bool)[None],
                            (batch, ways, ways))
  positions = jnp.broadcast_to(cache.length[:, None], (batch, ways))
  return model.run_layer(params, layer, states, positions, itself, cache)


def _cosine(a, b):
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
  return (a * b).sum(-1) / jnp.maximum(norms, 1e-20)


@registration.register("clasp", papers=(PAPER,), family="self_speculative",
                       drafter="target")
def clasp(parts: registration.Parts, *, depth: int = 10,
          num_skipped: int | None = None, threshold: float = 0.7,
          interval: int = 1):
  """Self-speculation; a dynamic programme skips layers in context."""
  layers = parts.target.config.num_layers
  if num_skipped is None:
    num_skipped = layers // 2
  if not 0 <= num_skipped < layers:
    raise ValueError(
        f"num_skipped={num_skipped}, expected 0 to {layers - 1} of the"
        f" model's {layers} layers.")
  if interval < 1:
    raise ValueError(f"interval={interval} rounds, expected at least 1.")
  drafter = self_draft.SelfDrafter(
      parts.target, InContextSkip(num_skipped, depth, threshold, interval),
      depth)
  return registration.compose("clasp", parts, drafter, recursive.Rejection())
