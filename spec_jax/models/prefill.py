"""Feeds text into a cache, chunk by chunk; bounds the fresh keys and values."""

from typing import Any

import jax
import jax.numpy as jnp


def absorb(model, params: Any, cache: Any, tokens: jax.Array,
           count: jax.Array) -> Any:
  """Commits the first `count` (`i32[B]`) of `tokens` (`i32[B, T]`)."""
  return read(model, params, cache, tokens, count)[0]


def read(model, params: Any, cache: Any, tokens: jax.Array, count: jax.Array,
         taps: tuple[Any, ...] = ()) -> tuple[Any, dict[Any, jax.Array]]:
  """As `absorb`, and gives the features `[B, T, E]` of the tokens, by tap.

  Those at or beyond a row's `count` are of padding and mean nothing.
  """
  batch, num_tokens = tokens.shape
  slots = jnp.arange(num_tokens)
  positions = cache.length[:, None] + slots[None]
  is_text = slots[None] < count[:, None]
  causal = slots[:, None] >= slots[None, :]
  mask = causal[None] & is_text[:, None, :]
  out = model.forward(params, tokens, positions, mask, cache,
                      taps=taps, with_logits=False)
  path = jnp.broadcast_to(slots[None], (batch, num_tokens))
  return cache.commit(out.fresh, path, count), out.taps
