"""Draft trees on the host: growth by weight, prefix counts, fixed arrays."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass
class Trie:
  """A tree below a root that is not stored; node i is number i + 1.

  Attributes:
    tokens: of each node.
    parents: number of each node's parent, 0 for the root.
    weights: of each node, at most its parent's.
    score: how much the tree is trusted, in its maker's unit.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  parents: list[int] = dataclasses.field(default_factory=list)
  weights: list[float] = dataclasses.field(default_factory=list)
  score: float = 0.0

  def __len__(self) -> int:
    return len(self.tokens)

  def add(self, token: int, parent: int, weight: float = 1.0) -> int:
    """Appends a node; returns its number."""
    self.tokens.append(int(token))
    self.parents.append(parent)
    self.weights.append(weight)
    return len(self.tokens)

  def paths(self) -> list[tuple[int, ...]]:
    """The tokens from the root to each node."""
    found = [()]
    for token, parent in zip(self.tokens, self.parents):
      found.append(found[parent] + (token,))
    return found[1:]


def chain(tokens: Sequence[int], score: float = 0.0) -> Trie:
  """A trie of width 1."""
  return Trie([int(t) for t in tokens], list(range(len(tokens))),
              [1.0] * len(tokens), score)


def merge(paths: Iterable[Sequence[int]]) -> Trie:
  """The union of token paths, equal beginnings once; weights count them."""
  trie, children = Trie(), {}
  for path in paths:
    parent = 0
    for token in map(int, path):
      node = children.get((parent, token))
      if node is None:
        node = children[parent, token] = trie.add(token, parent, 0)
      trie.weights[node - 1] += 1
      parent = node
  return trie


def best(trie: Trie, budget: int, per_depth: int | None = None) -> Trie:
  """The `budget` heaviest nodes; ties go to the one added first.

  A node is heavier than its children or as heavy and added before them, so
  what is kept is closed under prefixes.

  Args:
    trie: as it grew.
    budget: nodes to keep.
    per_depth: most nodes of one depth, None = any number; a node whose parent
      had to go goes too.
  """
  order = sorted(range(len(trie)), key=lambda i: (-trie.weights[i], i))
  depth, used, kept = [0] * (len(trie) + 1), {}, {0}
  for i, parent in enumerate(trie.parents):
    depth[i + 1] = depth[parent] + 1
  for i in order:
    level = depth[i + 1]
    if len(kept) > budget:
      break
    if trie.parents[i] in kept and (
        per_depth is None or used.get(level, 0) < per_depth):
      kept.add(i + 1)
      used[level] = used.get(level, 0) + 1
  number = {old: new for new, old in enumerate(sorted(kept))}
  nodes = [i for i in range(len(trie)) if i + 1 in kept]
  return Trie([trie.tokens[i] for i in nodes],
              [number[trie.parents[i]] for i in nodes],
              [trie.weights[i] for i in nodes], trie.score)


def count_prefixes(rows: np.ndarray, lengths: np.ndarray, budget: int,
                   per_depth: int | None = None) -> Trie:
  """The most frequent beginnings of many rows, as a trie of counts.

  Args:
    rows: `i[R, D]`.
    lengths: `i[R]`, how many tokens of each row count.
    budget: nodes to keep.
    per_depth: see `best`.
  """
  rows, lengths = rows[lengths > 0], lengths[lengths > 0]
  groups = np.zeros(len(rows), np.int64)  # Number of each row's last node.
  trie = Trie()
  for depth in range(rows.shape[1]):
    alive = lengths > depth
    if not alive.any():
      break
    rows, lengths, groups = rows[alive], lengths[alive], groups[alive]
    # One number for a parent and a token: sorting pairs takes far longer.
    pairs, inverse, counts = np.unique(
        groups << 32 | rows[:, depth].astype(np.int64), return_inverse=True,
        return_counts=True)
    # More nodes of one depth than the whole budget are never kept.
    order = np.argsort(-counts, kind="stable")[:budget]
    number = np.full(len(counts), -1, np.int64)
    for i in order:
      parent, token = divmod(int(pairs[i]), 1 << 32)
      number[i] = trie.add(token, parent, float(counts[i]))
    groups = number[inverse]
    alive = groups >= 0
    rows, lengths, groups = rows[alive], lengths[alive], groups[alive]
  return best(trie, budget, per_depth)


def fill(tries: Sequence[Trie | None], num_nodes: int
         ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Tries as arrays of fixed shape, None as one without nodes.

  Returns:
    `i32[B, M]` tokens, `i32[B, M]` parents, `bool[B, M]` and `f32[B]` scores.

  Raises:
    ValueError: a trie has more than `num_nodes` nodes.
  """
  shape = len(tries), num_nodes
  tokens, parents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  valid, score = np.zeros(shape, bool), np.zeros(shape[:1], np.float32)
  for row, trie in enumerate(tries):
    if trie is None:
      continue
    size = len(trie)
    if size > num_nodes:
      raise ValueError(f"row {row}: a draft of {size} nodes, expected at most"
                       f" {num_nodes}.")
    tokens[row, :size], parents[row, :size] = trie.tokens, trie.parents
    valid[row, :size], score[row] = True, trie.score
  return tokens, parents, valid, score
