"""Laws of rules, drafts and trees, mostly by enumeration."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.verifiers import block
from tests.drafters import chain_draft_model_test
from tests.drafters import draft_model_test
from tests.exactness import active_set_test
from tests.exactness import golden
from tests.exactness import markov
from tests.exactness import multi_draft_test
from tests.exactness import rules_test
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.trees import growth_test
from tests.trees import stochastic_beam_test
from tests.verifiers import joint_test
from tests.verifiers import lossy_test

# The rules whose code planted bugs edit; the suite itself goes over all.
_RULES = ("recursive", "recursive_without_replacement", "k_seq", "mdsd_greedy",
          "spechub", "canonical_is", "race_transport")


def output_laws(names=_RULES):
  """Emitted law equals p, by enumeration."""
  rules_test.check_output_laws(
      num_drafts=(1, 2, 3), labels=("A", "E", "H", "scarce hub"),
      names=names)


def padded_drafts():
  """K-SEQ solves for the drafts that exist."""
  multi_draft_test.test_only_drafts_that_exist_count("k_seq")


def peaked_draft():
  rules_test.test_peaked_draft_without_replacement_in_float32()


def ragged_tree_laws():
  """Joint law of three tokens over several rounds, by enumeration."""
  for name, draw in (("recursive", "iid"), ("k_seq", "iid"),
                     ("recursive_without_replacement", "without_replacement")):
    error = trees_test.joint_error(trees_test.problem(name, draw, "ragged"))
    assert error <= 1e-12, (name, error)


def joint_laws():
  """Joint law of four tokens under rules that judge whole trees."""
  for rule, draw, shape in (
      (joint_test.BLOCK, "iid", "chain"),
      (joint_test.BLOCK, "iid", "short chain"),
      (joint_test.TRAVERSAL["iid"], "iid", "two levels")):
    error = joint_test.output_error(joint_test.problem(rule, draw, shape))
    assert error <= 1e-12, (rule, error)


def greedy_blocks():
  """Joint law of texts over rounds that hand a state on."""
  rows = markov.P_ROWS, markov.Q_ROWS
  error = np.abs(
      joint_test.carried_joint(block.GreedyBlockVerification(3), *rows, 0, 4)
      - tree_law.markov_law(rows[0], 0, 4)).max()
  assert error <= 1e-12, error


@contextlib.contextmanager
def forgetting(cached_fn):
  """What is sound must not be judged by a buggy result, nor the reverse."""
  cached_fn.cache_clear()
  try:
    yield
  finally:
    cached_fn.cache_clear()


def draft_laws():
  """The q of a tree is the law that its children were drawn from."""
  with forgetting(draft_model_test.rounds):
    draft_model_test.test_laws_equal_recompute("chain")


def beam_trees():
  """Trees of a stochastic beam follow their exact law, by chi-square."""
  with forgetting(stochastic_beam_test.samples):
    stochastic_beam_test.test_trees_follow_the_race("dense")


def grown_trees():
  """Sampled trees that follow the draft follow their exact law."""
  growth_test.test_trees_and_rounds_follow_their_exact_laws()


def adaptive_chains():
  """So do chains that stop at what was drawn."""
  chain_draft_model_test.test_rounds_and_texts_follow_their_exact_laws()


def active_sequences():
  """Sequences with equal beginnings all stay in play, by chi-square."""
  with forgetting(active_set_test.emitted_law):
    active_set_test.test_walk_follows_the_active_set("k_seq")


def lossy_laws():
  """Bias and thresholds of lossy rules equal known values."""
  lenient, typical = (golden.table()[k][0] for k in ("lenient", "typical"))
  with pytest.MonkeyPatch.context() as monkeypatch:
    lossy_test.test_lenience_equals_golden(lenient, monkeypatch)
  lossy_test.test_typical_equals_golden(typical)
  lossy_test.test_budget_bounds_the_relaxed_row_not_the_output()


def two_costs():
  """Laws of rows with one and with several drafts, in one batch."""
  p, q = (np.asarray(law, np.float32) for law in rules_test.PAIRS["A"])
  drafts, exists = jnp.asarray([[1, 2]] * 2), jnp.asarray([[1, 1], [1, 0]]) > 0
  law = jax.vmap(verifiers.get("race_transport").law, (None, None, 0, 0))
  batch = tree_law.jit(law)(p, q, drafts, exists)
  one = tree_law.jit(law)
  alone = jnp.concatenate(
      [one(p, q, drafts[i:i + 1], exists[i:i + 1]) for i in range(2)])
  assert jnp.allclose(batch, alone, atol=1e-6), (batch, alone)
