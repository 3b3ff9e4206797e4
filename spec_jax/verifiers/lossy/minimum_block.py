"""Minimum block size: a round keeps its first drafts, whatever the target says.

Stern et al. 2018, Sec. 5.3; the authors report that it harms the text. Beyond
the minimum a rule decides as it would without.
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.verifiers.lossy import walk as walk_lib


@dataclasses.dataclass(frozen=True)
class MinimumBlock:
  """A `System.walk` that keeps at least the first drafts of a chain.

  Until then the target is certain of the draft, so that any rule keeps it. Of
  several children of a node it is certain of the first. Departure: a draft that
  ends sooner than the minimum is kept whole.

  Attributes:
    least: drafts that pass unseen, >= 0; 0 = none, then only the rule decides.
    walk: goes on behind them.
  """

  exact: ClassVar[bool] = False

  least: int
  walk: Callable = walk_lib.walk

  def __post_init__(self):
    if self.least < 0:
      raise ValueError(f"least={self.least}, expected >= 0.")

  def __call__(self, verifier, sampling, tree, p_logits, ctx):
    return self.walk(verifier, sampling, tree,
                     jax.vmap(self._certain)(tree, p_logits), ctx)

  def _certain(self, tree, p_logits):
    """`f32[N, V]` of one row: point masses above the minimum depth."""
    depths = tree_lib.depths(tree.parents[None])[0]
    drafts, exists = jax.vmap(lambda node: tree_lib.children(
        tree.parents, tree.valid, node, tree.max_children))(
            jnp.arange(tree.num_nodes))
    first = tree.tokens[jnp.take_along_axis(
        drafts, jnp.argmax(exists, axis=1)[:, None], axis=1)[:, 0]]
    is_first = jax.nn.one_hot(first, p_logits.shape[-1], dtype=bool)
    is_unseen = (depths < self.least) & exists.any(axis=1)
    return jnp.where(is_unseen[:, None],
                     jnp.where(is_first, 0.0, -jnp.inf), p_logits)
