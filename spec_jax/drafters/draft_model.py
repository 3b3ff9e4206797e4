"""A separate draft model that grows a static tree, level by level.

A chain is the tree whose levels all have one node. Nodes of one level may have
different numbers of children, as in the tables of `trees.shapes`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import level_drafter

_DRAWS = types.RANDOM_DRAWS + ("top_k", "coupled")
# The first draws of many are what fewer draws would have been.
_RAGGED = ("without_replacement", "top_k")


@dataclasses.dataclass(frozen=True)
class DraftModel(level_drafter.LevelDrafter):
  """Drafts with a smaller model of the same vocabulary.

  Attributes:
    model: a `protocols.TargetModel`.
    branching: children per node, by depth; `(1, 1, 1)` is a chain of three. A
      tuple in place of a number lists them node by node; siblings are then
      drawn "without_replacement" or "top_k".
    draw: how children are drawn at temperature > 0: "iid",
      "without_replacement", "greedy" (all but the last child are the most
      likely tokens), "top_k" (deterministic) or "coupled" (with the noise of
      the emitting draw). At temperature 0 the children are the most likely
      tokens.
    num_clocks: noises that the emitting draw takes the first to ring of; a
      coupled child takes one of them, its siblings the others.
    lag: tokens before the root that the cache may lack: 1, an accepted leaf,
      unless others add nodes to the tree.
  """

  branching: tuple[int | tuple[int, ...], ...] = (1, 1, 1, 1)
  draw: str = "iid"
  num_clocks: int = 1
  lag: int = 1

  def __post_init__(self):
    tree_lib.child_counts(self.branching)  # Names what is wrong with it.
    if self.draw not in _DRAWS:
      raise ValueError(f"draw={self.draw!r}, expected one of {_DRAWS}."
                       + registry.hint(self.draw, _DRAWS))
    if self.draw not in _RAGGED and not self._is_uniform:
      raise ValueError(
          f"branching={self.branching} differs from node to node, expected"
          f" draw to be one of {_RAGGED}, got {self.draw!r}.")
    if self.draw == "coupled" and self.max_children > self.num_clocks:
      raise ValueError(
          f"draw='coupled' has num_clocks={self.num_clocks} noises to give to"
          f" the children of a node, so branching={self.branching} would"
          " repeat one token; expected branching up to that number.")
    if self.max_children > self.model.vocab_size:
      raise ValueError(
          f"branching={self.branching} asks for more children than the"
          f" vocabulary has tokens ({self.model.vocab_size}).")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=(self.draw,))

  @property
  def counts(self) -> tuple[tuple[int, ...], ...]:
    """By level, how many children each node of the level has."""
    return tree_lib.child_counts(self.branching)

  @property
  def _is_uniform(self) -> bool:
    return all(min(level) == max(level) for level in self.counts)

  @property
  def depth(self) -> int:
    return len(self.branching)

  @property
  def max_children(self) -> int:
    return max(map(max, self.counts))

  @property
  def level_starts(self) -> tuple[int, ...]:
    """Index of the first node of each level, and the number of nodes."""
    sizes = (1,) + tuple(map(sum, self.counts))
    return (0,) + tuple(int(n) for n in np.cumsum(sizes))

  @property
  def fed(self):
    """By level, the nodes that have children."""
    return tuple(
        tuple(start + i for i, count in enumerate(level) if count)
        for start, level in zip(self.level_starts, self.counts))

  def handed_down(self, above, level):
    # Above are the nodes with children; each child gets its parent's guesses.
    counts = np.asarray([n for n in self.counts[level - 1] if n])
    parents = np.repeat(np.arange(counts.size), counts)
    with_children = np.flatnonzero(self.counts[level])
    return jax.tree.map(
        lambda a: level_drafter.pick(a, parents[with_children]), above.taps)

  def grower(self, ctx, sampling):
    return _Grower(self, ctx, sampling)


class _Grower:
  """Collects the levels of one tree while it is traced."""

  def __init__(self, drafter: DraftModel, ctx: types.Context,
               sampling: sampling_lib.Sampling):
    self._drafter, self._sampling = drafter, sampling
    # At temperature 0 a law is a point mass, and its draws would all be equal.
    self._draw = "top_k" if sampling.is_greedy else drafter.draw
    self._parents = tree_lib.static_parents(drafter.branching)
    self._noise = noise(
        self._draw, ctx, tuple(map(len, drafter.fed)),
        tuple(map(max, drafter.counts)), drafter.model.vocab_size,
        drafter.num_clocks)
    self._laws = []
    self._valid = [jnp.ones(ctx.root[:, None].shape, bool)]
    self.tokens = [ctx.root[:, None]]
    self._seen = level_drafter.seen_by_root(drafter.model, ctx, sampling)

  def ancestors(self, level: int) -> jax.Array:
    """`bool[B, W, F]`: which nodes up to its own level a node may see."""
    start, stop = self._drafter.level_starts[level:level + 2]
    pattern = np.eye(stop, dtype=bool)
    for node in range(1, stop):
      pattern[node] |= pattern[self._parents[node]]
    valid = jnp.concatenate(self._valid, axis=1)
    return jnp.asarray(pattern[start:stop])[None] & valid[:, None, :]

  def draw_level(self, level: int, logits: jax.Array) -> None:
    """Draws the children of a level from `f32[B, W, V]`, W the fed nodes."""
    counts = self._drafter.counts[level]
    inner = np.flatnonzero(counts)
    width = max(counts)
    # By child, the place of its parent among the fed nodes and its own rank.
    parents, ranks = np.nonzero(
        np.arange(width)[None] < np.asarray(counts)[inner][:, None])
    if self._seen is not None:
      self._seen = level_drafter.pick(self._seen, inner)
    p = self._sampling.probs(logits, self._seen)
    tokens, exists = _DRAW_FNS[self._draw](
        logits if self._draw == "top_k" else p, self._noise[level], width)
    children = lambda a: level_drafter.pick(
        a.reshape(a.shape[0], -1), parents * width + ranks)
    parent_valid = level_drafter.pick(self._valid[-1], inner[parents])
    self.tokens.append(children(tokens))
    self._valid.append(children(exists) & parent_valid)
    self._laws.append(p)
    if self._seen is not None:
      seen = level_drafter.pick(self._seen, parents)
      self._seen = seen | jax.nn.one_hot(
          self.tokens[-1], seen.shape[-1], dtype=bool)

  def tree(self) -> types.DraftTree:
    tokens = jnp.concatenate(self.tokens, axis=1)
    batch, num_nodes = tokens.shape
    q = None
    if self._draw in types.RANDOM_DRAWS:  # Leaves have no children.
      laws = jnp.concatenate(self._laws, axis=1)
      extra = 1 if self._drafter.slots.max() == laws.shape[1] else 0
      q = level_drafter.pick(
          jnp.pad(laws, ((0, 0), (0, extra), (0, 0))), self._drafter.slots)
    return types.DraftTree(
        tokens=tokens,
        parents=jnp.broadcast_to(jnp.asarray(self._parents)[None],
                                 (batch, num_nodes)),
        valid=jnp.concatenate(self._valid, axis=1), q=q, draw=self._draw,
        depth=self._drafter.depth, max_children=self._drafter.max_children)


def _draw_iid(law, noise, width):
  del width
  tokens = sampling_lib.first_to_ring(law[:, :, None], noise)
  return tokens, jnp.ones(tokens.shape, bool)


def _draw_without_replacement(law, noise, width):
  return sampling_lib.first_k_to_ring(law, noise[:, :, 0], width)


def _draw_greedy(law, noise, width):
  return sampling_lib.top_and_first_to_ring(law, noise[:, :, 0], width)


def _draw_top_k(logits, noise, width):
  del noise
  scores, tokens = jax.lax.top_k(logits, width)
  return tokens.astype(jnp.int32), scores > -jnp.inf


# `(law f[B, W, V], noise f[B, W, 1 or width, V], width)` -> tokens and whether
# they exist, `[B, W, width]`. Coupled drafts differ in their noise alone.
_DRAW_FNS = {
    "iid": _draw_iid,
    "without_replacement": _draw_without_replacement,
    "greedy": _draw_greedy,
    "top_k": _draw_top_k,
    "coupled": _draw_iid,
}


def noise(draw: str, ctx: types.Context, widths: tuple[int, ...],
          most: tuple[int, ...], vocab_size: int, num_clocks: int = 1
          ) -> list[jax.Array | None]:
  """Noise of all draws of a round, by level: `f32[B, W, 1 or K, V]`.

  Made in one go: as many short operations one after another would take longer
  than the draft model's own arithmetic. Iid siblings have a draw each, numbered
  by the drawn node; other draws one per parent, numbered by it. Coupled nodes
  of a level go around the `num_clocks` noises of the emitting draw, so that
  the chains below a root keep one each.

  Args:
    draw: one of `types.DRAWS`.
    ctx: gives keys and lengths.
    widths: by level, how many nodes have children.
    most: by level, most children of one; read only where each has a draw.
    vocab_size: V.
    num_clocks: see `DraftModel`.
  """
  if draw == "top_k":
    return [None] * len(widths)
  is_list = draw == "coupled" and num_clocks > 1
  per_child = draw == "iid" or is_list
  counts = np.multiply(widths, most) if per_child else np.asarray(widths)
  levels = np.repeat(np.arange(len(widths)), counts)
  numbers = np.arange(len(levels)) + int(per_child)
  positions = ctx.length[:, None] + jnp.asarray(levels, jnp.int32)[None]
  if draw == "coupled":
    at = lambda key, position, number: keys_lib.at(
        key, position, types.Role.EMIT,
        (number - 1) % num_clocks if is_list else None)
  else:
    at = lambda key, position, number: keys_lib.at(
        key, position, types.Role.DRAFT, number)
  keys = jax.vmap(jax.vmap(at, (None, 0, 0)), (0, 0, None))(
      ctx.keys, positions, jnp.asarray(numbers, jnp.int32))
  make = functools.partial(sampling_lib.clocks, vocab_size=vocab_size)
  flat = jax.vmap(jax.vmap(make))(keys)
  parts = jnp.split(flat, np.cumsum(counts)[:-1], axis=1)
  return [part.reshape(part.shape[0], int(width), -1, vocab_size)
          for part, width in zip(parts, widths)]
