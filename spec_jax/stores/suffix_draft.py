"""Drafts from suffix counts, and the requests whose counts are kept.

Oliaro et al. 2024 (SuffixDecoding), Sec. 3.2-3.3 and repository.
"""

from collections.abc import Sequence
import dataclasses
import heapq

from spec_jax.stores import suffix_tree
from spec_jax.stores import trie as trie_lib


@dataclasses.dataclass(frozen=True)
class Speculation:
  """How much is drafted behind a matched pattern.

  Attributes:
    budget: most nodes.
    depth: longest path.
    factor: nodes per matched token.
    offset: nodes beside those.
    min_prob: a node less likely than this is not drafted; a node's estimate is
      the product of count ratios on its path.
    as_tree: whether siblings are drafted, else only the most frequent token.
  """

  budget: int = 64
  depth: int = 64
  factor: float = 1.0
  offset: float = 0.0
  min_prob: float = 0.1
  as_tree: bool = True

  def __post_init__(self):
    for name in ("budget", "depth"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if not 0 < self.min_prob <= 1:
      raise ValueError(f"min_prob={self.min_prob}, expected in (0, 1].")

  def draft(self, tree: suffix_tree.SuffixTree, context: Sequence[int]
            ) -> trie_lib.Trie:
    """The best draft over all suffixes of the context that occur.

    The score of a draft is the sum of its nodes' estimates; of equal ones that
    of the longer pattern is taken.
    """
    chosen = trie_lib.Trie()
    tail = list(context[-(tree.max_depth - 1):]) if tree.max_depth > 1 else []
    for size in range(1, len(tail) + 1):
      place = tree.find(tail[-size:])
      if place is None:
        break  # No longer suffix occurs either.
      budget = min(self.budget, int(self.factor * size + self.offset))
      found = self.expand(tree, place, budget)
      if len(found) and found.score >= chosen.score:
        chosen = found
    return chosen

  def expand(self, tree: suffix_tree.SuffixTree, place, budget: int
             ) -> trie_lib.Trie:
    """The `budget` likeliest nodes behind a place, best first."""
    found, order = trie_lib.Trie(), 0
    heap = [(-1.0, order, 0, 0, None, place)]
    while heap and len(found) < budget:
      negative, _, parent, depth, token, place = heapq.heappop(heap)
      node = 0
      if token is not None:
        node = found.add(token, parent, -negative)
        found.score -= negative
      if depth == self.depth:
        continue
      total = place[0].count if place[0] is not tree.root else 0
      for count, following, next_place in tree.continuations(place):
        estimate = -negative * count / max(total, 1)
        if estimate < self.min_prob:
          break
        order += 1
        heapq.heappush(heap, (
            -estimate, order, node, depth + 1, following, next_place))
        if not self.as_tree:
          break
    return found


class RequestCache:
  """The responses of earlier requests in one suffix tree; the oldest go first.

  Attributes:
    tree: counts over all responses kept.
    max_requests: most responses kept; -1 = any number.
  """

  def __init__(self, max_depth: int = 64, max_requests: int = 100_000):
    if max_requests == 0 or max_requests < -1:
      raise ValueError(f"max_requests={max_requests}, expected >= 1, or -1 for"
                       " any number.")
    self.tree = suffix_tree.SuffixTree(max_depth)
    self.max_requests = max_requests
    self._kept: dict[int, None] = {}  # In the order of their beginnings.
    self._next = 0

  @property
  def num_requests(self) -> int:
    return len(self._kept)

  def begin(self) -> int:
    """A new request, in the place of the oldest; returns its identifier."""
    self._next += 1
    self._kept[self._next] = None
    while 0 < self.max_requests < len(self._kept):
      oldest = next(iter(self._kept))
      del self._kept[oldest]
      if oldest in self.tree:
        self.tree.remove(oldest)
    return self._next

  def append(self, request: int, tokens: Sequence[int]) -> None:
    """A request emitted tokens, which others may copy at once.

    Those of a request that lost its place meanwhile are not kept.
    """
    if request in self._kept:
      for token in tokens:
        self.tree.append(request, int(token))
