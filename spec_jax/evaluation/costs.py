"""What the forward passes of a round cost, each timed on its own.

A round is traced once with models that write down every call; the calls are
then compiled and timed in isolation, so the prediction `tau / (cost of a
round / cost of a token)` knows nothing of the executor it is compared with.
Each is timed in a short loop on the device: a dispatch from Python costs as
much as a small model's forward, and a decode pays it once, not every round.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.evaluation import ahead
from spec_jax.evaluation import calls as calls_lib
from spec_jax.executors import hosted

_LOOP = 8  # Forwards per sample.


@dataclasses.dataclass(frozen=True)
class RoundCost:
  """Isolated cost of one round.

  Attributes:
    target: seconds, the target's forward over the tree.
    draft: seconds, all draft forwards; where the drafter has no model that
      could be called alone, or calls it in a loop on the device, its whole
      proposal.
    tree_tokens: N, tokens per target forward.
    draft_forwards: how many the program holds; a loop's body counts once.
    in_turn: seconds, all of them one after the other, see `in_turn`; None where
      that was not timed.
  """

  target: float
  draft: float
  tree_tokens: int
  draft_forwards: int
  in_turn: float | None = None

  @property
  def total(self) -> float:
    return self.target + self.draft

  def as_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def predicted_speedup(block_efficiency: float, cost: RoundCost,
                      baseline: RoundCost) -> float:
  """`tau / (round cost / cost of one autoregressive token)`."""
  return block_efficiency * baseline.total / cost.total


def predicted_in_turn(block_efficiency: float, cost: RoundCost,
                      baseline: RoundCost) -> float | None:
  """The same from forwards in turn; None where they were not timed so."""
  if cost.in_turn is None or baseline.in_turn is None:
    return None
  return block_efficiency * baseline.in_turn / cost.in_turn


# A function of `(*args, zero)`, where `zero` goes into its inputs, and `args`.
_Piece = tuple[Callable[..., Any], tuple[Any, ...]]


def _of_call(call: calls_lib.Call, params) -> _Piece:
  return call.forward, (params, call.arrays())


def _of_proposal(system, params, state) -> _Piece:
  state, draft_of_host = hosted.on_device(system, state)

  def propose(params, state, zero):
    state = state.replace(length=state.length + zero)
    return system_lib.propose(system, params, state, draft_of_host)

  return propose, (params, state)


def _looped(*pieces: _Piece) -> Callable[[], Any]:
  """Runs the pieces in turn, `_LOOP` times, each waiting for the one before."""
  fns, every_args = zip(*pieces)

  @jax.jit
  def run(every_args):
    def body(_, zero):
      for fn, args in zip(fns, every_args):
        # Tied to the call before: else what does not depend on `zero` would be
        # computed once for all of them.
        held, zero = jax.lax.optimization_barrier((args, zero))
        zero = zero + nothing(fn(*held, zero))
      return zero
    return jax.lax.fori_loop(0, _LOOP, body, jnp.zeros((), jnp.int32))

  return lambda: jax.block_until_ready(run(every_args))


def nothing(result: Any) -> jax.Array:
  """Zero, which the compiler cannot know without the whole result."""
  total = jnp.zeros((), jnp.int32)
  for leaf in jax.tree.leaves(result):
    # What no logit and no token ever is. Numbers of both kinds: of some
    # proposals nothing but tokens is left.
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      total += (leaf.max() == jnp.inf).astype(jnp.int32)
    elif jnp.issubdtype(leaf.dtype, jnp.integer):
      total += (leaf.max() == jnp.iinfo(leaf.dtype).max).astype(jnp.int32)
  return total


def in_turn(system: system_lib.System, params: types.Params,
            state: types.DecodeState,
            timer: Callable[[], float] = time.perf_counter
            ) -> Callable[[], float]:
  """Seconds of a round's forwards, one after the other as a round runs them.

  More than the sum of forwards timed alone where the weights of both models do
  not fit a cache together: each then finds its own driven out by the other.

  Args:
    system: of the round.
    params: of the system.
    state: to start from.
    timer: see `Forwards`.

  Returns:
    a function to call as often as samples are wanted, already compiled.
  """
  _, pieces = _pieces(system, params, state)
  run = _looped(*(piece for _, piece in pieces))
  run()

  def timed():
    begin = timer()
    run()
    return (timer() - begin) / _LOOP
  return timed


def _pieces(system, params, state):
  """The calls of a round, and what is timed.

  Pieces come in the order of a round, each behind its call, or behind None if
  it is the whole proposal.
  """
  found = calls_lib.of_round(system, params, state)
  # A drafter may have no forwards that could be timed one by one.
  is_whole = bool(system.drafter.depth) and (
      not found.draft or found.drafts_in_a_loop)
  if is_whole:
    proposal = [(None, _of_proposal(system, params, state))]
  else:
    own = (system_lib.draft_params(system.drafter, params) if found.draft
           else None)
    proposal = [(call, _of_call(call, own)) for call in found.draft]
  checks = [(call, _of_call(call, params.target)) for call in found.target]
  return found, proposal + checks


def grid(model: Any, params: Any, sizes: Sequence[tuple[int, int]],
         prefix: int, repeats: int = 5,
         timer: Callable[[], float] = time.perf_counter
         ) -> dict[tuple[int, int], float]:
  """Seconds of a forward by batch and number of fresh tokens, sizes in turn.

  Args:
    model: target or draft.
    params: of the model.
    sizes: pairs of batch and tokens per row.
    prefix: cached tokens of each row; the cache has no more room.
    repeats: samples of each size; medians are returned.
    timer: see `Forwards`.
  """
  fns = {size: _timed_size(model, params, *size, prefix) for size in sizes}
  for fn in fns.values():
    fn()
  samples = {size: [] for size in fns}
  for _ in range(repeats):
    for size, fn in fns.items():
      begin = timer()
      fn()
      samples[size].append((timer() - begin) / _LOOP)
  return {size: float(np.median(values)) for size, values in samples.items()}


def _timed_size(model, params, batch, num_tokens, prefix):
  cache = dense.empty(model, batch, prefix)
  cache = cache.replace(length=jnp.full((batch,), prefix, jnp.int32))
  tokens = jnp.zeros((batch, num_tokens), jnp.int32)
  positions = jnp.broadcast_to(
      prefix + jnp.arange(num_tokens, dtype=jnp.int32), tokens.shape)
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((num_tokens,) * 2, bool)),
                          (batch, num_tokens, num_tokens))

  def forward(params, cache, tokens, zero):
    return model.forward(params, tokens + zero, positions, mask, cache).logits

  return _looped((forward, (params, cache, tokens)))


class Forwards:
  """The forwards of one round of each case, compiled, to be timed in turn.

  Samples may be spread over a longer measurement, so that forwards and decodes
  see the same weather on a busy machine.
  """

  def __init__(self, cases: Mapping[str, tuple[
      system_lib.System, types.Params, types.DecodeState]],
               timer: Callable[[], float] = time.perf_counter,
               with_in_turn: bool = False):
    """Compiles.

    Args:
      cases: a system, parameters and a state to start from, by name.
      timer: seconds. `time.process_time` counts processor seconds, all threads
        together: on a CPU that others use too, their noise stays out.
      with_in_turn: whether all forwards of a case are also timed in turn; one
        more program for each case that has several.
    """
    self._timer, self._with_in_turn = timer, with_in_turn
    self._calls, self._fns = {}, {}
    for name, (system, params, state) in cases.items():
      self._calls[name], pieces = _pieces(system, params, state)
      for call, piece in pieces:
        self._fns.setdefault(name if call is None else call, _looped(piece))
      if with_in_turn and len(pieces) > 1:
        self._fns[name, "in turn"] = _looped(*(piece for _, piece in pieces))
    ahead.together(list(self._fns.values()))
    self._samples = {key: [] for key in self._fns}

  def sample(self, repeats: int = 3) -> None:
    """Times every forward `repeats` times, all of them in turn."""
    for _ in range(repeats):
      for key, fn in self._fns.items():
        begin = self._timer()
        fn()
        self._samples[key].append((self._timer() - begin) / _LOOP)

  def take(self) -> dict[str, RoundCost]:
    """Costs by case: medians of the samples since the last call.

    Raises:
      ValueError: if there were none.
    """
    if not all(self._samples.values()):
      raise ValueError("no samples were taken, expected sample() before.")
    seconds = {key: float(np.median(values))
               for key, values in self._samples.items()}
    self._samples = {key: [] for key in self._fns}
    return {name: self._round_cost(name, seconds) for name in self._calls}

  def _round_cost(self, name, seconds):
    cost = _cost_alone(name, self._calls[name], seconds)
    if not self._with_in_turn:
      return cost
    # What is one forward has no other to wait for.
    return dataclasses.replace(
        cost, in_turn=seconds.get((name, "in turn"), cost.total))


def _cost_alone(name, called, seconds):
  is_whole = name in seconds
  return RoundCost(
      target=sum(seconds[call] for call in called.target),
      draft=seconds[name] if is_whole else sum(
          seconds[call] for call in called.draft),
      tree_tokens=called.target[-1].num_tokens,
      draft_forwards=len(called.draft))
