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

from spec_jax.core import compiling
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


# Compiling is all of the cost, so the compiler is told not to try hard.
jit = functools.partial(jax.jit, compiler_options=compiling.ONCE)


@functools.partial(jit, static_argnums=0)
def _law_table(rule, p, q, drafts, exists):
  """Emitted laws `f[M, V]`, one for each row of the arguments."""
  if q is None:
    return jax.vmap(lambda p, drafts, exists: rule.law(
        p, None, drafts, exists))(p, drafts, exists)
  return jax.vmap(rule.law)(p, q, drafts, exists)


@functools.partial(jit, static_argnums=0)
def _children(max_children, parents, valid):
  nodes = jnp.arange(parents.shape[0], dtype=parents.dtype)
  of_row = jax.vmap(
      lambda valid, node: tree_lib.children(
          parents, valid, node, max_children), (None, 0))
  return jax.vmap(of_row, (0, None))(valid, nodes)


def _node_laws(problem, most, tokens, valid):
  """Per tree and node: emitted law, children, which of them exist.

  Nodes with the same token and children share a law. One table of them all
  serves every shape of tree, so that a rule is compiled once.
  """
  patterns, row = np.unique(valid, axis=0, return_inverse=True)
  kids, exists = map(np.asarray, _children(
      most, np.asarray(problem.parents, np.int32), patterns))
  kids, exists = kids[row.ravel()], exists[row.ravel()]
  size = problem.vocab_size
  # What stands in a slot: a token, or nothing.
  slots = np.asarray(list(itertools.product(
      range(size), *[range(size + 1)] * most)), np.int32)
  root, slots = slots[:, 0], slots[:, 1:]
  stands = slots < size
  p_rows, q_rows = np.asarray(problem.p_rows), np.asarray(problem.q_rows)
  is_random = problem.draw in types.RANDOM_DRAWS
  # Padding shows the root's token, as `children` points to node 0.
  table = np.asarray(_law_table(
      problem.rule, p_rows[root], q_rows[root] if is_random else None,
      np.where(stands, slots, root[:, None]), stands))
  drafts = np.where(exists, tokens[np.arange(len(tokens))[:, None, None], kids],
                    size)
  index = tokens
  for slot in range(most):
    index = index * (size + 1) + drafts[:, :, slot]
  return table[index], kids, exists


def emitted_laws(problem: Problem) -> list[dict[tuple[int, ...], float]]:
  """By root: the probability of each string that one round may emit."""
  by_root = [draft_trees(problem, t) for t in range(problem.vocab_size)]
  tokens, valid, weights = map(np.concatenate, zip(*by_root))
  most = max(len(problem.children(n)) for n in range(len(problem.parents)))
  with jax.enable_x64(True):
    laws, kids, exists = _node_laws(problem, max(most, 1), tokens, valid)

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
