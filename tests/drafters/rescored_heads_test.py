"""Lattices of independent heads, and the paths that refiners choose."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.drafters import rescored_heads
from spec_jax.models import ngram
from spec_jax.models import token_heads
from spec_jax.systems.heads import bpd_rescored as system_file
from spec_jax.training import ngrams
from tests import chi_square
from tests import rounds
from tests import toy
from tests.conformance import runs
from tests.drafters import token_head_drafter_test as drafters
from tests.trees import expansion_test

DEPTH, TOP = 3, 4
HEADS = drafters.drafter_of("bpd", drafters.expansion.Shape((1,) * DEPTH))


def neural(**changes):
  return dataclasses.replace(rescored_heads.NeuralRescored(
      toy.bundle().models["draft"], HEADS, ("bpd", "draft"), TOP), **changes)


def global_(**changes):
  return dataclasses.replace(rescored_heads.NgramRescored(
      HEADS, ("bpd", "bpd_rescored"), TOP, drafts=5), **changes)


def play(drafter, budget=14, lengths=(1, 2, 7)):
  bundle = toy.bundle()
  system = rounds.compose(drafter, bundle.target)
  own = {name: bundle.params[name] for name in ("bpd", "bpd_rescored", "draft")}
  params = types.Params(bundle.params["target"], own)
  return list(rounds.play(system, params, toy.prompts(lengths), budget))


def chains(played):
  """By round and row the paths of the tree, the longest ones only."""
  return [[{p for p in expansion_test.paths(step.tree, row)
            if len(p) == DEPTH} for row in range(3)] for step in played]


@pytest.mark.parametrize("drafter", [
    neural(weight=0.0), neural(top_k=1), global_(weight=0.0, drafts=1),
    global_(top_k=1, drafts=1)], ids=["neural", "alone", "ngram", "only"])
def test_without_a_refiner_the_draft_is_that_of_the_heads(drafter):
  plain = drafters.play("bpd", (1, 2, 7), 14, HEADS.plan)
  assert chains(play(drafter)) == chains(plain)


def lattice(step, row):
  """Log-probabilities of each head, `[D, V]`, at a round's state."""
  bundle = toy.bundle()
  feature = drafters.features("bpd", step.text(row))[-2]
  logits = HEADS.network.apply(
      {"params": bundle.params["bpd"]["heads"]}, feature,
      jnp.zeros((DEPTH,), jnp.int32),
      drafters.contract.Ends(bundle.target, bundle.params["target"]))
  return np.asarray(jax.nn.log_softmax(logits))


def test_local_refiner_is_the_interpolation_token_by_token():
  bundle, changed = toy.bundle(), 0
  score = toy._scorer(bundle.models["draft"])  # pylint: disable=protected-access
  for step in play(neural(weight=0.7)):
    for row in range(3):
      text = step.text(row)
      if len(text) == 1:
        assert not step.tree.valid[row, 1:].any()
        continue
      heads, wanted = lattice(step, row), []
      for column in range(DEPTH):
        padded = np.zeros((1, rounds.CAPACITY), np.int32)
        padded[0, :len(text) + column] = text + wanted
        fluent = jax.nn.log_softmax(score(bundle.params["draft"], padded)[
            0, len(text) + column - 1])
        few = np.argsort(-heads[column])[:TOP]
        best = few[np.argmax(heads[column][few] + 0.7 * fluent[few])]
        wanted.append(int(best))
      assert expansion_test.paths(step.tree, row)[-1] == tuple(wanted)
      changed += wanted != np.argmax(heads, -1).tolist()
  assert changed > 3


def test_global_refiner_is_the_best_of_all_paths():
  model = ngram.from_params(toy.bundle().params["bpd_rescored"])
  changed = 0
  for step in play(global_(weight=0.7))[:4]:
    for row in range(3):
      text = step.text(row)
      if len(text) == 1:
        assert not step.tree.valid[row, 1:].any()
        continue
      heads = lattice(step, row)
      columns = [np.argsort(-law)[:TOP].tolist() for law in heads]
      paths = list(itertools.product(*columns))
      known = ([-1] * model.order + text)[1 - model.order:]
      whole = np.concatenate(
          [np.tile(known, (len(paths), 1)), np.asarray(paths)], axis=1)
      total = np.zeros(len(paths))
      for column in range(DEPTH):
        end = model.order - 1 + column
        total += heads[column][whole[:, end]] + 0.7 * np.asarray(model.score(
            jnp.asarray(whole[:, column:end], jnp.int32),
            jnp.asarray(whole[:, end], jnp.int32)))
      best = {paths[i] for i in np.argsort(-total)[:5]}
      assert chains([step])[0][row] == best
      plain = itertools.product(*(column[:2] for column in columns))
      changed += not best <= set(plain)
  assert changed


def test_more_drafts_and_more_tokens_accept_no_less():
  """At the same places: the more paths of a lattice, the longer a match."""
  reached, texts = {}, []
  for drafts in (1, 4, 16):
    played = play(global_(drafts=drafts), 20)
    texts.append(played[-1].after.tokens.tolist())
    for step in played:
      for row in range(3):
        if step.emitted(row):
          reached.setdefault((row, int(step.before.length[row])), {})[
              drafts] = len(step.emitted(row))
  shared = [found for found in reached.values() if len(found) == 3]
  assert len(shared) >= 3 and texts[0] == texts[1] == texts[2]
  for found in shared:
    assert found[1] <= found[4] <= found[16]


def reach(step, row, text):
  """By k, drafts accepted if the best path of the top k was known."""
  length = int(step.before.length[row])
  ranks = [int((law > law[token]).sum()) for law, token in zip(
      lattice(step, row), text[length:length + DEPTH])]
  return [next((i for i, rank in enumerate(ranks) if rank >= top_k), DEPTH)
          for top_k in range(1, toy.VOCAB + 1)]


def test_the_best_path_bounds_both_refiners():
  """And is found where all paths are verified; it grows with the columns."""
  oracles, gains = {}, 0
  for kind, drafter in {
      "neural": neural(weight=0.7), "ngram": global_(weight=0.7),
      "all": global_(drafts=TOP ** DEPTH)}.items():
    played = play(drafter)
    ends = played[-1].after
    for step, row in itertools.product(played, range(3)):
      length = int(step.before.length[row])
      if not 1 < length < int(ends.length[row]) - DEPTH:
        continue
      if (row, length) not in oracles:
        oracles[row, length] = reach(step, row, ends.tokens[row])
      best, accepted = oracles[row, length], len(step.emitted(row)) - 1
      assert best == sorted(best) and best[-1] == DEPTH
      assert accepted == best[TOP - 1] or (
          kind != "all" and accepted < best[TOP - 1])
      gains += best[0] < accepted
  assert gains > 2


@pytest.mark.parametrize("refiner", system_file.REFINERS)
def test_rescoring_mends_what_the_heads_repeat(refiner):
  """Each head prefers the token of the one before; the next best is right."""
  says = .45 * drafters.RIGHT
  says[0] *= 2
  says[1:] += .55 * drafters.RIGHT[:-1]
  heads, own = drafters.told(token_heads.BlockwiseHeads, says)
  stream = np.tile(np.arange(toy.VOCAB), 20)
  params = {"bpd": own, "draft": jnp.asarray(drafters.CYCLE),
            "bpd_rescored": ngram.to_params(
                ngrams.count(stream, toy.VOCAB, 3, discount=1e-3))}
  if refiner == "neural":
    refined = rescored_heads.NeuralRescored(
        drafters.BIGRAMS, heads, ("bpd", "draft"), 2)
  else:
    refined = rescored_heads.NgramRescored(
        heads, ("bpd", "bpd_rescored"), 2, drafts=1)
  plain = drafters.play_told(heads, own)
  mended = drafters.play_told(refined, params)
  assert (len(plain), len(mended)) == (16 // 2, 16 // (DEPTH + 1))
  np.testing.assert_array_equal(
      plain[-1].after.tokens, mended[-1].after.tokens)


def test_the_global_refiner_conforms():
  """The default one has conformance rows; here the text and the joint law."""
  system, params = runs.build(
      "bpd_rescored", runs.GREEDY, refiner="ngram", drafts=4)
  assert isinstance(system.drafter, rescored_heads.NgramRescored)
  final = runs.play(system, params, toy.prompts(), keys_lib.row_keys(0, 4),
                    runs.BUDGETS)
  assert final.texts == runs.greedy_texts()
  sample = runs.law_sample(*runs.build(
      "bpd_rescored", runs.PLAIN, None, refiner="ngram", drafts=4))
  assert chi_square.p_value(chi_square.joint_counts(
      sample, toy.VOCAB), runs.exact_law()) > 1e-4


def test_impossible_refiners_are_named():
  with pytest.raises(ValueError, match="expected independent ones"):
    neural(heads=drafters.drafter_of("hydra"))
  with pytest.raises(ValueError, match="13"):
    neural(top_k=13)
  with pytest.raises(ValueError, match="make 20736 paths"):
    global_(top_k=12, heads=drafters.drafter_of(
        "bpd", drafters.expansion.Shape((1,) * 4)))
  with pytest.raises(ValueError, match="drafts=65"):
    global_(drafts=65)
  with pytest.raises(ValueError, match="refiner='viterbi'"):
    system_file.bpd_rescored(None, refiner="viterbi")
