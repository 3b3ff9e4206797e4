"""Hierarchy Drafting: the nearest source that knows a phrase drafts it.

Cho et al. 2025, arXiv:2502.05609, Sec. 3 (context-, model- and
statistics-dependent databases, asked in the order of their temporal locality)
and repository. W is the pool of Lookahead Decoding, fed by the text too; S are
phrases of the model's earlier answers (`experiments.build_history`); L is a
datastore (`experiments.build_datastore`). Departures: the frequent phrases of S
are kept where the repository keeps the rare ones; accepted n-grams enter W at
once where the repository is a step late; equal beginnings are merged. Sampling
matches the target's own draw.
"""

import dataclasses
from typing import ClassVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import types
from spec_jax.drafters import host_tree
from spec_jax.drafters import lookahead as lookahead_lib
from spec_jax.drafters import retrieval
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import history as history_lib
from spec_jax.systems import registration
from spec_jax.trees import phrases as phrases_lib
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Lossless Acceleration of Large Language Models with Hierarchical"
    " Drafting based on Temporal Locality in Speculative Decoding",
    authors="Cho et al.", year=2025, arxiv="2502.05609", venue="NAACL 2025")


class Stores(NamedTuple):
  """S and L; either may be None."""

  history: history_lib.History | None
  corpus: datastore_lib.Datastore | None


class Row:
  """One request; counts how often each source was asked."""

  def __init__(self, drafter, stores, text):
    self._drafter, self._stores, self._text = drafter, stores, list(text)
    self.queries = {"S": 0, "L": 0}

  def draft(self, num_own):
    """Phrases that go before W's `num_own`, and those behind them."""
    found, room, group = ([], []), self._drafter.guesses, 0
    for source in self._drafter.order:
      if source == "W":
        room, group = room - num_own, 1
      elif room > 0:
        phrases = self._ask(source)[:room]
        found[group].extend(phrases)
        room -= len(phrases)
    return found

  def _ask(self, source):
    self.queries[source] += 1
    if source == "S":
      history = self._stores.history
      return history.lookup(self._text[-1]) if history else []
    if self._stores.corpus is None:
      return []
    found = self._drafter.retrieve.draft(self._stores.corpus, self._text)
    inner = set(found.parents)
    paths = [path for i, path in enumerate(found.paths(), 1) if i not in inner]
    return sorted(paths, key=len, reverse=True)

  def extend(self, tokens):
    self._text += tokens

  def close(self):
    """Nothing was learnt here."""


class Session(host_tree.Session):
  """Rows whose drafts are phrases in two groups, not yet a tree."""

  def __init__(self, rows, guesses, size):
    super().__init__(rows, 2 * guesses * size)
    self._shape = 2, guesses, size

  def draft(self, asked, running):
    batch = len(running)
    tokens = np.zeros((batch, *self._shape), np.int32)
    valid = np.zeros(tokens.shape, bool)
    for i in np.flatnonzero(running):
      for group, phrases in enumerate(self.rows[i].draft(int(asked[i]))):
        for slot, phrase in enumerate(phrases):
          tokens[i, group, slot, :len(phrase)] = phrase
          valid[i, group, slot, :len(phrase)] = True
    numbers = np.arange(self._num_nodes, dtype=np.int32).reshape(self._shape)
    numbers[..., 0] = 0  # A phrase hangs at the root.
    parents = np.broadcast_to(numbers.reshape(-1), (batch, self._num_nodes))
    flat = lambda a: a.reshape(batch, self._num_nodes)
    return types.HostDraft(
        flat(tokens), parents, flat(valid), np.zeros(batch, np.float32))


@dataclasses.dataclass(frozen=True)
class HierarchyDrafting(host_tree.HostTree):
  """See the module's text.

  Attributes:
    window: W: pool and Jacobi window.
    order: of the sources, letters of "WSL".
    history: file of S, "" for none.
    datastore: folder of L, "" for none.
    budget: nodes of a tree of L.
  """

  window: lookahead_lib.Lookahead
  order: str = "WSL"
  history: str = ""
  datastore: str = ""
  budget: int = 64

  needs: ClassVar[protocols.Needs] = protocols.Needs(
      host_store=True, riders=True)

  def __post_init__(self):
    if not self.order or set(self.order) - set("WSL") or len(
        set(self.order)) < len(self.order):
      raise ValueError(f"order={self.order!r}, expected some of the letters W,"
                       " S and L, each at most once.")
    self.open_store()

  @property
  def guesses(self) -> int:
    return self.window.guesses

  @property
  def depth(self) -> int:
    return self.window.depth

  @property
  def max_children(self) -> int:
    return self.guesses

  @property
  def num_hosted(self) -> int:
    return 2 * self.guesses * self.depth

  @property
  def retrieve(self) -> retrieval.Retrieval:
    return retrieval.Retrieval(
        self.budget, self.depth, longest=2, shortest=1)

  def open_store(self):
    vocab_size = self.window.vocab_size
    return Stores(
        history_lib.load(self.history, self.depth, vocab_size)
        if self.history else None,
        datastore_lib.open_store(self.datastore, vocab_size)
        if self.datastore else None)

  def open_session(self, store, texts):
    return Session([Row(self, store, text.tolist()) for text in texts],
                   self.guesses, self.depth)

  def init(self, params, batch, capacity):
    return self.window.init(params, batch, capacity)

  def ask(self, params, state, ctx):
    """How many phrases W has for the pending token, `i32[B]`."""
    _, exists = self.window.begin(state, ctx).pool.lookup(ctx.root)
    return exists.sum(-1).astype(jnp.int32)

  def propose(self, params, state, ctx, sampling, hosted):
    state = self.window.begin(state, ctx)
    phrases, length = self._all(state, ctx.root, hosted)
    # The first `guesses` of those there are.
    order = jnp.argsort(length == 0, axis=1, stable=True)[:, :self.guesses]
    return phrases_lib.tree(
        ctx.root, jnp.take_along_axis(phrases, order[:, :, None], 1),
        jnp.take_along_axis(length, order, 1)), state

  def _all(self, state, root: jax.Array, hosted: types.HostDraft
           ) -> tuple[jax.Array, jax.Array]:
    """Phrases `i32[B, 3 * G, N - 1]` in the order of sources, and lengths."""
    shape = root.shape[0], 2, self.guesses, self.depth
    theirs = hosted.tokens.reshape(shape)
    sizes = hosted.valid.reshape(shape).sum(-1).astype(jnp.int32)
    ours, exists = state.pool.lookup(root)
    if "W" not in self.order:
      exists = jnp.zeros_like(exists)
    length = jnp.where(exists, self.depth, 0)
    return (jnp.concatenate([theirs[:, 0], ours, theirs[:, 1]], axis=1),
            jnp.concatenate([sizes[:, 0], length, sizes[:, 1]], axis=1))

  def riders(self, params, state, ctx, tree):
    return self.window.riders(params, state, ctx, tree)

  def update(self, params, state, outcome):
    return self.window.update(params, state, outcome)


@registration.register("hierarchy_drafting", papers=(PAPER,),
                       family="retrieval")
def hierarchy_drafting(parts: registration.Parts, *, order: str = "WSL",
                       history: str = "", datastore: str = "",
                       level: int = 5, width: int = 7, guesses: int = 7,
                       budget: int = 64):
  """Lookahead pool, then the model's phrases, then a datastore."""
  window = lookahead_lib.Lookahead(
      parts.target.vocab_size, level, width, guesses, from_text=True)
  drafter = HierarchyDrafting(window, order, history, datastore, budget)
  return registration.compose(
      "hierarchy_drafting", parts, drafter, matching.SampleAndMatch())
