"""A Python loop over the rounds, with a host half between two device halves.

For drafters whose store lives on the host (`needs.host_store`) one round is:
the host half drafts into arrays of fixed shape; one compiled program proposes,
verifies, commits, updates and says what the host half wants to know; the host
half hears what was emitted. Any other drafter runs too, its two halves compiled
apart, so that a debugger can look at the tree before it is verified. One
synchronisation with the device per round.
"""

import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import counts as counts_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import fused


@struct.dataclass
class Hosting:
  """A drafter's state in two halves; what `Hosted` keeps in its place.

  Attributes:
    device: the arrays.
    session: a `protocols.HostSession`; no part of any compilation.
  """

  device: Any
  session: Any = struct.field(pytree_node=False)


@struct.dataclass
class _Report:
  """What the host hears of a round."""

  running: jax.Array
  emitted: jax.Array  # i32[B, P]
  count: jax.Array
  asked: Any


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _propose(system, params, drafter, state):
  return system_lib.propose(system, params, state.replace(drafter=drafter))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3, 4))
def _verify(system, params, state, counts, drafter, tree):
  state, info = system_lib.verify(system, params, state, tree, drafter)
  return state, counts_lib.add(counts, info)


@functools.partial(jax.jit, static_argnums=0)
def _ask(system, params, state):
  return system.drafter.ask(
      params.drafter, state.drafter, system_lib.context(params, state))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def _round(system, params, state, counts, hosted):
  before = state.length
  state, info = system_lib.step(system, params, state, hosted)
  slots = before[:, None] + jnp.arange(system.drafter.depth + 1)[None]
  emitted = jnp.take_along_axis(
      state.tokens, jnp.minimum(slots, state.tokens.shape[1] - 1), axis=1)
  asked = system.drafter.ask(
      params.drafter, state.drafter, system_lib.context(params, state))
  report = _Report(state.is_running, emitted, info.emitted, asked)
  return state, counts_lib.add(counts, info), report


@dataclasses.dataclass(frozen=True)
class Hosted(fused.Fused):
  """As `fused.Fused`, but the loop over the rounds runs on the host.

  Same start, same step, same text. Temperatures are never deferred.
  """

  def start(self, system, params, prompts, keys, max_new_tokens,
            capacity=None):
    """See `decoding.start`; opens the host half's session."""
    state = self._start(
        system, params, prompts, keys, max_new_tokens, capacity)
    if not system.drafter.needs.host_store:
      return state
    return self._opened(system, state, state.drafter)

  def defers(self, system) -> bool:
    del system
    return False

  def reopened(self, system, state: types.DecodeState) -> types.DecodeState:
    """The same state with a session of its own.

    Both may be decoded, and neither session hears of the other's text. To the
    new one all text so far is prompt.

    Args:
      system: with a store on the host.
      state: from `start` or `rounds`.
    """
    return self._opened(system, state, state.drafter.device)

  def _opened(self, system, state, device):
    owner = "store", system.target, system.drafter
    if owner not in self.memory:
      self.memory[owner] = system.drafter.open_store()
    tokens, length = np.asarray(state.tokens), np.asarray(state.length)
    session = system.drafter.open_session(
        self.memory[owner], [row[:size] for row, size in zip(tokens, length)])
    return state.replace(drafter=Hosting(device, session))

  def rounds(self, system, params, state, counts,
             max_rounds=decoding.UNLIMITED):
    """See `decoding.rounds`; state and counts are consumed."""
    params = self.recall(system, params)
    loop = _hosted_rounds if system.drafter.needs.host_store else _rounds
    return loop(system, params, state, counts, max_rounds)

  def finish(self, system, params, state, counts, prompts):
    """See `Fused.finish`; closes the session."""
    if system.drafter.needs.host_store:
      state.drafter.session.close()
      state = state.replace(drafter=state.drafter.device)
    return super().finish(system, params, state, counts, prompts)


def _rounds(system, params, state, counts, max_rounds):
  done = 0
  while done < max_rounds and bool(state.is_running.any()):
    # The drafter's state travels alone, so that both halves can donate it.
    drafter, state = state.drafter, state.replace(drafter=None)
    tree, drafter = _propose(system, params, drafter, state)
    state, counts = _verify(system, params, state, counts, drafter, tree)
    done += 1
  return state, counts


def _hosted_rounds(system, params, state, counts, max_rounds):
  session, state = state.drafter.session, state.replace(
      drafter=state.drafter.device)
  running, asked = jax.device_get(
      (state.is_running, _ask(system, params, state)))
  done = 0
  while done < max_rounds and running.any():
    hosted = session.draft(asked, running)
    state, counts, report = _round(system, params, state, counts, hosted)
    report = jax.device_get(report)
    for row in np.flatnonzero(report.count):
      session.extend(row, report.emitted[row, :report.count[row]])
    running, asked = report.running, report.asked
    done += 1
  return state.replace(drafter=Hosting(state.drafter, session)), counts


def on_device(system: system_lib.System, state: types.DecodeState
              ) -> tuple[types.DecodeState, types.HostDraft | None]:
  """A state without its host half, and a host draft without nodes.

  Together with `core.system.step` that is a round to trace or to time; `state`
  may be abstract.
  """
  if not system.drafter.needs.host_store:
    return state, None
  if isinstance(state.drafter, Hosting):
    state = state.replace(drafter=state.drafter.device)
  shape = state.length.shape[0], system.drafter.num_hosted
  return state, types.HostDraft(
      jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32),
      jnp.zeros(shape, bool), jnp.zeros(shape[:1], jnp.float32))


def executor_for(system: system_lib.System, **options: Any) -> fused.Fused:
  """A new executor, with these attributes, that can run the system."""
  make = Hosted if system.drafter.needs.host_store else fused.Fused
  return make(**options)
