"""From logits to laws and draws, against oracles written with NumPy alone."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys
from spec_jax.core import sampling
from spec_jax.verifiers import enumeration
from tests import chi_square

VOCAB = 6
NUM_ROWS = 20_000
_settings = hypothesis.settings(
    deadline=None, max_examples=80, derandomize=True)
# Quarters are exact in float32, so equal logits stay equal and ties are real.
_logits = st.lists(st.integers(-8, 8).map(lambda n: n / 4),
                   min_size=VOCAB, max_size=VOCAB)


def softmax(logits):
  mass = np.exp(logits - np.max(logits))
  return mass / mass.sum()


def oracle(logits, temperature=1., top_k=0, top_p=1., min_p=0.,
           repetition_penalty=1., seen=()):
  """The law in float64, one token at a time, and how near a tie it was."""
  logits = np.array(logits, np.float64)
  for token in seen:
    is_positive = logits[token] > 0
    logits[token] *= (1 / repetition_penalty if is_positive
                      else repetition_penalty)
  if temperature == 0:
    return np.eye(len(logits))[logits.tolist().index(max(logits))], 1.
  logits /= temperature
  if 0 < top_k < len(logits):
    kth = sorted(logits, reverse=True)[top_k - 1]
    logits[logits < kth] = -np.inf
  margin, law = 1., softmax(logits)
  if top_p < 1:
    mass, kept = 0., []
    for token in sorted(range(len(law)), key=lambda t: (-law[t], t)):
      if mass < top_p:
        kept.append(token)
      margin = min(margin, abs(mass - top_p))
      mass += law[token]
    logits[[t for t in range(len(law)) if t not in kept]] = -np.inf
  if min_p > 0:
    law = softmax(logits)
    margin = min(margin, *abs(law / law.max() - min_p))
    logits[law < min_p * law.max()] = -np.inf
  return softmax(logits), margin


def check_law(logits, seen=(), **settings):
  expected, margin = oracle(logits, seen=seen, **settings)
  hypothesis.assume(margin > 1e-5)  # Nearer, float32 may decide otherwise.
  is_seen = jnp.zeros((VOCAB,), bool).at[jnp.asarray(seen, jnp.int32)].set(True)
  law = sampling.Sampling(**settings).probs(
      jnp.asarray(logits, jnp.float32), is_seen)
  np.testing.assert_allclose(law, expected, rtol=0, atol=2e-6)


@hypothesis.given(logits=_logits, temperature=st.sampled_from([0., .5, 1., 2.]))
@_settings
def test_temperature(logits, temperature):
  check_law(logits, temperature=temperature)


@hypothesis.given(logits=_logits, top_k=st.integers(0, VOCAB + 1))
@_settings
def test_top_k_keeps_ties(logits, top_k):
  check_law(logits, top_k=top_k)


@hypothesis.given(logits=_logits, top_p=st.sampled_from([.05, .3, .5, .9, 1.]))
@_settings
def test_top_p_keeps_the_smallest_set(logits, top_p):
  check_law(logits, top_p=top_p)


@hypothesis.given(logits=_logits, min_p=st.sampled_from([0., .05, .3, .9]))
@_settings
def test_min_p(logits, min_p):
  check_law(logits, min_p=min_p)


@hypothesis.given(logits=_logits, penalty=st.sampled_from([.5, 1., 1.3]),
                  seen=st.sets(st.integers(0, VOCAB - 1)),
                  temperature=st.sampled_from([0., 1.]))
@_settings
def test_repetition_penalty(logits, penalty, seen, temperature):
  check_law(logits, seen=sorted(seen), temperature=temperature,
            repetition_penalty=penalty)


@hypothesis.given(logits=_logits, temperature=st.sampled_from([.5, 2.]),
                  top_k=st.integers(2, 5), top_p=st.sampled_from([.6, .9]),
                  min_p=st.sampled_from([.1, .4]))
@_settings
def test_all_steps_in_the_documented_order(logits, **settings):
  check_law(logits, repetition_penalty=1.3, seen=[0, 3], **settings)


@hypothesis.given(
    logits=_logits, temperature=st.sampled_from([0., .3, .8, 1., 2.]),
    top_k=st.integers(0, 5), top_p=st.sampled_from([.6, 1.]),
    penalty=st.sampled_from([1., 1.3]))
@_settings
def test_a_deferred_temperature_gives_the_law(
    logits, temperature, top_k, top_p, penalty):
  seen = jnp.arange(VOCAB) % 2 == 0
  given = sampling.Sampling(
      temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
  later = sampling.Deferred(
      dataclasses.replace(given, temperature=1.), jnp.float32(temperature))
  logits = jnp.asarray(logits, jnp.float32)
  expected, law = given.probs(logits, seen), later.probs(logits, seen)
  if penalty == 1:
    np.testing.assert_array_equal(law, expected)
  else:  # Two roundings change places; a near tie may fall either way.
    _, margin = oracle(
        logits, temperature, top_k, top_p, 0., penalty, np.flatnonzero(seen))
    hypothesis.assume(margin > 1e-5)
    np.testing.assert_allclose(law, expected, rtol=0, atol=2e-6)


def test_half_precision_logits_with_a_deferred_temperature():
  logits = jnp.asarray([1., 2., .5], jnp.bfloat16)
  law = sampling.Deferred(sampling.Sampling(), jnp.float32(.7)).probs(logits)
  assert law.dtype == jnp.float32
  np.testing.assert_array_equal(law, sampling.Sampling(.7).probs(logits))


def test_half_precision_logits_give_a_float32_law():
  law = sampling.Sampling(.7).probs(jnp.ones((2, 3), jnp.bfloat16))
  assert law.dtype == jnp.float32
  np.testing.assert_allclose(law.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("setting,value,expected", [
    ("temperature", -1., ">= 0"), ("temperature", float("nan"), ">= 0"),
    ("temperature", float("inf"), ">= 0"), ("temperature", "hot", "a number"),
    ("temperature", True, "a number"), ("temperature", None, "a number"),
    ("top_k", -1, ">= 0"), ("top_k", 2.5, "an integer"),
    ("top_p", 0., "in (0, 1]"), ("top_p", 1.5, "in (0, 1]"),
    ("min_p", 1., "in [0, 1)"), ("min_p", -.1, "in [0, 1)"),
    ("temperature", float("inf"), "finite"),
    ("temperature", 1e-39, "0 (greedy) or at least 1e-06"),
    ("repetition_penalty", 0., "from 0.01 to 100"),
    ("repetition_penalty", 1e-30, "from 0.01 to 100"),
    ("repetition_penalty", 1e30, "from 0.01 to 100"),
])
def test_bad_settings_are_named(setting, value, expected):
  with pytest.raises(ValueError) as error:
    sampling.Sampling(**{setting: value})
  assert f"{setting}={value!r}" in str(error.value)
  assert expected in str(error.value)


@pytest.mark.parametrize("setting", [
    {"temperature": sampling.LEAST_TEMPERATURE},
    {"repetition_penalty": 0.01}, {"repetition_penalty": 100.},
    {"temperature": sampling.LEAST_TEMPERATURE, "repetition_penalty": 0.01}])
def test_the_furthest_settings_still_give_a_law(setting):
  logits = jnp.array([-1e4, -3., 0., 2., 1e4])
  law = sampling.Sampling(**setting).probs(logits, jnp.ones((5,), bool))
  np.testing.assert_allclose(law.sum(), 1, atol=1e-6)


@hypothesis.given(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=4,
                                  max_size=4), length=st.integers(0, 4))
@_settings
def test_seen_tokens_stops_at_the_length(tokens, length):
  seen = sampling.seen_tokens(
      jnp.asarray([tokens], jnp.int32), jnp.asarray([length]), VOCAB)
  assert set(np.flatnonzero(np.asarray(seen)[0])) == set(tokens[:length])


LAW = np.array([.5, 0., .25, .2, .05, 0.])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_most_likely_is_the_first_of_the_largest(dtype):
  rng = np.random.default_rng(0)
  # Whole numbers, so that there are ties; a row of nothing but -inf.
  scores = rng.integers(-3, 3, (50, 2, 9)).astype(np.float64)
  scores[rng.random(scores.shape) < .2] = -np.inf
  scores[0, 0] = -np.inf
  with jax.enable_x64(True):
    found = sampling.most_likely(jnp.asarray(scores, dtype))
  assert found.dtype == jnp.int32
  np.testing.assert_array_equal(found, scores.argmax(-1))


def test_most_likely_of_nan_is_a_token():
  scores = np.asarray([[np.nan, 1, 2], [np.nan] * 3], np.float32)
  assert ((0 <= sampling.most_likely(scores))
          & (sampling.most_likely(scores) < 3)).all()


def test_a_draw_follows_the_law():
  draws = jax.vmap(sampling.draw, (0, None))(
      keys.row_keys(0, NUM_ROWS), jnp.asarray(LAW, jnp.float32))
  counts = np.bincount(np.asarray(draws), minlength=VOCAB)
  assert chi_square.p_value(counts, LAW) > 1e-4
  assert chi_square.p_value(counts, LAW[::-1]) < 1e-10


def test_the_race_is_gumbel_max():
  law = jnp.asarray(LAW, jnp.float32)
  for key in keys.row_keys(2, 20):
    noisy = jnp.log(law) + jax.random.gumbel(key, law.shape)
    assert sampling.draw(key, law) == jnp.argmax(noisy)


DISTINCT = {"without_replacement": sampling.first_k_to_ring,
            "greedy": sampling.top_and_first_to_ring}


@pytest.mark.parametrize("num_drafts", [1, 2, 3])
@pytest.mark.parametrize("draw", DISTINCT)
def test_distinct_draws_follow_the_enumerated_law(draw, num_drafts):
  noise = jax.vmap(lambda key: sampling.clocks(key, VOCAB))(
      keys.row_keys(1, NUM_ROWS))
  drafts, exists = DISTINCT[draw](
      jnp.broadcast_to(jnp.asarray(LAW, jnp.float32), noise.shape), noise,
      num_drafts)
  assert np.asarray(exists).all()
  law = np.zeros((VOCAB,) * num_drafts)
  tuples, weights = enumeration.draft_tuples(LAW, num_drafts, draw)
  law[tuple(tuples.T)] = weights
  counts = chi_square.joint_counts(drafts, VOCAB)
  assert chi_square.p_value(counts, law) > 1e-4


@pytest.mark.parametrize("draw", DISTINCT)
def test_distinct_draws_mark_an_exhausted_support(draw):
  noise = sampling.clocks(jax.random.key(0), 4)
  drafts, exists = DISTINCT[draw](jnp.asarray([0., .5, .5, 0.]), noise, 4)
  assert np.asarray(exists).tolist() == [True, True, False, False]
  assert sorted(np.asarray(drafts)[:2].tolist()) == [1, 2]
