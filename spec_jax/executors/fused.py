"""The whole decode on the device: one compilation, no host round trips."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import decoding

_start = jax.jit(decoding.start, static_argnums=(0, 5, 6))
_rounds = jax.jit(decoding.rounds, static_argnums=0, donate_argnums=(2, 3))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(3, 4))
def _rounds_at(system, temperature, params, state, counts, max_rounds):
  """As `_rounds`; the temperature of `system` itself plays no part."""
  system = system.with_sampling(
      sampling_lib.Deferred(system.sampling, temperature))
  return decoding.rounds(system, params, state, counts, max_rounds)


@dataclasses.dataclass(frozen=True)
class Fused:
  """Runs `lax.while_loop` over `core.system.step`, state donated.

  Attributes:
    chunk: prompt tokens per prefill pass.
    memory: what drafters with `needs.memory` learned from the requests of this
      executor, by target and drafter; a new executor knows nothing. It decides
      how fast later requests are, never what they say.
    defers_temperature: whether systems that can (`core.system.can_defer`) take
      the temperature as data: one compilation for all temperatures.
  """

  chunk: int = 128
  memory: dict[Any, Any] = dataclasses.field(
      default_factory=dict, compare=False, repr=False)
  defers_temperature: bool = False

  def start(self, system, params, prompts, keys, max_new_tokens,
            capacity=None):
    """The state before the first round; see `decoding.start`.

    Raises:
      IncompatibleParts: the drafter needs the host, which this executor has
        not.
    """
    decoding.check_on_device(system, self)
    return self._start(system, params, prompts, keys, max_new_tokens, capacity)

  def _start(self, system, params, prompts, keys, max_new_tokens, capacity):
    capacity = decoding.capacity_for(prompts, max_new_tokens, capacity)
    # The prefill draws nothing: all temperatures share one compilation.
    return _start(system.with_sampling(sampling_lib.GREEDY),
                  self.recall(system, params), prompts, keys, max_new_tokens,
                  capacity, self.chunk)

  def defers(self, system) -> bool:
    """Whether what decodes the system is compiled for all temperatures."""
    return self.defers_temperature and system_lib.can_defer(system)

  def rounds(self, system, params, state, counts,
             max_rounds=decoding.UNLIMITED):
    """See `decoding.rounds`; state and counts are consumed."""
    params = self.recall(system, params)
    if not self.defers(system):
      return _rounds(system, params, state, counts, max_rounds)
    temperature = jnp.float32(system.sampling.temperature)
    one = dataclasses.replace(system.sampling, temperature=1.0)
    return _rounds_at(system.with_sampling(one), temperature, params, state,
                      counts, max_rounds)

  def finish(self, system, params, state, counts, prompts
             ) -> decoding.Decoded:
    """The result; a drafter that learns across requests keeps what it did."""
    if hasattr(system.drafter, "remember"):
      params = self.recall(system, params)
      self.memory[_owner(system)] = system.drafter.remember(
          params.drafter, state.drafter)
    return decoding.finish(state, counts, prompts.length)

  def recall(self, system, params) -> types.Params:
    """The parameters with what the drafter learned from earlier requests."""
    if not hasattr(system.drafter, "remember"):
      return params
    learned = self.memory.setdefault(
        _owner(system), system.drafter.unlearned(params.drafter))
    return params.replace(drafter=learned)

  def run(self, system, params, prompts, keys, max_new_tokens,
          capacity=None) -> decoding.Decoded:
    """Decodes a batch to the end.

    Args:
      system: static.
      params: `types.Params`.
      prompts: `decoding.Prompts`.
      keys: `key[B]`.
      max_new_tokens: budget per row, an int or `i32[B]`.
      capacity: cache slots; default: what the batch needs, rounded up.
    """
    state = self.start(system, params, prompts, keys, max_new_tokens, capacity)
    counts = decoding.zero_counts(system, prompts.tokens.shape[0])
    state, counts = self.rounds(system, params, state, counts)
    return self.finish(system, params, state, counts, prompts)

  def stream(self, system, params, prompts, keys, max_new_tokens,
             capacity=None, rounds_per_yield=4):
    """As `run`, but yields a `Decoded` every few rounds; the last is whole."""
    state = self.start(system, params, prompts, keys, max_new_tokens, capacity)
    counts = decoding.zero_counts(system, prompts.tokens.shape[0])
    while True:
      state, counts = self.rounds(
          system, params, state, counts, rounds_per_yield)
      is_going = bool(state.is_running.any())
      so_far = (decoding.finish(state, counts, prompts.length) if is_going else
                self.finish(system, params, state, counts, prompts))
      # The next call donates the buffers, so the caller gets its own copy.
      yield jax.device_get(so_far)
      if not is_going:
        return


def _owner(system):
  """Whose memory it is: the same drafter may serve several targets."""
  return system.target, system.drafter
