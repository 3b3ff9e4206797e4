"""Expected accepted lengths: drafts and rule enumerated, against path sums.

On Markov laws of a few tokens. Static shapes of measured acceptance and
Sequoia's are in `shapes_test`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import tree as tree_lib
from spec_jax.trees import dynamic
from spec_jax.trees import growth
from spec_jax.trees import likelihood
from tests.exactness import tree_law
from tests.trees import beam_law
from tests.trees import growth_test
from tests.trees import heap_law
from tests.trees import stochastic_beam_test
from theory import chains
from theory import tree_rules
from theory.oracles import chance as chance_lib
from theory.oracles import sequential

RULE = stochastic_beam_test.RULE
LAWS = growth_test.LAWS
# OPT-Tree with all levels and with its stop, EAGLE-2, CaPE.
LIKELY = {
    "opt_tree": growth_test.FULL, "opt_tree_stop": growth_test.GAIN,
    "eagle_2": growth_test.EAGLE,
    "cape": likelihood.ConfidenceExpanded(13, 1, 3, widths=(4, 3, 2, 1))}
DYSPEC = dynamic.MostReached(9, 8, 4, 7, temperature=None)


def accepted(strings):
  """Mean number of drafts in what a round emits."""
  return sum(mass * (len(string) - 1) for string, mass in strings.items())


def rows(laws):
  return tuple(map(tuple, np.asarray(laws).tolist()))


@functools.cache
def grown(policy):
  """Trees as in `beam_law` and the worth of their nodes, a row per token."""
  roots = jnp.arange(len(LAWS), dtype=jnp.int32)
  keys = keys_lib.row_keys(0, len(LAWS)) if policy.clocks else None
  laws = jnp.asarray(LAWS, jnp.float32)
  state, frontier = growth.start(policy, roots, keys)
  extend = jax.jit(growth.extend, static_argnums=0)
  for level in range(policy.depth):
    state, frontier = extend(
        policy, state, frontier, laws[frontier.tokens], level)
  tree, kept = jax.device_get(growth.finish(policy, state, roots))
  worth = np.exp(np.asarray(state.scores).reshape(len(LAWS), -1))
  worth = np.take_along_axis(worth, np.maximum(kept - 1, 0), axis=1)
  is_draft = tree.valid & (tree.parents >= 0)
  trees = [beam_law.nested(*row)
           for row in zip(tree.tokens, tree.parents, tree.valid)]
  return trees, [list(row) for row in map(
      lambda values, drafts: values[drafts], worth, is_draft)]


def paths_mass(laws, last, tree):
  """Sum over nodes of the probability of the path to them."""
  return sum(laws[last][token] * (1 + paths_mass(laws, token, below))
             for token, below in tree)


@pytest.mark.parametrize("name", LIKELY)
def test_worth_of_likely_trees_is_what_a_calibrated_draft_has_accepted(name):
  trees, worth = grown(LIKELY[name])
  other = np.roll(LAWS, 2, axis=0)
  for root, tree in enumerate(trees):
    strings = beam_law.emitted(
        "sample_and_match", rows(LAWS), rows(LAWS), root, {tree: 1.0})
    assert accepted(strings) == pytest.approx(sum(worth[root]), rel=1e-5)
    # Of another target the tree keeps the mass that this one has on its paths.
    strings = beam_law.emitted(
        "sample_and_match", rows(other), rows(LAWS), root, {tree: 1.0})
    assert accepted(strings) == pytest.approx(
        paths_mass(other, root, tree), abs=1e-12)


def num_tried(tree, string):
  """Draws that a round looks at before it emits the string."""
  tokens = [token for token, _ in tree]
  if string[0] not in tokens:
    return len(tokens)
  rank = tokens.index(string[0])
  return 1 + rank + (num_tried(tree[rank][1], string[1:])
                     if len(string) > 1 else 0)


def test_worth_of_sampled_trees_is_how_often_their_draws_are_reached():
  """DySpec's estimate: a draw is reached when its elder siblings failed."""
  trees, worth = grown(DYSPEC)
  for root, tree in enumerate(trees):
    strings = beam_law.emitted(
        "sample_and_match", rows(LAWS), rows(LAWS), root, {tree: 1.0})
    tried = sum(mass * num_tried(tree, string)
                for string, mass in strings.items())
    assert tried == pytest.approx(sum(worth[root]), rel=1e-5)
    assert accepted(strings) == pytest.approx(
        paths_mass(LAWS, root, tree), abs=1e-12)


def judged(p, q, last, tree):
  """Accepted drafts of one tree, by the sequential algorithm with coins."""
  drafts = tuple(token for token, _ in tree)
  if not drafts:
    return 0.0
  verify = sequential.recursive_without_replacement(
      np.asarray(p[last]), np.asarray(q[last]), len(drafts))
  law = chance_lib.law(lambda chance: verify(chance, drafts), len(p))
  return sum(law[token] * (1 + judged(p, q, token, below))
             for token, below in tree)


DRAWN = {
    "dyspec": lambda q, root: heap_law.trees(q, root, 4, 3),
    "rsd_s": lambda q, root: beam_law.trees(q, root, 2, 3)}


@pytest.mark.parametrize("laws", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("name", DRAWN)
def test_drawn_trees_keep_what_the_algorithm_keeps_of_each(name, laws):
  """Over all trees: what rounds emit against a sum over trees and nodes."""
  p, q = stochastic_beam_test.ROWS[laws]
  for root in range(len(p)):
    drawn = DRAWN[name](q, root)
    wanted = sum(
        mass * judged(p, q, root, tree) for tree, mass in drawn.items())
    assert accepted(beam_law.emitted(RULE, p, q, root, drawn)
                    ) == pytest.approx(wanted, abs=1e-12)


NODE_RULES = {
    "recursive": ("iid", tree_rules.recursive_rejection),
    RULE: ("without_replacement", tree_rules.recursive_rejection),
    "sample_and_match": ("without_replacement", tree_rules.naive_sampling)}


@pytest.mark.parametrize("laws", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("branching", [(1, 1, 1), (2, 2), (3,), (2, 1)])
@pytest.mark.parametrize("name", NODE_RULES)
def test_static_trees_keep_the_product_of_their_levels(name, branching, laws):
  """Trees of iid draws, and of draws without replacement."""
  p, q = stochastic_beam_test.ROWS[laws]
  draw, node_rule = NODE_RULES[name]
  parents = tuple(tree_lib.static_parents(branching).tolist())
  found = tree_law.emitted_laws(tree_law.Problem(
      verifiers.get(name), draw, parents, (True,) * len(parents), p, q))
  for root, strings in enumerate(found):
    depths = tree_rules.top_down(
        chains.Markov(np.asarray(p[root]), np.asarray(p),
                      np.asarray(q[root]), np.asarray(q)),
        branching, node_rule, draw == "iid")
    assert accepted(strings) == pytest.approx(chains.mean(depths), abs=1e-12)
