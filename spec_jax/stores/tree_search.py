"""Monte Carlo tree search over a trigram table.

ADED (Liu et al. 2024, Sec. 3.2 and repository): PUCT with the table's weights
as priors; the most visited nodes become the draft.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from spec_jax.stores import trie as trie_lib


class _Node:
  """A state of the search: the last two tokens, and what was found below."""

  __slots__ = ("token", "weight", "parent", "depth", "visits", "reward",
               "children", "gained")

  def __init__(self, token, weight, parent):
    self.token, self.weight, self.parent = token, weight, parent
    self.depth = 0 if parent is None else parent.depth + 1
    self.gained = 0.0 if parent is None else parent.gained + weight
    self.visits, self.reward = 0, 0.0
    self.children: list[_Node] | None = None


@dataclasses.dataclass(frozen=True)
class TreeSearch:
  """The search and what is drafted of it.

  Attributes:
    simulations: of a search.
    depth: moves of a simulation; the draft is one token deeper.
    c1: weight of the priors.
    c2: how slowly it grows with the visits.
    paths: most visited nodes that become paths.
    budget: nodes of the draft.
    seed: of the rollouts.
  """

  simulations: int = 150
  depth: int = 3
  c1: float = 32.0
  c2: float = 8.0
  paths: int = 24
  budget: int = 64
  seed: int = 0

  def __post_init__(self):
    for name in ("simulations", "depth", "paths", "budget"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")

  def draft(self, table: Any, text: list[int]) -> trie_lib.Trie:
    """The most visited paths, each one successor longer, as a trie.

    Args:
      table: gives `lookup(pair)`.
      text: its last two tokens are the root.
    """
    if len(text) < 2 or not table.lookup((text[-2], text[-1])):
      return trie_lib.Trie()
    nodes = self.search(table, text[-2], text[-1], len(text))
    order = sorted(nodes, key=lambda node: -node.visits)[:self.paths]
    paths = []
    for node in order:
      path = self._path(node)
      before = ([text[-2], text[-1]] + path)[-2:]
      following = table.lookup(tuple(before))
      if following:
        path = path + [max(following, key=following.get)]
      if path and path not in paths:
        paths.append(path)
    # The longest go until the rest, counted one by one, fits.
    while sum(map(len, paths)) > self.budget and len(paths) > 1:
      paths.remove(max(paths, key=len))
    return trie_lib.best(trie_lib.merge(paths), self.budget)

  def search(self, table, before: int, last: int, number: int) -> list[_Node]:
    """All nodes that were made, in that order; the root is the first.

    Args:
      table: see `draft`.
      before: last token but one.
      last: last token.
      number: tells the searches of a text apart; the same one runs the same.
    """
    rng = np.random.default_rng((self.seed, number))
    root = _Node(last, 0.0, None)
    root.children = self._expand(table, root, before)
    nodes = [root, *root.children]
    for _ in range(self.simulations):
      node = root
      while node.children:
        node = max(node.children, key=lambda child: self._value(node, child))
        if not node.visits:
          break
      if node.children is None and node.depth < self.depth:
        node.children = self._expand(table, node, before)
        nodes += node.children
        if node.children:
          node = node.children[-1]
      gained = self._roll_out(table, node, before, rng)
      while node is not None:
        node.visits += 1
        node.reward += 1.0 + gained
        node = node.parent
    return nodes

  def _value(self, parent, child):
    if not child.visits:
      return math.inf
    explore = self.c1 + math.log((parent.visits + self.c2 + 1) / self.c2)
    return child.reward / child.visits + (
        explore * child.weight * math.sqrt(parent.visits)
        / (1 + child.visits))

  def _pair(self, node, before):
    return (before if node.parent is None else node.parent.token, node.token)

  def _expand(self, table, node, before):
    if node.depth >= self.depth:
      return []
    return [_Node(token, weight, node) for token, weight in
            table.lookup(self._pair(node, before)).items()]

  def _roll_out(self, table, node, before, rng):
    """The weights on the way down, the node's own way included."""
    pair, gained = self._pair(node, before), node.gained
    for _ in range(node.depth, self.depth):
      following = table.lookup(pair)
      if not following:
        break
      weights = np.cumsum(list(following.values()))
      place = int(np.searchsorted(weights, rng.random() * weights[-1]))
      token = list(following)[min(place, len(following) - 1)]
      gained += following[token]
      pair = pair[1], token
    return gained

  def _path(self, node):
    path = []
    while node.parent is not None:
      path.append(node.token)
      node = node.parent
    return path[::-1]
