"""Rules that emit something else than the target's law, and know it.

Builders as in `oracles.sequential`; the law of what they emit, and from it the
distance to p, follows from `oracles.chance.output`.
"""

import numpy as np

from theory.oracles import chance as chance_lib
from theory.oracles import drafting

_INFLATED = {
    "lin": lambda p, eps: p / eps,
    "sq": lambda p, eps: p / eps ** 2,
    "exp": lambda p, eps: p ** eps,
}


def total_variation(a, b) -> float:
  """`sum |a - b| / 2`.

  >>> total_variation(np.asarray([.5, .5]), np.asarray([.75, .25]))
  0.25
  """
  return float(np.abs(a - b).sum() / 2)


def lenience(p, q, num_drafts, kind, eps):
  """The test sees an inflated p (DistillSpec); eps = 1 is exact.

  The residual is the usual one; further drafts are tried as in SpecInfer.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     lenience(p, q, 1, 'lin', .5),
  ...     drafting.tuples(drafting.iid, q, 1), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.3, 0.3, 0.4], 0.9)
  """
  del num_drafts

  def verify(chance, drafts):
    target = p
    for token in drafts:
      inflated = _INFLATED[kind](target[token], eps)
      if chance.flip(chance_lib.ratio(inflated, q[token])):
        return token
      target = chance_lib.residual(target, q)
    return chance.draw(target)

  return verify


def plausible(passing, otherwise, score=None):
  """Keeps a draft of a set that depends on p alone, whatever drew it.

  Args:
    passing: `bool[V]`.
    otherwise: `[V]`, law of the token if no draft passes.
    score: `[V]`; the passing draft of the highest score is kept, on ties or
      without scores the first.

  >>> verify = plausible([False, True], np.asarray([1., 0.]))
  >>> chance_lib.law(lambda chance: verify(chance, (0, 1)), 2).tolist()
  [0.0, 1.0]
  """
  score = np.zeros(len(passing)) if score is None else score

  def verify(chance, drafts):
    kept = [token for token in drafts if passing[token]]
    if kept:
      return max(kept, key=lambda token: score[token])
    return chance.draw(otherwise)

  return verify


def typical_set(p, eps, delta, guard=1e-5) -> np.ndarray:
  """Tokens with `p > min(eps, delta e^{-H(p)})` (Medusa, Sec. 2.3.1).

  `guard` is added inside the logarithm of the entropy, as the code does.

  >>> typical_set(np.asarray([.7, .2, .1]), .3, .5).tolist()
  [True, False, False]
  """
  with np.errstate(divide="ignore", invalid="ignore"):
    terms = np.where(p > 0, p * np.log(p + guard), 0.0)
  return p > min(eps, delta * np.exp(terms.sum()))


def top_k_set(p, k) -> np.ndarray:
  """Possible tokens with fewer than k likelier ones (Stern et al. 2018).

  >>> top_k_set(np.asarray([.7, .2, .1]), 2).tolist()
  [True, True, False]
  """
  return ((p[None] > p[:, None]).sum(1) < k) & (p > 0)


def entropy_set(p, slope, offset) -> np.ndarray:
  """Possible tokens with `p >= min(offset - slope H(p), max p)` (AASD).

  >>> entropy_set(np.asarray([.7, .2, .1]), .1, .3).tolist()
  [True, False, False]
  """
  entropy = -sum(mass * np.log(mass) for mass in p if mass > 0)
  return (p >= min(offset - slope * entropy, p.max())) & (p > 0)


def restricted(p, passing) -> np.ndarray:
  """The law p, given that the token passes; else the most likely one.

  >>> restricted(np.asarray([.6, .2, .2]), [True, True, False]).tolist()
  [0.7499999999999999, 0.25, 0.0]
  """
  return chance_lib.normalise(np.where(passing, p, 0.0), most_likely(p))


def most_likely(p) -> np.ndarray:
  """All mass on the most likely token, lower index first on ties.

  >>> most_likely(np.asarray([.2, .4, .4])).tolist()
  [0.0, 1.0, 0.0]
  """
  return np.eye(len(p))[int(np.argmax(p))]


def neighbour_mass(p, token, neighbours, bound, relative) -> float:
  """What the nearest tokens lend: as many of them as keep to the bound.

  Args:
    p: `[V]`.
    token: that borrows.
    neighbours: `[V, k]`, nearest first, without the token itself.
    bound: largest mass lent; if `relative`, 1 plus its multiple of p(token).
    relative: the form of LANTERN++.

  >>> p, near = np.asarray([.5, .3, .2]), np.asarray([[1, 2], [0, 2], [1, 0]])
  >>> neighbour_mass(p, 0, near, .4, False)
  0.3
  """
  most = (bound - 1) * p[token] if relative else bound
  lent = np.cumsum(p[neighbours[token]])
  return float(lent[lent <= most].max(initial=0.0))


def relaxed(p, q, num_drafts, neighbours, bound, relative=False):
  """LANTERN (Jang et al. 2025): tokens near a draft count as the draft.

  For `drafting.without_replacement`. A rejection after neighbours have lent
  mass leaves all of the k neighbours' target mass in place.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> near = np.asarray([[1], [0], [1]])
  >>> law, kept = chance_lib.output(
  ...     relaxed(p, q, 1, near, .3),
  ...     drafting.tuples(drafting.without_replacement, q, 1), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.2, 0.3, 0.5], 1.0)
  """
  del num_drafts

  def verify(chance, drafts):
    target, law = p, np.asarray(q, np.float64)
    for token in drafts:
      lent = neighbour_mass(target, token, neighbours, bound, relative)
      if chance.flip(chance_lib.ratio(target[token] + lent, law[token])):
        return token
      taken = law.copy()
      if lent > 0:
        taken[neighbours[token]] = 0
      uniform = np.full(len(p), 1 / len(p))
      target = chance_lib.normalise(np.maximum(target - taken, 0), uniform)
      law = drafting.without(law, (token,))
    return chance.draw(target)

  return verify


def relaxed_static(p, q, num_drafts, neighbours, bound, relative=True):
  """LANTERN++ (Park et al. 2025): drafts are the likeliest, unsampled.

  A draft is kept with its relaxed target mass; a rejection clears it and, if
  they have lent any, its k neighbours.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> near = np.asarray([[1], [0], [1]])
  >>> verify = relaxed_static(p, q, 1, near, 2.)
  >>> chance_lib.law(lambda chance: verify(chance, (0,)), 3).tolist()
  [0.8, 0.0, 0.19999999999999996]
  """
  del q, num_drafts

  def verify(chance, drafts):
    target = p
    for token in drafts:
      lent = neighbour_mass(target, token, neighbours, bound, relative)
      if chance.flip(min(1.0, target[token] + lent)):
        return token
      left = target.copy()
      left[token] = 0
      if lent > 0:
        left[neighbours[token]] = 0
      uniform = np.full(len(p), 1 / len(p))
      target = chance_lib.normalise(left, uniform)
    return chance.draw(target)

  return verify
