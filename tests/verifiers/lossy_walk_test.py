"""Lossy rules decode what they say, relax matching, and are never exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import registry
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import walk as walk_lib
from spec_jax.verifiers.lossy import minimum_block
from spec_jax.verifiers.lossy import neighbours as neighbours_lib
from spec_jax.verifiers.lossy import walk as lossy_walk
from tests import chi_square
from tests import toy
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test


def walk_case(name, hyper, draw, branching, **fields):
  table = neighbours_lib.Neighbours([[1, 2], [2, 0], [1, 0]])
  if name == "relaxed":
    hyper = dict(neighbours=table, **hyper)
  rule = dataclasses.replace(verifiers.get(name), **hyper)
  system = dataclasses.replace(
      markov.system(rule, branching, draw), walk=lossy_walk.walk, **fields)
  parents = tuple(tree_lib.static_parents(branching).tolist())
  return system, tree_law.Problem(
      rule, draw, parents, (True,) * len(parents), markov.P_ROWS,
      markov.Q_ROWS)


@pytest.mark.parametrize("name,hyper,draw,branching", [
    ("lenience", dict(epsilon=.6), "iid", (1, 1)),
    ("relaxed", dict(delta=.37), "without_replacement", (2, 1)),
    ("threshold", dict(slope=0., intercept=.25), "top_k", (2, 1)),
])
def test_walk_follows_the_enumerated_law(name, hyper, draw, branching):
  system, case = walk_case(name, hyper, draw, branching)
  law, = tree_law.emitted_laws(case)[:1]
  strings = trees_test.emitted_strings(system, num_rows=4000)
  assert set(strings) <= set(law)
  counts = [strings[string] for string in law]
  assert chi_square.p_value(
      counts, list(law.values())) > trees_test.SIGNIFICANCE
  # The same counts do not pass for those of the exact rule.
  exact, = tree_law.emitted_laws(dataclasses.replace(
      case, rule=verifiers.get("sample_and_match")))[:1]
  assert chi_square.p_value(
      [strings[s] for s in exact], list(exact.values())) < 1e-9


AT_ZERO = [
    ("lenience", dict(epsilon=.5), {0, 1, 2}, {1, 2}),
    ("lenience", dict(epsilon=.7), {0, 1}, {1}),
    ("lenience", dict(epsilon=1.), {0}, {1}),
    ("top_k_acceptance", dict(k=2), {0, 1}, {1, 2}),
    ("top_k_acceptance", dict(k=1), {0}, {1}),
    ("distance_acceptance", dict(epsilon=1), {0, 1}, {0, 1, 2}),
    ("distance_acceptance", dict(epsilon=0), {0}, {1}),
    ("threshold", dict(slope=0., intercept=.3), {0, 1}, {1, 2}),
    ("threshold", dict(slope=0., intercept=1.), {0}, {1}),
    ("relaxed", dict(delta=.31), {0, 1}, {1}),
    ("relaxed", dict(delta=0.), {0}, {1}),
    ("typical", {}, {0}, {1}),
]
AT_ZERO_ROWS = ((.42, .32, .26, 0., 0.), (0., .6, .4, 0., 0.))


@pytest.mark.parametrize("name,hyper,first,second", AT_ZERO)
def test_at_temperature_zero_matching_is_relaxed(name, hyper, first, second):
  table = neighbours_lib.Neighbours(
      [[2, 1], [2, 0], [3, 4], [4, 2], [3, 2]])
  if name == "relaxed":
    hyper = dict(neighbours=table, **hyper)
  rule = dataclasses.replace(verifiers.get(name), **hyper)
  emitted = jax.jit(jax.vmap(rule.at_zero, (None, 0, None)))
  for p, passes in zip(AT_ZERO_ROWS, (first, second)):
    laws = emitted(jnp.asarray(p, jnp.float32),
                   jnp.arange(5, dtype=jnp.int32)[:, None],
                   jnp.ones((1,), bool))
    expected = [x if x in passes else np.argmax(p) for x in range(5)]
    np.testing.assert_array_equal(laws, np.eye(5)[expected])


def test_walk_at_temperature_zero():
  """Chains of the draft's argmax from token 0: 2, then 0, then 2."""
  greedy = dict(sampling=sampling_lib.GREEDY)
  lenient, _ = walk_case("lenience", dict(epsilon=.3), "iid", (1, 1, 1),
                         **greedy)
  plain = dataclasses.replace(lenient, walk=walk_lib.walk)
  emitted = lambda system: trees_test.emitted_strings(system, num_rows=2)
  # p(2|0) = .2 >= .3 * .5, p(0|2) = .2 >= .3 * .45, then the bonus from 2.
  assert emitted(lenient) == {(2, 0, 2, 2): 2}
  assert emitted(plain) == {(0,): 2}


def keeping(least, draw="iid", **fields):
  """A chain of two drafts of which the first `least` pass unseen."""
  rule = verifiers.get("rejection" if draw == "iid" else "sample_and_match")
  return dataclasses.replace(
      markov.system(rule, (1, 1), draw),
      walk=minimum_block.MinimumBlock(least), **fields)


@pytest.mark.parametrize("least", [0, 1])
def test_behind_a_minimum_block_the_rule_decides(least):
  """Strings of one round, by hand: the draft's own law, then rejection."""
  p, q = np.asarray(markov.P_ROWS), np.asarray(markov.Q_ROWS)
  both, rest = np.minimum(p, q), np.maximum(p - q, 0)
  kept = q if least else both
  law = {}
  for first, second, bonus in np.ndindex(3, 3, 3):
    law[first, second, bonus] = (
        kept[0, first] * both[first, second] * p[second, bonus])
    law[first, second] = kept[0, first] * rest[first, second]
    law[first,] = 0 if least else rest[0, first]
  strings = trees_test.emitted_strings(keeping(least), num_rows=4000)
  possible = {string: mass for string, mass in law.items() if mass > 0}
  assert set(strings) <= set(possible)
  assert chi_square.p_value([strings[s] for s in possible],
                            list(possible.values())) > trees_test.SIGNIFICANCE


def test_a_minimum_block_keeps_the_whole_draft_or_less():
  """From token 0 the draft's argmax is 2, then 0; the target's is 0."""
  greedy = dict(sampling=sampling_lib.GREEDY)
  emitted = lambda least, draw: trees_test.emitted_strings(
      keeping(least, draw, **greedy), num_rows=2)
  best = np.argmax(np.asarray(markov.P_ROWS), axis=1)
  for draw in ("iid", "top_k"):
    assert emitted(0, draw) == {(best[0],): 2}
    assert emitted(2, draw) == emitted(9, draw) == {(2, 0, best[0]): 2}


def test_a_minimum_block_is_never_exact():
  with pytest.raises(ValueError, match="least=-1, expected >= 0"):
    minimum_block.MinimumBlock(-1)
  assert not walk_lib.is_plain(minimum_block.MinimumBlock(1))


def test_a_system_registered_as_exact_refuses_a_lossy_rule(monkeypatch):
  monkeypatch.setattr(registration, "REGISTRY", registry.Registry("system"))
  paper = registry.Paper("Title", "Doe", 2025)

  def build_as(name, exact, rule, walk=None):
    @registration.register(name, papers=(paper,), family="x", exact=exact)
    def build(parts, *, depth=2):
      """A chain."""
      drafter = draft_model.DraftModel(parts.target, (1,) * depth, "iid")
      return registration.compose(
          name, parts, drafter, verifiers.get(rule), walk)
    assert registration.REGISTRY[name].summary == "A chain."
    bundle = toy.bundle()
    return build(registration.Parts(bundle.target, bundle.models), depth=1)

  with pytest.raises(system_lib.IncompatibleParts,
                     match="'a' is registered as exact, its rule Lenience"):
    build_as("a", True, "lenience")
  assert build_as("b", False, "lenience").walk is lossy_walk.walk
  assert build_as("c", True, "rejection").walk is walk_lib.walk
  with pytest.raises(system_lib.IncompatibleParts,
                     match="'d' is registered as exact, its walk MinimumBlock"):
    build_as("d", True, "rejection", minimum_block.MinimumBlock(1))
