"""ADED: tree search over trigrams of a corpus, corrected by the text.

Liu et al. 2024, arXiv:2407.12021, Sec. 3 (adaptive tri-gram matrix, Monte Carlo
tree search with PUCT, drafts as a tree) and repository. Departures: keys and
ties are ordered, so that a search is the same wherever it runs; without a known
pair nothing is drafted (the repository drafts a constant). The corpus is a
datastore's text; without one the table begins empty. The corrections are shared
by the requests of an executor, as published. Sampling matches the target's own
draw, where the repository draws anew for every path and is biased.
"""

import dataclasses
import functools
from typing import ClassVar

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import host_tree
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import tree_search
from spec_jax.stores import trigrams
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Adaptive Draft-Verification for Efficient Large Language Model"
    " Decoding", authors="Liu et al.", year=2024, arxiv="2407.12021",
    venue="AAAI 2025")


class Row:
  """One request: its text, and the table of all."""

  def __init__(self, drafter, table, text):
    self._drafter, self._table, self._text = drafter, table, list(text)

  def draft(self, asked):
    """First learns from the end of the text, then searches."""
    self._table.learn(self._text[-self._drafter.window:])
    return self._drafter.search.draft(self._table, self._text)

  def extend(self, tokens):
    self._text += tokens

  def close(self):
    """What was learnt stays in the table."""


@dataclasses.dataclass(frozen=True)
class Aded(host_tree.HostTree):
  """See the module's text.

  Attributes:
    vocab_size: of the target.
    search: the tree search.
    datastore: folder of the corpus, "" for none.
    width: successors kept of each pair of the corpus.
    window: tokens at the end of a text that are learnt at every draft.
    step: weight that a trigram gains.
    cap: most weight it can gain.
  """

  vocab_size: int
  search: tree_search.TreeSearch
  datastore: str = ""
  width: int = 12
  window: int = 16
  step: float = 0.04
  cap: float = 3.0

  needs: ClassVar[protocols.Needs] = protocols.Needs(
      host_store=True, memory=True, mates=True)

  def __post_init__(self):
    for name in ("width", "window"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    self._corpus()

  @property
  def num_hosted(self) -> int:
    return self.search.budget

  @property
  def depth(self) -> int:
    return self.search.depth + 1

  @property
  def max_children(self) -> int:
    return min(self.search.budget, self.search.paths, self.vocab_size)

  def _corpus(self):
    if not self.datastore:
      return None
    return datastore_lib.open_store(self.datastore, self.vocab_size)

  def open_store(self):
    corpus, counts = self._corpus(), None
    if corpus is not None:
      counts = _counts(self.datastore, self.width, corpus.header["checksum"])
    return trigrams.TrigramTable(counts, self.step, self.cap)

  def open_row(self, store, text):
    return Row(self, store, text)


@functools.lru_cache(maxsize=2)
def _counts(folder: str, width: int, checksum: int) -> trigrams.Counts:
  """Counted once per process and store; they are only read."""
  del checksum  # Tells a store from the one that was there before.
  corpus = datastore_lib.open_store(folder)
  return trigrams.count(
      corpus.tokens, width, corpus.header["end_of_document"])


@registration.register("aded", papers=(PAPER,), family="retrieval")
def aded(parts: registration.Parts, *, datastore: str = "",
         simulations: int = 150, depth: int = 4, budget: int = 64,
         paths: int = 24, width: int = 12, window: int = 16):
  """Trigram table and Monte Carlo tree search, on the host."""
  if depth < 2:
    raise ValueError(f"depth={depth}, expected >= 2: a move of the search and"
                     " one token more.")
  search = tree_search.TreeSearch(
      simulations, depth - 1, paths=paths, budget=budget)
  return registration.compose(
      "aded", parts, Aded(parts.target.vocab_size, search, datastore, width,
                          window), matching.SampleAndMatch())
