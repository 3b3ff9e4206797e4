"""How close to the optimum a system's acceptance is, try by try.

A try is a position at which drafts stood. The audit decodes round by round
and keeps, for each try, the drafts, the law that drew them, as the drafter
itself gave it, and the target's law, by teacher forcing over the emitted text.
Given the text so far a try succeeds with at most the optimal probability, so
the measured acceptance is at most the mean optimum, up to sampling noise.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import compiling
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.evaluation import workload as workload_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused

# `(p[n, V], q[n, V], drafts i32[n, K], draw) -> f[n]`, or None without formula;
# q is None where drafts were not drawn at random.
OptimumFn = Callable[
    [np.ndarray, np.ndarray | None, np.ndarray, str], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Audit:
  """Acceptance beside what would have been possible.

  Attributes:
    tries: positions at which drafts stood.
    acceptance: share of tries whose drafts held the emitted token.
    optimum: mean of the best possible probability; None without a formula.
    standard_error: of `acceptance - optimum`, tries taken as independent.
  """

  tries: int
  acceptance: float
  optimum: float | None
  standard_error: float | None

  @property
  def gap(self) -> float | None:
    return None if self.optimum is None else self.optimum - self.acceptance

  def as_dict(self) -> dict[str, float | int | None]:
    return dataclasses.asdict(self) | {"gap": self.gap}


@struct.dataclass
class _Tries:
  """One round: a slot per depth, `[B, D]`.

  Of K drafts (`i32[B, D, K]`) the first `num_drafts` are there; `q` is
  `f[B, D, V]` or None.
  """

  is_try: jax.Array
  is_hit: jax.Array
  num_drafts: jax.Array
  position: jax.Array
  drafts: jax.Array
  q: jax.Array | None
  draw: str = struct.field(pytree_node=False)


@functools.partial(
    jax.jit, static_argnums=(0, 1), compiler_options=compiling.ONCE)
def _propose(drafter, sampling, params, state):
  """The tree of a round; one program for all rules that judge it."""
  tree, _ = drafter.propose(
      params.drafter, state.drafter, system_lib.context(params, state),
      sampling)
  return tree


@functools.partial(jax.jit, compiler_options=compiling.ONCE)
def _follow(tree, length, new_tokens, new_length):
  """What stood at each depth of the path that a round took."""
  position = length[:, None] + jnp.arange(tree.depth)[None]
  emitted = jnp.take_along_axis(
      new_tokens, jnp.minimum(position, new_tokens.shape[1] - 1), axis=1)
  tries = jax.vmap(_row_tries)(tree, emitted, new_length - length)
  return tries.replace(position=position)


def _row_tries(tree, emitted, count):
  """Follows the emitted tokens down the tree of one row."""
  node, alive = jnp.zeros((), jnp.int32), jnp.ones((), bool)
  columns = []
  for depth in range(tree.depth):
    nodes, exists = tree_lib.children(
        tree.parents, tree.valid, node, tree.max_children)
    drafts = tree.tokens[nodes]
    hit = exists & (drafts == emitted[depth])
    is_try = alive & exists.any() & (depth < count)
    columns.append(_Tries(
        is_try, is_try & hit.any(), exists.sum(), jnp.zeros((), jnp.int32),
        drafts, None if tree.q is None else tree.q[node], tree.draw))
    alive = is_try & hit.any()
    node = jnp.where(alive, nodes[jnp.argmax(hit)], node)
  return jax.tree.map(lambda *fields: jnp.stack(fields), *columns)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _target_laws(model, sampling, params, tokens):
  """`f[L, V]`: row t is the law of token t + 1 of `i32[L]`."""
  logits = model.score(params, tokens[None]).logits[0]
  seen = None
  if sampling.needs_seen:
    once = jax.nn.one_hot(tokens, logits.shape[-1], dtype=jnp.int32)
    seen = jnp.cumsum(once, axis=0) > 0
  return sampling.probs(logits, seen)


def audit(system: system_lib.System, params: types.Params,
          work: workload_lib.Workload, optimum_fn: OptimumFn,
          executor: fused.Fused | None = None) -> Audit | None:
  """Audits the first turns of a workload.

  Args:
    system: any; without drafts there is nothing to audit.
    params: its parameters.
    work: what to decode.
    optimum_fn: the best acceptance, given p, q, the drafts and how they were
      drawn; this package does not judge itself.
    executor: decodes, by default a `Fused()`; what its drafters learned from
      other requests plays no part.

  Returns:
    None if nothing was drafted, or with the noise of the emitting draw.
  """
  executor = executor or fused.Fused()
  hits, optima = [], []
  for prompts, keys in workload_lib.first_turns(work):
    state, tries = _decode(
        executor, system, params, prompts, keys, work.max_new_tokens)
    if tries is None:
      return None
    for row in range(prompts.tokens.shape[0]):
      hit, optimum = _score(system, params, state, tries, row, optimum_fn)
      hits.append(hit)
      optima.append(optimum)
  hits = np.concatenate(hits)
  if not hits.size:
    return None
  if any(optimum is None for optimum in optima):
    return Audit(hits.size, float(hits.mean()), None, None)
  optima = np.concatenate(optima)
  noise = np.sqrt((optima * (1 - optima)).clip(0).sum()) / hits.size
  return Audit(hits.size, float(hits.mean()), float(optima.mean()),
               float(noise))


def _decode(executor, system, params, prompts, keys, max_new_tokens):
  """The last state and the tries of every round, as NumPy arrays.

  The tries are None without drafts, and where these share the emitting draw's
  noise. Rounds are those of the program that decodes, one at a time; the drafts
  are proposed once more beside it, with the keys of their positions and so the
  same.
  """
  executor = dataclasses.replace(executor, memory={})
  state = executor.start(system, params, prompts, keys, max_new_tokens)
  drafts = _propose.eval_shape(system.drafter, system.sampling, params, state)
  if not drafts.depth or drafts.draw == "coupled":
    return state, None
  tries, counts = [], decoding.zero_counts(system, prompts.tokens.shape[0])
  while bool(state.is_running.any()):
    tree = _propose(system.drafter, system.sampling, params, state)
    length = jnp.copy(state.length)  # The round consumes the state.
    state, counts = executor.rounds(system, params, state, counts, 1)
    tries.append(jax.device_get(
        _follow(tree, length, state.tokens, state.length)))
  return state, tries


def _score(system, params, state, tries, row, optimum_fn):
  """Hits `bool[n]` and optima `f[n]` (or None) of one row."""
  pick = lambda field: np.concatenate(
      [getattr(t, field)[row][t.is_try[row]] for t in tries])
  hits = pick("is_hit")
  if not hits.size:
    return hits, np.zeros(0)
  count, drafts, draw = pick("num_drafts"), pick("drafts"), tries[0].draw
  q = None if tries[0].q is None else pick("q")
  p = np.asarray(_target_laws(
      system.target, system.sampling, params.target, state.tokens[row]))
  p = p[pick("position") - 1]
  optima = np.zeros(hits.size)
  for size in np.unique(count):
    at = count == size
    found = optimum_fn(
        p[at], None if q is None else q[at], drafts[at, :size], draw)
    if found is None:
      return hits, None
    optima[at] = found
  return hits, optima
