"""The algebra of trees against brute force on small trees."""

import itertools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import tree as tree_lib
from spec_jax.core import types

NUM_NODES = 6
_settings = hypothesis.settings(
    deadline=None, max_examples=60, derandomize=True)


@st.composite
def shapes(draw, num_nodes=NUM_NODES):
  """Parents and a validity that is closed under taking parents."""
  parents, valid = [-1], [True]
  for node in range(1, num_nodes):
    parents.append(draw(st.integers(0, node - 1)))
    valid.append(valid[parents[node]] and draw(st.booleans()))
  return parents, valid


def make_tree(parents, valid, tokens=None, q=None, draw="deterministic",
              depth=NUM_NODES, max_children=NUM_NODES):
  """A batch of one."""
  tokens = range(len(parents)) if tokens is None else tokens
  row = lambda x, dtype: jnp.asarray(list(x), dtype)[None]
  return types.DraftTree(
      row(tokens, jnp.int32), row(parents, jnp.int32), row(valid, bool), q,
      draw, depth, max_children)


def path_to_root(parents, node):
  path = [node]
  while parents[path[-1]] >= 0:
    path.append(parents[path[-1]])
  return path


def prefixes(tree):
  """Tokens from the root to each valid node, of the only row."""
  tokens, parents, valid = (np.asarray(a)[0].tolist() for a in (
      tree.tokens, tree.parents, tree.valid))
  return [tuple(tokens[n] for n in reversed(path_to_root(parents, node)))
          for node in range(len(tokens)) if valid[node]]


def check_ancestor_mask(parents, valid):
  mask = np.asarray(jax.jit(tree_lib.ancestor_mask)(
      jnp.asarray([parents]), jnp.asarray([valid])))[0]
  for i, j in itertools.product(range(len(parents)), repeat=2):
    expected = valid[i] and valid[j] and j in path_to_root(parents, i)
    assert mask[i, j] == expected, (parents, valid, i, j)


@hypothesis.given(shape=shapes())
@_settings
def test_ancestor_mask_is_the_ancestor_relation(shape):
  check_ancestor_mask(*shape)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9, 16, 17])
def test_ancestor_mask_of_chains_is_causal(length):
  check_ancestor_mask(list(range(-1, length - 1)), [True] * length)


@hypothesis.given(shape=shapes())
@_settings
def test_depths_and_positions(shape):
  parents, valid = shape
  expected = [len(path_to_root(parents, n)) - 1 for n in range(NUM_NODES)]
  tree = make_tree(parents, valid)
  assert np.asarray(tree_lib.depths(tree.parents))[0].tolist() == expected
  found = tree_lib.positions(tree, jnp.asarray([7], jnp.int32))
  # The root is the last committed token, number length - 1 counted from 0.
  assert np.asarray(found)[0].tolist() == [6 + d for d in expected]


@hypothesis.given(shape=shapes(), node=st.integers(0, NUM_NODES - 1))
@_settings
def test_children_are_listed_in_draw_order(shape, node):
  parents, valid = shape
  kids, exists = map(np.asarray, tree_lib.children(
      jnp.asarray(parents), jnp.asarray(valid), node, NUM_NODES + 2))
  expected = [n for n in range(NUM_NODES) if parents[n] == node and valid[n]]
  assert kids[exists].tolist() == expected
  assert exists.tolist() == sorted(exists.tolist(), reverse=True)


def test_static_parents_and_chain():
  assert tree_lib.static_parents((2, 2)).tolist() == [-1, 0, 0, 1, 1, 2, 2]
  tree = tree_lib.chain(
      jnp.asarray([9, 8]), jnp.asarray([[1, 2, 3], [4, 5, 6]]),
      jnp.asarray([3, 1]), "deterministic")
  tree_lib.check(tree, budget=4)
  assert np.asarray(tree.tokens).tolist() == [[9, 1, 2, 3], [8, 4, 5, 6]]
  assert np.asarray(tree.valid).sum(1).tolist() == [4, 2]


_prune = jax.jit(tree_lib.prune, static_argnums=2)


def best_closed_sum(parents, valid, scores, budget):
  """Largest total of at most `budget` valid nodes closed under parents."""
  best = -np.inf
  nodes = [n for n in range(1, len(parents)) if valid[n]]
  for size in range(budget):
    for chosen in itertools.combinations(nodes, size):
      if all(parents[n] in (0, *chosen) for n in chosen):
        best = max(best, sum(scores[n] for n in chosen))
  return best


@hypothesis.given(shape=shapes(), budget=st.integers(1, NUM_NODES),
                  factors=st.lists(st.sampled_from([.25, .5, 1.]),
                                   min_size=NUM_NODES, max_size=NUM_NODES))
@_settings
def test_prune_keeps_the_best_closed_set(shape, budget, factors):
  parents, valid = shape
  # Probabilities multiply along a path, so they fall; ties are frequent.
  scores = [np.prod([factors[a] for a in path_to_root(parents, n)])
            for n in range(NUM_NODES)]
  q = jnp.arange(NUM_NODES, dtype=jnp.float32)[None, :, None]
  tree = make_tree(parents, valid, q=q, draw="iid")
  pruned = _prune(tree, jnp.asarray([scores], jnp.float32), budget)
  tree_lib.check(pruned, budget)
  kept = np.asarray(pruned.tokens)[0][np.asarray(pruned.valid)[0]].tolist()
  assert set(prefixes(pruned)) <= set(prefixes(tree))
  assert len(kept) == min(budget, sum(valid))
  total = sum(scores[n] for n in kept if n)
  assert total == pytest.approx(
      best_closed_sum(parents, valid, scores, budget), abs=1e-9)
  # The law of a node's children moves with the node.
  assert np.asarray(pruned.q)[0, :, 0].tolist() == (
      np.asarray(pruned.tokens)[0].tolist())


def test_prune_never_keeps_a_child_without_its_parent():
  # Node 2 outscores its parent: it counts for what its path counts.
  tree = make_tree([-1, 0, 1, 0], [True] * 4)
  pruned = tree_lib.prune(tree, jnp.asarray([[0., .1, .9, .5]]), 3)
  assert prefixes(pruned) == [(0,), (0, 1), (0, 3)]


@pytest.mark.parametrize("budget", [0, 5])
def test_prune_names_a_bad_budget(budget):
  tree = make_tree([-1, 0, 1, 0], [True] * 4)
  with pytest.raises(ValueError, match=f"budget={budget} nodes, the tree"):
    tree_lib.prune(tree, jnp.zeros((1, 4)), budget)


_merge = jax.jit(tree_lib.merge)
_few_tokens = st.lists(st.integers(0, 2), min_size=3, max_size=3)


@hypothesis.given(first=shapes(4), second=shapes(4), tokens=_few_tokens,
                  more_tokens=_few_tokens)
@_settings
def test_merge_is_the_union_of_prefixes(first, second, tokens, more_tokens):
  build = lambda shape, tokens: make_tree(*shape, tokens=[5, *tokens], depth=3)
  left, right = build(first, tokens), build(second, more_tokens)
  merged = _merge(left, right)
  tree_lib.check(merged)
  found = prefixes(merged)
  assert len(found) == len(set(found))
  assert set(found) == set(prefixes(left)) | set(prefixes(right))


def test_merge_declares_room_for_the_children_of_twins():
  # Two equal siblings with two children each become one node with four.
  twins = make_tree([-1, 0, 0, 1, 1, 2, 2], [True] * 7,
                    tokens=[9, 5, 5, 1, 2, 3, 4], depth=2, max_children=2)
  other = make_tree([-1, 0], [True] * 2, tokens=[9, 5], depth=1,
                    max_children=1)
  merged = tree_lib.merge(twins, other)
  tree_lib.check(merged)
  assert set(prefixes(merged)) == set(prefixes(twins))


def test_merge_refuses_a_law():
  plain = make_tree([-1, 0], [True] * 2)
  drawn = make_tree([-1, 0], [True] * 2, q=jnp.ones((1, 2, 3)), draw="iid")
  for pair in ((plain, drawn), (drawn, plain)):
    with pytest.raises(ValueError, match="drawn 'iid'"):
      tree_lib.merge(*pair)


@pytest.mark.parametrize("change,message", [
    (dict(draw="sorted"), "draw='sorted'"),
    (dict(parents=[0, 0, 1]), "node 0 must be a valid root"),
    (dict(valid=[False, False, False]), "node 0 must be a valid root"),
    (dict(parents=[-1, 2, 0]), "row 0, node 1: parent 2 does not precede"),
    (dict(parents=[-1, 0, -1]), "row 0, node 2: parent -1 does not precede"),
    (dict(valid=[True, False, True]), "node 2 is valid, its parent 1 is not"),
    (dict(depth=1), "node 2: depth 2 exceeds the declared 1"),
    (dict(parents=[-1, 0, 0], max_children=1), "has 2 children"),
])
def test_check_names_what_is_malformed(change, message):
  good = dict(parents=[-1, 0, 1], valid=[True] * 3)
  tree_lib.check(make_tree(**good), budget=3)
  with pytest.raises(ValueError, match=message):
    tree_lib.check(make_tree(**{**good, **change}))


def test_check_names_the_budget():
  tree = make_tree([-1, 0, 1], [True] * 3)
  with pytest.raises(ValueError, match="3 nodes, over its budget of 2"):
    tree_lib.check(tree, budget=2)
