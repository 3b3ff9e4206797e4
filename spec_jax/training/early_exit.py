"""A target whose every layer can be read out: LayerSkip's early-exit loss.

Elhoushi et al. 2024 (LayerSkip, arXiv 2404.16710), Sec. 4.1.2: all exits share
the final norm and the output head; the loss of exit l weighs
e(l) = s (1 + ... + l) for l < L - 1 and L - 1 + s (1 + ... + L - 2) for the
last, normalised over the exits that take part. Departures: no layer dropout;
the rotation over the exits takes a random phase instead of the step's number,
which is the same on average.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.training import losses


def exit_weights(num_layers: int, scale: float) -> np.ndarray:
  """e(l) of the exits after layer l, `f64[L]`, not normalised (eq. 5)."""
  sums = np.cumsum(np.arange(num_layers, dtype=np.float64)) * scale
  sums[-1] = num_layers - 1 + (sums[-2] if num_layers > 1 else 0.0)
  return sums


def loss(model: Any, params: Any, tokens: jax.Array, key: jax.Array,
         scale: float, rotation: int) -> tuple[jax.Array, dict[str, Any]]:
  """Weighted next-token loss of the last layer and of a share of the others.

  Args:
    model: a `models.contract.LinenModel`.
    params: of it.
    tokens: `i32[B, T]`.
    key: chooses the share.
    scale: s.
    rotation: R; layers of one residue modulo R take part. Divides the number
      of layers.

  Raises:
    ValueError: if it does not.
  """
  num_layers = model.config.num_layers
  if num_layers % rotation:
    raise ValueError(f"exit_rotation={rotation} does not divide the"
                     f" {num_layers} layers.")
  exits = tuple(range(1, num_layers + 1))
  out = model.score(params, tokens, taps=exits)
  last = losses.next_token(out.logits, tokens)
  phase = jax.random.randint(key, (), 0, rotation)
  chosen = phase + rotation * jnp.arange(num_layers // rotation)
  # The last layer's own loss is there already.
  weights = jnp.asarray(exit_weights(num_layers, scale), jnp.float32)
  early = jnp.where(chosen < num_layers - 1, weights[chosen], 0.0)
  streams = jnp.stack([out.taps[layer] for layer in exits])
  terms = jnp.stack([
      losses.next_token(model.read_out(params, streams[layer]), tokens)
      for layer in chosen])
  total = weights[-1] * last + (early * terms).sum()
  return total / (weights[-1] + early.sum()), {"last_layer": last}
