"""REST: continuations of the longest suffix that a datastore knows.

He et al. 2023, arXiv:2311.08252, Sec. 3.1 (exact match, longest suffix first),
Sec. 3.2 (trie of the continuations, its most frequent nodes) and repository.
Departures: of more than 5000 occurrences that many are taken evenly spread, not
the first; documents end with a token, and drafts end there too; without a match
nothing is drafted (the repository drafts a constant). Sampling keeps the
target's draw that decided, where the repository draws again and is biased.
"""

import dataclasses
from typing import ClassVar

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import host_tree
from spec_jax.drafters import retrieval
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="REST: Retrieval-Based Speculative Decoding", authors="He et al.",
    year=2023, arxiv="2311.08252", venue="NAACL 2024")


class Row:
  """One request: a text to look up the end of."""

  def __init__(self, retrieve, store, text):
    self._retrieve, self._store, self._text = retrieve, store, list(text)

  def draft(self, asked):
    return self._retrieve.draft(self._store, self._text)

  def extend(self, tokens):
    self._text += tokens

  def close(self):
    """Nothing was learnt."""


@dataclasses.dataclass(frozen=True)
class Rest(host_tree.HostTree):
  """See the module's text.

  Attributes:
    vocab_size: of the target.
    datastore: folder of a `stores.datastore`.
    retrieve: how it is asked.
  """

  vocab_size: int
  datastore: str
  retrieve: retrieval.Retrieval

  needs: ClassVar[protocols.Needs] = protocols.Needs(host_store=True)

  def __post_init__(self):
    self.open_store()

  @property
  def num_hosted(self) -> int:
    return self.retrieve.budget

  @property
  def depth(self) -> int:
    return self.retrieve.depth

  @property
  def max_children(self) -> int:
    return min(self.retrieve.budget, self.vocab_size)

  def open_store(self):
    return retrieval.open_checked(self.datastore, self.vocab_size, "rest")

  def open_row(self, store, text):
    return Row(self.retrieve, store, text)


@registration.register("rest", papers=(PAPER,), family="retrieval")
def rest(parts: registration.Parts, *, datastore: str = "", budget: int = 64,
         depth: int = 10, longest: int = 16, shortest: int = 2,
         max_hits: int = 5000):
  """Suffix array over a corpus, prefix counts as a tree, on the host."""
  drafter = Rest(
      parts.target.vocab_size, datastore,
      retrieval.Retrieval(budget, depth, longest, shortest, max_hits))
  return registration.compose(
      "rest", parts, drafter, matching.SampleAndMatch())
