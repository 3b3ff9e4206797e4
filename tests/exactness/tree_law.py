"""The exact law of what a rule emits over trees of drafts, several rounds.

All assignments of tokens to the nodes are listed with their probability; the
law at each visited node is the rule's own, of the children that
`core.tree.children` finds, and the descent is that of `verifiers.walk`: to the
first child, in draw order, that carries the emitted token.
"""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import enumeration


@dataclasses.dataclass(frozen=True)
class Problem:
  """A rule on a tree shape, over first-order Markov laws.

  Attributes:
    rule: with a `law`.
    draw: how siblings are drawn.
    parents: of the nodes; the root is node 0.
    valid: per node; an invalid node is never drawn.
    p_rows: `[V, V]`, row t is the target's law after token t.
    q_rows: `[V, V]`, the draft law.
  """

  rule: object
  draw: str
  parents: tuple[int, ...]
  valid: tuple[bool, ...]
  p_rows: tuple[tuple[float, ...], ...]
  q_rows: tuple[tuple[float, ...], ...]

  @property
  def vocab_size(self) -> int:
    return len(self.p_rows)

  def children(self, node: int) -> list[int]:
    return [n for n, parent in enumerate(self.parents)
            if parent == node and self.valid[n]]


def draft_trees(problem: Problem, root: int
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Every tree over a root: `[A, N]` tokens and validity, `[A]` weights."""
  tokens = [0] * len(problem.parents)
  tokens[0] = root
  trees = [(tuple(tokens), problem.valid, 1.0)]
  for node in range(len(problem.parents)):
    kids = problem.children(node)
    if kids:
      trees = [grown for tree in trees
               for grown in _grow(problem, tree, node, kids)]
  tokens, valid, weights = map(np.asarray, zip(*trees))
  return tokens.astype(np.int32), valid, weights


def _grow(problem, tree, node, kids):
  """The tree with each possible tuple of children below `node`."""
  tokens, valid, weight = tree
  law = np.asarray(problem.q_rows[tokens[node]])
  count = len(kids) if valid[node] else 0
  if problem.draw != "iid":  # Distinct drafts end with the support.
    count = min(count, np.count_nonzero(law))
  options = [((), 1.0)]
  if count:
    options = zip(*enumeration.draft_tuples(law, count, problem.draw))
  for drafts, probability in options:
    new_tokens, new_valid = list(tokens), list(valid)
    for kid, draft in itertools.zip_longest(kids, drafts):
      new_valid[kid] = draft is not None
      new_tokens[kid] = 0 if draft is None else int(draft)
    yield tuple(new_tokens), tuple(new_valid), weight * probability


@functools.partial(jax.jit, static_argnums=(0, 1))
def _node_laws(rule, max_children, parents, tokens, valid, p_rows, q_rows):
  """Per tree and node: emitted law, children, which of them exist."""

  def at(tokens, valid, node):
    kids, exists = tree_lib.children(parents, valid, node, max_children)
    q = None if q_rows is None else q_rows[tokens[node]]
    law = rule.law(p_rows[tokens[node]], q, tokens[kids], exists)
    return law, kids, exists

  nodes = jnp.arange(parents.shape[0], dtype=parents.dtype)
  over_nodes = jax.vmap(at, (None, None, 0))
  return jax.vmap(over_nodes, (0, 0, None))(tokens, valid, nodes)


def emitted_laws(problem: Problem) -> list[dict[tuple[int, ...], float]]:
  """By root: the probability of each string that one round may emit."""
  by_root = [draft_trees(problem, t) for t in range(problem.vocab_size)]
  tokens, valid, weights = map(np.concatenate, zip(*by_root))
  most = max(len(problem.children(n)) for n in range(len(problem.parents)))
  is_random = problem.draw in types.RANDOM_DRAWS
  with jax.enable_x64(True):
    laws, kids, exists = map(np.asarray, _node_laws(
        problem.rule, max(most, 1), np.asarray(problem.parents, np.int32),
        tokens, valid, np.asarray(problem.p_rows),
        np.asarray(problem.q_rows) if is_random else None))

  def visit(node, trees, mass, prefix, strings):
    drafts = np.take_along_axis(tokens[trees], kids[trees, node], 1)
    for token in range(problem.vocab_size):
      left = mass * laws[trees, node, token]
      hit = exists[trees, node] & (drafts == token)
      child = np.where(hit.any(1), kids[trees, node, hit.argmax(1)], 0)
      strings[prefix + (token,)] += left[child == 0].sum()
      for next_node in set(child[child > 0].tolist()):
        here = child == next_node
        visit(next_node, trees[here], left[here], prefix + (token,), strings)

  found = []
  for root in range(problem.vocab_size):
    strings = collections.defaultdict(float)
    trees = np.flatnonzero(tokens[:, 0] == root)
    visit(0, trees, weights[trees], (), strings)
    found.append({s: mass for s, mass in strings.items() if mass > 0})
  return found


def joint_law(rounds: list[dict], root: int, num_tokens: int) -> np.ndarray:
  """Law `[V] * num_tokens` of the first tokens, over as many rounds as needed.

  Args:
    rounds: from `emitted_laws`; a round starts at the token with which the
      one before it ended.
    root: the token before the text.
    num_tokens: of the text.
  """
  joint = np.zeros((len(rounds),) * num_tokens)

  def extend(text, mass):
    for string, probability in rounds[(root, *text)[-1]].items():
      longer = text + string
      if len(longer) >= num_tokens:
        joint[longer[:num_tokens]] += mass * probability
      else:
        extend(longer, mass * probability)

  extend((), 1.0)
  return joint


def markov_law(rows, root: int, num_tokens: int) -> np.ndarray:
  """The same law of autoregressive sampling from `[V, V]` rows."""
  rows = np.asarray(rows)
  joint = rows[root]
  for _ in range(num_tokens - 1):
    joint = joint[..., None] * rows
  return joint
