"""DySpec as printed: one draw after another, always where it is most reached.

A slot is a place below a node where one more child may be drawn: its value is
the chance that the draw is reached. Popping the best slot draws a child, and
leaves two new slots: for the next sibling and for the child's own first child.
"""

import collections
import heapq

import numpy as np

from tests.exactness import tree_law
from tests.trees import beam_law
from tests.trees import stochastic_beam_test


def grow(draw_fn, num_draws, depth=99, top_k=99, threshold=0.0):
  """One tree, and the popped values in order.

  Args:
    draw_fn: `(path of ranks and tokens, tried tokens) -> (token, its law)`; the
      law is that of the untried, or None if there is no token left.
    num_draws: budget.
    depth: most levels.
    top_k: most children of a node.
    threshold: slots of less value are not popped.
  """
  heap, found, values = [(-1.0, 0, (), ())], {}, []
  while heap and len(found) < num_draws:
    value, _, path, tried = heapq.heappop(heap)
    if -value < threshold:
      break
    drawn = draw_fn(path, tried)
    if drawn is None:
      continue
    token, law = drawn
    found[(*path, (len(tried), token))] = len(found)
    values.append(-value)
    share = law[token]
    if len(tried) + 1 < top_k and share < 1:
      heapq.heappush(heap, (value * (1 - share), len(found), path,
                            (*tried, token)))
    if len(path) + 1 < depth:
      heapq.heappush(heap, (value * share, -len(found),
                            (*path, (len(tried), token)), ()))
  return list(found), values


def rest(law, tried):
  """The law of the untried tokens, or None."""
  left = np.asarray(law, np.float64).copy()
  left[list(tried)] = 0
  return left / left.sum() if left.sum() > 1e-9 else None


def trees(q_rows, root, num_draws, depth, top_k=99) -> dict:
  """All trees below a token with their probabilities, as in `beam_law`."""
  final = collections.defaultdict(float)

  def replay(script):
    """A tree that draws by a script, then takes the first possible token."""
    used, mass = [], 1.0

    def draw(path, tried):
      nonlocal mass
      law = rest(q_rows[path[-1][1] if path else root], tried)
      if law is None:
        return None
      at = len(used)
      token = script[at] if at < len(script) else int(np.flatnonzero(law)[0])
      used.append((token, law))
      mass *= law[token]
      return token, law

    nodes, _ = grow(draw, num_draws, depth, top_k)
    return nodes, used, mass

  def visit(script):
    nodes, used, mass = replay(script)
    if len(used) == len(script):
      final[_nest(nodes)] += mass
      return
    law = used[len(script)][1]
    for token in np.flatnonzero(law).tolist():
      visit((*script, token))

  visit(())
  return dict(final)


def _nest(nodes, prefix=()):
  below = sorted(n for n in nodes if n[:-1] == prefix)
  return tuple((node[-1][1], _nest(nodes, node)) for node in below)


def joint_error(rows, law_fn, edit=lambda tree, root: tree):
  """Largest deviation of the joint law of three tokens from the target's."""
  p, q = stochastic_beam_test.ROWS[rows]
  rounds = []
  for root in range(len(p)):
    drawn = collections.defaultdict(float)
    for tree, mass in law_fn(q, root).items():
      drawn[edit(tree, root)] += mass
    assert abs(sum(drawn.values()) - 1) < 1e-12
    rounds.append(beam_law.emitted(
        stochastic_beam_test.RULE, p, q, root, drawn))
  return max(np.abs(tree_law.joint_law(rounds, root, 3)
                    - tree_law.markov_law(p, root, 3)).max()
             for root in range(len(p)))
