"""List-level Gumbel coupling: the text is the seed's, whoever drafts."""

import functools

import numpy as np
import pytest

from spec_jax.caches import dense
from spec_jax.core import keys as keys_lib
from spec_jax.core import system as system_lib
from spec_jax.drafters import draft_model
from spec_jax.verifiers import list_coupling
from spec_jax.verifiers import matching
from spec_jax.verifiers import walk
from tests import chi_square
from tests.exactness import golden
from tests.exactness import markov
from tests.exactness import tree_law

NUM_ROWS = 8192
NUM_TOKENS = 3
OTHER_Q_ROWS = ((.6, .2, .2), (.1, .1, .8), (.3, .4, .3))


@functools.cache
def coupled(num_drafts, depth=2, with_list=True):
  model = markov.TabularModel(3)
  drafter = draft_model.DraftModel(
      model, (num_drafts,) + (1,) * (depth - 1), "coupled", num_drafts)
  rule, carry = matching.SampleAndMatch(), walk.walk
  if with_list:
    rule, carry = list_coupling.ListCoupling(num_drafts), list_coupling.walk
  return system_lib.System("coupled", model, drafter, rule, dense.empty, carry)


def decoded(q_rows):
  out = markov.decode(coupled(3), markov.params(q_rows=q_rows), NUM_ROWS,
                      NUM_TOKENS)
  return np.asarray(out.tokens)[:, 1:1 + NUM_TOKENS]


def test_text_ignores_the_drafter_and_follows_the_target():
  text = decoded(markov.Q_ROWS)
  np.testing.assert_array_equal(text, decoded(OTHER_Q_ROWS))
  law = tree_law.markov_law(markov.P_ROWS, 0, NUM_TOKENS)
  counts = chi_square.joint_counts(text, 3)
  assert chi_square.p_value(counts, law) > 1e-4


def first_round(system, p_rows, q_rows):
  _, verdict = markov.one_round(
      system, markov.params(p_rows, q_rows),
      keys_lib.row_keys(0, NUM_ROWS), 0)
  return verdict


def test_a_list_of_one_is_the_single_coupling():
  listed, single = (
      first_round(coupled(1, with_list=flag), markov.P_ROWS, markov.Q_ROWS)
      for flag in (True, False))
  for field in ("path", "count", "next_token"):
    np.testing.assert_array_equal(
        getattr(listed, field), getattr(single, field))


@pytest.mark.parametrize("case", [
    case for case in golden.single_step()
    if case["id"] in ("A_k3", "B_k3")],
    ids=lambda case: case["id"])
def test_acceptance_is_that_of_the_list_matching_lemma(case):
  verdict = first_round(
      coupled(case["k"]), [case["p"]] * 3, [case["q"]] * 3)
  known = case["verifiers"]["gls"]
  kept = float((verdict.count > 1).mean())
  error = np.sqrt(known["exact"] * (1 - known["exact"]) / NUM_ROWS)
  assert abs(kept - known["exact"]) < 4 * error
  assert kept > known["lml"] - 4 * error


def test_a_perfect_drafter_has_a_full_match_at_the_first_token():
  # Each noise alone decides its own chain; the emitted token is one of theirs.
  verdict = first_round(coupled(3), markov.P_ROWS, markov.P_ROWS)
  assert (verdict.count > 1).all()
  # Behind it only chains that match are left, but every noise still decides.
  assert 0.4 < float((verdict.count > 2).mean()) < 1


def test_equal_chains_all_stay_in_play():
  # All chains begin with token 1; only the noise of one hits afterwards.
  q_rows = ((0., 1., 0.), markov.P_ROWS[1], markov.P_ROWS[2])
  p_rows = ((0., 1., 0.), markov.P_ROWS[1], markov.P_ROWS[2])
  verdict = first_round(coupled(3), p_rows, q_rows)
  assert (verdict.count == 3).all()
  deepest = np.asarray(verdict.path)[:, 2]
  assert set(deepest.tolist()) == {4, 5, 6}


def test_empty_list_is_named():
  with pytest.raises(ValueError, match="num_drafts=0"):
    list_coupling.ListCoupling(0)
  with pytest.raises(ValueError, match="num_clocks=2"):
    draft_model.DraftModel(markov.TabularModel(3), (3, 1), "coupled", 2)
