"""Rules that try one draft after the other.

Each builder takes the target's law `p[V]`, the draft law and the number of
drafts, and returns the algorithm `(chance, drafts) -> emitted token`.
"""

import numpy as np

from theory.oracles import chance as chance_lib
from theory.oracles import drafting

_HALVINGS = 100


def sample_and_match(p, q, num_drafts):
  """The target draws; drafts are only looked at (SpecInfer, Sec. 4.3).

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     sample_and_match(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.483)
  """
  del q, num_drafts
  return lambda chance, drafts: chance.draw(p)


def greedy(p, q, num_drafts):
  """The target's most likely token.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     greedy(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([1.0, 0.0, 0.0], 0.36)
  """
  del q, num_drafts
  return lambda chance, drafts: int(np.argmax(p))


def speculative(p, q, num_drafts=1):
  """Speculative sampling (Leviathan et al. 2023, Alg. 1; Chen et al., Alg. 2).

  Raises:
    ValueError: for more than one draft.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     speculative(p, q),
  ...     drafting.tuples(drafting.iid, q, 1), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.7)
  """
  if num_drafts != 1:
    raise ValueError(f"num_drafts={num_drafts}, expected one.")

  def verify(chance, drafts):
    token, = drafts
    if chance.flip(chance_lib.ratio(p[token], q[token])):
      return token
    return chance.draw(chance_lib.residual(p, q))

  return verify


def recursive(p, q, num_drafts):
  """Multi-step speculative sampling (SpecInfer, Alg. 2; MCSD, Sec. 3.2).

  Args:
    p: `[V]`.
    q: `[V]`, or `[K, V]` where draft j was drawn from `q[j]`.
    num_drafts: K.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     recursive(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.76)
  """
  laws = np.broadcast_to(q, (num_drafts, len(p)))

  def verify(chance, drafts):
    target = p
    for token, law in zip(drafts, laws):
      if chance.flip(chance_lib.ratio(target[token], law[token])):
        return token
      target = chance_lib.residual(target, law)
    return chance.draw(target)

  return verify


def recursive_without_replacement(p, q, num_drafts):
  """Recursive rejection sampling (RSD, Alg. 2; MCSD; Sequoia).

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     recursive_without_replacement(p, q, 2),
  ...     drafting.tuples(drafting.without_replacement, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.82)
  """
  del num_drafts

  def verify(chance, drafts):
    target, law = p, np.asarray(q, np.float64)
    for token in drafts:
      if chance.flip(chance_lib.ratio(target[token], law[token])):
        return token
      target = chance_lib.residual(target, law)
      law = drafting.without(law, (token,))
    return chance.draw(target)

  return verify


def k_seq(p, q, num_drafts):
  """K-SEQ (SpecTr) at its best division factor rho.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     k_seq(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.791355)
  """
  rho = division_factor(p, q, num_drafts)
  beta = _common_mass(p, q, rho)
  missed = (1 - beta) ** num_drafts
  share = (1 - missed) / beta if beta > 0 else 0.0
  # Every token the drafts leave is left with what its tries did not use.
  unused = np.maximum(p - np.minimum(q, p / rho) * share, 0)
  rest = chance_lib.normalise(unused, p)

  def verify(chance, drafts):
    for token in drafts:
      if chance.flip(chance_lib.ratio(p[token], rho * q[token])):
        return token
    return chance.draw(rest)

  return verify


def division_factor(p, q, num_drafts) -> float:
  """The root rho in [1, K] of `1 - (1 - beta(rho))^K = rho beta(rho)`.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> round(division_factor(p, q, 2), 6)
  1.456776
  """
  low, high = 1.0, float(num_drafts)
  for _ in range(_HALVINGS):
    rho = (low + high) / 2
    beta = _common_mass(p, q, rho)
    if 1 - (1 - beta) ** num_drafts > rho * beta:
      low = rho
    else:
      high = rho
  return high


def _common_mass(p, q, rho):
  """`beta(rho) = sum min(q, p / rho)`: how often one try succeeds."""
  return float(np.minimum(q, p / rho).sum())
