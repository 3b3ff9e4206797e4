"""Rounds, timed as an executor runs them, and what the host does in them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import fused

_ROUNDS = 8


class Rounds:
  """Seconds of a round, as the executor runs some of them.

  Every call starts from the same state. What a store on the host learned in
  one call it knows in the next, as from one request to the next.

  Attributes:
    host: seconds of a round in which the host drafted ("draft") and heard what
      was emitted ("update"), of the last call; empty if the drafter has no half
      on the host.
  """

  def __init__(self, timer: Callable[[], float], system: system_lib.System,
               params: types.Params, state: types.DecodeState,
               executor: fused.Fused):
    """Compiles nothing yet.

    Args:
      timer: see `costs.Forwards`.
      system: of the rounds.
      params: of the system.
      state: to start from.
      executor: that made the state.
    """
    self._timer, self._executor = timer, executor
    self._system, self._params, self._state = system, params, state
    self.host = {}

  def __call__(self) -> float:
    counts = decoding.zero_counts(self._system, self._state.tokens.shape[0])
    # The executor consumes what it is given.
    fresh, counts = jax.block_until_ready(
        (jax.tree.map(jnp.copy, self._state), counts))
    fresh, seconds = self._watched(fresh)
    begin = self._timer()
    _, counts = jax.block_until_ready(self._executor.rounds(
        self._system, self._params, fresh, counts, _ROUNDS))
    whole = self._timer() - begin
    num_rounds = max(1, int(np.asarray(counts.target_calls).max()))
    self.host = {stage: s / num_rounds for stage, s in seconds.items()}
    return whole / num_rounds

  def _watched(self, state):
    if not self._system.drafter.needs.host_store:
      return state, {}
    state = self._executor.reopened(self._system, state)
    session = _Watched(state.drafter.session, self._timer)
    return state.replace(
        drafter=state.drafter.replace(session=session)), session.seconds


class _Watched:
  """A `protocols.HostSession` that says how long it took."""

  def __init__(self, session, timer):
    self._session, self._timer = session, timer
    self.seconds = {"draft": 0.0, "update": 0.0}

  def draft(self, asked, running):
    return self._timed("draft", self._session.draft, asked, running)

  def extend(self, row, tokens):
    self._timed("update", self._session.extend, row, tokens)

  def close(self):
    self._session.close()

  def _timed(self, stage, fn, *args):
    begin = self._timer()
    result = fn(*args)
    self.seconds[stage] += self._timer() - begin
    return result
