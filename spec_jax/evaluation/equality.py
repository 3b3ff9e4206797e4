"""Where two decodes of one prompt part, and whether rounding explains it."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from spec_jax.models import products

# Of a difference, by whether it is a near-tie.
VERDICTS = {True: "a near-tie that rounding can decide",
            False: "more than rounding explains"}


@dataclasses.dataclass(frozen=True)
class Difference:
  """The first token in which two batches of texts differ.

  Attributes:
    row: of the batch.
    position: index into the row's text.
    expected: token id of the first text there, None where it has ended.
    actual: the same of the second.
    best: the target's two most likely tokens there; None if not scored.
    gap: difference of their logits; None if not scored.
    rounding: a gap up to this may be rounding; None if not scored.
  """

  row: int
  position: int
  expected: int | None
  actual: int | None
  best: tuple[int, int] | None = None
  gap: float | None = None
  rounding: float | None = None

  @property
  def is_near_tie(self) -> bool:
    """Whether rounding alone may have chosen between the two tokens."""
    return (self.gap is not None and self.gap <= self.rounding
            and {self.expected, self.actual} == set(self.best))

  def explain(self) -> str:
    """The report: place, tokens, and what the target thinks of them."""
    show = lambda token: "the end" if token is None else f"token {token}"
    text = (f"row {self.row} first differs at position {self.position}:"
            f" expected {show(self.expected)}, got {show(self.actual)}.")
    if self.gap is None:
      return text
    verdict = VERDICTS[self.is_near_tie]
    return (f"{text} The target's best tokens there are {self.best[0]} and"
            f" {self.best[1]}, {self.gap:.3g} logits apart (rounding: up to"
            f" {self.rounding:.3g}): {verdict}.")


def first_difference(expected: Sequence[Sequence[int]],
                     actual: Sequence[Sequence[int]], model: Any = None,
                     params: Any = None) -> Difference | None:
  """Compares texts row by row.

  Args:
    expected: token ids of each row, the prompt included if it is to be scored.
    actual: the same.
    model: the target, to score the place of the difference; optional.
    params: of the target.

  Returns:
    None if all rows are equal.

  Raises:
    ValueError: the numbers of rows differ.
  """
  if len(expected) != len(actual):
    raise ValueError(f"expected has {len(expected)} rows, actual has"
                     f" {len(actual)}; the same prompts were expected.")
  for row, (first, second) in enumerate(zip(expected, actual)):
    first, second = [int(t) for t in first], [int(t) for t in second]
    if first == second:
      continue
    shared = min(len(first), len(second))
    position = next((i for i in range(shared) if first[i] != second[i]), shared)
    at = lambda text, i=position: text[i] if i < len(text) else None
    found = Difference(row, position, at(first), at(second))
    if model is None or position == 0:
      return found
    return _scored(found, first[:position], model, params)
  return None


def _scored(found, prefix, model, params):
  logits = model.score(params, jnp.asarray([prefix], jnp.int32)).logits
  logits = np.asarray(logits[0, -1], np.float64)
  second, best = (int(t) for t in np.argsort(logits, kind="stable")[-2:])
  return dataclasses.replace(
      found, best=(best, second), gap=float(logits[best] - logits[second]),
      rounding=rounding(model, params, logits))


def rounding(model: Any, params: Any, logits: np.ndarray) -> float:
  """How far rounding may move the difference of two logits.

  Half the digits of the products: errors grow over layers and long sums.

  Args:
    model: that computed them; its `dtype` is read.
    params: of the model.
    logits: `f[V]`; tokens that cannot be drawn do not count.
  """
  scale = np.abs(logits[np.isfinite(logits)]).max(initial=1.0)
  return float(products.precision(model.dtype, params) ** 0.5 * scale)
