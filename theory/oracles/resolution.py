"""Softmax selection: Global Resolution and the race.

Both give every token a rate and let the drafts compete in proportion to it.
Global Resolution needs the rates at which the plan's sums come out right; the
race thins the winner's law instead and is exact at any rates.
"""

import dataclasses

import numpy as np

from theory.oracles import chance as chance_lib
from theory.oracles import drafting
from theory.oracles import transport

_MAX_STEPS = 200
_LONGEST_STEP = 3.0  # Of a log rate; its optimum may lie at infinity.


@dataclasses.dataclass(frozen=True)
class Rates:
  """Rates of tokens in the two blocks of an optimal plan.

  Attributes:
    inner: H*, whose tokens compete only if all drafts lie in it, and then
      against a reject clock of rate 1.
    rates: `[V]`, nonnegative.
    outer_sums: `[V]`, what the plan emits outside H*.
  """

  inner: frozenset[int]
  rates: np.ndarray
  outer_sums: np.ndarray

  def contest(self, drafts) -> np.ndarray:
    """Chances `[V + 1]` of the competing tokens and, last, of none."""
    size = len(self.rates)
    contenders = [token for token in drafts if token not in self.inner]
    chances = np.zeros(size + 1)
    chances[size] = 0.0 if contenders else 1.0
    for token in contenders or drafts:
      chances[token] += self.rates[token]
    none = np.eye(size + 1)[size]
    return chance_lib.normalise(chances, none)


def solve(p, q, num_drafts, distinct=True) -> Rates:
  """The rates at which the plan of iid drafts is optimal.

  Args:
    p: `[V]`.
    q: `[V]`.
    num_drafts: K.
    distinct: whether a repeated draft competes once or once per copy.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> plan = solve(p, q, 2)
  >>> sorted(plan.inner), plan.outer_sums.round(6).tolist()
  ([1, 2], [0.36, 0.0, 0.0])
  """
  tuples = drafting.tuples(drafting.iid, q, num_drafts)
  masses = transport.set_masses(tuples)
  _, inner = transport.subset_optimum(p, masses)
  # Ascending p/q, never-drawn tokens last.
  order = np.argsort(np.divide(
      p, q, out=np.full(len(p), np.inf), where=q > 0), kind="stable")
  sums = transport.outer_sums(p, masses, inner, order.tolist())
  rates = np.zeros(len(p))
  if distinct:
    groups = {tuple(sorted(s)): mass for s, mass in masses.items()}
  else:
    groups = tuples
  is_inner = np.array([token in inner for token in range(len(p))])
  for block, target, reject in ((~is_inner, sums, 0.0), (is_inner, p, 1.0)):
    block = block & (target > 0) & (q > 0)
    copies, mass = _competitors(groups, block, inner if reject else None)
    if block.any() and len(mass):
      rates[block] = np.exp(_balance(copies, mass, target[block], reject))
  return Rates(inner, rates, sums)


def _competitors(groups, block, only_within):
  """Copies `[M, m]` of the block's tokens in each group, and masses `[M]`."""
  copies, masses = [], []
  for drafts, mass in groups.items():
    count = np.bincount(drafts, minlength=len(block))[block]
    is_ours = only_within is None or set(drafts) <= only_within
    if is_ours and count.any():
      copies.append(count)
      masses.append(mass)
  return np.array(copies, np.float64), np.array(masses)


def _balance(copies, masses, target, reject):
  """Log rates `[m]` at which each token's expected share is its target.

  Newton's method on the convex `sum_t mass_t log(reject + sum_i copies_ti
  e^{a_i}) - target . a`, whose gradient is share minus target.
  """

  def share(a):
    weight = copies * np.exp(a)
    return weight / (reject + weight.sum(1, keepdims=True))

  def value(a):
    total = reject + (copies * np.exp(a)).sum(1)
    return masses @ np.log(total) - target @ a

  a = np.zeros(len(target))
  for _ in range(_MAX_STEPS):
    shares = share(a)
    gradient = masses @ shares - target
    if np.abs(gradient).max() < 1e-15:
      break
    hessian = (np.diag(masses @ shares)
               - shares.T @ (masses[:, None] * shares))
    step = -np.linalg.lstsq(hessian, gradient, rcond=None)[0]
    step *= min(1.0, _LONGEST_STEP / np.abs(step).max())
    while value(a + step) > value(a) + 1e-15:
      step /= 2
    a = a + step
  return a


def global_resolution(p, q, num_drafts, rates: Rates | None = None):
  """Global Resolution for iid drafts (Thomas and Pal 2026), small V.

  The two flow problems are solved to rounding. Emits the winner as it is; if
  none wins, from what p has beyond the outer sums.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     global_resolution(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.86)
  """
  plan = rates or solve(p, q, num_drafts)
  size = len(p)
  outside = np.array([token not in plan.inner for token in range(size)])
  left = np.where(outside, np.maximum(p - plan.outer_sums, 0), 0.0)
  rest = chance_lib.normalise(left, p)

  def verify(chance, drafts):
    token = chance.draw(plan.contest(sorted(set(drafts))))
    return chance.draw(rest) if token == size else token

  return verify


def race(p, q, num_drafts, rates: Rates, draw=drafting.iid):
  """The race: winner by rates, then speculate with the winner.

  Every copy of a repeated draft runs a clock of its own. The winner's law is
  summed over all tuples, so the rule is exact for any rates.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     race(p, q, 2, solve(p, q, 2)),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.86)
  """
  size = len(p)
  winner = sum(mass * rates.contest(drafts)[:size] for drafts, mass
               in drafting.tuples(draw, q, num_drafts).items())

  def verify(chance, drafts):
    token = chance.draw(rates.contest(drafts))
    if token < size and chance.flip(
        chance_lib.ratio(p[token], winner[token])):
      return token
    return chance.draw(chance_lib.residual(p, winner))

  return verify
