"""Depth growth: a shallow model becomes a deep one without forgetting.

New blocks are copies of old ones whose output projections are zero, so the
deeper model computes exactly what the shallow one did (Net2Net, Chen et al.
2016; block expansion, Wu et al. 2024, Sec. 3.2). A shallow model learns the
easy part of the task at a fraction of the cost per token.
"""

from typing import Any

import jax
import jax.numpy as jnp

_OUTPUTS = (("attn", "out"), ("mlp", "down"))


def deepen(params: Any, num_layers: int) -> Any:
  """Spreads the blocks of `params` over `num_layers`, copies in between.

  Args:
    params: of a `models.decoder.Decoder`.
    num_layers: of the deeper model.

  Raises:
    ValueError: if the model would not become deeper.
  """
  names = [key for key in params if key.startswith("layers_")]
  if num_layers < len(names):
    raise ValueError(
        f"cannot deepen {len(names)} layers to {num_layers}.")
  grown = {k: v for k, v in params.items() if k not in names}
  last = -1
  for layer in range(num_layers):
    source = layer * len(names) // num_layers
    block = params[f"layers_{source}"]
    grown[f"layers_{layer}"] = block if source != last else _silent(block)
    last = source
  return grown


def _silent(block):
  """The same block with zeroed output projections: the identity map."""
  copy = {name: dict(part) for name, part in block.items()}
  for part, linear in _OUTPUTS:
    copy[part][linear] = jax.tree.map(jnp.zeros_like, copy[part][linear])
  return copy
