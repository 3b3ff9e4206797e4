"""What drafters with a store on the host share: sessions, arrays, a tree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types
from spec_jax.stores import trie as trie_lib


class Session:
  """A `protocols.HostSession` of rows that draft each for themselves.

  A row has `draft(asked) -> trie.Trie | None`, `extend(tokens)` and `close()`;
  `asked` is what its drafter's device half wanted it to know.
  """

  def __init__(self, rows: Sequence[Any], num_nodes: int):
    self.rows, self._num_nodes = list(rows), num_nodes

  def draft(self, asked: Any, running: np.ndarray) -> types.HostDraft:
    tries = [
        row.draft(jax.tree.map(lambda a, i=i: a[i], asked)) if goes else None
        for i, (row, goes) in enumerate(zip(self.rows, running))]
    return types.HostDraft(*trie_lib.fill(tries, self._num_nodes))

  def extend(self, row: int, tokens: np.ndarray) -> None:
    self.rows[row].extend(tokens.tolist())

  def close(self) -> None:
    for row in self.rows:
      row.close()


class HostTree:
  """The device half of a drafter that only hands on what the host drafted.

  A subclass is a frozen dataclass with `num_hosted`, `depth`, `max_children`,
  `open_store()` and `open_row(store, text)`.
  """

  def init(self, params, batch, capacity):
    return ()

  def prefill(self, params, state, tokens, count, taps=None):
    return state

  def ask(self, params, state, ctx):
    return ()

  def propose(self, params, state, ctx, sampling, hosted):
    return tree(ctx.root, hosted, self.depth, self.max_children), state

  def update(self, params, state, outcome):
    return state

  def open_session(self, store, texts):
    return Session([self.open_row(store, text.tolist()) for text in texts],
                   self.num_hosted)


def tree(root: jax.Array, hosted: types.HostDraft, depth: int,
         max_children: int) -> types.DraftTree:
  """The host's draft below the pending token `i32[B]`."""
  lead = lambda value, a: jnp.pad(
      a, ((0, 0), (1, 0)), constant_values=value)
  return types.DraftTree(
      jnp.concatenate([root[:, None], hosted.tokens], axis=1),
      lead(-1, hosted.parents), lead(True, hosted.valid), None,
      "deterministic", depth, max_children)


def either(use_first: jax.Array, first: types.DraftTree,
           second: types.DraftTree) -> types.DraftTree:
  """Row by row one of two trees over one root, `bool[B]` says which."""
  num_nodes = max(first.num_nodes, second.num_nodes)

  def choose(name: str, padding: Any) -> jax.Array:
    a, b = (jnp.pad(getattr(t, name), ((0, 0), (0, num_nodes - t.num_nodes)),
                    constant_values=padding) for t in (first, second))
    return jnp.where(use_first[:, None], a, b)

  return types.DraftTree(
      choose("tokens", 0), choose("parents", 0), choose("valid", False), None,
      "deterministic", max(first.depth, second.depth),
      max(first.max_children, second.max_children))
