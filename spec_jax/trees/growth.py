"""Trees that grow by level: expand the best nodes, keep the best of all.

A policy says what hangs below a node and what it is worth. Worth falls along
every path and among siblings in the order drawn, so the best N candidates of
all levels are closed under parents, and so are the best of one level: no more
than N of them are remembered, and none but those among the best N so far can
have anything below it that matters. A row whose best N cannot change any more
stops by itself.
"""

import dataclasses
from typing import Any
from typing import ClassVar
from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types


class Policy(Protocol):
  """What hangs below a node, and what it is worth.

  Attributes:
    budget: of the finished tree, the root included.
    width: nodes expanded per level, the best ones.
    depth: levels.
    max_children: candidates below an expanded node.
    draw: how they are made, one of `types.DRAWS`.
    clocks: whether a node needs a key to draw its children.
  """

  budget: int
  width: int
  depth: int
  max_children: int
  draw: str
  clocks: bool

  def at(self, sampling: sampling_lib.Sampling) -> "Policy":
    """The policy for the way the target is sampled; its sizes are the same."""

  def sampling(self, sampling: sampling_lib.Sampling) -> sampling_lib.Sampling:
    """How the draft's logits become the law that `children` is given."""

  def children(self, law: jax.Array, reach: jax.Array, keys: Any
               ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The candidates below nodes, in the order drawn.

    Args:
      law: `f[B, W, V]`, the draft's law after each node.
      reach: `f[B, W]`, logarithm of the product of draft probabilities from
        the root to the node.
      keys: `key[B, W]`, or None without clocks.

    Returns:
      `i32[B, W, K]` tokens; `f[B, W, K]` logarithms of what they are worth,
      at most `reach` and falling, -inf where there is no child; `f[B, W, K]`
      their reach. What a random child is worth must not depend on its own
      token, or keeping it would tell something about the draw.
    """

  def goes_on(self, gain: jax.Array) -> jax.Array:
    """`bool[B]`, after a level that added `gain` to the best N's sum."""


@struct.dataclass
class Growth:
  """Candidates by level; C of them are remembered of each, best first.

  Attributes:
    tokens: `i32[B, D, C]`.
    parents: `i32[B, D, C]`, numbers: the root is 0, place c of level l (from
      0) is `1 + l C + c`.
    scores: `f[B, D, C]`, -inf where there is no candidate.
    is_growing: `bool[B]`.
  """

  tokens: jax.Array
  parents: jax.Array
  scores: jax.Array
  is_growing: jax.Array


@struct.dataclass
class Frontier:
  """The nodes to expand next, best first.

  Attributes:
    tokens: `i32[B, W]`.
    numbers: `i32[B, W]`, see `Growth`.
    reach: `f[B, W]`, see `Policy`.
    exists: `bool[B, W]`.
    places: `i32[B, W]`, of the parents in the frontier before.
    keys: `key[B, W]`, or None; one per place in the tree, whatever the order
      in which places are reached.
  """

  tokens: jax.Array
  numbers: jax.Array
  reach: jax.Array
  exists: jax.Array
  places: jax.Array
  keys: Any


def remembered(policy: Policy) -> int:
  """C, candidates remembered per level."""
  return min(policy.budget - 1, policy.width * policy.max_children)


def start(policy: Policy, root: jax.Array, keys: Any
          ) -> tuple[Growth, Frontier]:
  """Nothing but the root, `i32[B]`; its `keys`, `key[B]`, or None."""
  batch = root.shape[0]
  shape = (batch, policy.depth, remembered(policy))
  zeros = jnp.zeros((batch, 1), jnp.int32)
  growth = Growth(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32),
                  jnp.full(shape, -jnp.inf), jnp.ones((batch,), bool))
  return growth, Frontier(
      root[:, None], zeros, jnp.zeros((batch, 1)), jnp.ones((batch, 1), bool),
      zeros, None if keys is None else keys[:, None])


def extend(policy: Policy, growth: Growth, frontier: Frontier, law: jax.Array,
           level, proceeds: jax.Array | None = None,
           token_ids: jax.Array | None = None) -> tuple[Growth, Frontier]:
  """Adds the children of the frontier as level `level`, from 0.

  Args:
    policy: static; of the budget that `growth` was started with.
    growth: of the levels before.
    frontier: the nodes whose laws came; W of them, or the root alone.
    law: `f[B, W, V]`.
    level: may be traced.
    proceeds: `bool[B]`, False where the level is the last one for another
      reason than the policy's.
    token_ids: `i32[Z]`, the tokens that laws `f[B, W, Z]` are over; None where
      they are over all.
  """
  batch, width = frontier.tokens.shape
  tokens, scores, reach = policy.children(law, frontier.reach, frontier.keys)
  if token_ids is not None:
    tokens = token_ids[tokens]
  may_grow = frontier.exists & growth.is_growing[:, None]
  scores = jnp.where(may_grow[:, :, None], scores, -jnp.inf)
  most = tokens.shape[2]
  num_kept = growth.tokens.shape[2]
  # Ties go to the lower place: to the parent that is better, then to the
  # sibling drawn first.
  best, flat = jax.lax.top_k(
      scores.reshape(batch, -1), min(num_kept, width * most))
  missing = num_kept - best.shape[1]
  pad = lambda a, fill: jnp.pad(
      a, ((0, 0), (0, missing)), constant_values=fill)
  pick = lambda a: pad(jnp.take_along_axis(a.reshape(batch, -1), flat, 1), 0)
  places, ranks = jnp.divmod(pad(flat.astype(jnp.int32), 0), most)
  tokens, best = pick(tokens), pad(best, -jnp.inf)
  put = lambda a, row: jax.lax.dynamic_update_slice_in_dim(
      a, row[:, None], level, axis=1)
  before = _best_sum(growth, policy)
  growth = growth.replace(
      tokens=put(growth.tokens, tokens), scores=put(growth.scores, best),
      parents=put(growth.parents,
                  jnp.take_along_axis(frontier.numbers, places, 1)))
  cut = lambda a: a[:, :min(policy.width, num_kept)]
  # Nothing below a node is worth more than its reach; of equals the earlier
  # level stays.
  reach = cut(pick(reach))
  exists = (cut(best) > -jnp.inf) & (reach > _bound(growth, policy)[:, None])
  goes_on = policy.goes_on(_best_sum(growth, policy) - before)
  is_growing = growth.is_growing & goes_on & exists.any(-1)
  if proceeds is not None:
    is_growing &= proceeds
  places, ranks = cut(places), cut(ranks)
  numbers = 1 + level * num_kept + jnp.arange(places.shape[1])
  frontier = Frontier(
      cut(tokens), jnp.broadcast_to(
          numbers.astype(jnp.int32)[None], places.shape),
      reach, exists & is_growing[:, None], places,
      None if frontier.keys is None else _child_keys(
          frontier.keys, places, ranks))
  return growth.replace(is_growing=is_growing), frontier


def finish(policy: Policy, growth: Growth, root: jax.Array
           ) -> tuple[types.DraftTree, jax.Array]:
  """The best nodes as a tree without laws, and their numbers `i32[B, N]`."""
  batch = root.shape[0]
  flat = lambda a, first: jnp.concatenate(
      [jnp.broadcast_to(first, (batch, 1)), a.reshape(batch, -1)], axis=1)
  scores = flat(growth.scores, jnp.asarray(jnp.inf))
  tree = types.DraftTree(
      tokens=flat(growth.tokens, root[:, None]),
      parents=flat(growth.parents, jnp.asarray(-1, jnp.int32)),
      valid=scores > -jnp.inf, q=None, draw=policy.draw, depth=policy.depth,
      max_children=policy.max_children)
  budget = min(policy.budget, tree.num_nodes)
  kept = tree_lib.select(tree.parents, tree.valid, scores, budget)
  return tree_lib.take(tree, kept), kept


def _flat_best(growth, policy):
  scores = growth.scores.reshape(growth.scores.shape[0], -1)
  return jax.lax.top_k(
      scores, min(policy.budget - 1, scores.shape[1]))[0]


def _bound(growth, policy):
  """`f[B]`, what a candidate must be worth to be among the best N."""
  return _flat_best(growth, policy)[:, -1]


def _best_sum(growth, policy):
  """`f[B]`, expected accepted drafts of the tree if it were finished now."""
  return jnp.exp(_flat_best(growth, policy)).sum(-1)


def _child_keys(keys, places, ranks):
  own = jnp.take_along_axis(keys, places, axis=1)
  return jax.vmap(jax.vmap(jax.random.fold_in))(own, ranks + 1)


def goes_on_always(gain: jax.Array) -> jax.Array:
  """Growth ends with the depth, or when no better node can follow."""
  return jnp.ones(gain.shape, bool)


@dataclasses.dataclass(frozen=True)
class Limits:
  """Fields and checks that the policies have in common.

  Attributes:
    budget: of the finished tree, the root included.
    width: nodes expanded per level.
    depth: levels.
  """

  budget: int
  width: int
  depth: int
  least: ClassVar[dict[str, int]] = {"budget": 2, "width": 1, "depth": 1}

  def __post_init__(self):
    for name, least in self.least.items():
      if getattr(self, name) < least:
        raise ValueError(
            f"{name}={getattr(self, name)}, expected at least {least}.")
    for name in self.least:
      tree_lib.check_size(f"{name}={getattr(self, name)}", getattr(self, name))

  def at(self, sampling):
    del sampling
    return self

  def goes_on(self, gain):
    return goes_on_always(gain)
