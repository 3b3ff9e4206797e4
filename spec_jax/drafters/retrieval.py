"""Trees of the continuations that a datastore knows of a text's end.

He et al. 2023 (REST), Sec. 3; sizes of its repository.
"""

import dataclasses

from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import trie as trie_lib


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """How a datastore is asked, and how much of the answer is drafted.

  Attributes:
    budget: nodes: the most frequent beginnings of the continuations.
    depth: tokens of a continuation.
    longest: suffix of the text that is looked up first.
    shortest: the last one.
    max_hits: occurrences looked at.
    per_depth: most nodes of one depth, None = any number.
  """

  budget: int = 64
  depth: int = 10
  longest: int = 16
  shortest: int = 2
  max_hits: int = 5000
  per_depth: int | None = None

  def __post_init__(self):
    for name in ("budget", "depth", "shortest", "max_hits"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if self.longest < self.shortest:
      raise ValueError(f"longest={self.longest}, expected at least"
                       f" shortest={self.shortest}.")

  def draft(self, store: datastore_lib.Datastore, text: list[int]
            ) -> trie_lib.Trie:
    """Weights are prefix counts, the score is the length of the match."""
    size, places = store.longest_suffix(
        text[-self.longest:], self.longest, self.shortest)
    if not size:
      return trie_lib.Trie()
    rows, lengths = store.continuations(
        places, size, self.depth, self.max_hits)
    found = trie_lib.count_prefixes(
        rows, lengths, self.budget, self.per_depth)
    found.score = float(size)
    return found


def open_checked(path: str, vocab_size: int, name: str
                 ) -> datastore_lib.Datastore:
  """The store a system was given.

  Raises:
    ValueError: none was given, or it is not usable.
  """
  if not path:
    raise ValueError(
        f"{name} retrieves from a datastore, none was given (datastore=''):"
        " build one with python -m experiments.build_datastore and pass its"
        " folder.")
  return datastore_lib.open_store(path, vocab_size)
