"""FR-Spec and VocabTrim: what faithful implementations must show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import part_training
from experiments.parts import run as run_lib
from experiments.parts import vocabularies
from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import fused
from spec_jax.training import vocabulary
from tests import features as oracle
from tests import toy

SMALL = dict(budget=8, depth=3, top_k=3)
SAMPLING = sampling_lib.Sampling(0.7)


def with_ids(name, ids):
  bundle = toy.bundle()
  return dataclasses.replace(bundle, params={
      **bundle.params, name: {"token_ids": jnp.asarray(ids, jnp.int32)}})


@functools.cache
def decode(name, ids=None, sampling=SAMPLING):
  bundle = toy.bundle() if ids is None else with_ids(name, ids)
  system, params = systems.build(name, bundle, **SMALL)
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling), params, toy.prompts(),
      keys_lib.row_keys(0, 4), 12))


@pytest.mark.parametrize("name", ["fr_spec", "vocab_trim"])
def test_all_tokens_are_eagle_2(name):
  jax.tree.map(np.testing.assert_array_equal,
               decode(name, tuple(range(toy.VOCAB))), decode("eagle_2"))


def test_the_text_is_the_same_for_any_vocabulary():
  whole = decode("eagle_2")
  for ids in ((3,), (0, 5, 11), tuple(range(1, 12, 2))):
    np.testing.assert_array_equal(
        decode("vocab_trim", ids).tokens, whole.tokens)


def test_tokens_that_the_target_never_writes_cost_drafts_and_no_text():
  """A vocabulary apart from what the target may say, wherever it is asked."""
  sampling = sampling_lib.Sampling(0.7, top_k=2)
  whole, bundle = decode("eagle_2", sampling=sampling), toy.bundle()
  logits = jax.jit(bundle.target.score)(
      bundle.params["target"], jnp.asarray(whole.tokens)).logits
  may_be = np.asarray(jax.lax.top_k(logits, 2)[1])
  is_asked = np.arange(whole.tokens.shape[1]) < whole.length[:, None]
  apart = sorted(set(range(toy.VOCAB)) - set(may_be[is_asked].ravel().tolist()))
  assert apart
  ours = decode("vocab_trim", tuple(apart), sampling)
  np.testing.assert_array_equal(ours.tokens, whole.tokens)
  assert ours.counts.drafted.sum() and not ours.counts.accepted.sum()
  assert whole.counts.accepted.sum()


def test_order_of_the_ids_does_not_matter():
  one, other = (decode("fr_spec", ids) for ids in (
      (1, 4, 6, 7, 9, 10), (10, 6, 1, 9, 4, 7)))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_best_of_a_part_are_the_part_of_the_best():
  ids = (1, 4, 6, 7, 9, 10)
  bundle = with_ids("fr_spec", ids)
  text = [5, 3, 8]
  found = {}
  for name in ("fr_spec", "eagle_2"):
    system, params = systems.build(name, bundle, **SMALL)
    found[name] = oracle.rollout(
        system.drafter.model, params.drafter, text, ())[0]
  np.testing.assert_allclose(
      found["fr_spec"], found["eagle_2"][np.asarray(ids)], atol=1e-5)


def test_coverage_grows_with_the_size_and_bounds_acceptance():
  rng = np.random.default_rng(0)
  law = rng.dirichlet(np.full(20, .3))
  text = rng.choice(20, 5000, p=law)
  shares, before = [], set()
  for size in range(1, 21):
    ids = vocabulary.most_frequent(text, 20, size)
    assert before <= set(ids.tolist()) and (np.diff(ids) > 0).all()
    before = set(ids.tolist())
    shares.append(vocabulary.coverage(text, ids))
    q = np.zeros(20)
    q[ids] = rng.dirichlet(np.ones(size))
    assert np.minimum(law, q).sum() <= law[ids].sum() + 1e-12
  assert shares == sorted(shares) and shares[-1] == 1


def test_counts_of_what_the_target_writes_cover_it_better(tmp_path):
  """Than those of the corpus that begins its texts."""
  bundle = toy.bundle(end_of_text=0)
  options = vocabularies.VocabularyRecipe(size=6, own_windows=8, length=16)
  corpora = np.random.default_rng(1).integers(
      1, toy.VOCAB, (2, 200)).astype(np.uint16)

  def own_text(options, stream):
    return part_training.own_text(
        tmp_path / f"{stream is corpora[0]}.npy", options, bundle.target,
        bundle.params["target"], stream, seed=0)

  run = run_lib.Run(
      bundle, corpora[0], corpora[1], own_text, tmp_path, seed=0,
      checkpoint_every=1, changes={}, progress=None)
  own, corpus = (choose(options, run)[1]["token_ids"] for choose in (
      vocabularies.own_vocabulary, vocabularies.corpus_vocabulary))
  assert len(own) == len(corpus) == 6 and bundle.end_of_text in own
  text = own_text(options, run.heldout)[:, run_lib.begun(options.length):]
  assert vocabulary.coverage(text, own) > vocabulary.coverage(text, corpus) + .1


def test_tokens_that_must_be_in_are():
  ids = vocabulary.most_frequent(np.asarray([1, 1, 2, 2, 3]), 9, 3, (7,))
  assert ids.tolist() == [1, 2, 7]
  with pytest.raises(ValueError, match="size=1 tokens, expected from 2 to"):
    vocabulary.most_frequent(np.asarray([1]), 9, 1, (7, 8))
