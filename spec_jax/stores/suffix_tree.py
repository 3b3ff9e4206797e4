"""A compressed trie of all suffixes of several growing sequences, with counts.

The store of SuffixDecoding (Oliaro et al. 2024, Sec. 3.1): a string's count is
how often it occurs in the sequences, for strings of at most `max_depth` tokens.
Sequences grow token by token and can be taken out again.
"""

import collections


class Node:
  """A run of tokens `source[start:start + size]` below its parent.

  Attributes:
    source: the tokens of the sequence that the run was taken from; it stays
      alive as long as a run points into it.
    start: first token of the run.
    size: tokens of the run.
    count: suffixes that pass through the node.
    children: by first token.
  """

  __slots__ = ("source", "start", "size", "count", "children")

  def __init__(self, source, start, size, count):
    self.source, self.start, self.size = source, start, size
    self.count, self.children = count, {}

  def token(self, offset: int) -> int:
    return self.source[self.start + offset]


class SuffixTree:
  """Counts of all strings up to a length, see the module's text."""

  def __init__(self, max_depth: int = 64):
    if max_depth < 1:
      raise ValueError(f"max_depth={max_depth}, expected >= 1.")
    self.max_depth = max_depth
    self.root = Node([], 0, 0, 0)
    self._sequences: dict[int, list[int]] = {}
    # Where the last suffixes of each sequence end, the longest first; every
    # one of them at the end of a node's run.
    self._ends: dict[int, collections.deque[Node]] = {}

  def __contains__(self, sequence: int) -> bool:
    return sequence in self._sequences

  @property
  def num_nodes(self) -> int:
    count, stack = 0, [self.root]
    while stack:
      node = stack.pop()
      count += 1
      stack.extend(node.children.values())
    return count

  def append(self, sequence: int, token: int) -> None:
    """Adds a token to a sequence, which begins with its first token."""
    if sequence not in self._sequences:
      self._sequences[sequence] = []
      self._ends[sequence] = collections.deque(maxlen=self.max_depth)
    source = self._sequences[sequence]
    source.append(token)
    ends = self._ends[sequence]
    ends.append(self.root)  # Drops the suffix that has its full length.
    for i, node in enumerate(ends):
      ends[i] = self._grow(node, source)

  def _grow(self, node, source):
    """Moves the end of one suffix over the last token of `source`."""
    here = len(source) - 1
    child = node.children.get(source[here])
    if child is None:
      is_own = (node.count == 1 and not node.children
                and node.source is source and node.start + node.size == here)
      if is_own and node is not self.root:
        node.size += 1
        return node
      child = node.children[source[here]] = Node(source, here, 1, 1)
      return child
    if child.size == 1:
      child.count += 1
      return child
    is_chain = (node is not self.root and node.count == child.count + 1
                and len(node.children) == 1 and node.source is child.source
                and node.start + node.size == child.start)
    if is_chain:  # All who are here go on alike: the boundary moves with us.
      del node.children[source[here]]
      node.size += 1
      child.start, child.size = child.start + 1, child.size - 1
      node.children[child.token(0)] = child
      return node
    top = Node(child.source, child.start, 1, child.count + 1)
    child.start, child.size = child.start + 1, child.size - 1
    top.children[child.token(0)] = child
    node.children[source[here]] = top
    return top

  def remove(self, sequence: int) -> None:
    """Takes a sequence out; raises KeyError if it is not there."""
    source = self._sequences.pop(sequence)
    del self._ends[sequence]
    for start in range(len(source)):
      node, at = self.root, start
      stop = min(len(source), start + self.max_depth)
      while at < stop:
        child = node.children[source[at]]
        child.count -= 1
        if not child.count:  # Nobody else came this way, nor went on.
          del node.children[source[at]]
          break
        node, at = child, at + child.size

  def find(self, pattern: list[int]) -> tuple[Node, int] | None:
    """Where a string ends: a node and an offset in its run, or None."""
    node, at, size = self.root, 0, len(pattern)
    while at < size:
      node = node.children.get(pattern[at])
      if node is None:
        return None
      step = min(node.size, size - at)
      run = node.source[node.start:node.start + step]
      if run != pattern[at:at + step]:
        return None
      at += step
    return node, node.size if not pattern else step

  def count(self, pattern: list[int]) -> int:
    """How often a string of 1 to `max_depth` tokens occurs."""
    place = self.find(pattern)
    return 0 if place is None else place[0].count

  def continuations(self, place: tuple[Node, int]
                    ) -> list[tuple[int, int, tuple[Node, int]]]:
    """Count, token and place of what follows; the most frequent first."""
    node, offset = place
    if offset < node.size:
      return [(node.count, node.token(offset), (node, offset + 1))]
    found = [(child.count, token, (child, 1))
             for token, child in node.children.items()]
    return sorted(found, key=lambda item: (-item[0], item[1]))
