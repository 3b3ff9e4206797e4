"""CLaSp's dynamic programme against loops, brute force and a known answer."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.caches import dense
from spec_jax.models import prefill
from spec_jax.systems.self_speculative import clasp
from tests.systems.self_speculative import models

LAYERS, SKIPPED = 6, 2
TEXT = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])


@functools.cache
def case(identity=None):
  """A model, its last token's states, and the cache before that token."""
  model, params = models.deep(LAYERS)
  if identity is not None:
    params = models.without(params, [identity])
  length = TEXT.shape[1] - 1
  cache = prefill.absorb(model, params, dense.empty(model, 1, 16),
                         TEXT[:, :length], jnp.asarray([length]))
  last = jax.jit(functools.partial(states, model))
  return model, params, cache, last


def states(model, params, cache, gates):
  """`[L + 1, E]`: the last token's residual stream under gates."""
  out = model.forward(
      params, TEXT[:, -1:], cache.length[:, None], jnp.ones((1, 1, 1), bool),
      cache, taps=tuple(range(LAYERS + 1)), gates=gates)
  return jnp.stack([out.taps[i][0, 0] for i in range(LAYERS + 1)])


def gates(skipped):
  keep = np.ones((LAYERS, 2), bool)
  keep[list(skipped)] = False
  return jnp.asarray(keep)


def cosine(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def programme(num_skipped, identity=None):
  model, params, cache, last = case(identity)
  hidden = last(params, cache, gates(()))[None]
  chosen, value = jax.jit(clasp.skip_layers, static_argnums=(0, 4))(
      model, params, hidden, cache, num_skipped)
  return np.flatnonzero(np.asarray(chosen[0])), float(value[0])


def test_nothing_is_skipped_when_nothing_may_be():
  chosen, value = programme(0)
  assert not len(chosen) and value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("identity", [1, 4])
def test_finds_the_layer_that_does_nothing(identity):
  chosen, value = programme(1, identity)
  assert chosen.tolist() == [identity]
  assert value == pytest.approx(1, abs=1e-5)


def test_value_is_that_of_the_set_and_lies_between_chance_and_the_best():
  model, params, cache, last = case()
  goal = last(params, cache, gates(()))[-1]
  values = {pair: cosine(last(params, cache, gates(pair))[-1], goal)
            for pair in itertools.combinations(range(LAYERS), SKIPPED)}
  chosen, value = programme(SKIPPED)
  assert value == pytest.approx(values[tuple(chosen)], abs=1e-4)
  assert np.mean(list(values.values())) <= value
  assert value <= max(values.values()) + 1e-5


def test_packed_programme_equals_the_double_loop():
  model, params, cache, last = case()
  hidden = last(params, cache, gates(()))
  one = jnp.ones((1, 1, 1), bool)
  best = {(0, 0): hidden[0]}
  skips = {}
  for i in range(1, LAYERS + 1):
    for j in range(min(i, SKIPPED) + 1):
      ways = {}
      if (i - 1, j) in best:
        ways[False] = model.run_layer(
            params, i - 1, best[i - 1, j][None, None], cache.length[:, None],
            one, cache)[0, 0]
      if (i - 1, j - 1) in best:
        ways[True] = best[i - 1, j - 1]
      skips[i, j] = max(ways, key=lambda way: cosine(ways[way], hidden[i]))
      best[i, j] = ways[skips[i, j]]
  expected, left = [], SKIPPED
  for i in range(LAYERS, 0, -1):
    if skips[i, left]:
      expected.append(i - 1)
      left -= 1
  chosen, value = programme(SKIPPED)
  assert chosen.tolist() == expected[::-1]
  assert value == pytest.approx(
      cosine(best[LAYERS, SKIPPED], hidden[-1]), abs=1e-5)
