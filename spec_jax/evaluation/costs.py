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
from jax.extend import core as extend_core
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import hosted

_STATIC = ("taps", "with_logits", "layers")
_LOOP = 8  # Forwards per sample.


@dataclasses.dataclass(frozen=True)
class RoundCost:
  """Isolated cost of one round.

  Attributes:
    target: seconds, the target's forward over the tree.
    draft: seconds, all draft forwards; where the drafter has no model that
      could be called alone, or calls it in a loop that may end early, its whole
      proposal.
    tree_tokens: N, tokens per target forward.
    draft_forwards: how many the program holds; a loop's body counts once.
  """

  target: float
  draft: float
  tree_tokens: int
  draft_forwards: int

  @property
  def total(self) -> float:
    return self.target + self.draft

  def as_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def predicted_speedup(block_efficiency: float, cost: RoundCost,
                      baseline: RoundCost) -> float:
  """`tau / (round cost / cost of one autoregressive token)`."""
  return block_efficiency * baseline.total / cost.total


@dataclasses.dataclass(frozen=True)
class Call:
  """One forward: static parts, and the shapes of the arrays."""

  model: Any
  static: tuple[tuple[str, Any], ...]
  structure: Any
  shapes: tuple[tuple[tuple[int, ...], str], ...]
  num_tokens: int

  def arrays(self) -> Any:
    """Some of these shapes."""
    return jax.tree.unflatten(self.structure, [
        jnp.ones(shape, bool) if dtype == "bool" else jnp.zeros(shape, dtype)
        for shape, dtype in self.shapes])

  def forward(self, params: Any, arrays: Any, zero: jax.Array | int = 0
              ) -> types.ModelOut:
    """The call once more; `zero` is added to the tokens."""
    (tokens, *args), kwargs = arrays
    return self.model.forward(
        params, tokens + zero, *args, **kwargs, **dict(self.static))


class _Recorder:
  """A model that notes its calls."""

  def __init__(self, model, calls):
    self._model, self._calls = model, calls

  def __getattr__(self, name):
    return getattr(self._model, name)

  def forward(self, params, tokens, *args, **kwargs):
    static = tuple(sorted((k, kwargs[k]) for k in _STATIC if k in kwargs))
    arrays = {k: v for k, v in kwargs.items() if k not in _STATIC}
    leaves, structure = jax.tree.flatten(((tokens,) + args, arrays))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    self._calls.append(Call(
        self._model, static, structure, shapes, tokens.shape[1]))
    return self._model.forward(params, tokens, *args, **kwargs)


def calls(system: system_lib.System, params: types.Params,
          state: types.DecodeState) -> tuple[list[Call], list[Call]]:
  """The forwards of one round: the target's and the draft's."""
  target, draft = [], []
  drafter = system.drafter
  if hasattr(drafter, "model"):
    drafter = dataclasses.replace(
        drafter, model=_Recorder(drafter.model, draft))
  traced = dataclasses.replace(
      system, target=_Recorder(system.target, target), drafter=drafter)
  state, draft_of_host = hosted.on_device(system, state)
  jax.eval_shape(lambda p, s: system_lib.step(traced, p, s, draft_of_host),
                 params, state)
  return target, draft


def _runs_a_model_in_a_loop(system, params, state) -> bool:
  """Whether a proposal holds a loop with matrix products in its body."""
  state, draft_of_host = hosted.on_device(system, state)
  program = jax.make_jaxpr(lambda params, state: system_lib.propose(
      system, params, state, draft_of_host))(params, state)
  bodies = [equation.params["body_jaxpr"].jaxpr
            for equation in _equations(program.jaxpr)
            if equation.primitive.name == "while"]
  return any(equation.primitive.name == "dot_general"
             for body in bodies for equation in _equations(body))


def _equations(program):
  """Those of a jaxpr and of all jaxprs inside."""
  for equation in program.eqns:
    yield equation
    for inner in extend_core.jaxprs_in_params(equation.params):
      yield from _equations(inner)


def _timed_call(call: Call, params):
  """A function without arguments that runs the call `_LOOP` times."""
  return _looped(call.forward, params, call.arrays())


def _timed_proposal(system, params, state):
  state, draft_of_host = hosted.on_device(system, state)

  def propose(params, state, zero):
    state = state.replace(length=state.length + zero)
    return system_lib.propose(system, params, state, draft_of_host)

  return _looped(propose, params, state)


def _looped(fn, *args):
  """`fn(*args, zero)`, where each `zero` waits for the call before."""

  @jax.jit
  def run(*args):
    def body(_, zero):
      # Tied to the call before: else what does not depend on `zero` would be
      # computed once for all of them.
      held, zero = jax.lax.optimization_barrier((args, zero))
      leaves = jax.tree.leaves(fn(*held, zero))
      # Nobody but us knows that this adds nothing. Numbers of both kinds: of
      # some proposals nothing but tokens is left.
      return sum((leaf.max() == _no_value(leaf.dtype)).astype(jnp.int32)
                 for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.number)
                 ) + zero
    return jax.lax.fori_loop(0, _LOOP, body, jnp.zeros((), jnp.int32))

  return lambda: jax.block_until_ready(run(*args))


def _no_value(dtype):
  """What no logit and no token ever is."""
  if jnp.issubdtype(dtype, jnp.floating):
    return jnp.inf
  return jnp.iinfo(dtype).max


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

  return _looped(forward, params, cache, tokens)


class Forwards:
  """The forwards of one round of each case, compiled, to be timed in turn.

  Samples may be spread over a longer measurement, so that forwards and decodes
  see the same weather on a busy machine.
  """

  def __init__(self, cases: Mapping[str, tuple[
      system_lib.System, types.Params, types.DecodeState]],
               timer: Callable[[], float] = time.perf_counter):
    """Compiles.

    Args:
      cases: a system, parameters and a state to start from, by name.
      timer: seconds. `time.process_time` counts processor seconds, all threads
        together: on a CPU that others use too, their noise stays out.
    """
    self._timer = timer
    self._calls, self._fns = {}, {}
    for name, (system, params, state) in cases.items():
      target, draft = calls(system, params, state)
      is_whole = bool(system.drafter.depth) and (
          not draft or _runs_a_model_in_a_loop(system, params, state))
      self._calls[name] = (target, draft, is_whole)
      for call in target:
        self._fns.setdefault(call, _timed_call(call, params.target))
      for call in draft if not is_whole else ():
        self._fns.setdefault(call, _timed_call(
            call, system_lib.draft_params(system.drafter, params)))
      if is_whole:
        self._fns[name] = _timed_proposal(system, params, state)
    for fn in self._fns.values():
      fn()
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
    return {name: _round_cost(name, *calls, seconds)
            for name, calls in self._calls.items()}


def _round_cost(name, target, draft, is_whole, seconds):
  return RoundCost(
      target=sum(seconds[call] for call in target),
      draft=seconds[name] if is_whole else sum(
          seconds[call] for call in draft),
      tree_tokens=target[-1].num_tokens, draft_forwards=len(draft))
