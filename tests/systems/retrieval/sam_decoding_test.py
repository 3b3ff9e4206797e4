"""SAM Decoding: which source drafts, how much, and when the other drafter."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.drafters import token_recycling
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.stores import datastore as datastore_lib
from spec_jax.systems.retrieval import sam_decoding
from tests import rounds
from tests import toy

V = 64


def drafter(**fields):
  return sam_decoding.SamDecoding(
      token_recycling.TokenRecycling(V, depth=3), **fields)


def row(sam, text):
  return sam.open_row(sam.open_store(), list(text))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """One document: 1 2 3 ... 60."""
  folder = tmp_path_factory.mktemp("corpus")
  tokens = np.asarray([*range(1, 61), 0], np.uint16)
  datastore_lib.write(folder, tokens, V, end_of_document=0)
  return str(folder)


def test_full_drafts_once_the_match_is_long_enough():
  block = np.random.default_rng(0).permutation(50) + 1
  cycle = np.arange(V)
  cycle[block] = np.roll(block, -1)  # Each token of the block has its next.
  table = np.zeros((V, V), np.float32)
  table[np.arange(V), cycle] = 20
  # Token Recycling drafts four tokens at most, a copy thirty-nine.
  system = rounds.compose(drafter(), rounds.TableModel(V))
  prompt = block.tolist() + block[:6].tolist()
  decoded = hosted.Hosted().run(
      system, types.Params(jnp.asarray(table)), rounds.prompts_of([prompt]),
      keys_lib.row_keys(0, 1), 120)
  assert decoded.counts.target_calls.tolist() == [3]
  endless = np.tile(block, 5).tolist()
  assert decoded.tokens[0, :176].tolist() == endless[:176]


def test_infinite_threshold_is_the_other_drafter():
  table = jnp.asarray(rounds.cycle(V, 9))
  args = (types.Params(table), rounds.prompts_of([[1, 2], [5]]),
          keys_lib.row_keys(0, 2), 40)
  sam = rounds.compose(drafter(threshold=10 ** 6), rounds.TableModel(V))
  other = rounds.compose(token_recycling.TokenRecycling(V, depth=3),
                         rounds.TableModel(V))
  ours, theirs = hosted.Hosted().run(sam, *args), fused.Fused().run(
      other, *args)
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  np.testing.assert_array_equal(
      ours.counts.target_calls, theirs.counts.target_calls)
  np.testing.assert_array_equal(
      ours.counts.accepted.sum(1), theirs.counts.accepted.sum(1))


def test_the_text_wins_unless_the_corpus_matches_longer(corpus):
  sam = drafter(datastore=corpus, bias=2)
  # Both know "7 8 9"; the text goes on with 50, and is preferred.
  both = row(sam, [7, 8, 9, 50, 51, 40, 7, 8, 9]).draft(())
  assert (both.tokens[:2], both.score) == ([50, 51], 3)
  # Five tokens of the corpus minus the bias still beat two of the text.
  long = row(sam, [8, 9, 50, 5, 6, 7, 8, 9]).draft(())
  assert (long.tokens[:3], long.score) == ([10, 11, 12], 3)
  assert long.parents == list(range(39))
  # Four do not.
  short = row(sam, [8, 9, 50, 6, 7, 8, 9]).draft(())
  assert (short.tokens[:1], short.score) == ([50], 2)


def test_alone_it_copies_as_much_as_the_match_allows(corpus):
  alone = drafter(auxiliary="none", factor=4.0, depth=60)
  text = list(range(1, 40)) + [60, 5, 6]
  found = row(alone, text).draft(())
  assert found.tokens == list(range(7, 16)) and found.score == 2
  assert not len(row(alone, [1, 2, 3]).draft(()))
  tree = drafter(auxiliary="none", factor=1.0, depth=60, datastore=corpus,
                 bias=0)
  found = row(tree, [20, 21, 22]).draft(())
  assert found.tokens == [23, 24, 25, 26] and found.score == 3


def test_the_tree_may_be_smaller_than_published():
  made = lambda **hyper: systems.build(
      "sam_decoding", toy.bundle(), **hyper)[0].drafter.other
  assert made(depth=7, tree_width=2, tree_depth=4) == (
      token_recycling.TokenRecycling(toy.VOCAB, width=2, depth=4))
  assert made() == token_recycling.TokenRecycling(toy.VOCAB)


def test_a_wrong_auxiliary_is_named():
  with pytest.raises(ValueError, match="auxiliary='eagle', expected one of"):
    drafter(auxiliary="eagle")
