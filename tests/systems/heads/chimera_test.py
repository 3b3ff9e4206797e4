"""Chimera: what a draft knows, how it begins, that the text is the target's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.models import chimera
from tests import rounds
from tests import toy

LENGTHS = (1, 2, 6)
TEXT = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])


@functools.cache
def model_and_params(is_shared=False):
  bundle = toy.bundle()
  model = chimera.from_hyper(
      bundle.target, "chimera", {"is_shared": is_shared})
  own = dict(bundle.params["chimera"])
  if is_shared:
    own.pop("out")
  return model, {"target": bundle.params["target"], "chimera": own}


@functools.partial(jax.jit, static_argnums=0)
def said(model, params, text, size, node):
  """Laws after a node, all keys from scratch.

  `text` `i32[1, L]` is committed up to `size`; then come the drafts on the way
  to place `node`. Everything is run again, one token at a time.
  """
  places = jnp.arange(text.shape[1])[None]
  features = model.target.score(
      params["target"], text, taps=("final",)).taps["final"]
  true = places < size - 1
  last = jnp.where(size > 1, features[:, jnp.maximum(size - 2, 0)], 0)
  before = lambda by: text[:, jnp.maximum(places[0] - by, 0)]
  told = model.first(params, jnp.stack([before(2), before(1)], axis=2),
                     jnp.broadcast_to(last[:, None], features.shape))

  def step(place, features):
    """Writes the guess of one token where its feature would be."""
    past = model.read(params, features, places)
    mask = jnp.concatenate([
        jnp.broadcast_to(places[:, None] < place, (1, 1, places.shape[1])),
        jnp.ones((1, 1, 1), bool)], axis=2)
    out = model.forward(
        params, text[:, place][:, None], told[:, place][:, None],
        jnp.full((1, 1), place), mask, past=past)
    return features.at[:, place].set(
        out.taps[chimera.GUESS][:, 0]), out.logits[0, 0]

  features = jnp.where(true[:, :, None], features, 0)
  features = jax.lax.fori_loop(
      size - 1, node, lambda place, f: step(place, f)[0], features)
  return step(node, features)[1]


def play(branching=(2, 1, 2)):
  system, params = systems.build("chimera", toy.bundle(), branching=branching)
  return list(rounds.play(system.with_sampling(sampling_lib.GREEDY), params,
                          toy.prompts(LENGTHS), 14)), params


def test_drafts_are_those_of_a_run_from_scratch():
  played, params = play()
  model, _ = model_and_params()
  num_checked = 0
  for step in played[::2]:
    for row in range(len(LENGTHS)):
      if step.before.status[row] != types.Status.RUNNING:
        continue
      size, tree = len(step.text(row)), jax.tree.map(
          lambda a, i=row: a[i], step.tree)
      for parent in range(tree.tokens.shape[0]):
        children = np.flatnonzero(tree.parents == parent)
        if not children.size:
          continue
        path = [parent]
        while tree.parents[path[0]] >= 0:
          path.insert(0, int(tree.parents[path[0]]))
        text = step.before.tokens[row].copy()
        text[size - 1:size - 1 + len(path)] = tree.tokens[path]
        logits = said(model, params.drafter, text[None], size,
                      size - 2 + len(path))
        best = jax.lax.top_k(logits, children.size)[1]
        np.testing.assert_array_equal(tree.tokens[children], best)
        num_checked += children.size
  assert num_checked > 30
  last = played[-1].after
  for row, length in enumerate(LENGTHS):
    assert last.tokens[row, :length + 14].tolist() == toy.greedy_reference(
        model.target, params.target, toy.prompts(LENGTHS).tokens[row, :length],
        14)


def one_token(model, params):
  features = model.target.score(
      params["target"], TEXT, taps=("final",)).taps["final"]
  told = model.first(params, TEXT[:, None, 5:7], features[:, 6:7])
  positions = jnp.arange(7)[None]
  past = model.read(params, features[:, :7], positions)
  out = model.forward(params, TEXT[:, 7:], told, jnp.full((1, 1), 7),
                      jnp.ones((1, 1, 8), bool), past=past)
  return out, features[:, 6:7], past


def test_the_head_begins_as_two_copies_of_the_targets():
  model, params = model_and_params()
  begun = {**params, "chimera": model.start_as(
      params["chimera"], params["target"])}
  out, last, _ = one_token(model, begun)
  both = last + out.taps[chimera.GUESS]
  np.testing.assert_allclose(
      out.logits, model.target.unembed(params["target"], both), atol=1e-4)
  shared, other = model_and_params(is_shared=True)
  np.testing.assert_allclose(
      one_token(shared, other)[0].logits, out.logits, atol=1e-4)


def test_without_the_encoder_it_says_what_the_target_said_last():
  model, params = model_and_params()
  own = model.start_as(params["chimera"], params["target"])
  kernel = own["out"]["kernel"]
  width = model.config.d_model
  own = {**own, "out": {"kernel": kernel.at[width:].set(0)}}
  out, _, _ = one_token(model, {**params, "chimera": own})
  wanted = model.target.score(params["target"], TEXT).logits[:, 6:7]
  np.testing.assert_allclose(out.logits, wanted, atol=1e-4)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_token_of_the_trigram_counts(place):
  model, params = model_and_params()
  trigrams = jax.random.normal(jax.random.key(0), (1, 1, 3, 16))
  read = lambda x: model.net.apply(
      {"params": params["chimera"]}, x, method="trigram")
  moved = trigrams.at[:, :, place].add(1.0)
  assert np.abs(read(moved) - read(trigrams)).max() > .01
  np.testing.assert_array_equal(read(trigrams).shape, (1, 1, 16))


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="trained part 'chimera'"):
    chimera.from_hyper(toy.bundle().target, "chimera", {"depth": 2})
