"""The quick checks that planted bugs must not pass; run without a bug, all do.

Each is a few seconds of what the suite does at length, by the same functions.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.executors import fused
from spec_jax.verifiers import block
from tests import toy
from tests.drafters import block_drafter_test
from tests.drafters import chain_draft_model_test
from tests.drafters import draft_model_test
from tests.drafters import feature_chain_test
from tests.drafters import feature_drafter_test
from tests.drafters import token_head_drafter_test
from tests.exactness import active_set_test
from tests.exactness import golden
from tests.exactness import markov
from tests.exactness import multi_draft_test
from tests.exactness import rules_test
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.models import decoder_test
from tests.models import draft_vocabulary_test
from tests.stores import suffix_automaton_test
from tests.systems.features import glide_test
from tests.systems.features import jakiro_test
from tests.systems.retrieval import superposed_test
from tests.systems.self_speculative import early_exit_test
from tests.trees import growth_test
from tests.trees import stochastic_beam_test
from tests.verifiers import joint_test
from tests.verifiers import lossy_test

_MAX_NEW = 12


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


def iid_text():
  """Joint law of three decoded tokens, by chi-square."""
  _check_text(markov.system(verifiers.get("recursive"), (2, 1), "iid"),
              markov.P_ROWS)


def distinct_text():
  """The same where siblings are drawn without replacement."""
  _check_text(
      markov.system(verifiers.get("recursive_without_replacement"), (2, 1),
                    "without_replacement"), markov.P_ROWS)


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


def penalised_text():
  """Joint law of tokens whose repetition is penalised, by chi-square."""
  sampling = sampling_lib.Sampling(repetition_penalty=1.5)
  system = markov.system(verifiers.get("rejection"), (1, 1), "iid", sampling)
  rows = np.asarray(markov.log(markov.P_ROWS))
  law = np.zeros((3,) * 3)
  for text in np.ndindex(law.shape):
    mass, seen = 1.0, [0]
    for last, token in zip((0, *text), text):
      logits = np.where(np.isin(range(3), seen), rows[last] * 1.5, rows[last])
      mass *= np.exp(logits[token]) / np.exp(logits).sum()
      seen.append(token)
    law[text] = mass
  law /= law.sum()  # The rows are float32.
  found = trees_test.joint_p_value(system, markov.params(), law)
  assert found > trees_test.SIGNIFICANCE, found


def warped_text():
  """The same at a temperature and with top-k, where p and q are warped."""
  temperature, rows = 0.6, np.asarray(markov.P_ROWS)
  kept = np.where(rows >= np.sort(rows)[:, -2:-1], rows, 0) ** (1 / temperature)
  _check_text(
      markov.system(verifiers.get("rejection"), (1, 1), "iid",
                    sampling_lib.Sampling(temperature=temperature, top_k=2)),
      kept / kept.sum(-1, keepdims=True))


def _check_text(system, rows):
  law = tree_law.markov_law(rows, 0, trees_test.NUM_TOKENS)
  found = trees_test.joint_p_value(system, markov.params(), law)
  assert found > trees_test.SIGNIFICANCE, found


@functools.cache
def _greedy_reference():
  bundle, prompts = toy.bundle(), toy.prompts()
  return [toy.greedy_reference(bundle.target, bundle.params["target"],
                               np.asarray(tokens)[:length], _MAX_NEW)
          for tokens, length in zip(prompts.tokens, prompts.length.tolist())]


def greedy_text():
  """A token tree on a toy transformer, ragged rows, at temperature 0."""
  _check_greedy("specinfer", branching=(2, 2, 1))


def text_beside_riders():
  """The same, while a window of guesses shares the forward."""
  _check_greedy("lookahead")


def _check_greedy(name, **hyper):
  out = _decode_toy(toy.bundle(), name, **hyper)
  for row, expected in enumerate(_greedy_reference()):
    found = np.asarray(out.tokens)[row, :len(expected)].tolist()
    assert found == expected, (row, found, expected)


@functools.partial(jax.jit, static_argnums=0)
def _second_round(system, params, state):
  """A round, then the tree of the next one and the target's logits on it."""
  state, _ = system_lib.step(system, params, state)
  tree, _ = system_lib.propose(system, params, state)
  out = system.target.forward(
      params.target, tree.tokens, tree_lib.positions(tree, state.length),
      tree_lib.ancestor_mask(tree.parents, tree.valid), state.cache)
  return state, tree, out.logits


def tree_logits():
  """Logits through cache and mask equal those of each path's plain text."""
  system, params = systems.build("specinfer", toy.bundle(), branching=(2, 2))
  prompts = toy.prompts((3, 6))
  state, tree, logits = _second_round(system, params, fused.Fused().start(
      system, params, prompts, keys_lib.row_keys(0, 2), _MAX_NEW))
  texts, ends = [], []
  for row, length in enumerate(np.asarray(state.length).tolist()):
    for node in range(tree.num_nodes):
      text = np.asarray(state.tokens)[row].copy()
      path = _path(np.asarray(tree.parents)[row], node)
      ends.append(length - 2 + len(path))
      text[length - 1:ends[-1] + 1] = np.asarray(tree.tokens)[row, path]
      texts.append(text)
  plain = system.target.score(params.target, jnp.asarray(texts)).logits
  plain = np.asarray(plain)[np.arange(len(ends)), ends]
  np.testing.assert_allclose(
      np.asarray(logits).reshape(plain.shape), plain, rtol=0, atol=1e-3)


def _path(parents, node):
  path = [node]
  while parents[path[0]] >= 0:
    path.insert(0, int(parents[path[0]]))
  return path


def draft_equal_to_target():
  """A draft model that is the target has every draft accepted."""
  bundle, depth = toy.bundle(draft_noise=0.0), 2
  out = _decode_toy(bundle, "speculative_sampling", depth=depth)
  calls = np.asarray(out.counts.target_calls)
  assert (calls == _MAX_NEW // (depth + 1)).all(), calls


def _decode_toy(bundle, name, **hyper):
  system, params = systems.build(name, bundle, **hyper)
  prompts = toy.prompts()
  keys = keys_lib.row_keys(0, prompts.tokens.shape[0])
  return fused.Fused().run(
      system.with_sampling(sampling_lib.GREEDY), params, prompts, keys,
      _MAX_NEW)


def budget():
  """No row is longer than its budget allows, and none is shorter."""
  system = markov.system(verifiers.get("recursive"), (2, 1), "iid")
  out = markov.decode(system, markov.params(), 64, 4)
  assert (np.asarray(out.length) == 5).all(), out.length


def end_of_text():
  """The end token, accepted or emitted, is the last of its row."""
  system = dataclasses.replace(
      markov.system(verifiers.get("recursive"), (2, 1), "iid"), end_of_text=2)
  out = markov.decode(system, markov.params(), 64, 8)
  tokens, length = np.asarray(out.tokens), np.asarray(out.length)
  for row, text in enumerate(tokens):
    text = text[:length[row]].tolist()
    assert 2 not in text[:-1] and (text[-1] == 2 or len(text) == 9), text


def coupled_drafts():
  """Draft and target share their noise: equal laws always agree."""
  system = markov.system(verifiers.get("sample_and_match"), (1, 1), "coupled")
  out = markov.decode(
      system, markov.params(q_rows=markov.P_ROWS), 64, 6)
  calls = np.asarray(out.counts.target_calls)
  assert (calls == 2).all(), calls


def stable_pairs():
  """What a feature net keeps is what the text alone would give."""
  feature_drafter_test.test_stable_part_of_a_static_tree()


def feature_drafts():
  """A feature net drafts what it would, had it read everything again."""
  check = (feature_drafter_test
           .test_drafts_are_those_of_a_net_that_reads_everything_again)
  check("one_tap")


def small_vocabulary():
  """Rows of a trimmed output head stand for the tokens they are listed as."""
  feature_drafter_test.test_trees_of_a_small_vocabulary_are_those_of_its_laws()


def draws_from_a_small_vocabulary():
  """So do its laws, and the noise that tokens are drawn with."""
  feature_chain_test.test_draws_are_those_of_their_laws_and_keys("coupled")
  feature_chain_test.test_laws_are_those_of_a_net_that_reads_everything_again(
      "drawn")


def loaded_vocabulary():
  """Rows of a published head stand for the tokens that it marks."""
  draft_vocabulary_test.test_rows_stand_for_the_tokens_that_are_marked()


def written_vocabulary():
  """What is written for others to read is what they published."""
  draft_vocabulary_test.test_what_is_written_is_what_was_read()


def levels_without_a_forward():
  """What was said of tokens further ahead stays below its own nodes."""
  jakiro_test.test_last_level_hangs_below_the_nodes_it_was_guessed_from()


def laws_of_blocks():
  """A block is guessed from the pairs before it, each of them read once."""
  block_drafter_test.test_laws_of_a_static_tree(2, ((2,), (1, 2), (1, 0, 1)))


def grounds_of_heads():
  """Heads read the feature of the token before the pending one."""
  check = (token_head_drafter_test
           .test_heads_are_grounded_on_the_token_before_the_pending_one)
  check("medusa_1")


def gates_of_rows():
  """What one row leaves out, another may need."""
  decoder_test.test_gates_of_each_row_equal_those_of_a_batch_of_one()


def superposed_paths():
  superposed_test.test_scores_of_paths_are_those_of_one_pass_by_hand()


def suffix_matches():
  """The automaton finds what a scan finds."""
  suffix_automaton_test.test_matches_are_those_of_a_scan()


def early_exits():
  """The target goes on from where the drafter left each draft."""
  early_exit_test.test_text_is_the_reference_and_drafts_are_the_early_exit(
      "kangaroo")


def sight_of_the_target():
  """In training a token sees no more of the target than a draft does."""
  glide_test.test_training_query_is_a_drafting_query(7)


CHECKS = {
    "output laws": output_laws,
    "padded drafts": padded_drafts,
    "peaked draft in float32": peaked_draft,
    "ragged tree laws": ragged_tree_laws,
    "joint laws": joint_laws,
    "greedy blocks": greedy_blocks,
    "laws of drafts": draft_laws,
    "trees of a beam": beam_trees,
    "trees grown by confidence": grown_trees,
    "chains of adaptive length": adaptive_chains,
    "active sequences": active_sequences,
    "lossy laws": lossy_laws,
    "laws in a batch": two_costs,
    "text of iid trees": iid_text,
    "text of distinct trees": distinct_text,
    "penalised text": penalised_text,
    "warped text": warped_text,
    "logits of a tree": tree_logits,
    "greedy text": greedy_text,
    "draft equal to target": draft_equal_to_target,
    "budget": budget,
    "end of text": end_of_text,
    "coupled drafts": coupled_drafts,
    "text beside riders": text_beside_riders,
    "stable pairs": stable_pairs,
    "drafts of a feature net": feature_drafts,
    "small vocabulary": small_vocabulary,
    "draws from a small vocabulary": draws_from_a_small_vocabulary,
    "loaded vocabulary": loaded_vocabulary,
    "written vocabulary": written_vocabulary,
    "levels without a forward": levels_without_a_forward,
    "laws of blocks": laws_of_blocks,
    "grounds of heads": grounds_of_heads,
    "gates of rows": gates_of_rows,
    "early exits": early_exits,
    "sight of the target": sight_of_the_target,
    "superposed paths": superposed_paths,
    "suffix matches": suffix_matches,
}
