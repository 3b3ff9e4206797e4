"""The oracles themselves, against the golden table of acceptances."""

import doctest
import functools

import numpy as np
import pytest

from tests.exactness import golden
from tests.theory import oracle_cases as cases
from theory import closed_forms
from theory import oracles
from theory.oracles import chance
from theory.oracles import coupling
from theory.oracles import drafting
from theory.oracles import lossy
from theory.oracles import resolution
from theory.oracles import sequence
from theory.oracles import sequential
from theory.oracles import transport


def any_race(p, q, num_drafts):
  """Arbitrary rates, a zero among them: exact all the same."""
  rates = np.linspace(0, 2, len(p)) ** 2
  plan = resolution.Rates(frozenset({0, len(p) - 1}), rates, np.zeros(len(p)))
  return resolution.race(p, q, num_drafts, plan)


def last_token_first(p, q, num_drafts, draw=drafting.iid):
  """The two steps with a selection that optimises nothing."""
  draft_law = drafting.tuples(draw, q, num_drafts)
  selection = {s: np.eye(len(p))[max(s)]
               for s in transport.set_masses(draft_law)}
  return transport.two_step(p, draft_law, selection)


def by_key(*path):
  return lambda case: functools.reduce(
      lambda entry, key: entry and entry.get(key), path, case)


_ACCEPT = lambda name: by_key("verifiers", name, "accept")
_BEST = lambda draw: by_key("optimal", draw, "alpha_lp")
_NAIVE = lambda draw: by_key("verifiers", "naive_target_sampling", draw)
cases.DISTINCT = drafting.without_replacement
# Exact rules: builder, draws, golden acceptance (None: exactness only).
EXACT = {
    "speculative": (sequential.speculative, drafting.iid,
                    by_key("verifiers", "standard_k1")),
    "match": (sequential.sample_and_match, drafting.iid, _NAIVE("iid")),
    "match distinct": (sequential.sample_and_match, cases.DISTINCT,
                       _NAIVE("wor")),
    "match greedy": (sequential.sample_and_match, drafting.greedy,
                     _NAIVE("greedy")),
    "recursive": (sequential.recursive, drafting.iid, _ACCEPT("rrs")),
    "recursive distinct": (sequential.recursive_without_replacement,
                           cases.DISTINCT, _ACCEPT("rrs_wor")),
    "k_seq": (sequential.k_seq, drafting.iid, _ACCEPT("kseq")),
    "spechub": (transport.spechub, drafting.hub_pair, _ACCEPT("spechub")),
    "greedy": (transport.greedy_multi_draft, drafting.greedy,
               _ACCEPT("greedy")),
    "canonical": (transport.canonical, drafting.iid, _BEST("iid")),
    "canonical distinct": (
        functools.partial(transport.canonical, draw=cases.DISTINCT),
        cases.DISTINCT, _BEST("wor")),
    "canonical greedy": (
        functools.partial(transport.canonical, draw=drafting.greedy),
        drafting.greedy, _BEST("greedy")),
    "canonical unoptimised": (last_token_first, drafting.iid, None),
    "global resolution": (resolution.global_resolution, drafting.iid,
                          _BEST("iid")),
    "race": (cases.best_race, drafting.iid, _BEST("iid")),
    "race at any rates": (any_race, drafting.iid, None),
}
_NUM_DRAFTS = {"speculative": (1,), "spechub": (2,)}


@pytest.mark.parametrize("case", golden.single_step(), ids=lambda c: c["id"])
def test_exact_oracles_emit_the_target(case):
  p, q, k = cases.as_law(case["p"]), cases.as_law(case["q"]), case["k"]
  for name, (build, draw, known) in EXACT.items():
    expected = known and known(case)
    if k in _NUM_DRAFTS.get(name, (k,)) and (not known or expected is not None):
      law, accepted = chance.output(
          build(p, q, k), drafting.tuples(draw, q, k), len(p))
      cases.same(law, p, err_msg=name)
      if known:
        cases.close(accepted, expected, err_msg=name)
  kseq = case["verifiers"]["kseq"]
  cases.close(sequential.division_factor(p, q, k), kseq["rho"])


@pytest.mark.parametrize(
    "case", golden.table()["non_identical_drafts"], ids=lambda c: c["id"])
def test_drafts_of_different_laws(case):
  p, q, k = cases.as_law(case["p"]), cases.as_law(case["qs"]), case["k"]
  draft_law = drafting.tuples(drafting.independent, q, k)
  for build, expected in (
      (sequential.recursive, case["rrs_in_order"]),
      (functools.partial(transport.canonical, draw=drafting.independent),
       case["alpha_lp"])):
    law, accepted = chance.output(build(p, q, k), draft_law, len(p))
    cases.same(law, p)
    cases.close(accepted, expected)


@pytest.mark.parametrize(
    "case", golden.table()["global_resolution"], ids=lambda c: c["id"])
def test_global_resolution_parameters(case):
  p, q = cases.as_law(case["p"]), cases.as_law(case["q"])
  plan = resolution.solve(p, q, case["n"])
  assert sorted(plan.inner) == case["H_star"]
  for token, expected in case["outer_p"].items():
    cases.close(plan.outer_sums[int(token)], expected)
  for token, expected in case["inner_softmax_alpha"].items():
    cases.close(np.log(plan.rates[int(token)]), expected, atol=1e-5)


def rounds(case, draw, verify):
  """Target and the strings of one round: `draw(c, draft)`, then `verify`."""
  target = cases.markov(case["p0"], case["P"])
  draft = cases.markov(case["q0"], case["Q"])
  return target, chance.outcomes(
      lambda c: verify(c, target, draft, draw(c, draft)))


def check_round(case, draw, verify, known, length, complete=None):
  """One round's histogram, and that the target can go on from it."""
  target, strings = rounds(case, draw, verify)
  found = sequence.kept_histogram(strings, length)
  cases.close(found, known["hist"])
  cases.close(found @ np.arange(length + 1), known["expected_accepted"])
  if complete:
    _, strings = rounds(case, draw, complete)
  size = len(target.first)
  joint = [target.mass(s) for s in np.ndindex((size,) * (length + 1))]
  cases.same(sequence.extended(strings, target, length + 1).ravel(), joint)


whole_greedy_block = functools.partial(sequence.greedy_block, whole_block=True)


@pytest.mark.parametrize(
    "case", golden.table()["chain"], ids=lambda c: c["id"])
def test_chains(case):
  length = case["gamma"]
  draw = lambda c, draft: sequence.chain(c, draft, length)
  for verify, name, complete in (
      (sequence.token_by_token, "token", None),
      (sequence.block, "block", None),
      (sequence.greedy_block, "greedy_block", whole_greedy_block)):
    check_round(case, draw, verify, case[name], length, complete)


def test_greedy_block_alone_is_not_exact():
  case = golden.table()["chain"][0]
  target, strings = rounds(
      case, lambda c, draft: sequence.chain(c, draft, 2), sequence.greedy_block)
  joint = [target.mass(s) for s in np.ndindex(2, 2)]
  found = sequence.extended(strings, target, 2).ravel()
  assert lossy.total_variation(found, joint) == pytest.approx(1 / 9)


@pytest.mark.parametrize("case", golden.table()["tree"], ids=lambda c: c["id"])
def test_trees(case):
  branching = tuple(case["branching"])
  is_distinct = not case["with_replacement"]
  draw = lambda c, draft: sequence.tree(
      c, draft, branching, cases.DISTINCT if is_distinct else drafting.iid)
  for name, verify in (("top_down", sequence.top_down),
                       ("traversal", sequence.traversal)):
    check_round(case, draw, functools.partial(verify, distinct=is_distinct),
                case[name], len(branching))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_traversal_of_a_chain_is_block_verification(length):
  case = golden.table()["chain"][3]
  _, strings = rounds(
      case, lambda c, draft: sequence.chain(c, draft, length), sequence.block)
  draw = lambda c, draft: sequence.tree(
      c, draft, (1,) * length, cases.DISTINCT)
  _, found = rounds(
      case, draw, functools.partial(sequence.traversal, distinct=True))
  for string in strings.keys() | found.keys():
    cases.same(found.get(string, 0), strings.get(string, 0))


@pytest.mark.parametrize("case", golden.single_step(), ids=lambda c: c["id"])
def test_shared_noise(case):
  p, q, k = cases.as_law(case["p"]), cases.as_law(case["q"]), case["k"]
  found = coupling.list_acceptance(p, q, k)
  cases.close(found, case["verifiers"]["gls"]["exact"])
  bound = closed_forms.list_matching_bound(p, q, k)
  assert found >= bound - 1e-12
  if k == 1:
    cases.same(found, bound)


@pytest.mark.parametrize(
    "case", golden.table()["lenient"], ids=lambda c: c["id"])
def test_lenience(case):
  p, q = cases.as_law(case["p"]), cases.as_law(case["q"])
  rule = lossy.lenience(p, q, 1, case["kind"], case["eps"])
  law, accepted = chance.output(
      rule, drafting.tuples(drafting.iid, q, 1), len(p))
  cases.close(law, case["output"])
  cases.close(accepted, case["accept"])
  cases.close(lossy.total_variation(law, p), case["tv_to_target"])


@pytest.mark.parametrize(
    "case", golden.table()["typical"], ids=lambda c: c["id"])
def test_typical_set(case):
  passing = lossy.typical_set(
      cases.as_law(case["p"]), case["eps"], case["delta"], guard=0.)
  assert np.flatnonzero(passing).tolist() == case["accepted"]


def test_other_sets():
  p = np.array([.5, .2, .2, .1])
  assert lossy.top_k_set(p, 1).tolist() == [True, False, False, False]
  # Ties of the second likeliest pass together.
  assert lossy.top_k_set(p, 2).tolist() == [True, True, True, False]
  assert lossy.entropy_set(p, 0., .2).tolist() == [True, True, True, False]
  # However large the offset, the most likely token passes.
  assert lossy.entropy_set(p, 0., 9.).tolist() == [True, False, False, False]
  cases.same(lossy.restricted(p, p == .2), [0, .5, .5, 0])


def test_plausible_keeps_the_likeliest_or_the_first():
  p = np.array([.5, .2, .2, .1])
  passing = lossy.top_k_set(p, 3)
  law_of = lambda rule, drafts: chance.law(lambda c: rule(c, drafts), 4)
  first = lossy.plausible(passing, lossy.most_likely(p))
  likeliest = lossy.plausible(passing, lossy.restricted(p, passing), score=p)
  cases.same(law_of(first, (3, 2, 0)), [0, 0, 1, 0])
  cases.same(law_of(likeliest, (3, 2, 0)), [1, 0, 0, 0])
  cases.same(law_of(first, (3, 3)), [1, 0, 0, 0])
  cases.same(law_of(likeliest, (3, 3)), p * passing / .9)


@pytest.mark.parametrize("label", ["A", "D", "F", "H"])
def test_relaxed_grows_from_the_exact_rule(label):
  p, q = map(cases.as_law, golden.pairs()[label])
  draft_law = drafting.tuples(cases.DISTINCT, q, 2)
  base = chance.output(
      sequential.recursive_without_replacement(p, q, 2), draft_law, len(p))
  accepts = []
  for bound in (0., .1, .3, 1.):
    rule = lossy.relaxed(p, q, 2, cases.ring(len(p), 2), bound)
    law, accepted = chance.output(rule, draft_law, len(p))
    cases.same(law.sum(), 1)
    accepts.append(accepted)
    if not bound:
      cases.same(law, base[0])
      cases.same(accepted, base[1])
  assert np.all(np.diff(accepts) >= -1e-12)


def test_relaxed_moves_more_than_its_bound():
  p = np.full(4, .25)
  rule = lossy.relaxed(p, np.array([.5, .5, 0, 0]), 1, np.array(
      [[2], [3], [0], [1]]), .25)
  law, accepted = chance.output(rule, {(0,): .5, (1,): .5}, 4)
  assert accepted == 1 and lossy.total_variation(law, p) == .5


def test_relaxed_static_without_neighbours_is_exact():
  p, q = map(cases.as_law, golden.pairs()["D"])
  rule = lossy.relaxed_static(p, q, 2, np.zeros((4, 0), int), 1.)
  law, accepted = chance.output(rule, {drafting.top_tokens(q, 2): 1.}, 4)
  cases.same(law, p)
  cases.same(accepted, p[:2].sum())


def test_the_example_of_the_package():
  found = doctest.testmod(oracles)
  assert found.attempted and not found.failed


def test_every_path_is_followed():
  def coins_until_heads(c):
    return next((i for i in range(4) if c.flip(.25)), 4)
  found = chance.outcomes(coins_until_heads)
  cases.same([found[i] for i in range(5)], [.25 * .75 ** i for i in range(4)]
       + [.75 ** 4])
  with pytest.raises(ValueError, match="expected a token of positive mass"):
    chance.outcomes(lambda c: c.draw(np.zeros(2)))
