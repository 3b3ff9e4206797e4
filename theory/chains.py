"""How many drafts of a chain are kept, by rule, for first-order Markov laws.

Token by token by products of `V x V` matrices, block verification and its
greedy form by enumeration of all drafts and all coins (Sun et al. 2025, arXiv
2403.10444), and the most that any rule exact over one round could keep.
NumPy, float64.
"""

import dataclasses
import itertools

import numpy as np

from theory import checks

_MAX_DRAFTS = 1 << 14
_VANISHED = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Markov:
  """A target and a draft, each a first-order Markov chain over V tokens.

  Attributes:
    p_first: `f64[V]`, the target's law of the first token.
    p_next: `f64[V, V]`, row t is its law after token t.
    q_first: `f64[V]`, the draft's.
    q_next: `f64[V, V]`.
  """

  p_first: np.ndarray
  p_next: np.ndarray
  q_first: np.ndarray
  q_next: np.ndarray

  def __post_init__(self):
    for first, rows in ("p_first", "p_next"), ("q_first", "q_next"):
      object.__setattr__(self, first, checks.law(first, getattr(self, first)))
      object.__setattr__(self, rows, checks.law(rows, getattr(self, rows)))
    shapes = [field.shape for field in (
        self.p_first, self.q_first, self.p_next, self.q_next)]
    size = self.p_first.shape[-1]
    if shapes != [(size,), (size,), (size, size), (size, size)]:
      raise ValueError(
          f"laws of shapes {shapes}, expected [V], [V], [V, V], [V, V].")

  @property
  def vocab_size(self) -> int:
    return self.p_first.shape[0]

  def p(self, token: int | None) -> np.ndarray:
    """The target's law after a token, None at the start; `f64[V]`."""
    return self.p_first if token is None else self.p_next[token]

  def q(self, token: int | None) -> np.ndarray:
    """The draft's law there."""
    return self.q_first if token is None else self.q_next[token]


def mean(histogram) -> float:
  """Expected drafts kept, of `Pr(exactly i are)`, `f64[G + 1]`.

  >>> mean([.25, .5, .25])
  1.0
  """
  histogram = checks.law("histogram", histogram, 1)
  return float(np.arange(histogram.size) @ histogram)


def _from_survival(survival):
  """`Pr(exactly i)` of `Pr(at least i)`, i = 0 .. G."""
  return -np.diff(np.append(survival, 0.0))


def token_rule(markov: Markov, length: int) -> np.ndarray:
  """Law of the drafts kept when each is tested on its own, `f64[G + 1]`.

  At least i are with probability `min(p, q)` multiplied along the matrices
  (Leviathan et al. 2023, arXiv 2211.17192).

  Raises:
    ValueError: for a negative length.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> token_rule(markov, 2).round(6)
  array([0.333333, 0.222222, 0.444444])
  """
  length = checks.count("length", length)
  alive = np.minimum(markov.p_first, markov.q_first)
  survival = [1.0]
  for _ in range(length):
    survival.append(alive.sum())
    alive = alive @ np.minimum(markov.p_next, markov.q_next)
  return _from_survival(survival)


def _drafts(markov, length):
  """All drafts `[A, G]` that can occur, and their probability `[A]`."""
  if markov.vocab_size ** length > _MAX_DRAFTS:
    raise ValueError(
        f"{markov.vocab_size} tokens at {length} positions, expected at most"
        f" {_MAX_DRAFTS} drafts to enumerate.")
  drafts, weights = [], []
  for draft in itertools.product(range(markov.vocab_size), repeat=length):
    weight = np.prod([markov.q(before)[token] for before, token in zip(
        (None, *draft), draft)])
    if weight > 0:
      drafts.append(draft)
      weights.append(float(weight))
  return drafts, weights


def _tests(markov, draft, is_greedy):
  """Block verification's coins h_1 .. h_G for one draft."""
  kept, tests = 1.0, []
  for before, token in zip((None, *draft), draft):
    kept *= markov.p(before)[token] / markov.q(before)[token]
    kept = kept if is_greedy else min(1.0, kept)
    change = kept * markov.p(token) - markov.q(token)
    gain, loss = np.maximum(change, 0).sum(), np.maximum(-change, 0).sum()
    tests.append(min(1.0, gain / loss) if loss > _VANISHED else 1.0)
  if tests:
    tests[-1] = min(1.0, kept)
  return tests


def block_rule(markov: Markov, length: int, is_greedy: bool = False
               ) -> np.ndarray:
  """Law of the drafts kept by block verification, `f64[G + 1]`.

  The longest prefix whose coin `u_i <= h_i` falls right: Sun et al. 2025,
  Algorithm 2; greedily, without the clip, it needs a changed law at the
  following positions to be exact.

  Args:
    markov: target and draft.
    length: G.
    is_greedy: the greedy form.

  Raises:
    ValueError: for a negative length or too many drafts.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> block_rule(markov, 2).round(6)
  array([0.333333, 0.111111, 0.555556])
  """
  length = checks.count("length", length)
  histogram = np.zeros(length + 1)
  for draft, weight in zip(*_drafts(markov, length)):
    for position, test in reversed(
        list(enumerate(_tests(markov, draft, is_greedy), 1))):
      histogram[position] += weight * test
      weight *= 1 - test
    histogram[0] += weight
  return histogram


def one_round_bound(markov: Markov, length: int) -> float:
  """The most drafts that an exact rule could keep on average in one round.

  `sum over prefixes x^i of min(P(x^i), Q(x^i))`: no coupling of two texts has
  a longer expected common prefix. Sun et al. 2025.

  Raises:
    ValueError: for a negative length or too many drafts.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> round(one_round_bound(markov, 2), 6)
  1.333333
  """
  length = checks.count("length", length)
  if markov.vocab_size ** length > _MAX_DRAFTS:
    raise ValueError(
        f"{markov.vocab_size} tokens at {length} positions, expected at most"
        f" {_MAX_DRAFTS} prefixes.")
  total, p, q = 0.0, markov.p_first, markov.q_first
  for _ in range(length):
    total += float(np.minimum(p, q).sum())
    p, q = p[..., None] * markov.p_next, q[..., None] * markov.q_next
  return total
