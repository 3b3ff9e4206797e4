"""What feature drafters must do, written down without caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import compiling

# Texts are padded to this, so that each net is compiled once.
_WIDTH = 32


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _pairs(model, params, text):
  taps = model.target.score(params["target"], text, taps=model.taps).taps
  return model.enter(params, taps)


@functools.partial(jax.jit, static_argnums=(0, 4),
                   compiler_options=compiling.ONCE)
def _run(model, params, tokens, features, level):
  mask = jnp.tril(jnp.ones((1, _WIDTH, _WIDTH), bool))
  positions = jnp.arange(_WIDTH, dtype=jnp.int32)[None]
  return model.forward(params, tokens, features, positions, mask, level=level)


def pairs(model, params, text):
  """The pairs of a text: tokens `[n - 1]` and features before `[n - 1, E]`."""
  text = np.asarray(text, np.int32)
  padded = np.zeros((1, _WIDTH), np.int32)
  padded[0, :len(text)] = text
  features = np.asarray(_pairs(model, params, padded))
  return text[1:], features[0, :len(text) - 1]


def run_pairs(model, params, tokens, features, level=None):
  """The net over all pairs at once, positions counted from the first.

  Args:
    model: the net.
    params: by part.
    tokens: `i32[n]`.
    features: `[n, ...]`, or several by name.
    level: see `feature_model.FeatureModel.forward`.
  """
  widen = lambda a: np.pad(
      a, ((0, _WIDTH - len(a)),) + ((0, 0),) * (a.ndim - 1))[None]
  return jax.device_get(_run(model, params, widen(np.asarray(
      tokens, np.int32)), jax.tree.map(widen, features), level))


def rollout(model, params, text, path):
  """Logits `[len(path) + 1, Z]` after a text and each of the tokens behind it.

  Everything is run again for every token.
  """
  return np.stack([logits for logits, _ in _rollout(
      model, params, text, path)])


def guesses(model, params, text, path):
  """Guessed features `[len(path) + 1, E]`, as `rollout`."""
  return np.stack([said["hidden"][0, 0] for _, said in _rollout(
      model, params, text, path)])


def ahead(model, params, text, path):
  """Logits `[K, Z]` of tokens further ahead, after a text and a path."""
  *_, (_, said) = _rollout(model, params, text, path)
  return np.asarray(model.ahead(params, said)[1][0, 0])


def _rollout(model, params, text, path):
  """By token of the path, its logits and all that the net said."""
  tokens, features = pairs(model, params, text)
  features = {"hidden": features}
  for step, token in enumerate((*path, 0)):
    # Who guesses at this depth does so from the first pair on.
    level = step if model.net.is_parallel and step else None
    out = run_pairs(model, params, tokens, features, level)
    last = len(tokens) - 1
    said = {name: tap[:, last:last + 1] for name, tap in out.taps.items()}
    yield out.logits[0, last], said
    tokens = np.append(tokens, np.int32(token))
    # Of committed pairs there is the feature alone.
    features = {name: np.concatenate([
        features.get(name, np.zeros((last + 1,) + new.shape[2:], new.dtype)),
        new[0]]) for name, new in said.items()}


def assert_stable_part_is_that_of_the_text(model, params, state, tokens,
                                           length):
  """Keys and values of committed pairs, from the text and from nothing else.

  Args:
    model: the net.
    params: by part.
    state: a `feature_drafter.FeatureState` between rounds.
    tokens: `i32[B, L]`.
    length: `i32[B]`.
  """
  for row, size in enumerate(length):
    lacking, known = int(state.count[row]), int(state.stable.length[row])
    if size < 2:
      assert lacking == known == 0
      continue
    own, features = pairs(model, params, np.asarray(tokens)[row, :size])
    if lacking:
      assert lacking + known == size - 1
      np.testing.assert_allclose(
          state.features[row, :lacking], features[known:], atol=1e-4)
    fresh = run_pairs(model, params, own, features).fresh
    for ours, theirs in zip(state.stable.k + state.stable.v,
                            fresh.k + fresh.v):
      np.testing.assert_allclose(
          ours[row, :, :known], theirs[0, :, :known], atol=1e-4)
