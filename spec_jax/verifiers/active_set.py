"""The walk that follows every drafted sequence agreeing with the text so far.

SpecTr's draft selection: K sequences are drafted independently; at each depth
those whose prefix equals what was emitted are active, and the token rule sees
the next tokens of all of them. The plain walk follows one node of the tree, so
that of two sequences that begin alike it would forget one.
"""

import dataclasses

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import walk as walk_lib


@dataclasses.dataclass(frozen=True)
class ActiveSetWalk:
  """The walk over a tree whose equal prefixes have pooled their children.

  Nodes with the same tokens from the root on stand for one text, and their
  children were drawn from one law: iid draws, so the children of all of them
  together are iid, as many as there are. Duplicate siblings stay, each is a
  draft of its own.

  Attributes:
    num_sequences: most nodes of one depth, thus most drafts at one position.
  """

  num_sequences: int

  def __call__(self, verifier, sampling: sampling_lib.Sampling,
               tree: types.DraftTree, p_logits: jax.Array,
               ctx: types.Context) -> types.Verdict:
    """Arguments as `walk.walk`; the path leads through first twins."""
    pooled = tree.replace(parents=pool(tree),
                          max_children=self.num_sequences)
    return walk_lib.walk(verifier, sampling, pooled, p_logits, ctx)


def pool(tree: types.DraftTree) -> jax.Array:
  """`i32[B, N]` parents, each replaced by its first twin."""
  # Tokens of equal prefixes have equal keys and values, so any twin's will do.
  twins = jax.vmap(tree_lib.twins)(tree.tokens, tree.parents, tree.valid)
  first = jnp.take_along_axis(twins, jnp.maximum(tree.parents, 0), 1)
  return jnp.where(tree.parents < 0, -1, first)
