"""The whole decode on the device: one compilation, no host round trips."""

import dataclasses

import jax

from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import decoding

_start = jax.jit(decoding.start, static_argnums=(0, 5, 6))
_rounds = jax.jit(decoding.rounds, static_argnums=0, donate_argnums=(2, 3))


@dataclasses.dataclass(frozen=True)
class Fused:
  """Runs `lax.while_loop` over `core.system.step`, state donated.

  Attributes:
    chunk: prompt tokens per prefill pass.
  """

  chunk: int = 128

  def start(self, system, params, prompts, keys, max_new_tokens,
            capacity=None):
    """The state before the first round; see `decoding.start`."""
    capacity = decoding.capacity_for(prompts, max_new_tokens, capacity)
    # The prefill draws nothing: all temperatures share one compilation.
    return _start(system.with_sampling(sampling_lib.GREEDY), params, prompts,
                  keys, max_new_tokens, capacity, self.chunk)

  def rounds(self, system, params, state, counts,
             max_rounds=decoding.UNLIMITED):
    """See `decoding.rounds`; state and counts are consumed."""
    return _rounds(system, params, state, counts, max_rounds)

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
    return decoding.finish(state, counts, prompts.length)

  def stream(self, system, params, prompts, keys, max_new_tokens,
             capacity=None, rounds_per_yield=4):
    """As `run`, but yields a `Decoded` every few rounds; the last is whole."""
    state = self.start(system, params, prompts, keys, max_new_tokens, capacity)
    counts = decoding.zero_counts(system, prompts.tokens.shape[0])
    while True:
      state, counts = self.rounds(
          system, params, state, counts, rounds_per_yield)
      is_going = bool(state.is_running.any())
      # The next call donates the buffers, so the caller gets its own copy.
      yield jax.device_get(decoding.finish(state, counts, prompts.length))
      if not is_going:
        return
