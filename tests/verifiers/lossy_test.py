"""Lossy rules: their bias by enumeration, their bounds, and their neutrals."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.verifiers import bias
from spec_jax.verifiers import rules
from spec_jax.verifiers.lossy import neighbours as neighbours_lib
from spec_jax.verifiers.lossy import thresholds
from tests.exactness import golden
from tests.verifiers import lossy_oracles

NAMES = ("distance_acceptance", "lenience", "relaxed", "threshold",
         "top_k_acceptance", "typical")
V = lossy_oracles.V
TABLE = neighbours_lib.Neighbours(
    [[1, 2, 3], [0, 2, 4], [3, 1, 0], [2, 4, 0], [3, 0, 1]])
# What makes a rule the exact one.
NEUTRAL = {
    "lenience": dict(epsilon=1.),
    "relaxed": dict(delta=0., neighbours=TABLE),
    "top_k_acceptance": dict(k=0),
    "typical": dict(epsilon=1., delta=float(V), otherwise="target"),
}
# Budgets and thresholds that small fractions never meet exactly.
CONFIGURED = [
    ("distance_acceptance", dict(epsilon=1)),
    ("lenience", dict(epsilon=.6)),
    ("lenience", dict(epsilon=.4, kind="power")),
    ("relaxed", dict(delta=.1371, neighbours=TABLE)),
    ("relaxed", dict(delta=.7193, is_relative=True, neighbours=TABLE)),
    ("threshold", dict(slope=.0917, intercept=.2113)),
    ("top_k_acceptance", dict(k=2)),
    ("typical", dict(epsilon=.3117, delta=.4331)),
    ("typical", dict(otherwise="truncated")),
]
PAIRS = {label: (golden.padded(p), golden.padded(q))
         for label, (p, q) in golden.pairs().items()}


def close(found, expected, atol=1e-9):
  np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def rule_of(name, hyper):
  return dataclasses.replace(verifiers.get(name), **hyper)


def total_variation(law, p):
  return np.abs(np.asarray(law) - p).sum() / 2


@pytest.mark.parametrize("name", NAMES)
def test_no_lossy_rule_can_be_called_exact(name):
  assert not verifiers.info(name).exact and verifiers.info(name).summary
  with pytest.raises(TypeError, match="exact"):
    dataclasses.replace(verifiers.get(name), exact=True)


@pytest.mark.parametrize("case", golden.table()["lenient"],
                         ids=lambda case: case["id"])
def test_lenience_equals_golden(case, monkeypatch):
  p, q = golden.padded(case["p"]), golden.padded(case["q"])
  hyper = dict(epsilon=case["eps"], kind=lossy_oracles.KINDS[case["kind"]])
  arguments = "lenience", p, q, 1, "iid"
  close(verifiers.exact_bias(*arguments, **hyper), case["tv_to_target"])
  law = bias.output_law(*arguments, enumerate_only=True, **hyper)
  close(law, golden.padded(case["output"]))
  monkeypatch.setitem(rules.RULES, "lenience", rule_of("lenience", hyper))
  close(verifiers.exact_acceptance(*arguments), case["accept"])
  close(verifiers.exact_output_law(*arguments), law, 0)


@pytest.mark.parametrize("case", golden.table()["typical"],
                         ids=lambda case: case["id"])
def test_typical_equals_golden(case):
  rule = rule_of("typical", dict(epsilon=case["eps"], delta=case["delta"]))
  with jax.enable_x64(True):
    p = jnp.asarray(case["p"])
    close(thresholds.entropy(p), case["entropy"])
    close(rule.threshold(p), case["threshold"])
    assert np.flatnonzero(rule.accepts(p)).tolist() == case["accepted"]


# Small integers give zeros and ties. A draft without zeros has always the same
# number of tuples, so that one compilation serves every example.
_targets = st.lists(st.integers(0, 6), min_size=V, max_size=V).filter(any)
_drafts = st.lists(st.integers(1, 6), min_size=V, max_size=V)
_CASES = {"lenience": [("iid", 1), ("top_k", 1)],
          "relaxed": [("without_replacement", 2), ("without_replacement", 1),
                      ("top_k", 2)]}
_CASES.update(dict.fromkeys(
    ("distance_acceptance", "threshold", "top_k_acceptance", "typical"),
    [("iid", 2), ("iid", 1), ("without_replacement", 2), ("top_k", 2)]))


def check_law(name, hyper, p, q, num_drafts, draw):
  arguments = name, p, q, num_drafts, draw
  law = bias.output_law(*arguments, enumerate_only=True, **hyper)
  close(law, lossy_oracles.law(name, hyper, p, q, num_drafts, draw), 1e-12)
  close(law.sum(), 1, 1e-12)
  assert (law >= -1e-15).all()
  close(verifiers.exact_bias(*arguments, **hyper), total_variation(law, p),
        1e-12)
  return law


@pytest.mark.parametrize("name,hyper", CONFIGURED)
@hypothesis.given(p=_targets, q=_drafts)
@hypothesis.settings(deadline=None, max_examples=8, derandomize=True)
def test_law_is_the_algorithm_and_bias_its_distance(name, hyper, p, q):
  p, q = np.asarray(p, float) / np.sum(p), np.asarray(q, float) / np.sum(q)
  laws = [check_law(name, hyper, p, q, k, draw) for draw, k in _CASES[name]]
  draw, k = _CASES[name][0]
  rounded = bias.output_law(name, p, q, k, draw, enumerate_only=True,
                            dtype=np.float32, **hyper)
  close(rounded, laws[0], 1e-5)


@pytest.mark.parametrize("name,hyper", CONFIGURED)
def test_laws_with_zeros_in_the_draft(name, hyper):
  p, q = map(np.asarray, PAIRS["H"])
  draw, k = _CASES[name][0]
  check_law(name, hyper, p, q, k, draw)
  check_law(name, hyper, q, p, k, draw)


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_hyper_parameters_have_no_bias(name):
  for p, q in [PAIRS[label] for label in "FH"]:
    for k in (1, 2):
      for draw in ("without_replacement", "top_k"):
        fits = k <= min(verifiers.info(name).max_drafts or k,
                        np.count_nonzero(q))
        if fits:
          law = bias.output_law(name, p, q, k, draw, enumerate_only=True,
                                **NEUTRAL[name])
          close(law, p, 1e-12)


def test_defaults_are_biased_except_where_nothing_is_near():
  p, q = golden.pairs()["F"]
  for name in NAMES:
    found = verifiers.exact_bias(name, p, q, 1, "without_replacement")
    assert found < 1e-12 if name == "relaxed" else found > .09, name
  assert verifiers.exact_bias(
      "relaxed", p, q, 1, "without_replacement", delta=.3,
      neighbours=TABLE) > .05
  assert verifiers.exact_bias("recursive", p, q, 2, "iid") < 1e-12


@pytest.mark.parametrize("kind", lossy_oracles.KINDS.values())
def test_lenience_pays_for_acceptance_one_to_one(kind):
  rule = rule_of("lenience", dict(kind=kind))
  for p, q in PAIRS.values():
    p, q = np.asarray(p), np.asarray(q)
    previous = np.inf
    for epsilon in (.1, .3, .5, .8, 1.):
      arguments = dict(kind=kind, epsilon=epsilon)
      found = verifiers.exact_bias("lenience", p, q, 1, "iid", **arguments)
      rule = rule_of("lenience", arguments)
      with jax.enable_x64(True):
        inflated = np.asarray(rule.inflated(jnp.asarray(p)))
      close(found, np.minimum(q, inflated).sum() - np.minimum(p, q).sum(),
            1e-12)
      law = bias.output_law("lenience", p, q, 1, "iid", **arguments)
      assert (law <= inflated + 1e-12).all()  # Leviathan et al., A.5.
      assert found <= previous + 1e-12
      previous = found


def test_stricter_typical_thresholds_accept_fewer():
  p = jnp.asarray([p for p, _ in PAIRS.values()], jnp.float32)
  accepted = lambda name, **hyper: np.asarray(
      jax.vmap(rule_of(name, hyper).accepts)(p))
  typical = [accepted("typical", epsilon=scale * .09, delta=scale * .3)
             for scale in (10., 3., 1., .1)]
  likely = [accepted("top_k_acceptance", k=k) for k in range(4)]
  near = [accepted("distance_acceptance", epsilon=e) for e in range(V)]
  assert (near[0].sum(-1) == 1).all() and near[-1].all()
  for few, more in [*zip(typical, typical[1:]), *zip(likely, likely[1:]),
                    *zip(near, near[1:-1])]:
    assert not (few & ~more).any() and few.sum() < more.sum()


def test_argmax_always_passes_the_adaptive_threshold():
  # Then only the argmax passes: emitted as often as drafted, else p.
  p, q = golden.pairs()["D"]
  found = verifiers.exact_bias("threshold", p, q, 1, "iid", intercept=9.)
  close(found, q[3] * (1 - p[3]), 1e-12)
  anything = bias.output_law("threshold", p, q, 1, "iid", intercept=-1.)
  close(anything, q, 1e-12)


def test_typical_acceptance_is_not_truncated_sampling():
  p, q = golden.pairs()["F"]
  rule = rule_of("typical", dict(otherwise="truncated"))
  with jax.enable_x64(True):
    baseline = total_variation(rule.truncated(jnp.asarray(p)), p)
  found = verifiers.exact_bias("typical", p, q, 1, "iid",
                               otherwise="truncated")
  assert found > 4 * baseline > 0


def test_budget_bounds_the_relaxed_row_not_the_output():
  p, q = np.asarray(list(PAIRS.values())).swapaxes(0, 1)

  def lent(**hyper):
    rule = rule_of("relaxed", dict(neighbours=TABLE, **hyper))
    with jax.enable_x64(True):
      over_tokens = jax.vmap(rule.borrowed, (None, 0))
      return np.asarray(jax.vmap(over_tokens, (0, None))(
          jnp.asarray(p), jnp.arange(V)))

  assert 0 < lent(delta=.25).max() <= .25
  assert (lent(delta=.5, is_relative=True) <= .5 * p).all()
  accepted = [np.minimum(q, p + lent(delta=d)).sum(1) for d in (0., .1, .4, 1.)]
  assert (np.diff(accepted, axis=0) >= 0).all()
  pairs = neighbours_lib.nearest(np.arange(4.)[:, None], 3)
  close(verifiers.exact_bias(
      "relaxed", [.25] * 4, [.5, .5, 0., 0.], 1, "without_replacement",
      delta=.25, neighbours=pairs), .5, 1e-12)
  many = neighbours_lib.nearest(np.arange(100.)[:, None], 50)
  close(verifiers.exact_bias(
      "relaxed", [.01] * 100, np.repeat([.1, 0.], [10, 90]), 1,
      "without_replacement", delta=.1, neighbours=many), .9, 1e-12)


def test_large_vocabularies_where_a_closed_form_is_known():
  rng = np.random.default_rng(0)
  p, q = rng.dirichlet(np.full(20_000, .1), size=2)
  gain = np.minimum(q, p / .5).sum() - np.minimum(p, q).sum()
  close(verifiers.exact_bias("lenience", p, q, 1, "iid"), gain)
  law = bias.output_law("typical", p, q, 4, "iid", epsilon=1e-3)
  close(law.sum(), 1)
  # A deterministic draft is kept as it is, or the rule emits the argmax.
  found = verifiers.exact_bias("typical", p, q, 4, "top_k")
  assert found in (1 - p).round(15) or np.isclose(found, 1 - p, 0, 1e-9).any()
  with pytest.raises(ValueError, match="V=20000 tokens and K=2 .* 'typical'"):
    verifiers.exact_bias("typical", p, q, 2, "without_replacement")


@pytest.mark.parametrize("name,hyper", CONFIGURED)
def test_padding_is_absent_and_no_draft_leaves_the_rest(name, hyper):
  rule = rule_of(name, hyper)
  p = jnp.asarray([.1, .35, .3, .05, .2], jnp.float32)
  q = jnp.asarray([.3, .1, .2, .3, .1], jnp.float32)
  law = jax.jit(rule.law)
  drafts = jnp.asarray([1, 3, 2], jnp.int32)
  last = law(p, q, drafts, jnp.asarray([False, False, True]))
  first = law(p, q, drafts[::-1], jnp.asarray([True, False, False]))
  close(last, first, 0)
  assert last.sum() > .999 and np.abs(last - p).max() > .01
  nothing = law(p, q, drafts, jnp.zeros((3,), bool))
  close(nothing, rule.rest(p) if hasattr(rule, "rest") else p, 1e-7)


def test_the_likeliest_of_several_siblings_is_taken():
  rule, p = verifiers.get("typical"), jnp.asarray([.2, .3, .3, .2, 0.])
  everything = jnp.ones((3,), bool)
  emitted = lambda *drafts: int(jnp.argmax(
      rule.law(p, None, jnp.asarray(drafts, jnp.int32), everything)))
  assert emitted(0, 3, 4) == 0 and emitted(4, 3, 0) == 3  # Ties: drawn first.
  assert emitted(0, 2, 1) == 2 and emitted(0, 1, 2) == 1
  assert emitted(4, 4, 4) == 1  # Nothing passes: the argmax.


def test_nearest_tokens():
  points = np.asarray([[0, 0], [3, 4], [0, 1], [3, 4], [-1, 0]])
  found = neighbours_lib.nearest(points, 3)
  assert found.table.tolist() == [
      [2, 4, 1], [3, 2, 0], [0, 4, 1], [1, 2, 0], [0, 2, 1]]
  again = neighbours_lib.nearest(points, 3)
  assert found == again and hash(found) == hash(again)
  assert found != neighbours_lib.nearest(points, 2)
  assert neighbours_lib.nearest(points).table.shape == (5, 4)
  with pytest.raises(ValueError, match="read-only"):
    found.table[0, 0] = 1


GOOD = dict(p=[.5, .5], q=[.5, .5], num_drafts=1, draw="iid")


@pytest.mark.parametrize("name,hyper,message", [
    ("lenience", dict(epsilon=0.), "epsilon=0.0, expected in"),
    ("lenience", dict(kind="cube"), "kind='cube', expected one of"),
    ("lenience", dict(eps=.5), "hyper-parameter of lenience 'eps'.*'epsilon'"),
    ("typical", dict(delta=-1.), "delta=-1.0, expected >= 0"),
    ("typical", dict(otherwise="x"), "otherwise='x'"),
    ("top_k_acceptance", dict(k=-1), "k=-1"),
    ("distance_acceptance", dict(epsilon=-1), "epsilon=-1, expected >= 0"),
    ("threshold", dict(slope=-1.), "slope=-1"),
    ("relaxed", dict(delta=2., draw="top_k"), "delta=2.0 with is_relative"),
    ("relaxed", {}, "not valid for drafts drawn 'iid'"),
    ("lenience", dict(num_drafts=2), "takes at most 1"),
    ("typical", dict(draw="coupled"), "drawn 'coupled'"),
    ("relaxed", dict(draw="top_k", neighbours=TABLE),
     "neighbours of 5 tokens, the target has 2"),
])
def test_bad_arguments_are_named(name, hyper, message):
  with pytest.raises(ValueError, match=message):
    verifiers.exact_bias(name, **{**GOOD, **hyper})


@pytest.mark.parametrize("table,message", [
    ([1, 0], "shape"), ([[2], [0]], "tokens 0 to 2"), ([[0], [0]], "its own"),
    ([[1, 1], [0, 0], [0, 1]], "twice"),
])
def test_bad_tables_are_named(table, message):
  with pytest.raises(ValueError, match=message):
    neighbours_lib.Neighbours(np.asarray(table))
  with pytest.raises(ValueError, match="embeddings of shape"):
    neighbours_lib.nearest([[np.nan]])
