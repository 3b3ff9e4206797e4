"""One round of a sequence-level rule on chains and trees of Markov laws.

Rules are programs `(chance, target, draft, drafts) -> emitted string`; its last
token is the bonus or the correction, all before it were drafted. Drafts come
from `chain` or `tree`, which are programs too.
"""

import dataclasses

import numpy as np

from theory.oracles import chance as chance_lib
from theory.oracles import drafting
from theory.oracles import sequential

String = tuple[int, ...]
Tree = tuple[tuple[int, "Tree"], ...]  # Children and what hangs below them.


@dataclasses.dataclass(frozen=True)
class Markov:
  """A first-order Markov law of strings.

  Attributes:
    first: `[V]`, of the first token.
    rows: `[V, V]`, row t is the law after token t.
  """

  first: np.ndarray
  rows: np.ndarray

  def after(self, prefix: String) -> np.ndarray:
    """Law `[V]` of the next token."""
    return self.rows[prefix[-1]] if prefix else self.first

  def mass(self, string: String) -> float:
    """Probability that the text begins with the string."""
    steps = [self.after(string[:i])[t] for i, t in enumerate(string)]
    return float(np.prod(steps))


def extended(strings: dict[String, float], target: Markov, length: int
             ) -> np.ndarray:
  """Law `[V] * length` of the text if the target itself goes on.

  Equals the target's own law exactly if the round is lossless.

  >>> law = Markov(np.asarray([.5, .5]), np.eye(2))
  >>> extended({(0,): .5, (1,): .5}, law, 2).tolist()
  [[0.5, 0.0], [0.0, 0.5]]
  """
  joint = np.zeros((len(target.first),) * length)

  def extend(string, mass):
    if len(string) >= length:
      joint[string[:length]] += mass
    else:
      for token, chance in enumerate(target.after(string)):
        extend((*string, token), mass * chance)

  for string, mass in strings.items():
    extend(string, mass)
  return joint


def kept_histogram(strings: dict[String, float], most: int) -> np.ndarray:
  """Probabilities `[most + 1]` of the number of drafted tokens kept.

  >>> kept_histogram({(0,): .25, (1, 0): .75}, 1).tolist()
  [0.25, 0.75]
  """
  histogram = np.zeros(most + 1)
  for string, mass in strings.items():
    histogram[len(string) - 1] += mass
  return histogram


def chain(chance, draft: Markov, num_drafts: int) -> String:
  """A string drawn from the draft.

  >>> law = Markov(np.asarray([.5, .5]), np.eye(2))
  >>> chance_lib.outcomes(lambda chance: chain(chance, law, 2))
  {(0, 0): 0.5, (1, 1): 0.5}
  """
  tokens: String = ()
  for _ in range(num_drafts):
    tokens += (chance.draw(draft.after(tokens)),)
  return tokens


def tree(chance, draft: Markov, branching, draw, prefix: String = ()) -> Tree:
  """Children in draw order below a prefix, `branching[d]` at depth d.

  >>> law = Markov(np.asarray([0., 1.]), np.eye(2))
  >>> chance_lib.outcomes(
  ...     lambda chance: tree(chance, law, (1, 1), drafting.iid))
  {((1, ((1, ()),)),): 1.0}
  """
  if not branching:
    return ()
  tokens = draw(chance, draft.after(prefix), branching[0])
  return tuple((token, tree(chance, draft, branching[1:], draw,
                            (*prefix, token))) for token in tokens)


def token_by_token(chance, target, draft, drafts: String) -> String:
  """Speculative decoding (Leviathan et al. 2023, Alg. 1).

  >>> p = Markov(np.full(2, .5), np.full((2, 2), .5))
  >>> q = Markov(np.asarray([.25, .75]), np.asarray([[.25, .75]] * 2))
  >>> strings = chance_lib.outcomes(lambda chance: token_by_token(
  ...     chance, p, q, chain(chance, q, 2)))
  >>> kept_histogram(strings, 2).round(6).tolist()
  [0.25, 0.1875, 0.5625]
  """
  for i, token in enumerate(drafts):
    p, q = target.after(drafts[:i]), draft.after(drafts[:i])
    if not chance.flip(chance_lib.ratio(p[token], q[token])):
      return (*drafts[:i], chance.draw(chance_lib.residual(p, q)))
  return (*drafts, chance.draw(target.after(drafts)))


def block(chance, target, draft, drafts: String) -> String:
  """Block verification (Sun et al. 2025, Alg. 2).

  >>> p = Markov(np.full(2, .5), np.full((2, 2), .5))
  >>> q = Markov(np.asarray([.25, .75]), np.asarray([[.25, .75]] * 2))
  >>> strings = chance_lib.outcomes(lambda chance: block(
  ...     chance, p, q, chain(chance, q, 2)))
  >>> kept_histogram(strings, 2).round(6).tolist()
  [0.25, 0.125, 0.625]
  """
  num_drafts = len(drafts)
  ratios = [1.0]
  for i, token in enumerate(drafts):
    p, q = target.after(drafts[:i]), draft.after(drafts[:i])
    ratios.append(min(1.0, ratios[-1] * p[token] / q[token]))

  def accept(i):
    if i == num_drafts:
      return ratios[i]
    p, q = target.after(drafts[:i]), draft.after(drafts[:i])
    left = np.maximum(ratios[i] * p - q, 0).sum()
    total = left + (1 - ratios[i])
    return left / total if total > 0 else 1.0

  kept = _last_success(chance, accept, num_drafts)
  p = target.after(drafts[:kept])
  if kept < num_drafts:
    p = chance_lib.residual(ratios[kept] * p, draft.after(drafts[:kept]))
  return (*drafts[:kept], chance.draw(p))


def greedy_block(chance, target, draft, drafts: String, whole_block=False
                 ) -> String:
  """Greedy block verification (Sun et al. 2025, App. C).

  Exact only if the positions of this block that are still open are then drawn
  from a modified target; `whole_block` draws them here, one by one.

  >>> p = Markov(np.full(2, .5), np.full((2, 2), .5))
  >>> q = Markov(np.asarray([.25, .75]), np.asarray([[.25, .75]] * 2))
  >>> strings = chance_lib.outcomes(lambda chance: greedy_block(
  ...     chance, p, q, chain(chance, q, 2)))
  >>> kept_histogram(strings, 2).round(6).tolist()
  [0.25, 0.0625, 0.6875]
  """
  num_drafts = len(drafts)

  def scaled(prefix):
    """Both laws of the next token, times the prefix's own probability."""
    return (target.mass(prefix) * target.after(prefix),
            draft.mass(prefix) * draft.after(prefix))

  def accept(i):
    if i == num_drafts:
      return chance_lib.ratio(target.mass(drafts), draft.mass(drafts))
    p, q = scaled(drafts[:i])
    more, less = np.maximum(p - q, 0).sum(), np.maximum(q - p, 0).sum()
    return min(1.0, more / less) if less > 0 else 1.0

  kept = _last_success(chance, accept, num_drafts)
  string = drafts[:kept]
  if kept == num_drafts:
    return (*string, chance.draw(target.after(string)))
  string += (chance.draw(chance_lib.residual(*scaled(string))),)
  while whole_block and len(string) < num_drafts:
    string += (chance.draw(chance_lib.residual(*scaled(string))),)
  return string


def _last_success(chance, accept, num_drafts):
  """Largest i whose own coin falls on success; the coins are independent."""
  # Coins below the largest success decide nothing, so they are not flipped.
  for i in range(num_drafts, 0, -1):
    if chance.flip(accept(i)):
      return i
  return 0


def top_down(chance, target, draft, children: Tree, distinct: bool) -> String:
  """Recursive rejection at every node from the root down (SpecInfer, RSD).

  `distinct` siblings were drawn without replacement.

  >>> p = Markov(np.full(2, .5), np.full((2, 2), .5))
  >>> q = Markov(np.asarray([.25, .75]), np.asarray([[.25, .75]] * 2))
  >>> strings = chance_lib.outcomes(lambda chance: top_down(
  ...     chance, p, q, tree(chance, q, (2,), drafting.iid), False))
  >>> kept_histogram(strings, 1).round(6).tolist()
  [0.1875, 0.8125]
  """
  rule = (sequential.recursive_without_replacement if distinct
          else sequential.recursive)
  string: String = ()
  while children:
    tokens = tuple(token for token, _ in children)
    verify = rule(target.after(string), draft.after(string), len(tokens))
    token = verify(chance, tokens)
    string += (token,)
    if token not in tokens:
      return string
    children = children[tokens.index(token)][1]
  return (*string, chance.draw(target.after(string)))


def traversal(chance, target, draft, children: Tree, distinct: bool) -> String:
  """Traversal verification (Weng et al. 2025, Alg. 1): leaves first.

  `distinct` siblings were drawn without replacement.

  >>> p = Markov(np.full(2, .5), np.full((2, 2), .5))
  >>> q = Markov(np.asarray([.25, .75]), np.asarray([[.25, .75]] * 2))
  >>> strings = chance_lib.outcomes(lambda chance: traversal(
  ...     chance, p, q, tree(chance, q, (2,), drafting.iid), False))
  >>> kept_histogram(strings, 1).round(6).tolist()
  [0.1875, 0.8125]
  """
  return _visit(chance, target, draft, (), children, 1.0, distinct)


def _visit(chance, target, draft, prefix, children, accept, distinct):
  """The string emitted at or below a node; None if all of it is rejected."""
  p, q = target.after(prefix), draft.after(prefix)
  for token, below in children:
    child = min(1.0, accept * p[token] / q[token])
    string = _visit(chance, target, draft, (*prefix, token), below, child,
                    distinct)
    if string is not None:
      return string
    left = np.maximum(accept * p - q, 0)
    total = left.sum() + (1 - accept)
    accept = left.sum() / total if total > 0 else 1.0
    p = chance_lib.normalise(left, p)
    if distinct:
      q = drafting.without(q, (token,))
  if chance.flip(accept):
    return (*prefix, chance.draw(p))
  return None
