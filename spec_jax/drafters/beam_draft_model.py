"""A separate draft model that grows a tree by (stochastic) beam search.

Every level has the same number of nodes, but which nodes have children, and
how many, differs from round to round and from row to row.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.drafters import level_drafter
from spec_jax.trees import stochastic_beam


@dataclasses.dataclass(frozen=True)
class BeamDraftModel(level_drafter.LevelDrafter):
  """Drafts the best sequences of a smaller model of the same vocabulary.

  At temperature > 0 a level is a sample of sequences without replacement
  (`trees.stochastic_beam`), so siblings are one of tokens; at temperature 0 it
  is what beam search finds.

  Attributes:
    model: a `protocols.TargetModel`.
    width: nodes per level.
    depth: levels.
  """

  width: int = 3
  depth: int = 4

  def __post_init__(self):
    for name in ("width", "depth"):
      if getattr(self, name) < 1:
        raise ValueError(
            f"{name}={getattr(self, name)}, expected at least 1.")
    if self.width > self.model.vocab_size:
      raise ValueError(
          f"width={self.width} asks for more nodes on the first level than the"
          f" vocabulary has tokens ({self.model.vocab_size}).")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=("without_replacement",))

  @property
  def max_children(self) -> int:
    return self.width

  @property
  def level_starts(self) -> tuple[int, ...]:
    return (0,) + tuple(1 + i * self.width for i in range(self.depth + 1))

  def grower(self, ctx, sampling):
    return _BeamGrower(self, ctx, sampling)


class _BeamGrower:
  """Collects the levels of one tree while it is traced."""

  def __init__(self, drafter: BeamDraftModel, ctx: types.Context,
               sampling: sampling_lib.Sampling):
    self._drafter, self._sampling = drafter, sampling
    self._draw = "without_replacement"
    if sampling.is_greedy:
      # At temperature 0 a law is a point mass, which ranks nothing.
      self._draw, self._sampling = "top_k", sampling_lib.Sampling(
          repetition_penalty=sampling.repetition_penalty)
    # Levels of 1, W, W, ... nodes; each node has one set of clocks, or none.
    noise = draft_model.noise(
        self._draw, ctx, (1,) + (drafter.width,) * (drafter.depth - 1),
        (drafter.width,) * drafter.depth, drafter.model.vocab_size)
    self._clocks = jax.tree.map(lambda level: level[:, :, 0], noise)
    batch = ctx.root.shape[0]
    self._beam = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (batch,) + a.shape),
        stochastic_beam.root())
    self._laws = []
    self._parents = [jnp.full((batch, 1), -1, jnp.int32)]
    self._valid = [jnp.ones((batch, 1), bool)]
    self.tokens = [ctx.root[:, None]]
    self._seen = level_drafter.seen_by_root(drafter.model, ctx, sampling)

  def ancestors(self, level: int) -> jax.Array:
    """`bool[B, W, F]`: which nodes up to its own level a node may see."""
    start = self._drafter.level_starts[level]
    mask = tree_lib.ancestor_mask(jnp.concatenate(self._parents, axis=1),
                                  jnp.concatenate(self._valid, axis=1))
    return mask[:, start:]

  def draw_level(self, level: int, logits: jax.Array) -> None:
    """Draws the children of all nodes of a level from `f32[B, M, V]`."""
    first = self._drafter.level_starts[level]
    p = self._sampling.probs(logits, self._seen)
    extend = functools.partial(
        stochastic_beam.step, width=self._drafter.width)
    self._beam, slots, tokens = jax.vmap(extend)(
        self._beam, jnp.log(p), self._clocks[level])
    self.tokens.append(tokens)
    self._parents.append(first + slots)
    self._valid.append(self._beam.scores > -jnp.inf)
    self._laws.append(p)
    if self._seen is not None:
      seen = jnp.take_along_axis(self._seen, slots[:, :, None], axis=1)
      self._seen = seen | jax.nn.one_hot(tokens, p.shape[-1], dtype=bool)

  def tree(self) -> types.DraftTree:
    q = None
    if self._draw in types.RANDOM_DRAWS:  # Leaves have no children.
      q = jnp.pad(jnp.concatenate(self._laws, axis=1),
                  ((0, 0), (0, self._drafter.width), (0, 0)))
    return types.DraftTree(
        tokens=jnp.concatenate(self.tokens, axis=1),
        parents=jnp.concatenate(self._parents, axis=1),
        valid=jnp.concatenate(self._valid, axis=1), q=q,
        draw=self._draw, depth=self._drafter.depth,
        max_children=self._drafter.max_children)
