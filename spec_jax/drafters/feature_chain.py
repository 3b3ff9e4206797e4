"""Chains of a feature net: of most likely tokens, or as a controller wants.

See `feature_drafter` for what the net reads and `chain_draft_model` for the
loop that ends once every row has stopped.
"""

import dataclasses
from typing import Any

from spec_jax.core import types
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_drafter
from spec_jax.models import feature_model
from spec_jax.models import feature_net
from spec_jax.trees import likelihood


@dataclasses.dataclass(frozen=True)
class ChainFeatureDrafter(feature_drafter.StablePart,
                          chain_draft_model.ChainDraftModel):
  """A chain as long as a controller wants; see `ChainDraftModel`.

  The controller reads what the output head reads under the name "final".

  Attributes:
    model: a `models.feature_model.FeatureModel`.
    names: the name of the controller's parameters comes second; None if it has
      none.
  """

  @property
  def drawn(self) -> str:
    return self.draw

  def init(self, params, batch, capacity):
    return super().init(params, batch, capacity).replace(
        control=self.controller.init(batch))

  def starts(self, ctx):
    # A text of one token has no pair.
    return super().starts(ctx) & (ctx.length > 1)

  def features(self, out):
    return {"final": out.taps.get(
        feature_net.SPOKEN, out.taps[feature_net.HIDDEN])}

  def grow_below(self, params, state, cache, ctx, sampling, root, most):
    del most
    fresh = self.model.empty_scratch(ctx.root.shape[0], self.depth)
    tree, loop = self.grow(
        params, state.control, fresh, cache, ctx, sampling, root,
        self.model.token_ids(params))
    return tree, state.replace(control=loop.control)

  def update(self, params, state, outcome: types.Outcome):
    return super().update(params, state, outcome).replace(
        control=self.controlled(state, outcome))


def most_likely(model: feature_model.FeatureModel, budget: int, depth: int,
                top_k: int, controller: str | None = None,
                draft_cost: float = draft_chain.DRAFT_COST,
                check_cost: float = draft_chain.CHECK_COST) -> Any:
  """A drafter of the most likely tokens.

  Args:
    model: the net.
    budget: nodes at most, with the root.
    depth: levels at most.
    top_k: nodes expanded per level, and children of each.
    controller: one of `controllers.names()` says how long a chain is, so
      `top_k` must be 1; None for the best `budget` nodes, see
      `trees.likelihood`.
    draft_cost: see `draft_chain.draft_chain`.
    check_cost: likewise.

  Raises:
    ValueError: for an unknown controller or one that is to grow a tree.
  """
  if controller is None:
    return feature_drafter.GrownFeatureDrafter(
        model, likelihood.MostLikely(budget, top_k, depth, top_k))
  if top_k != 1:
    draft_chain.refuse_tree(controller, "top_k", top_k)
  return chain(model, budget, depth, top_k, "top_k", controller, draft_cost,
               check_cost)


def chain(model: feature_model.FeatureModel, budget: int, depth: int,
          top_k: int, draw: str, controller: str | None = None,
          draft_cost: float = draft_chain.DRAFT_COST,
          check_cost: float = draft_chain.CHECK_COST) -> Any:
  """A drafter of chains.

  Args:
    model: the net.
    budget: nodes at most, with the root.
    depth: tokens at most.
    top_k: must be 1.
    draw: how tokens are drawn, see `ChainDraftModel`.
    controller: as of `most_likely`; None for chains of one length.
    draft_cost: see `draft_chain.draft_chain`.
    check_cost: likewise.

  Raises:
    ValueError: for more than one child, or an unknown controller or draw.
  """
  if top_k != 1:
    raise ValueError(
        f"draw={draw!r} and top_k={top_k}, expected top_k=1: only chains are"
        " drawn at random.")
  depth = min(depth, budget - 1)
  return ChainFeatureDrafter(
      model, draft_chain.controller_of(
          controller, depth, draft_cost, check_cost), depth, draw)
