"""Max-Gram against plain Python; the cascade's counts, reviews and text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import cascade
from spec_jax.drafters import max_gram
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.training import bigrams
from spec_jax.verifiers import matching
from tests import toy
from tests.conformance import runs

SUCCESSORS = [(token + 3) % toy.VOCAB for token in range(toy.VOCAB)]


def plain_max_gram(text, num_tokens, max_ngram=16, searches=2):
  text, goal = list(text), len(text) + num_tokens
  for _ in range(searches):
    best = (0, None)
    for end in range(len(text) - 1):
      size = 0
      while size <= min(end, max_ngram - 1) and (
          text[end - size] == text[len(text) - 1 - size]):
        size += 1
      if size > best[0]:
        best = (size, end)
    if best[1] is not None:
      text += text[best[1] + 1:][:goal - len(text)]
  while len(text) < goal:
    text.append(SUCCESSORS[text[-1]])
  return text


def extend(texts, num_tokens, successors=SUCCESSORS):
  width = max(map(len, texts)) + num_tokens
  tokens = np.zeros((len(texts), width), np.int32)
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  length = jnp.asarray([len(t) for t in texts], jnp.int32)
  found = jax.jit(max_gram.MaxGram(num_tokens).extend)(
      jnp.asarray(successors, jnp.int32), jnp.asarray(tokens), length)
  return [np.asarray(row)[:len(text) + num_tokens].tolist()
          for row, text in zip(found, texts)]


def test_max_gram_copies_the_first_of_the_longest_and_then_bigrams():
  rng = np.random.default_rng(0)
  texts = [rng.integers(0, 3, n).tolist() for n in (1, 2, 5, 9, 14, 20)]
  texts += [[1, 2, 3, 4, 5], [7, 1, 2, 9, 1, 2, 8, 1, 2]]
  assert extend(texts, 6) == [plain_max_gram(t, 6) for t in texts]


def test_max_gram_without_a_match_is_the_bigram_chain():
  text = [5, 1, 2]
  wanted = list(text)
  for _ in range(3):
    wanted.append(SUCCESSORS[wanted[-1]])
  assert extend([text], 3) == [wanted]


@functools.cache
def system(lenience=1.0, **fields):
  bundle = toy.bundle(runs.END_OF_TEXT)
  parts = registration.Parts(bundle.target, bundle.models, bundle.end_of_text)
  drafter = cascade.Cascade(bundle.models["draft"], lenience=lenience, **fields)
  params = types.Params(bundle.params["target"], {
      "draft": bundle.params["draft"],
      "cs_drafting": {"successors": jnp.asarray(SUCCESSORS, jnp.int32)}})
  return registration.compose(
      "cascade", parts, drafter, matching.SampleAndMatch()), params


def proposal(sys, params):
  prompts = toy.prompts((1, 4, 9))
  state = decoding.start(sys, params, prompts, keys_lib.row_keys(0, 3), 8, 64)
  ctx = types.Context(state.tokens, state.length, state.keys, None, None)
  tree, drafter = jax.jit(sys.drafter.propose, static_argnums=3)(
      params.drafter, state.drafter, ctx, sampling_lib.GREEDY)
  return jax.device_get((state.tokens, state.length, tree, drafter.cache))


def draft_law(params, text):
  bundle = toy.bundle(runs.END_OF_TEXT)
  return _scorer(bundle.models["draft"])(
      params.drafter["draft"], np.asarray([text], np.int32))[0]


@functools.cache
def _scorer(model):
  return jax.jit(lambda params, tokens: jax.nn.softmax(
      model.score(params, tokens).logits))


def plain_cascade(params, text, drafter):
  """The recursion for one model and Max-Gram, said plainly."""
  text, start = list(text), len(text)
  while len(text) - start < drafter.reviewed:
    tried = plain_max_gram(text, drafter.proposed) if drafter.proposed else text
    laws = np.asarray(draft_law(params, np.pad(
        tried, (0, 64 - len(tried))).tolist()))
    at, done = len(text), False
    while not done:
      best = int(laws[at - 1].argmax())
      done = at == len(tried) or not (
          tried[at] == best or laws[at - 1][tried[at]] > 1 / drafter.lenience)
      text.append(best if done else tried[at])
      at += 1
  most = drafter.reviewed + drafter.unreviewed
  missing = max(most - (len(text) - start), 0)
  if missing:
    text = plain_max_gram(text, drafter.unreviewed)[:start + most]
  return text[start:]


@pytest.mark.parametrize("fields", [
    dict(reviewed=4, unreviewed=3, proposed=3, lenience=3.0),
    dict(reviewed=3, unreviewed=0, proposed=2, lenience=1.0),
    dict(reviewed=2, unreviewed=4, proposed=0, lenience=1.0)])
def test_drafts_follow_the_recursion(fields):
  sys, params = system(**fields)
  tokens, length, tree, cache = proposal(sys, params)
  for row, n in enumerate(length.tolist()):
    wanted = plain_cascade(params, tokens[row, :n].tolist(), sys.drafter)
    found = tree.tokens[row, 1:][tree.valid[row, 1:]].tolist()
    assert found == wanted
    assert len(found) >= fields["reviewed"] + fields["unreviewed"]
    # All that was reviewed was read, but the model's own last token.
    assert cache.length[row] >= n + fields["reviewed"] - 1


def test_a_lone_model_without_proposals_is_its_greedy_chain():
  sys, params = system(reviewed=3, unreviewed=0, proposed=0)
  tokens, length, tree, _ = proposal(sys, params)
  bundle = toy.bundle(runs.END_OF_TEXT)
  for row, n in enumerate(length.tolist()):
    text = toy.greedy_reference(
        bundle.models["draft"], params.drafter["draft"], tokens[row, :n], 3)
    assert tree.tokens[row, 1:].tolist() == text[n:]


def play(sampling, **fields):
  sys, params = system(**fields)
  return runs.play(sys.with_sampling(sampling), params, toy.prompts(),
                   keys_lib.row_keys(0, 4), runs.BUDGETS)


# Every entry grows.
MATRICES = (dict(reviewed=1, unreviewed=0, proposed=0),
            dict(reviewed=2, unreviewed=0, proposed=0),
            dict(reviewed=4, unreviewed=2, proposed=3, lenience=5.0))


def test_greedy_text_is_the_reference_in_fewer_calls_of_larger_matrices():
  calls = []
  for fields in MATRICES:
    final = play(runs.GREEDY, **fields)
    assert final.texts == runs.greedy_texts()
    calls.append(final.counts.target_calls)
  assert (np.diff(calls, axis=0) <= 0).all()
  assert (np.diff(np.sum(calls, axis=1)) < 0).all()


@pytest.mark.parametrize("fields,message", [
    (dict(reviewed=0), "reviewed=0"), (dict(unreviewed=-1), "unreviewed=-1"),
    (dict(proposed=-1), "proposed=-1"), (dict(lenience=.5), "lenience=0.5")])
def test_bad_hyper_parameters_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    cascade.Cascade(toy.bundle().target, **fields)


def test_successors_are_the_most_frequent():
  stream = np.asarray([1, 2, 1, 3, 1, 3, 0, 1, 2], np.uint16)
  found = bigrams.successors(stream, 6)
  # After 1 stand 2 and 3 equally often; 4 and 5 never occur.
  assert found.tolist() == [1, 2, 1, 0, 1, 1] and found.dtype == np.int32
  with pytest.raises(ValueError, match="from 0 to 3, expected .* below 3"):
    bigrams.successors(stream, 3)
  with pytest.raises(ValueError, match="a stream of 0 tokens"):
    bigrams.successors(stream[:0], 3)
