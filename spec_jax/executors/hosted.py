"""A Python loop over the two halves of a round, each compiled by itself.

The host sees the draft tree before it is verified and the text before the next
one is drawn: between the halves is where a host-side store can be asked, or a
debugger can look. One synchronisation with the device per round.
"""

import dataclasses
import functools

import jax

from spec_jax.core import counts as counts_lib
from spec_jax.core import system as system_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _propose(system, params, drafter, state):
  return system_lib.propose(system, params, state.replace(drafter=drafter))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3, 4))
def _verify(system, params, state, counts, drafter, tree):
  state, info = system_lib.verify(system, params, state, tree, drafter)
  return state, counts_lib.add(counts, info)


@dataclasses.dataclass(frozen=True)
class Hosted(fused.Fused):
  """As `fused.Fused`, but the loop over the rounds runs on the host.

  Same start, same halves, same text. Only for drafters that must talk to the
  host, and for looking inside: every round pays two dispatches.
  """

  def rounds(self, system, params, state, counts,
             max_rounds=decoding.UNLIMITED):
    """See `decoding.rounds`; state and counts are consumed."""
    done = 0
    while done < max_rounds and bool(state.is_running.any()):
      # The drafter's state travels alone, so that both halves can donate it.
      drafter, state = state.drafter, state.replace(drafter=None)
      tree, drafter = _propose(system, params, drafter, state)
      state, counts = _verify(system, params, state, counts, drafter, tree)
      done += 1
    return state, counts
