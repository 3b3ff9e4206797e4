"""What each rule for several drafts promises beyond being exact."""

import functools

import jax
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.verifiers import canonical_is
from spec_jax.verifiers import enumeration
from spec_jax.verifiers import global_resolution
from tests.exactness import golden
from tests.exactness import tree_law
from theory import optimal
from theory.oracles import chance
from theory.oracles import transport

VOCAB = 6


def random_pairs(count, seed=0):
  """Laws of every kind: flat and peaked, near to each other and far."""
  rng = np.random.default_rng(seed)
  for i in range(count):
    yield rng.dirichlet(np.full(VOCAB, (0.3, 1.0, 3.0)[i % 3]), size=2)


def enumerated(rule, p, q, num_drafts, draw="iid"):
  """Largest error of the output law, and the acceptance."""
  tuples, weights = enumeration.draft_tuples(q, num_drafts, draw)
  with jax.enable_x64(True):
    laws = np.asarray(enumeration.tuple_laws(rule, p, q, tuples))
  hit = np.zeros(laws.shape, bool)
  np.put_along_axis(hit, tuples, True, axis=1)
  return np.abs(weights @ laws - p).max(), weights @ (laws * hit).sum(1)


@functools.partial(tree_law.jit, static_argnums=0)
def _law(rule, p, q, drafts, exists):
  return rule.law(p, q, drafts, exists)


def conditional_law(rule, p, q, drafts, is_draft=None):
  exists = np.ones(len(drafts), bool) if is_draft is None else is_draft
  with jax.enable_x64(True):
    return np.asarray(_law(
        rule, np.asarray(p), np.asarray(q), np.asarray(drafts, np.int32),
        exists))


@pytest.mark.parametrize("num_drafts", [2, 3])
def test_k_seq_beats_recursion_and_its_bound(num_drafts):
  bound = 1 - (1 - 1 / num_drafts) ** num_drafts
  gains = []
  for p, q in random_pairs(30):
    accept = verifiers.exact_acceptance("k_seq", p, q, num_drafts, "iid")
    best = optimal.optimal_acceptance(p, q, num_drafts)
    recursive = verifiers.acceptance("recursive", p, q, num_drafts, "iid")
    assert bound * best - 1e-12 <= accept <= best + 1e-12
    gains.append(accept - recursive.value)
  assert min(gains) > -1e-12 and np.mean(gains) > 0.005


def test_k_seq_solves_for_the_golden_factor():
  factor = jax.jit(verifiers.get("k_seq").division_factor)
  for case in golden.single_step():
    p, q, k = golden.problem(case)
    if case["verifiers"]["kseq"]["accept"] < 1:
      with jax.enable_x64(True):
        rho = float(factor(
            np.asarray(p), np.asarray(q), np.arange(3) < k))
      assert abs(rho - case["verifiers"]["kseq"]["rho"]) < 1e-9, case["id"]


def test_k_seq_of_one_draft_is_rejection():
  for p, q in random_pairs(3):
    for token in range(VOCAB):
      np.testing.assert_allclose(
          conditional_law(verifiers.get("k_seq"), p, q, [token]),
          conditional_law(verifiers.get("rejection"), p, q, [token]),
          rtol=0, atol=1e-15)


_PADDED = ((3, [1, 1, 1]), (2, [1, 0, 1]), (2, [0, 1, 1]), (2, [1, 1, 0]),
           (1, [0, 1, 0]), (0, [0, 0, 0]))


@pytest.mark.parametrize("name", ["k_seq", "mdsd_greedy", "spechub",
                                  "canonical_is", "global_resolution"])
def test_only_drafts_that_exist_count(name):
  """Everything solved for n drafts is solved for those that exist."""
  rule, (p, q) = verifiers.get(name), next(random_pairs(1, seed=3))
  order = np.argsort(-q, kind="stable")
  for count, mask in _PADDED:
    if rule.max_drafts is None or count <= rule.max_drafts:
      mask = np.asarray(mask, bool)
      drafts = np.full(3, order[-1])
      # Top tokens first, as greedy drafts stand; a repeated one where allowed.
      kept = order[[0, 2]] if count == 2 else order[:count]
      kept = kept[:1].repeat(count) if name == "k_seq" else kept
      drafts[mask] = kept
      expected = conditional_law(rule, p, q, kept) if count else p
      np.testing.assert_allclose(
          conditional_law(rule, p, q, drafts, mask), expected, rtol=0,
          atol=1e-9, err_msg=str(mask))


@pytest.mark.parametrize("num_drafts", [1, 2, 3])
def test_greedy_drafts_reach_their_optimum(num_drafts):
  for p, q in random_pairs(9):
    best = optimal.optimal_acceptance(p, q, num_drafts, "greedy")
    for name in ("mdsd_greedy", "spechub")[:1 if num_drafts > 2 else 2]:
      accept = verifiers.exact_acceptance(name, p, q, num_drafts, "greedy")
      assert abs(accept - best) < 1e-12, name


def test_spechub_sums_the_order_of_its_pairs_out():
  for p, q in random_pairs(6):
    hub, *others = np.argsort(-q, kind="stable").tolist()
    verify = transport.spechub(p, q)
    law = lambda *pair, v=verify: chance.law(lambda c: v(c, pair), VOCAB)
    for other in others:
      mixed = (1 - q[hub]) * law(other, hub) + q[hub] * law(hub, other)
      np.testing.assert_allclose(
          conditional_law(verifiers.get("spechub"), p, q, [hub, other]),
          mixed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", [
    canonical_is.CanonicalIS(), global_resolution.GlobalResolution()],
    ids=["canonical_is", "global_resolution"])
@pytest.mark.parametrize("num_drafts", [2, 3])
def test_solved_selection_is_optimal(rule, num_drafts):
  for p, q in random_pairs(24):
    error, accept = enumerated(rule, p, q, num_drafts)
    best = optimal.optimal_acceptance(p, q, num_drafts)
    assert error < 1e-12 and best - 1e-7 < accept < best + 1e-12


@pytest.mark.parametrize("rule", [
    canonical_is.CanonicalIS(num_free=3),
    canonical_is.CanonicalIS(num_steps=0),
    global_resolution.GlobalResolution(num_tokens=1, num_pools=1),
    global_resolution.GlobalResolution(num_steps=1)],
    ids=["three free", "no step", "one rate and two pools", "one step"])
def test_truncated_or_unsolved_selection_is_exact(rule):
  gaps = []
  for p, q in random_pairs(12):
    error, accept = enumerated(rule, p, q, 2)
    assert error < 1e-12
    gaps.append(optimal.optimal_acceptance(p, q, 2) - accept)
  assert min(gaps) > -1e-12 and max(gaps) > 1e-4  # Else nothing was cut.


def test_weights_of_their_own_are_worth_drafts():
  """Where ratios differ by more than 1, fixed weights are not the best."""
  one, few, all_free = (
      [enumerated(canonical_is.CanonicalIS(num_free=n), p, q, 2)[1]
       for p, q in random_pairs(12)] for n in (1, 3, VOCAB))
  assert np.mean(one) < np.mean(few) - 1e-5 < np.mean(all_free) - 2e-5


@pytest.mark.parametrize("case", [
    case for case in golden.table()["non_identical_drafts"]
    if len(case["qs"]) == 2], ids=lambda c: c["id"])
def test_two_differing_drafts_reach_the_optimum(case):
  found = verifiers.exact_acceptance(
      "canonical_is", case["p"], case["qs"], 2, "independent")
  assert abs(found - case["alpha_lp"]) <= 1e-9


@pytest.mark.parametrize("case", golden.table()["global_resolution"],
                         ids=lambda c: c["id"])
def test_global_resolution_selects_what_the_plan_emits(case):
  p, q = map(np.asarray, (golden.padded(case["p"]), golden.padded(case["q"])))
  rule = verifiers.get("global_resolution")
  with jax.enable_x64(True):
    plan = jax.jit(rule.solve)(p, q, np.ones(case["n"], bool))
  kept = np.minimum(np.asarray(plan.selected), p)
  assert abs(kept.sum() - case["alpha"]) < 1e-7
  inner = sorted(case["H_star"])
  np.testing.assert_allclose(kept[inner], p[inner], rtol=0, atol=1e-7)
