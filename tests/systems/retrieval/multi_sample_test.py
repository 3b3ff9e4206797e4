"""Samples of one prompt copy from each other and stay independent samples."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.systems.retrieval import multi_sample
from tests import chi_square
from tests import rounds
from tests import toy
from tests.conformance import runs

DRAFTER = multi_sample.Consensus(toy.VOCAB, 4, 3, 0.5, False)


def propose(texts, prompt_length, drafter=DRAFTER):
  tokens = np.zeros((len(texts), 16), np.int32)
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  ctx = types.Context(jnp.asarray(tokens), jnp.asarray(
      [len(text) for text in texts], jnp.int32), None, None, None)
  start = jnp.full((len(texts),), prompt_length, jnp.int32)
  tree, _ = rounds.propose_from_text(drafter, start, ctx)
  return [tree.tokens[row, 1:][np.asarray(tree.valid[row, 1:])].tolist()
          for row in range(len(texts))]


def test_one_sample_has_nobody_to_copy_from():
  assert propose([[1, 2, 1, 2, 1]], 2) == [[]]


def test_a_row_behind_copies_the_row_ahead():
  ahead = [1, 2, 3, 4, 5, 6, 7, 8, 9]
  assert propose([ahead, ahead[:4]], 2) == [[], [5, 6, 7, 8]]


def test_only_rows_of_the_same_prompt_are_asked():
  assert propose([[1, 2, 3, 4, 5], [9, 2, 3]], 2) == [[], []]
  assert propose([[1, 2, 3, 4, 5], [1, 2, 3]], 2) == [[], [4, 5]]


def test_longest_match_wins_then_the_most_common_continuation():
  texts = [[1, 2, 3, 4, 9], [1, 2, 3, 4, 9], [1, 2, 3, 4, 8],
           [1, 2, 5, 4, 7], [1, 2, 3, 4]]
  assert propose(texts, 2)[-1] == [9]


def test_a_run_ends_where_the_samples_disagree():
  texts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 4, 7], [1, 2, 3]]
  assert propose(texts, 2)[-1] == [4]


def test_its_own_text_is_asked_only_on_request():
  text = [1, 2, 3, 1, 2]
  assert propose([text], 1) == [[]]
  own = multi_sample.Consensus(toy.VOCAB, 4, 3, 0.5, True)
  assert propose([text], 1, own) == [[3, 1, 2]]


@pytest.fixture(scope="module")
def pairs():
  """Two tokens of each of two samples of a prompt, many times over."""
  system, params = runs.build("multi_sample", runs.PLAIN, end_of_text=None)
  return runs.law_sample(system, params)[:, :2]


def test_samples_are_jointly_independent(pairs):
  """Neighbours decode side by side and draft for each other."""
  first, second = pairs[0::2, :1], pairs[1::2, :1]
  law = runs.exact_law().sum((1, 2))
  both = chi_square.joint_counts(
      np.concatenate([first, second], axis=1), toy.VOCAB)
  assert chi_square.p_value(both, law[:, None] * law[None]) > 1e-4


def acceptance(num_rows, temperature):
  system, params = runs.build("multi_sample", runs.PLAIN, end_of_text=None)
  system = system.with_sampling(sampling_lib.Sampling(temperature=temperature))
  prompts = decoding.Prompts(
      jnp.tile(jnp.asarray([runs.LAW_PROMPT], jnp.int32), (num_rows, 1)),
      jnp.full((num_rows,), len(runs.LAW_PROMPT), jnp.int32))
  decoded = fused.Fused().run(
      system, params, prompts, keys_lib.row_keys(0, num_rows), 40)
  return float(decoded.counts.accepted.sum() / decoded.counts.emitted.sum())


def test_acceptance_grows_with_samples_and_falls_with_temperature():
  assert acceptance(1, 0.5) == 0
  assert 0 < acceptance(2, 0.5) < acceptance(16, 0.5)
  assert acceptance(16, 1.5) < acceptance(16, 0.5)


def test_bad_parameters_are_named():
  bundle = toy.bundle()
  with pytest.raises(ValueError, match="min_share=1.5"):
    systems.build("multi_sample", bundle, min_share=1.5)
  with pytest.raises(ValueError, match="depth=0"):
    systems.build("multi_sample", bundle, depth=0)
