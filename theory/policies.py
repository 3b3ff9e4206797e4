"""When to stop drafting: a small Markov decision process, solved exactly.

SpecDec++, Huang et al. 2025 (arXiv 2405.19715), Sec. 3. Each drafted token has
a level that the drafter sees once the token is drawn and that fixes the
probability of its acceptance; the state is the levels drafted so far, the
actions are to draft one more (cost c1) or to verify (cost c2), and a round
yields the accepted run and one token of the target. Rounds start afresh, so
the least cost per token r solves `max over policies E[r tokens - cost] = 0`.
NumPy, float64; states are enumerated.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from theory import checks

_MAX_STATES = 1 << 14
# Whether to verify, from the levels drafted so far.
Stop = Callable[[tuple[int, ...]], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Drafting:
  """The problem.

  Attributes:
    accepts: `f64[L]`, acceptance of a token of each level, given that those
      before it are accepted.
    first: `f64[L]`, law of the first token's level.
    following: `f64[L, L]`, row l the law of the level after level l.
    draft_cost: c1, seconds of a draft step.
    verify_cost: c2, seconds of a verification.
    max_length: K, most tokens per round.
  """

  accepts: np.ndarray
  first: np.ndarray
  following: np.ndarray
  draft_cost: float
  verify_cost: float
  max_length: int

  def __post_init__(self):
    fields = (checks.between("accepts", self.accepts),
              checks.law("first", self.first, 1),
              checks.law("following", self.following, 2))
    for name, value in zip(("accepts", "first", "following"), fields):
      object.__setattr__(self, name, value)
    checks.positive("draft_cost", self.draft_cost)
    checks.positive("verify_cost", self.verify_cost)
    checks.count("max_length", self.max_length)
    size, shapes = self.accepts.size, tuple(field.shape for field in fields)
    if shapes != ((size,), (size,), (size, size)):
      raise ValueError(
          f"accepts, first and following have shapes {shapes}, expected [L],"
          " [L] and [L, L].")
    if size ** self.max_length > _MAX_STATES:
      raise ValueError(
          f"{size} levels of {self.max_length} tokens, expected at most"
          f" {_MAX_STATES} states.")

  def levels(self, path: tuple[int, ...]) -> np.ndarray:
    """Law of the next token's level, `f64[L]`."""
    return self.following[path[-1]] if path else self.first

  def survival(self, path: tuple[int, ...]) -> float:
    """Probability that all tokens drafted so far are accepted."""
    return float(np.prod(self.accepts[list(path)]))


def at_length(length: int) -> Stop:
  """Verify after a fixed number of tokens.

  >>> at_length(2)((0,)), at_length(2)((0, 0))
  (False, True)
  """
  return lambda path: len(path) >= length


def round_of(drafting: Drafting, stop: Stop) -> tuple[float, float]:
  """Expected tokens and cost of one round under a policy.

  >>> steady = Drafting([.5], [1.], [[1.]], 1., 10., 4)
  >>> round_of(steady, at_length(2))
  (1.75, 12.0)
  """

  def after(path):
    if len(path) == drafting.max_length or stop(path):
      return 0.0, 0.0
    tokens, cost = 0.0, drafting.draft_cost
    for level, share in enumerate(drafting.levels(path)):
      longer = path + (level,)
      if share > 0:
        more_tokens, more_cost = after(longer)
        tokens += share * (drafting.survival(longer) + more_tokens)
        cost += share * more_cost
    return tokens, cost

  tokens, cost = after(())
  return float(1 + tokens), float(drafting.verify_cost + cost)


def cost_per_token(drafting: Drafting, stop: Stop) -> float:
  """Long-run seconds per token of a policy, rounds being independent.

  >>> steady = Drafting([.5], [1.], [[1.]], 1., 10., 4)
  >>> cost_per_token(steady, at_length(1))
  7.333333333333333
  """
  tokens, cost = round_of(drafting, stop)
  return cost / tokens


def _best_stops(drafting, rate) -> frozenset[tuple[int, ...]]:
  """Where to stop if a token is worth `rate`; of equal choices to stop."""
  stops = set()

  def worth(path):
    if len(path) == drafting.max_length:
      stops.add(path)
      return 0.0
    gain = -drafting.draft_cost
    for level, share in enumerate(drafting.levels(path)):
      longer = path + (level,)
      gain += share * (rate * drafting.survival(longer) + worth(longer))
    if gain <= 0:
      stops.add(path)
    return max(gain, 0.0)

  worth(())
  return frozenset(stops)


def optimal(drafting: Drafting) -> tuple[float, frozenset[tuple[int, ...]]]:
  """The least cost per token and the states in which to stop.

  Policy iteration on the price of a token (Dinkelbach 1967): the best policy
  at a price has a cost per token that is the next, lower price. The states
  that a better stop keeps out of reach are decided, too.

  >>> optimal(Drafting([0.], [1.], [[1.]], 1., 10., 1))[0]
  10.0
  """
  rate, stops = np.inf, frozenset([()])
  while (better := cost_per_token(drafting, stops.__contains__)) < rate:
    rate, stops = better, _best_stops(drafting, better)
  return rate, stops


def least_costs(drafting: Drafting, num_tokens: int) -> np.ndarray:
  """Least expected cost of n more tokens at least, n = 0..N: `f64[N + 1]`.

  Value iteration of the process itself, without the assumption of a policy
  that is the same in all rounds; its slope tends to `optimal`'s rate.

  >>> least_costs(Drafting([0.], [1.], [[1.]], 1., 10., 1), 3)
  array([ 0., 10., 20., 30.])
  """
  costs = np.zeros(checks.count("num_tokens", num_tokens) + 1)

  def best(path, runs, total):
    # runs[j]: probability that exactly j of the drafts are accepted.
    left = np.maximum(total - 1 - np.arange(len(runs)), 0)
    stop = drafting.verify_cost + float(np.dot(runs, costs[left]))
    if len(path) == drafting.max_length:
      return stop
    go = drafting.draft_cost
    for level, share in enumerate(drafting.levels(path)):
      if share > 0:
        kept = runs[-1] * drafting.accepts[level]
        go += share * best(
            path + (level,), [*runs[:-1], runs[-1] - kept, kept], total)
    return min(stop, go)

  for total in range(1, costs.size):
    costs[total] = best((), [1.0], total)
  return costs
