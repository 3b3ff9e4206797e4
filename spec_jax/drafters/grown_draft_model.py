"""A draft model that grows trees whose shape depends on what it says.

Levels are grown in a loop on the device that ends when no row of the batch has
anything left to expand: early exits save draft forwards. What a row gets does
not depend on how long the others go on.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import types
from spec_jax.drafters import level_drafter
from spec_jax.trees import growth as growth_lib


@struct.dataclass
class GrownState:
  """The draft model's memory; see `level_drafter.DraftModelState`.

  Attributes:
    cache: keys and values of committed text.
    fresh: keys and values of the F nodes that a round may feed.
    slots: `i32[B, N]`, where in `fresh` the nodes of the tree are; F for a
      node that was not fed.
  """

  cache: Any
  fresh: types.FreshKV
  slots: jax.Array


@struct.dataclass
class _Loop:
  """What a level hands to the next; F nodes may be fed.

  Attributes:
    level: of the frontier.
    growth: the candidates.
    frontier: W nodes to feed.
    ancestors: `bool[B, W, F]`, which fed nodes a frontier node may see.
    fresh: keys and values of the fed.
    is_fed: `bool[B, F]`.
    laws: `f[B, F, V]`, that drew their children; None if none is random.
    seen: `bool[B, W, V]`, see `level_drafter.seen_by_root`.
    handed: `[B, W, ...]` each, what the forwards of the parents hand down to
      the frontier; () of models that hand down nothing.
  """

  level: jax.Array
  growth: growth_lib.Growth
  frontier: growth_lib.Frontier
  ancestors: jax.Array
  fresh: types.FreshKV
  is_fed: jax.Array
  laws: jax.Array | None
  seen: jax.Array | None
  handed: Any


@dataclasses.dataclass(frozen=True)
class GrownDraftModel(level_drafter.ModelDrafter):
  """Drafts a tree of a smaller model of the same vocabulary.

  Attributes:
    model: a `protocols.TargetModel`.
    policy: a `trees.growth.Policy`.
    judge: decides from the draft's features whether a level is the last one, a
      `controllers.decision.Decision`; or None.
    names: of the draft model's and of the judge's parameters among the
      drafter's; None without a judge.
  """

  policy: Any
  judge: Any = None
  names: tuple[str, str] | None = None

  def __post_init__(self):
    if self.max_children > self.model.vocab_size:
      raise ValueError(
          f"policy={self.policy} asks for up to {self.max_children}"
          " children per node, more than the vocabulary has tokens"
          f" ({self.model.vocab_size}).")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=(self.policy.draw,))

  @property
  def _taps(self) -> tuple[str, ...]:
    return () if self.judge is None else self.judge.taps

  def model_params(self, params):
    return params if self.names is None else params[self.names[0]]

  @property
  def depth(self) -> int:
    return self.policy.depth

  @property
  def max_children(self) -> int:
    return self.policy.max_children

  @property
  def _width(self) -> int:
    """W: no more nodes of a level are expanded than are remembered."""
    return min(self.policy.width, growth_lib.remembered(self.policy))

  @property
  def num_forwards(self) -> int:
    """Of a round at most; each gives a level, the root's among them."""
    return self.depth

  @property
  def num_fed(self) -> int:
    """F, the root and W nodes of every level that has a forward."""
    return 1 + (self.num_forwards - 1) * self._width

  @property
  def num_nodes(self) -> int:
    """N, nodes of the tree."""
    most = 1 + self.depth * growth_lib.remembered(self.policy)
    return min(self.policy.budget, most)

  def init(self, params, batch, capacity):
    return GrownState(
        cache=dense.empty(self.model, batch, capacity),
        fresh=self.model.empty_scratch(batch, self.num_fed),
        slots=jnp.zeros((batch, self.num_nodes), jnp.int32))

  def propose(self, params, state, ctx, sampling):
    root, cache = self.feed_root(
        self.model_params(params), state.cache, ctx, self._taps)
    tree, fresh, slots = self.grow(
        params, state.fresh, cache, ctx, sampling, root)
    return tree, GrownState(cache, fresh, slots)

  def grow(self, params, fresh, cache, ctx, sampling, root, token_ids=None,
           most=None):
    """The tree below the root.

    Args:
      params: of the drafter.
      fresh: room for the keys and values of F nodes.
      cache: the draft model's.
      ctx: gives text and keys.
      sampling: of the target.
      root: what the draft model says of the root.
      token_ids: `i32[Z]`, the tokens that the model's logits stand for; None
        where they are all tokens.
      most: `i32[B]`, levels at most, at least one; None for the policy's.

    Returns:
      The tree, `fresh` with what was fed, and `i32[B, N]`, where in it the
      nodes are; F for a node that was not fed.
    """
    policy = self.policy.at(sampling)
    own = None if self.names is None else params[self.names[1]]
    params = self.model_params(params)
    sampling = policy.sampling(sampling)
    seen = level_drafter.seen_by_root(self.model, ctx, sampling)
    loop = self._start(policy, ctx, root, seen, fresh)

    def extend(loop, logits, handed, policy=policy, fresh=None, proceeds=None,
               is_fed=True):
      known = level_drafter.seen_among(loop.seen, token_ids)
      if most is not None:
        is_short = loop.level + 1 < most
        proceeds = is_short if proceeds is None else proceeds & is_short
      return self._extend(policy, loop, sampling.probs(logits, known), fresh,
                          proceeds, handed, token_ids, is_fed)

    def after_forward(loop, out, fresh=None):
      return extend(loop, out.logits, self.handed(out), fresh=fresh,
                    proceeds=self._proceeds(own, out, loop.frontier))

    loop = after_forward(loop, root)

    def body(loop):
      frontier, width = loop.frontier, self._width
      itself = jnp.broadcast_to(jnp.eye(width, dtype=bool),
                                loop.ancestors.shape[:2] + (width,))
      positions = jnp.broadcast_to(
          ctx.length[:, None] - 1 + loop.level, frontier.tokens.shape)
      out = self.feed(
          params, frontier.tokens, loop.handed, positions,
          jnp.concatenate([loop.ancestors, itself], axis=2), cache, loop.fresh,
          loop.level)
      return after_forward(loop, out, out.fresh)

    if self.num_forwards > 1:  # Else there is no room to trace the body with.
      loop = jax.lax.while_loop(
          lambda loop: (loop.level < self.num_forwards)
          & loop.growth.is_growing.any(), body, loop)
    loop = self.look_ahead(params, loop, extend)
    tree, kept = growth_lib.finish(policy, loop.growth, ctx.root)
    tree = self.complete(
        tree.replace(max_children=self.max_children), kept, loop)
    slots = self._slots(loop, kept)
    if loop.laws is not None:
      laws = jnp.pad(loop.laws, ((0, 0), (0, 1), (0, 0)))
      tree = tree.replace(
          q=jnp.take_along_axis(laws, slots[:, :, None], axis=1))
    return tree, loop.fresh, slots

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    """The forward of a level; `handed` is what its parents handed down."""
    del handed, level
    return self.model.forward(
        params, tokens, positions, mask, cache, past=past, taps=self._taps)

  def handed(self, out: types.ModelOut) -> Any:
    """What a node's forward hands down to those of its children."""
    del out
    return ()

  def look_ahead(self, params, loop, extend_fn):
    """Levels that need no forward: `extend_fn(loop, logits, handed, ...)`."""
    del params, extend_fn
    return loop

  def update(self, params, state, outcome):
    slots = jnp.take_along_axis(state.slots, outcome.verdict.path, axis=1)
    return level_drafter.commit_fed(state, outcome.verdict, slots)

  def complete(self, tree, kept, loop):
    """The best nodes as a tree, perhaps with more behind them.

    Args:
      tree: of the best nodes.
      kept: their numbers, see `trees.growth.finish`.
      loop: after the last level.
    """
    del kept, loop
    return tree

  def _proceeds(self, params, out, frontier):
    if self.judge is None:
      return None
    return self.judge.proceed(params, out.taps, frontier.exists)

  def _start(self, policy, ctx, root, seen, fresh):
    """The root was fed, and is the frontier."""
    keys = None
    if policy.clocks:
      keys = jax.vmap(keys_lib.at, (0, 0, None))(
          ctx.keys, ctx.length, types.Role.DRAFT)
    growth, frontier = growth_lib.start(policy, ctx.root, keys)
    growth = growth.replace(is_growing=ctx.takes_part)
    batch, _, vocab_size = root.logits.shape
    laws = None
    if policy.draw in types.RANDOM_DRAWS:
      laws = jnp.zeros((batch, self.num_fed, vocab_size), root.logits.dtype)
    return _Loop(
        jnp.zeros((), jnp.int32), growth, frontier,
        jnp.zeros((batch, 1, self.num_fed), bool),
        level_drafter.write(fresh, root.fresh, 0),
        jnp.zeros((batch, self.num_fed), bool), laws, seen,
        self.handed(root))

  def _extend(self, policy, loop, law, fresh, proceeds, handed, token_ids,
              is_fed):
    """Grows a level from the laws of the frontier, which was fed or not."""
    batch, width = loop.frontier.tokens.shape
    # The root, then W nodes a level.
    first = jnp.maximum(1 + (loop.level - 1) * self._width, 0)
    put = lambda a, new: jax.lax.dynamic_update_slice_in_dim(
        a, new, first, axis=1)
    growth, frontier = growth_lib.extend(
        policy, loop.growth, loop.frontier, law, loop.level, proceeds,
        token_ids)
    own = first + jnp.arange(width)[:, None] == jnp.arange(self.num_fed)[None]
    path = loop.ancestors | own[None]
    gather = lambda a: jnp.take_along_axis(a, frontier.places[:, :, None], 1)
    seen = loop.seen
    if seen is not None:
      seen = gather(seen) | jax.nn.one_hot(
          frontier.tokens, seen.shape[-1], dtype=bool)
    return _Loop(
        level=loop.level + 1, growth=growth, frontier=frontier,
        ancestors=gather(path),
        fresh=loop.fresh if fresh is None else level_drafter.write(
            loop.fresh, fresh, first),
        is_fed=put(loop.is_fed, loop.frontier.exists) if is_fed else (
            loop.is_fed),
        laws=None if loop.laws is None else put(loop.laws, law), seen=seen,
        handed=jax.tree.map(lambda a: jnp.take_along_axis(
            a, frontier.places.reshape(frontier.places.shape + (1,) * (
                a.ndim - 2)), axis=1), handed))

  def _slots(self, loop, kept):
    """`i32[B, N]`, where the kept candidates were fed; F if they were not."""
    level, place = jnp.divmod(kept - 1, growth_lib.remembered(self.policy))
    slots = jnp.where(kept > 0, 1 + level * self._width + place, 0)
    could_be = (kept == 0) | (
        (place < self._width) & (level + 1 < self.num_forwards))
    slots = jnp.where(could_be, slots, self.num_fed)
    is_fed = jnp.pad(loop.is_fed, ((0, 0), (0, 1)))
    return jnp.where(jnp.take_along_axis(is_fed, slots, axis=1), slots,
                     self.num_fed).astype(jnp.int32)
