"""Trees of top tokens, against the definitions by paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import tree as tree_lib
from spec_jax.trees import expansion

V = 7
TABLE = jax.nn.log_softmax(
    2 * jax.random.normal(jax.random.key(0), (3, V, V)))


class Bigrams:
  """`Expand` whose laws depend on the level and on all tokens of the path."""

  def __init__(self, table=TABLE):
    self.table, self.hashes = table, None

  def __call__(self, level, tokens, places, k):
    above = jnp.zeros(tokens.shape, jnp.int32)
    if level:
      rows = jnp.arange(tokens.shape[0])[:, None]
      above = self.hashes[rows, jnp.broadcast_to(places, tokens.shape)]
    self.hashes = 5 * above + tokens
    log_probs, found = jax.lax.top_k(self.table[level, self.hashes % V], k)
    return log_probs, found.astype(jnp.int32)

  def law(self, path):
    """After a path, the root's token first."""
    state = 0
    for token in path:
      state = 5 * state + token
    return np.asarray(self.table[len(path) - 1, state % V])


def paths(tree, row=0):
  """Tokens below the root of every valid node, in order of the nodes."""
  tokens, parents = np.asarray(tree.tokens)[row], np.asarray(tree.parents)[row]
  found = []
  for node in np.flatnonzero(np.asarray(tree.valid)[row]):
    path = []
    while node:
      path.insert(0, int(tokens[node]))
      node = parents[node]
    found.append(tuple(path))
  return found[1:]


ROOTS = jnp.asarray([2, 6], jnp.int32)


def test_children_in_a_shape_are_the_top_of_their_parents_own_law():
  plan = expansion.Shape(((3,), (2, 0, 1), (0, 2, 1)))
  tree = plan.grow(ROOTS, Bigrams())
  tree_lib.check(tree, budget=10)
  for row, root in enumerate(ROOTS.tolist()):
    found = paths(tree, row)
    expected, level = [], [()]
    for counts in plan.counts:
      level = [path + (int(token),) for path, count in zip(level, counts)
               for token in np.argsort(-Bigrams().law((root,) + path))[:count]]
      expected += level
    assert found == expected


def beam_search(root, widths, children):
  """The last beam, by definition."""
  law, beam = Bigrams().law, [((), 0.0)]
  for width, count in zip(widths, children):
    longer = []
    for path, score in beam:
      after = law((root,) + path)
      longer += [(path + (int(t),), score + after[t])
                 for t in np.argsort(-after)[:count]]
    beam = sorted(longer, key=lambda item: -item[1])[:width]
  return [path for path, _ in beam]


@pytest.mark.parametrize("widths, children", [
    ((4, 4, 4), (4, 4, 4)), ((3, 6, 2), (3, 2, 2)), ((1, 1, 1), (1, 1, 1))])
def test_beams_are_a_beam_search_with_beginnings_shared(widths, children):
  plan = expansion.Beams(widths, children)
  tree = plan.grow(ROOTS, Bigrams())
  tree_lib.check(tree, budget=plan.num_nodes)
  assert tree.num_nodes == plan.num_nodes
  for row, root in enumerate(ROOTS.tolist()):
    last = beam_search(root, widths, children)
    distinct = {path[:i + 1] for path in last for i in range(len(path))}
    found = paths(tree, row)
    assert len(found) == len(set(found)) and set(found) == distinct


def test_wide_beams_are_the_best_of_the_product():
  """The MLP speculator's candidates: all of the top-k grid, the n best."""
  children, best = (3, 2, 2), 4
  plan = expansion.Beams((3, 6, best), children)
  tree = plan.grow(ROOTS, Bigrams())
  for row, root in enumerate(ROOTS.tolist()):
    scored = {}
    for path in itertools.product(range(V), repeat=3):
      score = 0.0
      for i, token in enumerate(path):
        law = Bigrams().law((root,) + path[:i])
        if token not in np.argsort(-law)[:children[i]]:
          break
        score += law[token]
      else:
        scored[path] = score
    wanted = sorted(scored, key=scored.get)[-best:]
    assert len(scored) == 12
    assert {p for p in paths(tree, row) if len(p) == 3} == set(wanted)


def test_mass_may_be_counted_among_the_likely_tokens():
  plan = expansion.Beams((2, 2), (2, 2), likely=3)
  tree = plan.grow(ROOTS, Bigrams())
  for row, root in enumerate(ROOTS.tolist()):
    cut = lambda law: np.where(law >= np.sort(law)[-3], law, -np.inf)
    scores = {}
    for path in itertools.product(range(V), repeat=2):
      laws = [cut(Bigrams().law((root,) + path[:i])) for i in range(2)]
      scores[path] = sum(law[token] - np.log(np.exp(law).sum())
                         for law, token in zip(laws, path))
    # Two beams of two: the first level's two best, then the best pairs.
    firsts = np.argsort(-cut(Bigrams().law((root,))))[:2]
    wanted = sorted((p for p in scores if p[0] in firsts), key=scores.get)[-2:]
    assert {p for p in paths(tree, row) if len(p) == 2} == set(wanted)


@pytest.mark.parametrize("plan", [
    expansion.Shape((3, 1)), expansion.Beams((3, 3), (3, 3))])
def test_tokens_that_cannot_be_are_no_nodes(plan):
  table = jnp.where(jnp.arange(V)[None, None] < 2, TABLE, -jnp.inf)
  tree = plan.grow(ROOTS, Bigrams(table))
  tree_lib.check(tree)
  assert (np.asarray(tree.tokens)[:, 1:][np.asarray(tree.valid)[:, 1:]]
          < 2).all()
  assert {len(p) for p in paths(tree)} == {1, 2}


@pytest.mark.parametrize("make, message", [
    (lambda: expansion.Shape(()), "at least one level"),
    (lambda: expansion.Shape((0, 1)), "one child per level"),
    (lambda: expansion.Beams((2,), (1, 2)), "as many numbers"),
    (lambda: expansion.Beams((2, 0), (1, 2)), "numbers above 0"),
    (lambda: expansion.Beams((2,), (4,), likely=3), "likely=3")])
def test_impossible_plans_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
