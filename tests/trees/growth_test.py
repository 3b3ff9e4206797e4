"""Grown trees against brute force, the printed algorithms, and their laws."""

import dataclasses
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import grown_draft_model
from spec_jax.trees import dynamic
from spec_jax.trees import likelihood
from spec_jax.trees import sequoia
from spec_jax.trees import shapes
from spec_jax.verifiers import recursive
from tests.exactness import markov
from tests.exactness import trees_test
from tests.trees import beam_law
from tests.trees import heap_law
from tests.trees import stochastic_beam_test
from theory import trees as trees_theory

VOCAB = 7
RULE = recursive.RecursiveWithoutReplacement()
_rng = np.random.default_rng(0)
# Peaked and flat laws, one after each token.
LAWS = np.stack([_rng.dirichlet(np.full(VOCAB, c))
                 for c in (.2, .3, .5, .7, 1., 2., 5.)])
SURE = np.eye(VOCAB)[np.roll(np.arange(VOCAB), 1)]


@dataclasses.dataclass(frozen=True)
class Counting(markov.TabularModel):
  """Counts its forwards at run time."""

  def forward(self, params, tokens, *args, **kwargs):
    jax.debug.callback(lambda: calls.append(tokens.shape[1]))
    return super().forward(params, tokens, *args, **kwargs)


calls = []


@functools.partial(jax.jit, static_argnums=(0, 3))
def _propose(drafter, params, roots, sampling):
  batch = roots.shape[0]
  ctx = types.Context(
      jnp.pad(roots[:, None], ((0, 0), (0, 1))), jnp.ones((batch,), jnp.int32),
      keys_lib.row_keys(0, batch), None, None)
  state = drafter.init(params, batch, 4)
  return drafter.propose(params, state, ctx, sampling)[0]


def grow(policy, laws=LAWS, roots=range(VOCAB), model=None, sampling=None):
  """Per root the tree `(tokens, parents, valid)` without its invalid nodes."""
  drafter = grown_draft_model.GrownDraftModel(
      model or markov.TabularModel(VOCAB), policy)
  tree = _propose(drafter, markov.log(laws), jnp.asarray(list(roots)),
                  sampling or sampling_lib.Sampling())
  tree_lib.check(tree, policy.budget)
  assert tree.draw == policy.draw
  return jax.device_get(tree)


def paths(tree, row):
  """Tokens from the root of each valid node, in order."""
  found = []
  for token, parent in zip(tree.tokens[row], tree.parents[row]):
    found.append(() if parent < 0 else (*found[parent], int(token)))
  return [p for p, v in zip(found, tree.valid[row]) if v][1:]


def law_after(laws, root):
  return lambda path: laws[path[-1] if path else root]


def value(laws, root, path):
  return np.prod([laws[a][b] for a, b in itertools.pairwise((root, *path))])


def expanded(laws, root, policy):
  """Expand-and-rerank, said plainly; also the sums of best nodes by level."""
  level, pool, sums, budget = [()], {}, [0.0], policy.budget - 1
  for _ in range(policy.depth):
    fresh = {}
    for path in level:
      law = law_after(laws, root)(path)
      for token in np.argsort(-law, kind="stable")[:policy.top_k].tolist():
        if law[token] > 0:
          fresh[*path, token] = value(laws, root, (*path, token))
    pool |= fresh
    best = sorted(pool, key=pool.get, reverse=True)[:budget]
    sums.append(sum(pool[p] for p in best))
    level = sorted(fresh, key=fresh.get, reverse=True)[:policy.width]
    if sums[-1] - sums[-2] <= policy.min_gain:
      break
  return set(best), sums


FULL = likelihood.MostLikely(9, 8, 3, VOCAB)
EAGLE = likelihood.MostLikely(8, 2, 4, 2)
GAIN = likelihood.MostLikely(9, 8, 5, VOCAB, min_gain=0.15)


def test_tree_has_the_largest_expected_length_of_all():
  tree = grow(FULL)
  for root in range(VOCAB):
    best = trees_theory.best_first(law_after(LAWS, root), 8, 3)
    assert set(paths(tree, root)) == set(best)
    # The prefixes of three tokens of a Markov text are the joint law.
    joint = np.einsum("a,ab,bc->abc", LAWS[root], LAWS, LAWS)
    found = trees_theory.expected_tokens_of_text(
        tree.parents[root][tree.valid[root]],
        tree.tokens[root][tree.valid[root]], joint)
    assert found == pytest.approx(1 + sum(best.values()))


@pytest.mark.parametrize("policy", [EAGLE, GAIN], ids=["eagle", "gain"])
def test_expansion_and_stop_follow_the_plain_algorithm(policy):
  tree = grow(policy)
  stops = set()
  for root in range(VOCAB):
    best, sums = expanded(LAWS, root, policy)
    assert set(paths(tree, root)) == best
    stops.add(len(sums))
  assert policy is EAGLE or len(stops) > 1


def test_expected_length_rises_with_budget_and_depth():
  def lengths(**change):
    policy = dataclasses.replace(FULL, **change)
    tree = grow(policy)
    return np.asarray([sum(value(LAWS, root, p) for p in paths(tree, root))
                       for root in range(VOCAB)])

  assert (lengths(budget=4) < lengths()).all()
  assert (lengths(depth=2) <= lengths() + 1e-9).all()
  # Reranking beats keeping the last frontier: EAGLE-2's second promise.
  assert (lengths(width=2, top_k=2) <= lengths() + 1e-9).all()


def test_a_sure_draft_and_a_narrow_beam_are_chains():
  for policy in (FULL, dynamic.MostReached(9, 8, 5, VOCAB)):
    tree = grow(policy, SURE)
    for root in range(VOCAB):
      found = paths(tree, root)
      assert len(found) == policy.depth
      assert all(b[:-1] == a for a, b in itertools.pairwise(found))
  tree = grow(likelihood.MostLikely(9, 1, 4, 1))
  assert (tree.parents[:, :5] == np.arange(-1, 4)).all()


def test_early_exit_saves_draft_forwards_in_a_batch():
  model = Counting(VOCAB)
  for policy, laws, expected in (
      (dataclasses.replace(FULL, depth=9, min_gain=0.9), LAWS, 2),
      (dataclasses.replace(FULL, depth=9, min_gain=0.9), SURE, 8),
      # Two drafts are never deeper than two levels.
      (likelihood.MostLikely(3, 2, 9, 2), LAWS, 2),
      (dynamic.MostReached(3, 2, 9, 2), SURE, 2)):
    calls.clear()
    jax.block_until_ready(grow(policy, laws, model=model))
    jax.effects_barrier()
    assert len(calls) == expected, (policy, calls)


def test_confidence_decides_the_leaves_beside_the_chain():
  policy = likelihood.ConfidenceExpanded(
      1 + 4 * 5, 1, 4, widths=(5, 5, 4, 4, 3, 3, 2, 2, 1, 1))
  tree = grow(policy)
  for root in range(VOCAB):
    chain, wanted = (), []
    for _ in range(policy.depth):
      law = law_after(LAWS, root)(chain)
      order = np.argsort(-law, kind="stable")
      width = policy.widths[min(int(law.max() * 10), 9)]
      wanted += [(*chain, int(token)) for token in order[:width]]
      chain = (*chain, int(order[0]))
    assert sorted(paths(tree, root)) == sorted(wanted)
  plain = grow(dataclasses.replace(policy, widths=(1,)))
  assert (plain.parents[:, :5] == np.arange(-1, 4)).all()


def keyed(laws, root, key):
  """Draws without replacement with the key of the place, as a `draw_fn`."""
  def draw(path, tried):
    place = keys_lib.at(key, 1, types.Role.DRAFT)
    for rank, _ in path:
      place = jax.random.fold_in(place, rank + 1)
    noise = np.asarray(sampling_lib.clocks(place, VOCAB))
    law = heap_law.rest(law_after(laws, root)(
        tuple(token for _, token in path)), tried)
    if law is None:
      return None
    return int(np.argmax(law / noise)), law
  return draw


def test_level_by_level_is_the_tree_of_one_draw_after_another():
  policy = dynamic.MostReached(9, 8, 5, VOCAB, temperature=None)
  tree = grow(policy)
  keys = keys_lib.row_keys(0, VOCAB)
  for root in range(VOCAB):
    nodes, values = heap_law.grow(keyed(LAWS, root, keys[root]), 8, 5)
    wanted = {tuple(token for _, token in node) for node in nodes}
    assert set(paths(tree, root)) == wanted
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    # Siblings stand in the order in which they were drawn.
    for node in nodes:
      family = [n for n in nodes if n[:-1] == node[:-1]]
      order = [n[-1][1] for n in sorted(family)]
      parent = tuple(token for _, token in node[:-1])
      assert [p[-1] for p in paths(tree, root) if p[:-1] == parent] == order
    if root in (2, 5):  # The last value as a threshold, and no budget.
      by_value = dataclasses.replace(
          policy, budget=30, width=20, threshold=values[-1] * (1 - 1e-5))
      assert set(paths(grow(by_value, roots=[*range(root), root]), root)
                 ) == wanted


class ByRank(dynamic.MostReached):
  """Draws the most likely token first, then the next."""

  def children(self, law, reach, keys):
    def in_order(law, noise, k):
      del noise
      probs, tokens = jax.lax.top_k(law, k)
      return tokens.astype(jnp.int32), probs > 0

    with mock.patch.object(sampling_lib, "first_k_to_ring", in_order):
      return super().children(law, reach, keys)


@pytest.mark.parametrize("budget", [3, 4, 8])
def test_laws_of_ranks_alone_give_the_greedy_tree_of_sequoia(budget):
  """DySpec's promise; budgets at which the best tree is one alone.

  A draw's worth leaves out whether it is accepted itself, so both agree where
  that is equally likely for all who are reached: in geometric laws.
  """
  law = .6 * .4 ** np.arange(VOCAB)
  law[-1] += 1 - law.sum()
  tree = grow(ByRank(budget, 8, 5, VOCAB, temperature=None),
              np.tile(law, (VOCAB, 1)), roots=[0])
  found = paths(tree, 0)
  assert set(found) == set(shapes.paths_of(
      sequoia.best_shape(law, budget, 5)))
  assert 1 + sum(np.prod(law[[*path]]) for path in found) == pytest.approx(
      sequoia.best_tokens(law, budget, 5)[5, budget])


def test_bounds_of_the_sampled_tree_are_kept():
  policy = dynamic.MostReached(9, 2, 2, 3)
  tree = grow(policy)
  for root in range(VOCAB):
    found = paths(tree, root)
    assert max(map(len, found)) <= 2
    assert len({p[:-1] for p in found if len(p) == 2}) <= 2


def dyspec_law(num_draws, depth, top_k=99):
  return lambda q, root: heap_law.trees(q, root, num_draws, depth, top_k)


@pytest.mark.parametrize("rows", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (4, 3), (5, 2, 2)])
def test_verified_text_follows_the_target(rows, shape):
  """Although the shape of the tree depends on what was drawn."""
  assert heap_law.joint_error(rows, dyspec_law(*shape)) <= 1e-12


def kept_for_itself(tree, root):
  """A child is dropped for its own probability, not for its place."""
  q = stochastic_beam_test.ROWS["dense"][1]
  return tuple(child for child in tree if q[root][child[0]] > .2) or tree[:1]


def most_likely_first(tree, root):
  q = stochastic_beam_test.ROWS["dense"][1]
  return tuple(sorted(tree, key=lambda child: -q[root][child[0]]))


@pytest.mark.parametrize("bug", [kept_for_itself, most_likely_first])
def test_enumeration_sees_a_planted_bug(bug):
  assert heap_law.joint_error("dense", dyspec_law(4, 3), bug) > 1e-3


def tabular(policy):
  sys = markov.system(RULE, (1,), "without_replacement")
  return dataclasses.replace(
      sys, drafter=grown_draft_model.GrownDraftModel(sys.target, policy))


def test_trees_and_rounds_follow_their_exact_laws():
  sys = tabular(dynamic.MostReached(5, 4, 3, 3, temperature=None))
  law = heap_law.trees(markov.Q_ROWS, 0, 4, 3)
  tree, _ = jax.device_get(markov.one_round(
      sys, markov.params(), keys_lib.row_keys(0, trees_test.NUM_ROWS), 0))
  assert stochastic_beam_test.tree_p_value(
      (tree.tokens, tree.parents, tree.valid), law) > trees_test.SIGNIFICANCE
  strings = beam_law.emitted(stochastic_beam_test.RULE, markov.P_ROWS,
                             markov.Q_ROWS, 0, law)
  assert trees_test.strings_p_value(sys, strings) > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("make,message", [
    (lambda: likelihood.MostLikely(1, 1, 1), "budget=1, expected at least 2"),
    (lambda: likelihood.MostLikely(4, 0, 1), "width=0"),
    (lambda: likelihood.MostLikely(4, 1, 1, min_gain=float("nan")),
     "min_gain=nan"),
    (lambda: dynamic.MostReached(4, 1, 1, temperature=float("nan")),
     "temperature=nan"),
    (lambda: likelihood.MostLikely(4, 1, 0), "depth=0"),
    (lambda: likelihood.MostLikely(4, 1, 1, 0), "top_k=0"),
    (lambda: likelihood.ConfidenceExpanded(4, 2, 1), "width=2, expected 1"),
    (lambda: likelihood.ConfidenceExpanded(4, 1, 1, ()), r"widths=\(\)"),
    (lambda: dynamic.MostReached(4, 1, 1, threshold=1.), "threshold=1.0"),
    (lambda: dynamic.MostReached(4, 1, 1, temperature=0.), "temperature=0.0"),
    (lambda: grown_draft_model.GrownDraftModel(
        markov.TabularModel(3), FULL), "more than the vocabulary"),
])
def test_bad_hyper_parameters_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
