"""The report on two texts that differ."""

import types as python_types

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.evaluation import equality


class Table:
  """Scores every prefix alike; remembers what it was asked."""

  dtype = np.float32

  def score(self, params, tokens):
    self.tokens = tokens.tolist()
    shape = tokens.shape + (len(params),)
    return python_types.SimpleNamespace(
        logits=jnp.broadcast_to(jnp.asarray(params, jnp.float32), shape))


def test_equal_texts_have_no_difference():
  assert equality.first_difference([[1, 2], [3]], [(1, 2), np.asarray([3])]
                                   ) is None


def test_first_difference_is_found_and_scored():
  model = Table()
  found = equality.first_difference(
      [[1], [1, 2, 0, 4]], [[1], [1, 2, 3, 4]], model, [5., 1., -2., 4.])
  assert (found.row, found.position, found.expected, found.actual) == (
      1, 2, 0, 3)
  assert found.best == (0, 3) and found.gap == 1 and model.tokens == [[1, 2]]
  assert not found.is_near_tie
  assert "row 1 first differs at position 2: expected token 0, got token 3" in (
      found.explain())
  assert "more than rounding explains" in found.explain()


@pytest.mark.parametrize("actual,near", [(3, True), (1, False)])
def test_near_tie_is_one_between_the_two_best(actual, near):
  found = equality.first_difference(
      [[2, 0]], [[2, actual]], Table(), [5., 1., -2., 5. - 1e-5])
  assert found.is_near_tie == near


def test_tokens_that_cannot_be_drawn_leave_rounding_finite():
  params = [5., 1.]
  assert equality.rounding(Table(), params, np.asarray([-np.inf, 4., -8.])) == (
      pytest.approx(8 * 2.0 ** -11.5))


def test_a_text_that_ends_early_differs():
  found = equality.first_difference([[1, 2]], [[1, 2, 3]])
  assert (found.position, found.expected, found.actual) == (2, None, 3)
  assert found.gap is None and not found.is_near_tie
  assert found.explain().endswith("expected the end, got token 3.")


def test_numbers_of_rows_must_agree():
  with pytest.raises(ValueError, match="expected has 1 rows, actual has 2"):
    equality.first_difference([[1]], [[1], [2]])
