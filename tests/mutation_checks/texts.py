"""What is decoded: laws of texts, greedy texts, ends and counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax import systems
from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.executors import fused
from tests import toy
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.executors import deferred_test

_MAX_NEW = 12


def iid_text():
  """Joint law of three decoded tokens, by chi-square."""
  _check_text(markov.system(verifiers.get("recursive"), (2, 1), "iid"),
              markov.P_ROWS)


def distinct_text():
  """The same where siblings are drawn without replacement."""
  _check_text(
      markov.system(verifiers.get("recursive_without_replacement"), (2, 1),
                    "without_replacement"), markov.P_ROWS)


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


def deferred_temperature():
  """Given when the program runs, a temperature decodes what it does static."""
  deferred_test.assert_deferring_changes_nothing(*systems.build(
      "speculative_sampling", toy.bundle(), depth=2))


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
