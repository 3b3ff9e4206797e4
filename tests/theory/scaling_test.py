"""Fits of the log-linear laws, and widths of trees under a roofline."""

import numpy as np
import pytest

from theory import chains
from theory import scaling

_X = np.logspace(8, 11, 7)


def _noisy(seed, noise=.1):
  rng = np.random.default_rng(seed)
  return .4 * np.log10(_X) - 1 + noise * rng.standard_normal(_X.size)


def test_exact_line_is_found_and_predicts_an_unseen_point():
  law = scaling.fit(_X, _noisy(0, 0.))
  np.testing.assert_allclose(
      [law.slope, law.intercept, law.r_squared], [.4, -1, 1], atol=1e-9)
  np.testing.assert_allclose(law.predict(1e13), .4 * 13 - 1)
  np.testing.assert_allclose(law.predict([1e13, 1e9], ceiling=4.), [4., 2.6])
  low, high = law.band(1e13)
  np.testing.assert_allclose([low, high], 4.2, atol=1e-6)


def test_fit_is_least_squares():
  y = _noisy(1)
  law = scaling.fit(_X, y)
  slope, intercept = np.polyfit(np.log10(_X), y, 1)
  np.testing.assert_allclose([law.slope, law.intercept], [slope, intercept])
  correlation = np.corrcoef(np.log10(_X), y)[0, 1]
  np.testing.assert_allclose(law.r_squared, correlation ** 2)


@pytest.mark.parametrize("is_new_point,x", [(False, 1e9), (True, 1e12)])
def test_bands_cover_as_often_as_they_say(is_new_point, x):
  truth, hits, num_fits = .4 * np.log10(x) - 1, 0, 300
  rng = np.random.default_rng(99)
  for seed in range(num_fits):
    low, high = scaling.fit(_X, _noisy(seed)).band(x, .8, is_new_point)
    hits += low <= truth + is_new_point * .1 * rng.standard_normal() <= high
  assert abs(hits / num_fits - .8) < 4 * np.sqrt(.8 * .2 / num_fits)


def test_band_of_three_points_by_hand():
  """Squared errors 2/3 on one degree of freedom; its t at 95% is 12.7062."""
  low, high = scaling.fit([1., 10., 100.], [0., 1., 0.]).band(10.)
  half = 12.7062 * np.sqrt(2 / 3) * np.sqrt(1 / 3)
  np.testing.assert_allclose([low, high], [1 / 3 - half, 1 / 3 + half],
                             rtol=1e-5)


def test_band_is_narrowest_among_the_points():
  law = scaling.fit(_X, _noisy(2))
  width = np.diff(law.band([1e6, 10 ** 9.5, 1e13]), axis=0)[0]
  assert width[0] > width[1] < width[2]
  wide = np.diff(law.band(1e9, .99), axis=0)
  assert wide > np.diff(law.band(1e9, .5), axis=0)
  assert np.diff(law.band(1e9, .5, True), axis=0) > np.diff(
      law.band(1e9, .5), axis=0)


def test_a_draft_of_more_data_keeps_more():
  """The data law on a Markov source and its smoothed counts."""
  rng, sizes, length = np.random.default_rng(0), np.logspace(1, 4, 7), 4
  rows = rng.dirichlet(np.full(8, .5), size=9)
  tokens = []
  for size in sizes.astype(int):
    kept = []
    for _ in range(6):
      counts = np.stack([rng.multinomial(size // 8 + 1, row) for row in rows])
      draft = (counts + .5) / (counts + .5).sum(-1, keepdims=True)
      kept.append(1 + chains.mean(chains.token_rule(
          chains.Markov(rows[0], rows[1:], draft[0], draft[1:]), length)))
    tokens.append(np.mean(kept))
  law = scaling.fit(sizes, tokens)
  assert law.slope > 0 and law.r_squared > .8
  low, _ = scaling.fit(sizes[:4], tokens[:4]).band(sizes[4], .95, True)
  assert tokens[4] > low  # It saturates later than where it was fitted.
  assert law.predict(1e30) > length + 1 == law.predict(1e30, length + 1)


_DEVICE = scaling.Roofline(1.4e10, 1.4e10, 2e12, 3e14)


def test_roofline_is_the_larger_of_its_two_sides():
  below, above = .5 * _DEVICE.ridge, 2 * _DEVICE.ridge
  np.testing.assert_allclose(_DEVICE.seconds(below), 1.4e10 / 2e12)
  np.testing.assert_allclose(_DEVICE.seconds(above), 2 * 1.4e10 / 2e12)


@pytest.mark.parametrize("draft_seconds", [0., 3e-3])
def test_best_width_falls_with_the_batch(draft_seconds):
  rng, batches, has_fallen = np.random.default_rng(0), 2 ** np.arange(10), 0
  for _ in range(40):
    nodes = np.cumsum(rng.integers(1, 9, size=8))
    tokens = 1 + np.sort(rng.uniform(0, 5, size=8))
    widths = [scaling.best_width(tokens, nodes, int(b), _DEVICE, draft_seconds)
              for b in batches]
    assert (np.diff(widths) <= 0).all()
    has_fallen += widths[0] > widths[-1]
    speed = [batches[3] * t / (draft_seconds + _DEVICE.seconds(batches[3] * n))
             for t, n in zip(tokens, nodes)]
    assert speed[widths[3]] == max(speed)
  assert has_fallen > 30


def test_the_three_laws():
  assert list(scaling.LAWS) == ["data", "capacity", "batch"]
  batches = 2. ** np.arange(9)
  speeds = [b * 3. / float(_DEVICE.seconds(b * 20)) for b in batches]
  per_sequence = scaling.fit(batches, np.asarray(speeds) / batches)
  assert per_sequence.slope < 0


@pytest.mark.parametrize("call,message", [
    (lambda: scaling.fit([1., 2.], [1.]), "x has shape (2,), y (1,)"),
    (lambda: scaling.fit([0., 2.], [1., 2.]), "x=[0.0, 2.0]"),
    (lambda: scaling.fit([2., 2.], [1., 2.]), "expected two values"),
    (lambda: scaling.fit([1., 2.], [1., 2.]).band(1.), "2 points"),
    (lambda: scaling.fit(_X, _X).band(1., 1.), "confidence=1.0"),
    (lambda: scaling.Roofline(0., 1., 1., 1.), "Roofline=[0.0"),
    (lambda: scaling.best_width([1., 2.], [2, 2], 1, _DEVICE), "rising nodes"),
    (lambda: scaling.best_width([1.], [2], 0, _DEVICE), "batch=0")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
