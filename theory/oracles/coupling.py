"""Shared noise: the emitted token is the target's own draw.

Draft and target take the winner of a race of the same exponential clocks. What
the noise integrates to is a sum of exponentials, handled here in closed form.
"""

import collections

import numpy as np

Exponentials = dict[float, float]  # rate -> coefficient of e^{-rate t}


def list_acceptance(p, q, num_drafts: int) -> float:
  """`Pr(Y in {X_1..X_K})` of list-level coupling (Rowan et al. 2025).

  One draft is the coupling of Daliri et al. 2024. The clocks E[d, i] ~ Exp(1)
  give Y = argmin_i min_d E[d, i] / p_i and X_d = argmin_i E[d, i] / q_i. Given
  that token j wins in row d at time t, which has density `p_j K e^{-K t}`, the
  rows are independent, and in each the clocks are known not to have rung yet:
  row d's draft is j with probability own(t), any other's with other(t).

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> [round(float(list_acceptance(p, q, n)), 6) for n in (1, 2, 3)]
  [0.630769, 0.773999, 0.85044]
  """
  total = 0.0
  for j in range(len(p)):
    if p[j] > 0 and q[j] > 0:
      missed = _times({0.0: 1.0}, _minus(_own_row(p, q, j)))
      for _ in range(num_drafts - 1):
        missed = _times(missed, _minus(_other_row(p, q, j)))
      # The integral of K e^{-K t} e^{-rate t}.
      lost = sum(coefficient * num_drafts / (num_drafts + rate)
                 for rate, coefficient in missed.items())
      total += p[j] * (1 - lost)
  return total


def _own_row(p, q, j) -> Exponentials:
  """Pr(X = j) in the row of j, which rang at `p_j t`; i not before `p_i t`."""
  later = np.maximum(q * (p[j] / q[j]) - p, 0).sum()
  return {float(later): 1.0}


def _other_row(p, q, j) -> Exponentials:
  """Pr(X = j) in a row where no clock i rang before `p_i t`.

  Draft clocks start at the times `t p_i / q_i` and run at speed q_i. Between
  two starts the running ones have a constant total rate, of which j's share
  is `q_j / rate`.
  """
  drawn = q > 0
  starts = np.sort(p[drawn] / q[drawn])
  ends = np.r_[starts[1:], np.inf]
  found: Exponentials = collections.defaultdict(float)
  for start, end in zip(starts, ends):
    if start >= p[j] / q[j] and end > start:
      speed = q[drawn][p[drawn] / q[drawn] <= start].sum()
      for time, sign in ((start, 1.0), (end, -1.0)):
        if np.isfinite(time):
          waited = float(np.maximum(q * time - p, 0).sum())
          found[waited] += sign * q[j] / speed
  return dict(found)


def _minus(terms: Exponentials) -> Exponentials:
  """One minus the sum."""
  found = {rate: -coefficient for rate, coefficient in terms.items()}
  found[0.0] = found.get(0.0, 0.0) + 1.0
  return found


def _times(a: Exponentials, b: Exponentials) -> Exponentials:
  found: Exponentials = collections.defaultdict(float)
  for rate_a, x in a.items():
    for rate_b, y in b.items():
      found[rate_a + rate_b] += x * y
  return dict(found)
