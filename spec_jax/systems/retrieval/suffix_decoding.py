"""SuffixDecoding: drafts by suffix counts of this and of earlier requests.

Oliaro et al. 2024, arXiv:2411.04975, Sec. 3.1 (suffix trees of the request and
of earlier responses) and Sec. 3.2-3.3 (best-first speculation, as long as the
match allows); defaults of its repository (ArcticInference). Departures: none.
The responses are kept by the executor; as published they are seen by other rows
at once. Sampling matches the target's own draw, so that what was kept decides
about the speed and never about the text.
"""

import dataclasses
from typing import ClassVar

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import host_tree
from spec_jax.stores import suffix_draft
from spec_jax.stores import suffix_tree
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="SuffixDecoding: Extreme Speculative Decoding for Emerging AI"
    " Applications", authors="Oliaro et al.", year=2024, arxiv="2411.04975",
    venue="NeurIPS 2025")


class Row:
  """One request: its own tree, and its place in the cache of all."""

  def __init__(self, speculation, cache, max_depth, text):
    self._speculation, self._cache = speculation, cache
    self._own, self._text = suffix_tree.SuffixTree(max_depth), list(text)
    self._request = None if cache is None else cache.begin()
    for token in text:
      self._own.append(0, token)

  def draft(self, asked):
    """The better score of the two trees; the request's own if equal."""
    found = self._speculation.draft(self._own, self._text)
    if self._cache is not None:
      other = self._speculation.draft(self._cache.tree, self._text)
      if other.score > found.score:
        return other
    return found

  def extend(self, tokens):
    self._text += tokens
    for token in tokens:
      self._own.append(0, token)
    if self._cache is not None:
      self._cache.append(self._request, tokens)

  def close(self):
    """The response stays in the cache."""


@dataclasses.dataclass(frozen=True)
class SuffixDecoding(host_tree.HostTree):
  """See the module's text.

  Attributes:
    speculation: how much is drafted.
    max_depth: longest string that is counted.
    max_requests: responses kept; 0 = only the request's own text is used.
  """

  speculation: suffix_draft.Speculation
  max_depth: int = 64
  max_requests: int = 100_000

  needs: ClassVar[protocols.Needs] = protocols.Needs(
      host_store=True, memory=True, mates=True)

  def __post_init__(self):
    self.open_store()

  @property
  def num_hosted(self) -> int:
    return self.speculation.budget

  @property
  def depth(self) -> int:
    return min(self.speculation.depth, self.speculation.budget)

  @property
  def max_children(self) -> int:
    # So many children at least as likely as min_prob add up to 1.
    most = int(1 / self.speculation.min_prob + 1e-9)
    return min(most, self.num_hosted) if self.speculation.as_tree else 1

  def open_store(self):
    if self.max_requests == 0:
      return None
    return suffix_draft.RequestCache(self.max_depth, self.max_requests)

  def open_row(self, store, text):
    return Row(self.speculation, store, self.max_depth, text)


@registration.register("suffix_decoding", papers=(PAPER,), family="retrieval")
def suffix_decoding(parts: registration.Parts, *, budget: int = 64,
                    depth: int = 64, factor: float = 1.0, offset: float = 0.0,
                    min_prob: float = 0.1, as_tree: bool = True,
                    max_depth: int = 64, max_requests: int = 100_000):
  """Suffix trees of this and earlier requests, on the host."""
  drafter = SuffixDecoding(
      suffix_draft.Speculation(
          budget, depth, factor, offset, min_prob, as_tree),
      max_depth, max_requests)
  return registration.compose(
      "suffix_decoding", parts, drafter, matching.SampleAndMatch())
