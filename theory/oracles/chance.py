"""Randomised programs turned into exact laws.

An oracle is a sequential algorithm written as its paper prints it, with coins
and draws. The coins are not tossed: the program is run once for every path
that its draws can take, and the probabilities of the paths are added up.
"""

import collections
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any

import numpy as np


class Chance:
  """Answers the draws of one run: from a script first, then the lowest token.

  Attributes:
    weight: probability of the answers given so far.
    untaken: scripts of the paths that branch off behind the script.
  """

  def __init__(self, script: tuple[int, ...] = ()):
    self._script = script
    self._taken: list[int] = []
    self.weight = 1.0
    self.untaken: list[tuple[int, ...]] = []

  def draw(self, law) -> int:
    """A token of `law[V]`; raises ValueError if no token has any mass."""
    step = len(self._taken)
    if step < len(self._script):
      choice = self._script[step]
    else:
      possible = [token for token, mass in enumerate(law) if mass > 0]
      if not possible:
        raise ValueError(f"law={law}, expected a token of positive mass.")
      choice, *others = possible
      self.untaken += [(*self._taken, other) for other in others]
    self._taken.append(choice)
    self.weight *= float(law[choice])
    return choice

  def flip(self, probability: float) -> bool:
    """True with this probability."""
    return bool(self.draw((1 - probability, probability)))


Program = Callable[[Chance], Hashable]


def outcomes(program: Program) -> dict[Any, float]:
  """Every outcome of a program with its probability.

  >>> outcomes(lambda chance: chance.flip(.25))
  {False: 0.75, True: 0.25}
  """
  found: dict[Any, float] = collections.defaultdict(float)
  scripts: list[tuple[int, ...]] = [()]
  while scripts:
    chance = Chance(scripts.pop())
    found[program(chance)] += chance.weight
    scripts += chance.untaken
  return dict(found)


def law(program: Program, vocab_size: int) -> np.ndarray:
  """The law `f64[V]` of the token that a program returns.

  >>> law(lambda chance: chance.draw([.25, .75]), 2).tolist()
  [0.25, 0.75]
  """
  found = np.zeros(vocab_size)
  for token, mass in outcomes(program).items():
    found[token] += mass
  return found


def output(verify, draft_law: dict[tuple[int, ...], float], vocab_size: int
           ) -> tuple[np.ndarray, float]:
  """What a rule emits over all tuples of drafts.

  Args:
    verify: `(chance, drafts) -> token`.
    draft_law: probability of each tuple of drafts.
    vocab_size: V.

  Returns:
    The law `f64[V]` and the probability that the token is among the drafts.

  >>> output(lambda chance, drafts: 1, {(0,): .25, (1,): .75}, 2)
  (array([0., 1.]), 0.75)
  """
  total, kept = np.zeros(vocab_size), 0.0
  for drafts, mass in draft_law.items():
    found = law(lambda chance, d=drafts: verify(chance, d), vocab_size)
    total += mass * found
    kept += mass * found[sorted(set(drafts))].sum()
  return total, float(kept)


def ratio(p: float, q: float) -> float:
  """`min(1, p / q)`; 0 where q never draws.

  >>> ratio(.2, .4), ratio(.4, .2), ratio(.4, 0)
  (0.5, 1.0, 0.0)
  """
  return min(1.0, p / q) if q > 0 else 0.0


def normalise(mass: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
  """`mass / sum(mass)`, or `otherwise` for an event of probability zero.

  >>> normalise(np.asarray([.2, .2]), np.zeros(2)).tolist()
  [0.5, 0.5]
  """
  total = mass.sum()
  return mass / total if total > 0 else otherwise


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """The normalised positive part of p - q (Leviathan et al. 2023, Sec. 2.3).

  >>> residual(np.asarray([.5, .5]), np.asarray([.25, .75])).tolist()
  [1.0, 0.0]
  """
  return normalise(np.maximum(p - q, 0), p)
