"""Acceptance by rank against what is known of it."""

import jax
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import sampling as sampling_lib
from spec_jax.evaluation import rank_acceptance
from spec_jax.verifiers import enumeration


def test_greedy_is_the_rank_of_the_targets_token():
  rng = np.random.default_rng(0)
  p, q = rng.normal(size=(2, 50, 6)).astype(np.float32)
  found = rank_acceptance.rank_acceptance(p, q, sampling_lib.GREEDY, 4)
  ranks = [int(np.flatnonzero(np.argsort(-b) == a.argmax())[0])
           for a, b in zip(p, q)]
  np.testing.assert_allclose(
      found, np.bincount(ranks, minlength=6)[:4] / 50, atol=1e-6)


def test_sampled_acceptance_equals_enumeration():
  rng = np.random.default_rng(1)
  p, q = rng.dirichlet(np.full(4, .6), size=2)
  tuples, weights = enumeration.draft_tuples(q, 3, "without_replacement")
  rule = verifiers.get("recursive_without_replacement")
  with jax.enable_x64(True):
    laws = np.asarray(enumeration.tuple_laws(rule, p, q, tuples))
  wanted = weights @ np.take_along_axis(laws, tuples, axis=1)
  rows = lambda law: np.tile(np.log(law), (4000, 1)).astype(np.float32)
  found = rank_acceptance.rank_acceptance(
      rows(p), rows(q), sampling_lib.Sampling(), 3)
  np.testing.assert_allclose(found, wanted, atol=.01)
  # The first child alone: one minus the total variation.
  assert abs(found[0] - np.minimum(p, q).sum()) < .01


def test_all_tokens_drawn_are_always_enough():
  rng = np.random.default_rng(2)
  p, q = rng.normal(size=(2, 30, 5)).astype(np.float32)
  found = rank_acceptance.rank_acceptance(p, q, sampling_lib.Sampling(), 5)
  assert found.sum() == pytest.approx(1, abs=1e-5)


def test_bad_arguments_are_named():
  logits = np.zeros((2, 3), np.float32)
  for bad, children in ((logits[:0], 2), (logits, 4), (logits, 0)):
    with pytest.raises(ValueError, match=f"num_children={children}"):
      rank_acceptance.rank_acceptance(
          bad, bad, sampling_lib.GREEDY, children)
