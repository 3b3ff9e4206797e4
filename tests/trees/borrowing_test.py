"""Leaves go on with the tokens of another path, as nodes of their own."""

import jax.numpy as jnp
import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.trees import borrowing

LOG_PROBS = np.log([[.5, .9, .2]])
TOKENS = np.asarray([[7, 8, 9]], np.int32)  # Of depths 2, 3 and 4.


def toy_tree():
  """0 - 1 - 3 - 4 and 0 - 2; the last node is not there."""
  return types.DraftTree(
      jnp.asarray([[5, 1, 2, 3, 4, 6]], jnp.int32),
      jnp.asarray([[-1, 0, 0, 1, 3, 0]], jnp.int32),
      jnp.asarray([[True] * 5 + [False]]), None, "top_k", 4, 3)


def paths(tree):
  found = {}
  for node in range(1, tree.num_nodes):
    if not tree.valid[0, node]:
      continue
    path, at = (), node
    while at > 0:
      path, at = (int(tree.tokens[0, at]), *path), int(tree.parents[0, at])
    found[path] = node
  assert len(found) == int(tree.valid[0, 1:].sum())
  return found


def lengthened(size, speaks=True, worth=(0, -.1, -2, -.2, -.3, 0)):
  tree = borrowing.lengthen(
      toy_tree(), jnp.asarray([worth], jnp.float32), jnp.asarray(TOKENS),
      jnp.asarray(LOG_PROBS, jnp.float32), jnp.asarray([speaks]), 2, size)
  tree_lib.check(tree)
  assert tree.num_nodes == 6 + size
  return tree


def test_best_continuations_of_leaves_by_brute_force():
  """Leaf (1, 3, 4) may go on with 9, leaf (2,) with 7, 8, 9."""
  worth = {(1, 3, 4, 9): -.3 + LOG_PROBS[0, 2]}
  for end in range(1, 4):
    worth[(2, *TOKENS[0, :end].tolist())] = -2 + LOG_PROBS[0, :end].sum()
  old = set(paths(toy_tree()))
  for size in range(1, 7):
    best = sorted(worth, key=worth.get, reverse=True)[:size]
    assert set(paths(lengthened(size))) == old | set(best)


def test_where_nothing_is_said_nothing_is_added():
  assert set(paths(lengthened(3, speaks=False))) == set(paths(toy_tree()))
