"""Stochastic beams: stable numbers, the law of the tree, exact verification."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from spec_jax.core import sampling as sampling_lib
from spec_jax.trees import stochastic_beam
from spec_jax.verifiers import enumeration
from tests import chi_square
from tests.exactness import markov
from tests.exactness import tree_law
from tests.trees import beam_law

RULE = "recursive_without_replacement"
NUM_SAMPLES = 20_000
# Below this a test fails; seeds are fixed, so it passes always or never.
SIGNIFICANCE = 1e-4
# Of target and draft: with zeros, and without.
ROWS = {
    "zeros": (markov.P_ROWS, markov.Q_ROWS),
    "dense": (((.1, .3, .6), (.45, .35, .2), (.3, .3, .4)),
              ((.6, .3, .1), (.2, .5, .3), (.05, .15, .8))),
}


def directly(values, bound):
  """The definition, in float64 and without its cancellation."""
  values, bound = np.float64(values), np.float64(bound)
  largest = values.max()
  ages = np.exp(-largest) * np.expm1(largest - values)
  return -np.log(np.exp(-bound) + ages)


@pytest.mark.parametrize("values,bound", [
    ((0.3, -1.2, 2.0, -0.4), 0.5),
    ((0.3, 0.3, 0.3 - 1e-6, -1e-6), -3.0),
    ((-250.0, 3.0, -40.0, 2.5), 60.0),
    ((100.0, 99.0, 300.0, -300.0), -30.0),
    ((-300.0, -299.0, -310.0, -301.5), -280.0),
    ((5.0, -np.inf, 4.0, -np.inf), 1.0),
    ((-np.inf, -np.inf, -2.0, -np.inf), 7.0),
])
def test_truncated_gumbels_equal_their_definition(values, bound):
  values = np.asarray(values, np.float32)
  found = jax.jit(stochastic_beam.truncate)(values, jnp.full(1, bound))
  is_possible = np.isfinite(values)
  np.testing.assert_array_equal(np.isfinite(found), is_possible)
  assert (np.asarray(found)[~is_possible] == -np.inf).all()
  np.testing.assert_allclose(
      np.asarray(found)[is_possible],
      directly(values[is_possible], bound), rtol=1e-6, atol=1e-6)
  assert np.max(found) == np.float32(bound)
  ordered = np.asarray(found)[np.argsort(values)]
  assert (ordered[1:] >= ordered[:-1]).all()


@pytest.mark.parametrize("bound", [-np.inf, 0.0])
def test_what_cannot_be_drawn_has_no_score(bound):
  nothing = jnp.full((4,), -jnp.inf)
  found = stochastic_beam.truncate(nothing, jnp.full(1, bound))
  assert (np.asarray(found) == -np.inf).all()


def test_sequences_that_do_not_exist_have_no_children():
  beam = stochastic_beam.Beam(
      jnp.asarray([-1.0, -jnp.inf]), jnp.asarray([-0.5, -jnp.inf]))
  log_law = jnp.asarray([[-0.7, -jnp.inf, -0.7], [jnp.nan, 0.0, 0.0]])
  for clocks in (None, jnp.ones((2, 3))):
    new, parents, tokens = stochastic_beam.step(beam, log_law, clocks, 3)
    assert np.isfinite(new.scores).tolist() == [True, True, False]
    assert not np.isnan(new.log_probs).any()
    assert parents[:2].tolist() == [0, 0] and tokens[:2].tolist() == [0, 2]
    assert parents.dtype == tokens.dtype == jnp.int32
  assert new.scores[0] == beam.scores[0]


@functools.partial(jax.jit, static_argnums=(2, 3))
def grow(key, log_rows, width, depth):
  """A tree below token 0: tokens, parents and validity `[N]`, and its beam."""
  beam, last = stochastic_beam.root(), jnp.zeros((1,), jnp.int32)
  tokens, parents, valid = [last], [last - 1], [jnp.ones((1,), bool)]
  for level in range(depth):
    make = lambda key: sampling_lib.clocks(key, log_rows.shape[-1])
    keys = jax.random.split(jax.random.fold_in(key, level), last.shape[0])
    beam, slots, last = stochastic_beam.step(
        beam, log_rows[last], jax.vmap(make)(keys), width)
    parents.append(slots + (0 if level == 0 else 1 + (level - 1) * width))
    tokens.append(last)
    valid.append(beam.scores > -jnp.inf)
  return tuple(map(jnp.concatenate, (tokens, parents, valid))), beam


@functools.cache
def samples(rows, width, depth):
  keys = jax.random.split(jax.random.key(0), NUM_SAMPLES)
  log_rows = markov.log(ROWS[rows][1])
  return jax.device_get(jax.vmap(
      lambda key: grow(key, log_rows, width, depth))(keys))


def tree_p_value(drawn, law) -> float:
  """Of trees, `[R, N]` tokens, parents and validity, against their law."""
  width = drawn[0].shape[1]
  rows, times = np.unique(np.concatenate(
      [np.asarray(a, np.int64) for a in drawn], axis=1),
      axis=0, return_counts=True)
  counts = dict.fromkeys(law, 0)
  for row, count in zip(rows, times.tolist()):
    tree = beam_law.nested(*np.split(row, (width, 2 * width)))
    counts[tree] = counts.get(tree, 0) + count
  return chi_square.p_value(
      list(counts.values()), [law.get(tree, 0.0) for tree in counts])


@pytest.mark.parametrize("rows", ROWS)
def test_trees_follow_the_race(rows):
  drawn, _ = samples(rows, 2, 2)
  law = beam_law.trees(ROWS[rows][1], 0, 2, 2)
  assert tree_p_value(drawn, law) > SIGNIFICANCE
  other = beam_law.trees(ROWS[rows][0], 0, 2, 2)
  assert tree_p_value(drawn, other) < 1e-10


def test_scores_are_those_of_a_race():
  """The second sequence rings an exponential time after the first."""
  _, beam = samples("dense", 2, 2)
  times = np.exp(-np.float64(beam.scores))
  rest = -np.expm1(np.float64(beam.log_probs[:, 0]))
  np.testing.assert_array_equal(beam.scores[:, 0], 0)
  waits = (times[:, 1] - times[:, 0]) * rest
  assert stats.kstest(waits, "expon").pvalue > SIGNIFICANCE


def test_race_of_one_level_is_successive_sampling():
  q = ROWS["dense"][1]
  law = beam_law.trees(q, 1, 2, 1)
  drafts, weights = enumeration.draft_tuples(
      np.asarray(q[1]), 2, "without_replacement")
  assert len(law) == len(drafts)
  for pair, weight in zip(drafts.tolist(), weights):
    assert abs(law[tuple((token, ()) for token in pair)] - weight) < 1e-15


def joint_error(rows, width, depth, edit=lambda tree: tree):
  """Largest deviation of the joint law of three tokens from the target's."""
  p, q = ROWS[rows]
  rounds = []
  for root in range(len(p)):
    drawn = {}
    for tree, mass in beam_law.trees(q, root, width, depth).items():
      tree = edit(tree)
      drawn[tree] = drawn.get(tree, 0.0) + mass
    assert abs(sum(drawn.values()) - 1) < 1e-12
    rounds.append(beam_law.emitted(RULE, p, q, root, drawn))
  return max(np.abs(tree_law.joint_law(rounds, root, 3)
                    - tree_law.markov_law(p, root, 3)).max()
             for root in range(len(p)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width,depth", [(1, 2), (2, 2), (3, 2), (2, 3)])
def test_verified_text_follows_the_target(rows, width, depth):
  """Although how many siblings are kept depends on their own noise."""
  assert joint_error(rows, width, depth) <= 1e-12


def ascending(tree):
  """Siblings in the wrong order."""
  return tuple(reversed(tree))


def likely_only(tree):
  """A sibling is dropped for what it is, not for when it rang."""
  return tuple(child for child in tree if child[0] != 0) or tree


@pytest.mark.parametrize("bug", [ascending, likely_only])
def test_enumeration_sees_a_planted_bug(bug):
  assert joint_error("dense", 2, 2, bug) > 1e-3
