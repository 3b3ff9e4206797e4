"""Chains and trees of drafts: golden values, identities, optima."""

import itertools

import numpy as np
import pytest

from tests.exactness import golden
from theory import chains
from theory import closed_forms
from theory import optimal
from theory import sequence_optimum
from theory import tree_rules
from theory import trees

_CHAINS = golden.table()["chain"]
_TREES = golden.table()["tree"]
_CLOSE = dict(rtol=0, atol=1e-9)
_RULES = {
    "token": chains.token_rule,
    "block": chains.block_rule,
    "greedy_block": lambda *args: chains.block_rule(*args, is_greedy=True),
}
_name = lambda case: case["id"]


def _of(case):
  return chains.Markov(case["p0"], case["P"], case["q0"], case["Q"])


def _random(seed, vocab_size=3, concentration=.6):
  rng = np.random.default_rng(seed)
  laws = rng.dirichlet(
      np.full(vocab_size, concentration), size=2 * (vocab_size + 1))
  p, q = laws[:vocab_size + 1], laws[vocab_size + 1:]
  return chains.Markov(p[0], p[1:], q[0], q[1:])


@pytest.mark.parametrize("case", _CHAINS, ids=_name)
def test_golden_chains(case):
  markov, length = _of(case), case["gamma"]
  for name, rule in _RULES.items():
    found = rule(markov, length)
    np.testing.assert_allclose(found, case[name]["hist"], **_CLOSE)
    np.testing.assert_allclose(
        chains.mean(found), case[name]["expected_accepted"], **_CLOSE)
  np.testing.assert_allclose(
      chains.one_round_bound(markov, length), case["one_round_upper_bound"],
      **_CLOSE)


@pytest.mark.parametrize("case", _TREES, ids=_name)
def test_golden_trees(case):
  markov, drawn = _of(case), case["with_replacement"]
  found = tree_rules.top_down(
      markov, case["branching"], with_replacement=drawn)
  np.testing.assert_allclose(found, case["top_down"]["hist"], **_CLOSE)
  found = tree_rules.traversal(markov, case["branching"], drawn)
  np.testing.assert_allclose(found, case["traversal"]["hist"], **_CLOSE)
  np.testing.assert_allclose(
      chains.mean(found), case["traversal"]["expected_accepted"], **_CLOSE)


@pytest.mark.parametrize("seed", range(6))
def test_rules_of_chains(seed):
  markov = _random(seed)
  token, block, greedy = (
      [chains.mean(rule(markov, g)) for g in (1, 2, 3)]
      for rule in _RULES.values())
  bound = [chains.one_round_bound(markov, g) for g in (1, 2, 3)]
  assert (np.asarray(token) <= np.asarray(block) + 1e-12).all()
  assert (np.asarray(block) <= np.asarray(greedy) + 1e-12).all()
  np.testing.assert_allclose(greedy, bound, atol=1e-12)
  overlap = closed_forms.overlap(markov.p_first, markov.q_first)
  np.testing.assert_allclose([token[0], block[0], greedy[0]], overlap)
  np.testing.assert_allclose(
      block[1] - token[1], closed_forms.two_step_block_gain(
          markov.p_first, markov.q_first, markov.p_next, markov.q_next),
      atol=1e-12)
  for rule in _RULES.values():
    np.testing.assert_allclose(rule(markov, 3).sum(), 1, atol=1e-12)
  # A tree without branches is a chain.
  np.testing.assert_allclose(
      tree_rules.top_down(markov, (1, 1, 1)), chains.token_rule(markov, 3),
      atol=1e-12)
  np.testing.assert_allclose(
      tree_rules.traversal(markov, (1, 1, 1)), chains.block_rule(markov, 3),
      atol=1e-12)


def test_block_keeps_i_drafts_with_the_clipped_ratio():
  """`Pr(tau >= i) = E[r_i]`, whatever the coins that realise it."""
  markov, length = _random(11), 3
  expected = np.zeros(length + 1)
  for draft in itertools.product(range(3), repeat=length):
    weight, kept, ratios = 1.0, 1.0, [1.0]
    for before, token in zip((None, *draft), draft):
      weight *= markov.q(before)[token]
      kept = min(1.0, kept * markov.p(before)[token] / markov.q(before)[token])
      ratios.append(kept)
    expected += weight * np.asarray(ratios)
  found = chains.block_rule(markov, length)
  np.testing.assert_allclose(found[::-1].cumsum()[::-1], expected, atol=1e-12)


@pytest.mark.parametrize("rule", _RULES.values(), ids=_RULES.keys())
def test_equal_laws_keep_all_and_disjoint_laws_none(rule):
  half = np.full((2, 2), .5)
  same = chains.Markov(half[0], half, half[0], half)
  np.testing.assert_allclose(rule(same, 3), [0, 0, 0, 1], atol=1e-12)
  one, two = np.asarray([[1., 0.]] * 2), np.asarray([[0., 1.]] * 2)
  np.testing.assert_allclose(
      rule(chains.Markov(one[0], one, two[0], two), 2), [1, 0, 0])


@pytest.mark.parametrize("seed,drawn", itertools.product(range(4), (0, 1)))
def test_rules_of_trees(seed, drawn):
  markov = _random(seed, concentration=1.)
  one = tree_rules.top_down(markov, (2,), with_replacement=bool(drawn))
  np.testing.assert_allclose(
      tree_rules.traversal(markov, (2,), bool(drawn)), one, atol=1e-12)
  if drawn:
    for k in (1, 3):
      found = tree_rules.top_down(markov, (k,), with_replacement=True)
      np.testing.assert_allclose(found[1], closed_forms.recursive_rejection(
          markov.p_first, markov.q_first, k), atol=1e-12)
  for shape in ((2, 1), (2, 2)):
    steps = chains.mean(
        tree_rules.top_down(markov, shape, with_replacement=bool(drawn)))
    whole = chains.mean(tree_rules.traversal(markov, shape, bool(drawn)))
    assert whole >= steps - 1e-12


def test_naive_sampling_finds_the_target_s_own_text():
  """The product form against the joint law of the text, over all draws."""
  markov = _random(2)
  joint = markov.p_first[:, None] * markov.p_next
  expected = 0.0
  for a, b in itertools.permutations(range(3), 2):
    pair = markov.q_first[a] * markov.q_first[b] / (1 - markov.q_first[a])
    for c, d in itertools.product(range(3), repeat=2):
      weight = pair * markov.q_next[a, c] * markov.q_next[b, d]
      expected += weight * trees.expected_tokens_of_text(
          [-1, 0, 0, 1, 2], [0, a, b, c, d], joint)
  found = tree_rules.top_down(markov, (2, 1), tree_rules.naive_sampling)
  np.testing.assert_allclose(1 + chains.mean(found), expected, atol=1e-12)
  case = golden.single_step()[1]
  for drawn, key in ((True, "iid"), (False, "wor")):
    law = tree_rules.naive_sampling(
        np.asarray(case["p"]), np.asarray(case["q"]), case["k"], drawn)
    np.testing.assert_allclose(
        law.sum(), case["verifiers"]["naive_target_sampling"][key], **_CLOSE)


def test_one_position_is_the_optimal_acceptance():
  for case in golden.single_step():
    if case["k"] == 2 and case["V"] <= 4:
      rows = [case["p"]] * case["V"], [case["q"]] * case["V"]
      markov = chains.Markov(case["p"], rows[0], case["q"], rows[1])
      for drawn, key in ((True, "iid"), (False, "wor")):
        if case["optimal"].get(key):
          best = case["optimal"][key]["alpha_lp"]
          for optimum in (sequence_optimum.node_by_node,
                          sequence_optimum.whole_tree):
            np.testing.assert_allclose(
                optimum(markov, (2,), drawn), best, atol=1e-7)


@pytest.mark.parametrize("case", _TREES, ids=_name)
def test_order_of_the_optima_of_trees(case):
  markov, shape = _of(case), case["branching"]
  drawn = case["with_replacement"]
  careless, careful = (
      sequence_optimum.node_by_node(markov, shape, drawn, is_careless)
      for is_careless in (True, False))
  whole = sequence_optimum.whole_tree(markov, shape, drawn)
  assert careless <= careful + 1e-7 and careful <= whole + 1e-7
  assert case["top_down"]["expected_accepted"] <= careful + 1e-7
  assert case["traversal"]["expected_accepted"] <= whole + 1e-7
  if max(shape) == 1:
    np.testing.assert_allclose(
        careful, case["top_down"]["expected_accepted"], atol=1e-7)
    np.testing.assert_allclose(
        whole, chains.one_round_bound(markov, len(shape)), atol=1e-7)


def test_ties_matter_and_so_does_seeing_the_whole_tree():
  # Tokens 0 and 1 are scarce drafts, equally good now; only 0 has a future.
  p = [.45, .45, .1]
  p_next = [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]]
  q_next = [[1., 0., 0.], [1., 0., 0.], [1., 0., 0.]]
  markov = chains.Markov(p, p_next, [.2, .2, .6], q_next)
  careless = sequence_optimum.node_by_node(
      markov, (2, 1), True, is_careless=True)
  careful = sequence_optimum.node_by_node(markov, (2, 1), True)
  assert careful > careless + .05
  draws = [((a, b), markov.q_first[a] * markov.q_first[b])
           for a in range(3) for b in range(3)]
  laws = [sequence_optimum.accepted_law(p, draws, np.asarray(future))
          for future in ([1., 0., 0.], [0., 1., 0.])]
  assert laws[0][0] > laws[0][1] + .05 and laws[1][1] > laws[1][0] + .05
  uneven = _of(next(c for c in _TREES if c["id"] == "three_2x1_iid"))
  assert sequence_optimum.whole_tree(uneven, (2, 1), True) > (
      sequence_optimum.node_by_node(uneven, (2, 1), True) + .1)


@pytest.mark.parametrize("seed", range(5))
def test_futures_never_cost_acceptance(seed):
  """The plan of the best sum of acceptance and future accepts the most."""
  rng = np.random.default_rng(seed)
  p, q = rng.dirichlet(np.full(4, .7), size=2)
  draws = [((a, b), q[a] * q[b]) for a in range(4) for b in range(4)]
  best = optimal.optimal_acceptance(p, q, 2)
  for scale in (0., 1., 50.):
    law = sequence_optimum.accepted_law(p, draws, scale * rng.random(4))
    np.testing.assert_allclose(law.sum(), best, atol=1e-7)
    assert (law <= p + 1e-7).all()


_HALF = np.full((2, 2), .5)
_EASY = chains.Markov(_HALF[0], _HALF, _HALF[0], _HALF)


@pytest.mark.parametrize("call,message", [
    (lambda: chains.Markov([.5, .5], _HALF, [1.], _HALF), "laws of shapes"),
    (lambda: chains.Markov([.5, .4], _HALF, _HALF[0], _HALF),
     "p_first sums to 0.9"),
    (lambda: chains.token_rule(_EASY, -1), "length=-1"),
    (lambda: chains.block_rule(_EASY, 30), "2 tokens at 30 positions"),
    (lambda: chains.one_round_bound(_EASY, 30), "2 tokens at 30 positions"),
    (lambda: chains.mean([.5, .1]), "histogram sums to 0.6"),
    (lambda: tree_rules.top_down(_EASY, (2, 0)), "branching=0"),
    (lambda: tree_rules.traversal(_EASY, (0,)), "branching=0"),
    (lambda: sequence_optimum.whole_tree(_EASY, (3,)), "drawn trees"),
    (lambda: sequence_optimum.node_by_node(_EASY, (3,)), "drawn children"),
    (lambda: sequence_optimum.whole_tree(_EASY, (1,) * 9), "pairs")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
