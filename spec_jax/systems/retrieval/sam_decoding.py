"""SAM Decoding: copies what followed the longest repeated suffix, or drafts.

Hu et al. 2024, arXiv:2411.10666, Sec. 3.1 (suffix automata), Sec. 3.2 (drafting
from the text or from a corpus, whichever matches longer) and Sec. 3.3 (another
drafter where the match is short); defaults of its repository. Departures: the
corpus is a suffix array (`stores.datastore`), which gives the same longest
match and its first place in the order of suffixes instead of in the text; the
other drafter is Token Recycling with its own 80 nodes; a draft that ends early
is not padded. Sampling matches the target's own draw.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import host_tree
from spec_jax.drafters import retrieval
from spec_jax.drafters import token_recycling
from spec_jax.stores import suffix_automaton
from spec_jax.stores import trie as trie_lib
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="SAM Decoding: Speculative Decoding via Suffix Automaton",
    authors="Hu et al.", year=2024, arxiv="2411.10666", venue="ACL 2025")

_AUXILIARIES = ("token_recycling", "none")


class Row:
  """One request: the automaton of its text, and the corpus."""

  def __init__(self, sam, store, text):
    self._sam, self._store = sam, store
    self._automaton = suffix_automaton.SuffixAutomaton()
    self.extend(text)

  def draft(self, asked):
    sam, text = self._sam, self._automaton.tokens
    alone = sam.auxiliary == "none"
    own, _ = self._automaton.match()
    matched, places = 0, []
    if self._store is not None:
      matched, places = self._store.longest_suffix(
          text[-self._store.max_pattern:], self._store.max_pattern)
    score = max(own, matched - sam.bias)
    if own >= matched - sam.bias:
      room = 0 if alone else sam.depth
      size, end = self._automaton.match(room)
      count = sam.copy_length(size if alone else own)
      return trie_lib.chain(
          self._automaton.after(end, count) if own else [], score)
    count = sam.copy_length(matched)
    rows, lengths = self._store.continuations(
        places, matched, min(count, sam.depth),
        sam.max_hits if alone else 1)
    if not alone:
      return trie_lib.chain(rows[0, :lengths[0]], score)
    found = trie_lib.count_prefixes(rows, lengths, count, sam.per_depth)
    found.score = score
    return found

  def extend(self, tokens):
    for token in tokens:
      self._automaton.append(token)

  def close(self):
    """Nothing was learnt."""


@dataclasses.dataclass(frozen=True)
class SamDecoding(host_tree.HostTree):
  """See the module's text.

  Attributes:
    other: the drafter for short matches; its state lives on the device.
    datastore: folder of a corpus, "" for none.
    depth: most tokens copied.
    threshold: shortest match that is copied where there is another drafter.
    bias: tokens by which a match in the corpus counts as shorter.
    auxiliary: "token_recycling", or "none": every match is copied then,
      `1 + factor` tokens per matched one, and the corpus gives trees.
    factor: see `auxiliary`.
    per_depth: nodes of one depth in a tree of the corpus.
    max_hits: occurrences in the corpus that such a tree counts.
  """

  other: token_recycling.TokenRecycling
  datastore: str = ""
  depth: int = 39
  threshold: int = 5
  bias: int = 5
  auxiliary: str = "token_recycling"
  factor: float = 4.0
  per_depth: int = 8
  max_hits: int = 5000

  needs: ClassVar[protocols.Needs] = protocols.Needs(
      host_store=True, memory=True)

  def __post_init__(self):
    if self.auxiliary not in _AUXILIARIES:
      raise ValueError(f"auxiliary={self.auxiliary!r}, expected one of"
                       f" {_AUXILIARIES}.")
    if self.depth < 1:
      raise ValueError(f"depth={self.depth}, expected >= 1.")
    self.open_store()

  @property
  def num_hosted(self) -> int:
    return self.depth

  @property
  def max_children(self) -> int:
    corpus = self.per_depth if self.datastore else 1
    return max(corpus, self.other.max_children if self.has_other else 1)

  @property
  def has_other(self) -> bool:
    return self.auxiliary != "none"

  def copy_length(self, matched: int) -> int:
    if self.has_other:
      return self.depth
    return min(self.depth, 1 + int(self.factor * matched))

  def open_store(self):
    if not self.datastore:
      return None
    return retrieval.open_checked(
        self.datastore, self.other.vocab_size, "sam_decoding")

  def open_row(self, store, text):
    return Row(self, store, text)

  def unlearned(self, params):
    return self.other.unlearned(params) if self.has_other else params

  def init(self, params, batch, capacity):
    return self.other.init(params, batch, capacity) if self.has_other else ()

  def propose(self, params, state, ctx, sampling, hosted):
    copied = host_tree.tree(
        ctx.root, hosted, self.depth, self.max_children)
    if not self.has_other:
      return copied, state
    drafted = self.other.tree(state, ctx.root)
    is_long = hosted.score >= jnp.float32(self.threshold)
    return host_tree.either(is_long, copied, drafted), state

  def update(self, params, state, outcome):
    if not self.has_other:
      return state
    return self.other.update(params, state, outcome)

  def remember(self, params, state):
    return self.other.remember(params, state) if self.has_other else params


@registration.register("sam_decoding", papers=(PAPER,), family="retrieval")
def sam_decoding(parts: registration.Parts, *, datastore: str = "",
                 depth: int = 39, threshold: int = 5, bias: int = 5,
                 auxiliary: str = "token_recycling", factor: float = 4.0,
                 per_depth: int = 8, tree_width: int = 8, tree_depth: int = 6):
  """Suffix automaton of the text and a corpus, else Token Recycling."""
  drafter = SamDecoding(
      token_recycling.TokenRecycling(
          parts.target.vocab_size, tree_width, min(tree_depth, depth)),
      datastore, depth, threshold, bias, auxiliary, factor, per_depth)
  return registration.compose(
      "sam_decoding", parts, drafter, matching.SampleAndMatch())
