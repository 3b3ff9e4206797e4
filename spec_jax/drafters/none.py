"""No draft: turns a speculative system into plain autoregressive decoding."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import types


@dataclasses.dataclass(frozen=True)
class NoDraft:
  """Proposes nothing: one target call emits one token."""

  needs: ClassVar[protocols.Needs] = protocols.Needs()
  depth: ClassVar[int] = 0
  max_children: ClassVar[int] = 1

  def init(self, params, batch, capacity):
    return ()

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    root = ctx.root[:, None]
    tree = types.DraftTree(
        tokens=root, parents=jnp.full_like(root, -1),
        valid=jnp.ones(root.shape, bool), q=None, draw="deterministic",
        depth=0, max_children=1)
    return tree, state

  def update(self, params, state, outcome):
    return state
