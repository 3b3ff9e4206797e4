"""How the drafts of one position are drawn, as programs.

Each is `(chance, q, num_drafts) -> tuple of tokens`, in draw order.
"""

import numpy as np

from theory.oracles import chance as chance_lib


def iid(chance, q, num_drafts):
  """Independent draws from one law.

  >>> tuples(iid, [.5, .5], 2)
  {(0, 0): 0.25, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.25}
  """
  return tuple(chance.draw(q) for _ in range(num_drafts))


def independent(chance, q, num_drafts):
  """Draft j from its own law `q[j]` (Khisti et al. 2025).

  >>> tuples(independent, [[.5, .5], [0., 1.]], 2)
  {(0, 1): 0.5, (1, 1): 0.5}
  """
  return tuple(chance.draw(q[j]) for j in range(num_drafts))


def without_replacement(chance, q, num_drafts):
  """One after the other, each from q without its predecessors (RSD).

  Stops where q has no further token.

  >>> tuples(without_replacement, [.5, .25, .25], 1)
  {(0,): 0.5, (2,): 0.25, (1,): 0.25}
  """
  drafts, left = [], np.array(q, np.float64)
  while len(drafts) < num_drafts and left.sum() > 0:
    drafts.append(chance.draw(left / left.sum()))
    left[drafts[-1]] = 0
  return tuple(drafts)


def greedy(chance, q, num_drafts):
  """The most likely tokens and one draw from the rest (Hu et al. 2025).

  Ties go to the lower index. The random draft comes last.

  >>> tuples(greedy, [.5, .25, .25], 2)
  {(0, 1): 0.5, (0, 2): 0.5}
  """
  top = top_tokens(q, num_drafts - 1)
  return (*top, chance.draw(without(q, top)))


def hub_pair(chance, q, num_drafts=2):
  """A pair that holds the most likely token (SpecHub).

  The first draft is drawn from q; the second is the hub, or, if that was the
  first, a draw from the rest.

  >>> tuples(hub_pair, [.5, .25, .25], 2)
  {(0, 1): 0.25, (0, 2): 0.25, (2, 0): 0.25, (1, 0): 0.25}
  """
  if num_drafts != 2:
    raise ValueError(f"num_drafts={num_drafts}, expected a pair.")
  hub = int(np.argmax(q))
  first = chance.draw(q)
  if first != hub:
    return first, hub
  return hub, chance.draw(without(q, (hub,)))


def top_tokens(q, count) -> tuple[int, ...]:
  """The `count` most likely tokens, lower index first on ties.

  >>> top_tokens([.2, .4, .4], 2)
  (1, 2)
  """
  order = np.argsort(-np.asarray(q), kind="stable")
  return tuple(order[:count].tolist())


def without(q, tokens) -> np.ndarray:
  """The law q, given that none of these tokens was drawn.

  >>> without([.5, .25, .25], (0,)).tolist()
  [0.0, 0.5, 0.5]
  """
  rest = np.array(q, np.float64)
  rest[list(tokens)] = 0
  return chance_lib.normalise(rest, rest)


def tuples(draw, q, num_drafts) -> dict[tuple[int, ...], float]:
  """Probability of every tuple that a way of drawing can produce.

  >>> sorted(tuples(without_replacement, [.5, .5], 2))
  [(0, 1), (1, 0)]
  """
  return chance_lib.outcomes(lambda chance: draw(chance, q, num_drafts))
