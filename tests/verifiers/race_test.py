"""The race: fair whatever its laws are, and optimal as solved."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.verifiers import enumeration
from spec_jax.verifiers import race as race_lib
from spec_jax.verifiers import race_transport
from spec_jax.verifiers import recursive
from tests.exactness import golden
from theory import optimal

MOST = 4  # Drafts are padded to it, so that one compilation serves them all.
VOCAB = 5
LARGE = 32_768


@jax.jit
def winner_law(p, q, num_drafts):
  """The law of the winner of the race solved for (p, q)."""
  is_draft = jnp.arange(MOST) < num_drafts
  race = race_lib.solve(p, q, is_draft)
  return race_lib.winner_law(race, q, is_draft)


def acceptance(p, q, num_drafts):
  with jax.enable_x64(True):
    winner = winner_law(jnp.asarray(p), jnp.asarray(q), num_drafts)
  return np.minimum(p, np.asarray(winner)).sum()


@jax.jit
def _any_race(race, p, q, tuples, is_draft):
  """Emitted laws and chances of the drafts, and the winner's law."""
  laws = jax.vmap(lambda drafts: race_transport.emitted_law(
      race, p, q, drafts, is_draft))(tuples)
  chances = jax.vmap(lambda drafts: race_lib.draft_chances(
      race, drafts, is_draft))(tuples)
  return laws, chances, race_lib.winner_law(race, q, is_draft)


@pytest.mark.parametrize("draw,num_drafts", [
    ("iid", 1), ("iid", 2), ("iid", 3), ("independent", 3)])
def test_any_race_is_fair(draw, num_drafts):
  """Rates nobody solved for: the output is the target's all the same."""
  for seed in range(3):
    rng = np.random.default_rng(seed)
    p, *q = rng.dirichlet(np.full(VOCAB, 0.5), size=1 + num_drafts)
    q = np.stack(q) if draw == "independent" else q[0]
    tuples, weights = enumeration.draft_tuples(q, num_drafts, draw)
    with jax.enable_x64(True):
      race = race_lib.Race(
          jnp.asarray(rng.integers(0, 3, VOCAB), jnp.int32),
          jnp.asarray(rng.random(VOCAB)),
          jnp.asarray(rng.dirichlet(np.full(4, 0.3), size=4)))
      laws, chances, winner = map(np.asarray, _any_race(
          race, p, q, tuples, np.ones(num_drafts, bool)))
    np.testing.assert_allclose(weights @ laws, p, rtol=0, atol=1e-12)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=0, atol=1e-12)
    wins = np.zeros(VOCAB)
    np.add.at(wins, tuples, weights[:, None] * chances)
    np.testing.assert_allclose(winner, wins, rtol=0, atol=1e-12)
    assert np.abs(winner - p).max() > 1e-2  # Far from what would be accepted.


@pytest.mark.parametrize("case", golden.single_step(), ids=lambda c: c["id"])
def test_acceptance_is_the_transport_optimum(case):
  p, q, k = golden.problem(case)
  best = case["optimal"]["iid"]["alpha_lp"]
  found = verifiers.exact_acceptance("race_transport", p, q, k, "iid")
  assert abs(found - best) <= 1e-9


_weights = st.lists(st.sampled_from([0., 1e-9, 1e-4, .1, 1., 1., 2., 3.]),
                    min_size=VOCAB, max_size=VOCAB).filter(lambda w: max(w) > 1)


@hypothesis.given(p=_weights, q=_weights)
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
def test_optimal_monotone_and_above_recursive_rejection(p, q):
  p, q = np.asarray(p) / np.sum(p), np.asarray(q) / np.sum(q)
  found = [acceptance(p, q, n) for n in range(1, MOST + 1)]
  best = [optimal.optimal_acceptance(p, q, n) for n in range(1, MOST + 1)]
  np.testing.assert_allclose(found, best, rtol=0, atol=1e-12)
  assert (np.diff(found) >= -1e-12).all()
  for n in range(1, MOST + 1):
    other = verifiers.acceptance("recursive", p, q, n, "iid").value
    assert other <= found[n - 1] + 1e-12


@functools.cache
def large_laws(family):
  rng = np.random.default_rng(0)
  if family == "log-normal":
    z = rng.normal(size=LARGE) * 2
    laws = np.exp([z, z + rng.normal(size=LARGE) * 1.5])
  elif family == "Zipf":
    ranks = np.arange(1, LARGE + 1)
    laws = np.stack([ranks ** -1.2, (ranks + 2.7) ** -1.0
                     * np.exp(rng.normal(size=LARGE) / 2)])
  else:
    laws = rng.dirichlet(np.full(LARGE, 0.05), size=2)
    laws = np.stack([.7 * laws[0] + .3 * laws[1], laws[1]])
  return laws / laws.sum(1, keepdims=True)


@pytest.mark.parametrize("family", ["log-normal", "Zipf", "Dirichlet"])
def test_close_to_the_optimum_at_full_vocabulary(family):
  """In float32, as at run time; K-SEQ and recursive rejection stay behind."""
  p, q = large_laws(family)
  last = 0
  for n in (1, 2, MOST):
    winner = winner_law(p.astype(np.float32), q.astype(np.float32), n)
    found = np.minimum(p, np.asarray(winner, np.float64)).sum()
    best = optimal.optimal_acceptance(p, q, n)
    assert best - 1e-4 <= found <= best + 1e-5
    assert found >= last
    last = found
  assert found > verifiers.acceptance("recursive", p, q, n, "iid").value
  assert found > verifiers.acceptance("k_seq", p, q, n, "iid").value


def test_float32_law_of_the_winner_at_full_vocabulary():
  """What the rule divides by is what the drafts do, to float32 rounding."""
  _, q = large_laws("Dirichlet")
  is_draft = np.ones(MOST, bool)
  law = jax.jit(race_lib.winner_law)
  p, q = large_laws("Dirichlet").astype(np.float32)
  race = jax.jit(race_lib.solve)(p, q, is_draft)
  rounded = np.asarray(law(race, q, is_draft), np.float64)
  with jax.enable_x64(True):
    wide = race_lib.Race(race.node, np.asarray(race.upper, np.float64),
                         np.asarray(race.slots, np.float64))
    exact = np.asarray(law(wide, q.astype(np.float64), is_draft))
  assert np.abs(rounded - exact).sum() <= 1e-5


def test_closed_form_with_more_tokens_than_nodes():
  """Between nodes a token keeps its mean: losses are of second order."""
  p, q = np.random.default_rng(1).dirichlet(np.full(100, 0.3), size=2)
  found = verifiers.acceptance("race_transport", p, q, 3, "iid")
  best = optimal.optimal_acceptance(p, q, 3)
  assert found.method == "closed_form"
  assert best - 1e-4 <= found.value <= best + 1e-12


def test_padding_changes_nothing_and_one_draft_is_plain_rejection():
  p, q = (np.asarray(law, np.float32) for law in golden.pairs()["D"])
  law = jax.jit(race_transport.RaceTransport().law)
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
  at = lambda drafts, exist: np.asarray(law(
      p, q, np.asarray(drafts, np.int32), np.asarray(exist)))
  yes, no = True, False
  close(at([1, 2, 0], [yes, no, yes]), at([0, 1, 2], [yes, yes, no]))
  close(at([2, 1, 0], [no, no, no]), p)
  for token in range(len(p)):
    drafts = np.asarray([token], np.int32)
    alone = recursive.Rejection().law(p, q, drafts, np.ones(1, bool))
    close(at([0, token, 0], [no, yes, no]), np.asarray(alone))


def test_too_few_nodes_are_named():
  with pytest.raises(ValueError, match="num_nodes=1, expected at least 8"):
    race_transport.RaceTransport(num_nodes=1)
