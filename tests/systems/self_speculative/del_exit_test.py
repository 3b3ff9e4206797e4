"""DEL: the choice of exit and length, and what it is learnt from."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.systems.self_speculative import del_exit
from tests.systems.self_speculative import models

LAYERS, LONGEST = 5, 17
TEXT = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def test_best_exit_is_that_of_the_formula():
  rng = np.random.default_rng(0)
  acceptance = rng.uniform(0, 1, (50, LAYERS - 1)).astype(np.float32)
  layer, length = del_exit.best_exit(jnp.asarray(acceptance), LAYERS, LONGEST)
  for row, rates in enumerate(acceptance):
    value = lambda e, d, r=rates: (
        sum(float(r[e - 1]) ** k for k in range(d + 1)) / (d * e + LAYERS))
    found = value(int(layer[row]), int(length[row]))
    best = max(value(e, d) for e in range(1, LAYERS)
               for d in range(LONGEST + 1))
    assert found == pytest.approx(best, rel=1e-5)


def test_hopeless_exits_draft_nothing():
  _, length = del_exit.best_exit(jnp.zeros((1, LAYERS - 1)), LAYERS, LONGEST)
  assert int(length[0]) == 0


def test_a_sure_exit_drafts_to_the_end():
  rates = jnp.asarray([[0.0] * (LAYERS - 2) + [1.0]])
  layer, length = del_exit.best_exit(rates, LAYERS, LONGEST)
  assert (int(layer[0]), int(length[0])) == (LAYERS - 1, LONGEST)


def test_shadow_tokens_equal_those_of_separate_exits():
  model, params = models.deep(LAYERS)
  taps = model.score(
      params, TEXT, taps=tuple(range(1, LAYERS + 1))).taps
  hits, confidence = del_exit.shadow(model, params, taps)
  whole = model.score(params, TEXT).logits
  for exit_layer in range(1, LAYERS):
    gates = np.repeat(np.arange(LAYERS)[:, None] < exit_layer, 2, axis=1)
    logits = np.asarray(
        model.score(params, TEXT, gates=jnp.asarray(gates)).logits, np.float64)
    np.testing.assert_array_equal(
        hits[..., exit_layer - 1], logits.argmax(-1) == whole.argmax(-1))
    law = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(
        confidence[..., exit_layer - 1], (law / law.sum(-1, keepdims=True)
                                          ).max(-1), atol=1e-4)


def stats(counts, confidence):
  wide = lambda a: jnp.asarray(a, jnp.float32)[None, None]
  return del_exit.ExitStats(wide(counts), wide(confidence), jnp.ones((1,)))


def test_thresholds_lie_between_hits_and_misses_and_are_never_nan():
  assert float(stats((4, 2), (3.6, 0.8)).thresholds[0, 0]) == pytest.approx(
      (0.9 + 0.4) / 2)
  assert float(stats((4, 0), (3.6, 0)).thresholds[0, 0]) == pytest.approx(.45)
  assert float(stats((0, 0), (0, 0)).thresholds[0, 0]) == 0
  assert float(stats((0, 0), (0, 0)).acceptance[0, 0]) == 0


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_counts_decay(decay):
  model, _ = models.deep(2)
  policy = del_exit.DynamicExit(4, decay)
  hits = jnp.asarray([[[True], [True], [False]]])
  confidence = jnp.asarray([[[.9], [.7], [.5]]])
  counted = jnp.asarray([[True, True, True]])
  state = policy.init(model, 1)
  for _ in range(2):
    state = policy._add(state, hits, confidence, counted)
  np.testing.assert_allclose(
      state.counts[0, 0], [2 + 2 * decay, 1 + decay], rtol=1e-6)
  np.testing.assert_allclose(
      state.confidence[0, 0], [1.6 * (1 + decay), .5 * (1 + decay)],
      rtol=1e-6)
