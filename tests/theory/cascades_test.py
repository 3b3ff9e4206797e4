"""Cascades: golden values, the definition of phi, and simulation."""

import numpy as np
import pytest

from tests.exactness import golden
from theory import cascades
from theory import latency


@pytest.mark.parametrize("case", golden.table()["cascade"])
def test_golden(case):
  case = dict(case)
  kind, expected = case.pop("kind"), case.pop("ewif")
  if kind == "vertical":
    found = cascades.vertical(
        case["alpha"], case["alpha_draft"], case["n"], case["k"], case["c1"],
        case["c2"])
  else:
    found = cascades.horizontal(
        (case["alpha1"], case["alpha2"]), (case["k1"], case["k2"]),
        (case["c1"], case["c2"]))
  np.testing.assert_allclose(found, expected, atol=1e-9)


def _law(alpha, length):
  """`Pr(N = 1 .. length + 1)` for the tokens of a round."""
  return np.append(alpha ** np.arange(length) * (1 - alpha), alpha ** length)


@pytest.mark.parametrize("alpha,length", [(.7, 3), (0., 4), (1., 2), (.4, 0)])
def test_phi_generates_the_law_of_a_round(alpha, length):
  law = _law(alpha, length)
  x = np.linspace(0, 1, 11)
  powers = x[:, None] ** np.arange(1, length + 2)
  phi = cascades.tokens_generating_function(x, alpha, length)
  np.testing.assert_allclose(phi, powers @ law, atol=1e-12)
  slope = (1 - cascades.tokens_generating_function(
      1 - 1e-6, alpha, length)) / 1e-6
  np.testing.assert_allclose(
      slope, latency.expected_tokens(alpha, length), rtol=1e-4)


@pytest.mark.parametrize("alpha", [0., .6, .95, 1.])
def test_vertical_tokens_by_convolution(alpha):
  """The target keeps a run of all that the drafter's rounds wrote."""
  num_reviews, length, law = 3, 2, np.append(0., _law(.7, 2))
  total = np.ones(1)
  for _ in range(num_reviews):
    total = np.convolve(total, law)
  tokens = sum(mass * latency.expected_tokens(alpha, n)
               for n, mass in enumerate(total))
  cost = 1 + num_reviews * (.1 + length * .02)
  np.testing.assert_allclose(
      cascades.vertical(alpha, .7, num_reviews, length, .1, .02),
      tokens / cost, atol=1e-9)


def test_vertical_by_simulation():
  rng, num_rounds = np.random.default_rng(0), 40_000
  inner = 1 + np.cumprod(rng.random((num_rounds, 2, 3)) < .7, 2).sum(2)
  drafted = inner.sum(1)
  run = np.cumprod(rng.random((num_rounds, 8)) < .8, 1).sum(1)
  tokens = 1 + np.minimum(run, drafted)
  exact = cascades.vertical(.8, .7, 2, 3, .1, .01) * (1 + 2 * (.1 + .03))
  assert abs(tokens.mean() - exact) < 4 * tokens.std() / np.sqrt(num_rounds)


def test_one_drafter_is_plain_speculation():
  for alpha, length, cost in ((.8, 5, .05), (.3, 2, .2), (1., 4, 0.)):
    plain = latency.walltime_factor(
        latency.expected_tokens(alpha, length), length, cost)
    np.testing.assert_allclose(
        cascades.horizontal([alpha], [length], [cost]), plain)
    # An inner drafter that writes nothing leaves one token per review.
    np.testing.assert_allclose(
        cascades.vertical(alpha, .5, length, 0, cost, 1.), plain)
    np.testing.assert_allclose(
        cascades.horizontal([alpha] * 2, [length - 1, 1], [cost] * 2), plain)


@pytest.mark.parametrize("call,message", [
    (lambda: cascades.tokens_generating_function(1.5, .5, 1), "x=1.5"),
    (lambda: cascades.vertical(.5, 1.5, 1, 1, .1, .1), "alpha=1.5"),
    (lambda: cascades.vertical(.5, .5, 1, 1, -.1, .1), "costs=[-0.1, 0.1]"),
    (lambda: cascades.horizontal([.5], [1, 2], [.1]), "2 lengths"),
    (lambda: cascades.horizontal([.5], [-1], [.1]), "lengths=-1")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
