"""GliDe and CaPE: what is seen of the target, and when."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.caches import dense
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import glide
from spec_jax.training import glide as training
from tests import rounds
from tests import toy

BLOCK, TEXT = 5, jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7],
                              [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0]])


@functools.cache
def models():
  """Target and draft, with parameters that make the target matter."""
  bundle = toy.bundle()
  model = glide.from_hyper(bundle.target, bundle.heads["glide"])
  params = jax.tree.map(lambda x: x, bundle.params["glide"])
  params["cross"]["out"]["kernel"] *= 3
  return bundle.target, bundle.params["target"], model, params


@jax.jit
def logits_of(tokens, mask=None):
  target, frozen, model, params = models()
  if mask is None:
    return model.score(params, tokens).logits
  seen = training.memory(target.score(frozen, tokens), mask)
  return model.score(params, tokens, seen).logits


def test_blind_to_the_target_it_is_a_plain_model():
  target, frozen, model, params = models()
  plain = contract.decoder_model(model.config)
  ends, silent = params["ends"], jax.tree.map(lambda x: x, params)
  silent["cross"]["out"]["kernel"] *= 0
  mask = training.seen_in_blocks(TEXT.shape[1], BLOCK)
  wanted = jax.jit(plain.score)(
      {**ends, "layers_0": params["block"]}, TEXT).logits
  found = jax.jit(lambda own: model.score(own, TEXT, training.memory(
      target.score(frozen, TEXT), mask)).logits)(silent)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  np.testing.assert_allclose(logits_of(TEXT), wanted, atol=1e-5)
  assert np.abs(logits_of(TEXT, mask) - wanted).max() > .01


def committed(model, params, tokens, capacity=32):
  batch, size = tokens.shape
  out = jax.jit(model.score)(params, tokens)
  return dense.empty(model, batch, capacity).commit(
      out.fresh, jnp.broadcast_to(jnp.arange(size)[None], (batch, size)),
      jnp.full((batch,), size, jnp.int32))


@pytest.mark.parametrize("query", [5, 7, 9, 12])
def test_training_query_is_a_drafting_query(query):
  """Its block's own keys and values of the target are missing there too."""
  target, frozen, model, params = models()
  start = query // BLOCK * BLOCK
  cache = glide.Beside(committed(model, params, TEXT[:, :start]),
                       committed(target, frozen, TEXT[:, :start]))
  tokens = TEXT[:, start:query + 1]
  size = tokens.shape[1]
  mask = jnp.tril(jnp.ones((size, size), bool))
  out = jax.jit(model.forward)(
      params, tokens, jnp.broadcast_to(
          start + jnp.arange(size)[None], tokens.shape),
      jnp.broadcast_to(mask[None], (2, size, size)), cache)
  wanted = logits_of(TEXT, training.seen_in_blocks(TEXT.shape[1], BLOCK))
  np.testing.assert_allclose(out.logits[:, -1], wanted[:, query], atol=1e-5)


def test_the_first_block_sees_up_to_itself_and_no_query_sees_nothing():
  mask = np.asarray(training.seen_in_blocks(12, BLOCK))[0]
  np.testing.assert_array_equal(mask[:BLOCK, :BLOCK], np.tri(BLOCK) > 0)
  assert not mask[:BLOCK, BLOCK:].any()
  assert mask.any(-1).all()
  np.testing.assert_array_equal(
      mask[BLOCK:].sum(-1), [5, 5, 5, 5, 5, 10, 10])


def test_an_empty_cache_of_the_target_gives_nothing():
  target, frozen, model, params = models()
  cache = glide.Beside(dense.empty(model, 2, 8), dense.empty(target, 2, 8))
  out = model.forward(params, TEXT[:, :1], jnp.zeros((2, 1), jnp.int32),
                      jnp.ones((2, 1, 1), bool), cache)
  np.testing.assert_allclose(out.logits, logits_of(TEXT[:, :1]), atol=1e-5)


def play(name, prompts, num_rounds=None, **hyper):
  target, frozen, _, params = models()
  system, _ = systems.build(name, toy.bundle(), **hyper)
  return list(rounds.play(
      system.with_sampling(sampling_lib.GREEDY),
      types.Params(frozen, params), prompts, 12, num_rounds))


def test_drafts_see_committed_text_of_the_target_only():
  lengths = (1, 4, 6)
  played = play("glide", toy.prompts(lengths), depth=3)
  for step in played:
    for row in range(len(lengths)):
      if step.before.status[row] != types.Status.RUNNING:
        continue
      text = step.before.tokens[row].copy()
      size = len(step.text(row))
      seen = jnp.broadcast_to(
          jnp.arange(len(text))[None, None] < size - 1,
          (1, len(text), len(text)))
      for depth in range(3):
        best = int(jnp.argmax(logits_of(text[None], seen)[0, size - 1 + depth]))
        assert step.tree.tokens[row, 1 + depth] == best
        text[size + depth] = best
  target, frozen, _, _ = models()
  last = played[-1].after
  for row, length in enumerate(lengths):
    assert last.tokens[row, :length + 12].tolist() == toy.greedy_reference(
        target, frozen, toy.prompts(lengths).tokens[row, :length], 12)


def test_leaves_beside_the_chain_only_add():
  prompts = toy.prompts(tuple(range(1, 9)) * 4, seed=5)
  count = lambda **how: next(iter(play(
      how.pop("name"), prompts, 1, depth=3, **how))).outcome.verdict.count
  chain = count(name="glide")
  comb = count(name="glide_cape")
  assert (comb >= chain).all() and (comb > chain).any()
  np.testing.assert_array_equal(
      count(name="glide_cape", widths=(1,)), chain)


def test_mistakes_are_named():
  target = toy.bundle().target
  with pytest.raises(ValueError, match="num_layers"):
    glide.from_hyper(target, {"num_layers": 2})
  two = dataclasses.replace(models()[2].config, num_layers=2)
  net = glide.GlideNet(two, target.config)
  with pytest.raises(ValueError, match="num_layers=2, expected 1"):
    glide.GlideModel(net).init(jax.random.key(0))
