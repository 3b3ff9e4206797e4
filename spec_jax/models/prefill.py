"""Feeds text into a cache, chunk by chunk; bounds the fresh keys and values."""

from typing import Any

import jax
import jax.numpy as jnp


def absorb(model, params: Any, cache: Any, tokens: jax.Array,
           count: jax.Array) -> Any:
  """Commits the first `count` (`i32[B]`) of `tokens` (`i32[B, T]`)."""
  batch, num_tokens = tokens.shape
  slots = jnp.arange(num_tokens)
  positions = cache.length[:, None] + slots[None]
  is_text = slots[None] < count[:, None]
  causal = slots[:, None] >= slots[None, :]
  mask = causal[None] & is_text[:, None, :]
  out = model.forward(params, tokens, positions, mask, cache,
                      with_logits=False)
  path = jnp.broadcast_to(slots[None], (batch, num_tokens))
  return cache.commit(out.fresh, path, count)
