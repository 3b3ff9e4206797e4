"""Every token rule of spec_jax against the oracle written from its paper."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import types
from spec_jax.verifiers import enumeration
from spec_jax.verifiers.lossy import neighbours as neighbours_lib
from tests.exactness import golden
from tests.theory import oracle_cases as cases
from theory.oracles import chance
from theory.oracles import drafting
from theory.oracles import lossy
from theory.oracles import resolution
from theory.oracles import sequence
from theory.oracles import sequential
from theory.oracles import transport


@dataclasses.dataclass(frozen=True)
class Judge:
  """An oracle for a rule of spec_jax.

  Attributes:
    build: `(p, q, num_drafts, rule) -> verify`.
    draw: how its drafts are drawn.
    num_drafts: that it is compared at.
    variants: changes to the rule's own defaults, compared as well, at two
      drafts if the rule takes them.
    not_unique: why laws may differ given the drafts, if they may; then only
      the sum over drafts and the acceptance are compared.
    tolerance: of that acceptance.
  """

  build: Callable
  draw: Callable = drafting.iid
  num_drafts: tuple[int, ...] = (1, 2, 3)
  variants: tuple[dict, ...] = ()
  not_unique: str = ""
  tolerance: float = 1e-9


def plain(build):
  return lambda p, q, num_drafts, rule: build(p, q, num_drafts)


def hub_and_other(p, q, num_drafts):
  """SpecHub for the draw "greedy", which does not tell the order of the pair.

  Given its tokens a pair holds the hub first with the hub's own probability.
  """
  if num_drafts == 1:
    return sequential.speculative(p, q)
  verify = transport.spechub(p, q)

  def ordered(c, drafts):
    hub_first = c.flip(q[drafts[0]])
    return verify(c, drafts if hub_first else drafts[::-1])

  return ordered


def lenience(p, q, num_drafts, rule):
  kind = {"linear": "lin", "square": "sq", "power": "exp"}[rule.kind]
  return lossy.lenience(p, q, num_drafts, kind, rule.epsilon)


def typical(p, q, num_drafts, rule):
  passing = lossy.typical_set(p, rule.epsilon, rule.delta, guard=0.)
  rest = {"greedy": lossy.most_likely(p), "target": p,
          "truncated": lossy.restricted(p, passing)}[rule.otherwise]
  return lossy.plausible(passing, rest, score=p)


def relaxed(p, q, num_drafts, rule):
  table = (np.zeros((len(p), 0), int) if rule.neighbours is None
           else rule.neighbours.table)
  build = lossy.relaxed_static if q is None else lossy.relaxed
  return build(p, q, num_drafts, table, rule.delta + rule.is_relative,
               rule.is_relative)


_NEAR = neighbours_lib.Neighbours(cases.ring(5, 2))
_RELAXED = ({"neighbours": _NEAR}, {"neighbours": _NEAR, "delta": .3},
            {"neighbours": _NEAR, "delta": .5, "is_relative": True})
_MANY_PLANS = "several transport plans are optimal; given drafts they differ"
JUDGES = {
    "greedy": Judge(plain(sequential.greedy)),
    "sample_and_match": Judge(plain(sequential.sample_and_match)),
    "rejection": Judge(plain(sequential.speculative), num_drafts=(1,)),
    "recursive": Judge(plain(sequential.recursive)),
    "recursive_without_replacement": Judge(
        plain(sequential.recursive_without_replacement), cases.DISTINCT),
    "k_seq": Judge(plain(sequential.k_seq)),
    "mdsd_greedy": Judge(plain(transport.greedy_multi_draft), drafting.greedy),
    "spechub": Judge(plain(hub_and_other), drafting.greedy, (1, 2)),
    "race_transport": Judge(plain(cases.best_race), not_unique=_MANY_PLANS),
    "canonical_is": Judge(plain(transport.canonical), not_unique=_MANY_PLANS),
    # Rates that should diverge are stopped: exact, but not quite optimal.
    "global_resolution": Judge(
        plain(resolution.global_resolution), not_unique=_MANY_PLANS,
        tolerance=1e-6),
    # One level of a tree; deeper ones below.
    "block_verification": Judge(plain(sequential.speculative),
                                num_drafts=(1,)),
    "greedy_block_verification": Judge(plain(sequential.speculative),
                                       num_drafts=(1,)),
    "traversal_verification": Judge(
        plain(sequential.recursive), num_drafts=(2,)),
    "traversal_without_replacement": Judge(
        plain(sequential.recursive_without_replacement), cases.DISTINCT, (2,)),
    "lenience": Judge(lenience, num_drafts=(1,), variants=(
        {"kind": "square", "epsilon": .8}, {"kind": "power"}, {"epsilon": 1.})),
    "typical": Judge(typical, variants=(
        {"otherwise": "truncated"}, {"otherwise": "target", "epsilon": .3})),
    "top_k_acceptance": Judge(
        lambda p, q, n, rule: lossy.plausible(
            lossy.top_k_set(p, rule.k), p, score=p),
        variants=({"k": 0}, {"k": 3})),
    "distance_acceptance": Judge(
        lambda p, q, n, rule: lossy.plausible(
            np.abs(np.arange(len(p)) - np.argmax(p)) <= rule.epsilon, p,
            score=p), variants=({"epsilon": 0}, {"epsilon": 1})),
    "threshold": Judge(
        lambda p, q, n, rule: lossy.plausible(
            lossy.entropy_set(p, rule.slope, rule.intercept), p, score=p),
        variants=({"slope": 0., "intercept": .25},)),
    "relaxed": Judge(relaxed, cases.DISTINCT, variants=_RELAXED),
}
JUDGED = [(name, change) for name in verifiers.names() if name in JUDGES
          for change in ({}, *JUDGES[name].variants)]


def laws_of_rule(rule, p, q, tuples):
  """`[M, V]` in float64; padded to `5^K` tuples, so one compilation per K."""
  tuples = np.asarray(tuples, np.int32)
  padded = np.resize(tuples, (5 ** tuples.shape[1], tuples.shape[1]))
  with jax.enable_x64(True):
    laws = enumeration.tuple_laws(rule, p, q, padded)
  return np.asarray(laws, np.float64)[:len(tuples)]


def both_laws(judge, rule, p, q, num_drafts):
  """Tuples, their masses, laws by the rule and laws by its oracle."""
  draft_law = drafting.tuples(judge.draw, q, num_drafts)
  # A q with too few tokens ends a draw without replacement early.
  draft_law = {d: m for d, m in draft_law.items() if len(d) == num_drafts}
  if not draft_law:
    return [], None, None, None
  verify = judge.build(p, q, num_drafts, rule)
  expected = [chance.law(lambda c, d=drafts: verify(c, d), len(p))
              for drafts in draft_law]
  found = laws_of_rule(rule, p, q, list(draft_law))
  return (list(draft_law), np.array(list(draft_law.values())), found,
          np.array(expected))


def padded_pairs():
  for label, pair in golden.pairs().items():
    yield label, *(cases.as_law(golden.padded(law)) for law in pair)


@pytest.mark.parametrize("name,change", JUDGED, ids=lambda v: (
    v if isinstance(v, str) else "-".join(v) or "defaults"))
def test_rule_and_oracle_agree(name, change):
  judge = JUDGES[name]
  rule = dataclasses.replace(verifiers.get(name), **change)
  most = rule.max_drafts or max(judge.num_drafts)
  counts = [k for k in judge.num_drafts if k <= most]
  if change:
    counts = [k for k in counts if k == min(2, max(counts))]
  for label, p, q in padded_pairs():
    for k in counts:
      tuples, masses, found, expected = both_laws(judge, rule, p, q, k)
      if len(tuples) and judge.not_unique:
        cases.same(masses @ found, masses @ expected, err_msg=f"{label} {k}")
        kept = [masses @ [law[list(set(drafts))].sum() for drafts, law
                          in zip(tuples, laws)] for laws in (found, expected)]
        cases.close(*kept, atol=judge.tolerance, err_msg=f"{label} {k}")
      elif len(tuples):
        cases.same(found, expected, err_msg=f"{label} {k}")


@pytest.mark.skipif("relaxed" not in verifiers.names(), reason="not registered")
@pytest.mark.parametrize("change", _RELAXED, ids="-".join)
def test_relaxed_agrees_on_drafts_that_were_not_drawn(change):
  rule = dataclasses.replace(verifiers.get("relaxed"), **change)
  for label, p, q in padded_pairs():
    drafts = drafting.top_tokens(q, 2)
    verify = relaxed(p, None, 2, rule)
    expected = chance.law(
        functools.partial(lambda f, d, c: f(c, d), verify, drafts), 5)
    cases.same(laws_of_rule(rule, p, None, [drafts])[0], expected,
               err_msg=label)


def test_drafts_of_different_laws_agree():
  case = golden.table()["non_identical_drafts"][2]
  p, q = cases.as_law(golden.padded(case["p"])), np.array(
      [cases.as_law(golden.padded(law)) for law in case["qs"]])
  judge = Judge(plain(sequential.recursive), drafting.independent)
  _, _, found, expected = both_laws(
      judge, verifiers.get("recursive"), p, q, 2)
  cases.same(found, expected)


def test_a_wrong_rule_is_told_apart():
  p, q = (cases.as_law(golden.padded(law)) for law in golden.pairs()["D"])
  wrong = Judge(plain(sequential.recursive_without_replacement))
  _, _, found, expected = both_laws(
      wrong, verifiers.get("recursive"), p, q, 2)
  assert np.abs(found - expected).max() > 0.05


def node_prefixes(children):
  """Tokens, parents and prefixes of the nodes of a tree, level by level."""
  tokens, parents, prefixes, waiting = [0], [-1], [()], [(0, children)]
  while waiting:
    parent, below = waiting.pop(0)
    for token, subtree in below:
      waiting.append((len(tokens), subtree))
      tokens.append(token)
      parents.append(parent)
      prefixes.append((*prefixes[parent], token))
  return tokens, parents, prefixes


@functools.partial(jax.jit, static_argnums=0)
def joint_law(rule, p, q, row):
  return rule.joint_law(p, q, row)


def joint_strings(rule, target, draft, children, branching):
  """Strings that a joint rule emits on a given tree, with probabilities."""
  tokens, parents, prefixes = node_prefixes(children)
  row = types.DraftTree(
      tokens=np.asarray(tokens, np.int32), parents=np.asarray(
          parents, np.int32), valid=np.ones(len(tokens), bool), q=None,
      draw=rule.draws[0], depth=len(branching), max_children=max(branching))
  with jax.enable_x64(True):
    laws = joint_law(rule, np.array([target.after(s) for s in prefixes]),
                     np.array([draft.after(s) for s in prefixes]), row)
  found = {}
  for prefix, law in zip(prefixes, np.asarray(laws, np.float64)):
    for token, mass in enumerate(law):
      found[(*prefix, token)] = found.get((*prefix, token), 0) + mass
  return found


def path(children):
  """The only string of a chain drawn as a tree."""
  return (children[0][0], *path(children[0][1])) if children else ()


# How siblings are drawn, trees, and the oracle given the tree.
JOINT = {
    "block_verification": (drafting.iid, (1, 1, 1), lambda c, p, q, tree: (
        sequence.block(c, p, q, path(tree)))),
    "greedy_block_verification": (
        drafting.iid, (1, 1, 1), lambda c, p, q, tree: (
            sequence.greedy_block(c, p, q, path(tree)))),
    "traversal_verification": (
        drafting.iid, (2, 1), functools.partial(
            sequence.traversal, distinct=False)),
    "traversal_without_replacement": (
        cases.DISTINCT, (2, 2), functools.partial(
            sequence.traversal, distinct=True)),
}


@pytest.mark.parametrize(
    "name", [name for name in verifiers.names() if name in JOINT])
def test_joint_rules_agree_given_the_tree(name):
  draw, branching, oracle = JOINT[name]
  case = golden.table()["chain"][3]
  target = cases.markov(case["p0"], case["P"])
  draft = cases.markov(case["q0"], case["Q"])
  trees = chance.outcomes(lambda c: sequence.tree(c, draft, branching, draw))
  for tree in list(trees)[::3]:
    expected = chance.outcomes(lambda c, t=tree: oracle(c, target, draft, t))
    found = joint_strings(
        verifiers.get(name), target, draft, tree, branching)
    for string, mass in found.items():
      cases.same(mass, expected.get(string, 0), err_msg=f"{tree} {string}")
