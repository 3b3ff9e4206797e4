"""DReSD: continuations of the nearest hidden states of the target itself.

Gritta et al. 2025, arXiv:2502.15572, Sec. 3 (contextual keys, PCA, nearest
neighbours, filter by the pending token) and repository. Departures: the
neighbours come from an inverted file of k-means cells, not from ScaNN; equal
beginnings of drafts are merged; the first round of a request, whose hidden
state the prefill does not keep, drafts nothing. Sampling matches the target's
own draw.
"""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import host_tree
from spec_jax.stores import dense_store as store_lib
from spec_jax.stores import trie as trie_lib
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="DReSD: Dense Retrieval for Speculative Decoding",
    authors="Gritta et al.", year=2025, arxiv="2502.15572",
    venue="Findings of ACL 2025")
_TAP = "final"


@struct.dataclass
class Query:
  """The hidden state that gave the pending token.

  Attributes:
    hidden: `f32[B, E]`.
    exists: `bool[B]`, False before the first round.
  """

  hidden: jax.Array
  exists: jax.Array


class Row:
  """One request; only its pending token matters to the host."""

  def __init__(self, drafter, store, text):
    self._drafter, self._store, self._pending = drafter, store, text[-1]

  def draft(self, asked):
    """The continuations that begin with the pending token, nearest first."""
    if not asked.exists:
      return None
    drafter = self._drafter
    rows, cosines = self._store.search(
        asked.hidden, drafter.neighbours, drafter.num_cells)
    is_fit = rows[:, 0] == self._pending
    if not is_fit.any():
      return None
    end, paths = self._store.header["end_of_document"], []
    for row in rows[is_fit][:drafter.drafts, 1:drafter.depth + 1].tolist():
      paths.append(row[:row.index(end)] if end in row else row)
    found = trie_lib.merge(paths)
    found.score = float(cosines[np.argmax(is_fit)])
    return found

  def extend(self, tokens):
    self._pending = tokens[-1]

  def close(self):
    """Nothing was learnt."""


@dataclasses.dataclass(frozen=True)
class Dresd(host_tree.HostTree):
  """See the module's text.

  Attributes:
    vocab_size: of the target.
    hidden_size: of the target.
    dense_store: folder of a `stores.dense_store`.
    depth: tokens of a draft.
    drafts: how many of the neighbours are drafted.
    neighbours: how many are looked at.
    num_cells: cells of the index that are searched.
  """

  vocab_size: int
  hidden_size: int
  dense_store: str
  depth: int = 10
  drafts: int = 10
  neighbours: int = 50
  num_cells: int = 250

  needs: ClassVar[protocols.Needs] = protocols.Needs(
      host_store=True, taps=(_TAP,))

  def __post_init__(self):
    for name in ("depth", "drafts", "neighbours", "num_cells"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    most = self.open_store().values.shape[1] - 1
    if self.depth > most:
      raise ValueError(f"depth={self.depth}, the continuations of"
                       f" {self.dense_store} allow at most {most}.")

  @property
  def num_hosted(self) -> int:
    return self.drafts * self.depth

  @property
  def max_children(self) -> int:
    return self.drafts

  def open_store(self):
    if not self.dense_store:
      raise ValueError(
          "dresd retrieves from a dense store, none was given (dense_store=''):"
          " build one with python -m experiments.build_dense_store and pass its"
          " folder.")
    return store_lib.open_store(
        self.dense_store, self.vocab_size, self.hidden_size)

  def open_row(self, store, text):
    return Row(self, store, text)

  def init(self, params, batch, capacity):
    return Query(jnp.zeros((batch, self.hidden_size), jnp.float32),
                 jnp.zeros((batch,), bool))

  def ask(self, params, state, ctx):
    return state

  def update(self, params, state, outcome):
    verdict = outcome.verdict
    last = jnp.take_along_axis(
        verdict.path, jnp.maximum(verdict.count - 1, 0)[:, None], 1)
    rows = jnp.arange(last.shape[0])
    hidden = outcome.out.taps[_TAP][rows, last[:, 0]].astype(jnp.float32)
    is_real = verdict.count > 0
    return Query(jnp.where(is_real[:, None], hidden, state.hidden),
                 state.exists | is_real)


@registration.register("dresd", papers=(PAPER,), family="retrieval")
def dresd(parts: registration.Parts, *, dense_store: str = "",
          depth: int = 10, drafts: int = 10, neighbours: int = 50,
          num_cells: int = 250):
  """Nearest hidden states of a corpus, on the host."""
  drafter = Dresd(
      parts.target.vocab_size, parts.target.config.d_model, dense_store, depth,
      drafts, neighbours, num_cells)
  return registration.compose(
      "dresd", parts, drafter, matching.SampleAndMatch())
