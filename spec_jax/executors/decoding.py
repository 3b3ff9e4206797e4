"""Start, rounds and result of a decode: what every executor is made of."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import counts as counts_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.models import prefill as prefill_lib

# Slots are handed out in multiples of this, so that prompts of similar length
# share a compilation.
_BUCKET = 64
# More rounds than any decode has: each emits a token into `i32` positions.
UNLIMITED = 2 ** 31 - 1


@struct.dataclass
class Prompts:
  """A ragged batch of prompts.

  Attributes:
    tokens: `i32[B, L0]`, right-padded.
    length: `i32[B]`, at least 1.
  """

  tokens: jax.Array
  length: jax.Array


@struct.dataclass
class Decoded:
  """The result of a decode.

  Attributes:
    tokens: `i32[B, L]`, prompt and emitted text.
    length: `i32[B]`.
    prompt_length: `i32[B]`.
    status: `i32[B]`, a `types.Status`.
    counts: sums over rounds.
  """

  tokens: jax.Array
  length: jax.Array
  prompt_length: jax.Array
  status: jax.Array
  counts: counts_lib.Counts


def check_on_device(system: system_lib.System, executor) -> None:
  """Raises `IncompatibleParts` for a drafter with a half on the host."""
  if system.drafter.needs.host_store:
    raise system_lib.IncompatibleParts(
        f"drafter {system.drafter!r} talks to a store on the host between the"
        f" rounds, executor {executor!r} runs whole decodes on the device; use"
        " executors.hosted.Hosted().")


def capacity_for(prompts: Prompts, max_new_tokens,
                 capacity: int | None = None) -> int:
  """Cache slots for a batch: as asked for, or enough, rounded up.

  Raises:
    ValueError: too few were asked for; text would be lost without a word.
  """
  needed = prompts.tokens.shape[1] + int(np.max(max_new_tokens))
  if capacity is None:
    return -(-needed // _BUCKET) * _BUCKET
  if capacity < needed:
    raise ValueError(
        f"capacity={capacity} slots, expected at least {needed}: prompts of"
        f" width {prompts.tokens.shape[1]} and their new tokens.")
  return capacity


def start(system: system_lib.System, params: types.Params, prompts: Prompts,
          keys: jax.Array, max_new_tokens, capacity: int, chunk: int = 128
          ) -> types.DecodeState:
  """Prefills all but each prompt's last token, which becomes the root.

  Args:
    system: static.
    params: of target and drafter.
    prompts: each at most `capacity` tokens with its new tokens.
    keys: `key[B]`, see `core.keys`.
    max_new_tokens: budget per row, an int or `i32[B]`.
    capacity: cache slots, static.
    chunk: prompt tokens per forward pass, static; bounds the memory of the
      prefill.
  """
  batch, width = prompts.tokens.shape
  chunk = min(chunk, width)
  num_chunks = -(-width // chunk)
  text = jnp.pad(prompts.tokens, ((0, 0), (0, num_chunks * chunk - width)))

  def feed(i, carry):
    cache, drafter = carry
    tokens = jax.lax.dynamic_slice_in_dim(text, i * chunk, chunk, axis=1)
    count = jnp.clip(prompts.length - 1 - i * chunk, 0, chunk)
    wanted = system.drafter.needs.taps
    cache, taps = prefill_lib.read(
        system.target, params.target, cache, tokens, count, wanted)
    return cache, system.drafter.prefill(
        params.drafter, drafter, tokens, count, *((taps,) if wanted else ()))

  # Without the barrier XLA knows that the caches are zero and folds the first
  # chunk's attention over them at compile time, slowly.
  empty = jax.lax.optimization_barrier((
      system.make_cache(system.target, batch, capacity),
      system.drafter.init(params.drafter, batch, capacity)))
  cache, drafter = jax.lax.fori_loop(0, num_chunks, feed, empty)
  tokens = jnp.pad(prompts.tokens, ((0, 0), (0, capacity - width)))
  is_text = jnp.arange(capacity)[None] < prompts.length[:, None]
  limit = prompts.length + jnp.asarray(max_new_tokens, jnp.int32)
  status = jnp.where(limit > prompts.length, types.Status.RUNNING,
                     types.Status.BUDGET)
  init_verifier = getattr(system.verifier, "init_state", lambda batch: ())
  return types.DecodeState(
      keys=keys, tokens=jnp.where(is_text, tokens, 0), length=prompts.length,
      limit=limit, status=status.astype(jnp.int32), cache=cache,
      drafter=drafter, verifier=init_verifier(batch))


def rounds(system: system_lib.System, params: types.Params,
           state: types.DecodeState, counts: counts_lib.Counts,
           max_rounds: int | jax.Array = UNLIMITED
           ) -> tuple[types.DecodeState, counts_lib.Counts]:
  """Steps until every row has stopped, or `max_rounds` are done."""

  def is_going(carry):
    state, _, done = carry
    return state.is_running.any() & (done < max_rounds)

  def body(carry):
    state, counts, done = carry
    state, info = system_lib.step(system, params, state)
    return state, counts_lib.add(counts, info), done + 1

  state, counts, _ = jax.lax.while_loop(
      is_going, body, (state, counts, jnp.zeros((), jnp.int32)))
  return state, counts


def zero_counts(system: system_lib.System, batch: int) -> counts_lib.Counts:
  return counts_lib.zero(batch, system.drafter.depth)


def finish(state: types.DecodeState, counts: counts_lib.Counts,
           prompt_length: jax.Array) -> Decoded:
  return Decoded(state.tokens, state.length, prompt_length, state.status,
                 counts)


def emitted(decoded: Decoded) -> list[list[int]]:
  """The emitted ids of each row, the prompt left out."""
  tokens = np.asarray(decoded.tokens)
  bounds = zip(np.asarray(decoded.prompt_length), np.asarray(decoded.length))
  return [tokens[i, start:stop].tolist()
          for i, (start, stop) in enumerate(bounds)]


def decode(system: system_lib.System, params: types.Params, prompts: Prompts,
           keys: jax.Array, max_new_tokens, capacity: int) -> Decoded:
  """A whole decode as one pure function; what pmap and shard_map map."""
  state = start(system, params, prompts, keys, max_new_tokens, capacity)
  counts = zero_counts(system, prompts.tokens.shape[0])
  state, counts = rounds(system, params, state, counts)
  return finish(state, counts, prompts.length)
