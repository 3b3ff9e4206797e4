"""Phrases as a tree: the trie of Python tuples."""

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.trees import phrases as phrases_lib


def paths(tree, row=0):
  """The token paths of all valid nodes but the root."""
  tokens, parents, valid = (
      np.asarray(a)[row] for a in (tree.tokens, tree.parents, tree.valid))
  words = {0: ()}
  for node in range(1, len(tokens)):
    if valid[node]:
      words[node] = words[int(parents[node])] + (int(tokens[node]),)
  return [word for node, word in sorted(words.items()) if node]


_phrase = st.lists(st.integers(0, 2), min_size=4, max_size=4)
_group = st.lists(st.tuples(_phrase, st.integers(0, 4)), min_size=3, max_size=3)


@hypothesis.given(rows=st.lists(_group, min_size=2, max_size=2))
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
def test_is_the_trie(rows):
  phrases = jnp.asarray([[p for p, _ in row] for row in rows], jnp.int32)
  length = jnp.asarray([[n for _, n in row] for row in rows], jnp.int32)
  tree = phrases_lib.tree(jnp.asarray([7, 8], jnp.int32), phrases, length)
  tree_lib.check(tree, budget=13)
  assert tree.tokens[:, 0].tolist() == [7, 8]
  for row, group in enumerate(rows):
    found = paths(tree, row)
    assert len(found) == len(set(found))
    assert set(found) == {
        tuple(p[:i + 1]) for p, size in group for i in range(size)}
