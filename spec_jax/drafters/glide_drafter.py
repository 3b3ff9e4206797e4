"""Drafts with a small model that looks into the target's cache."""

import dataclasses

from spec_jax.core import protocols
from spec_jax.drafters import grown_draft_model
from spec_jax.models import glide


@dataclasses.dataclass(frozen=True)
class GlideDrafter(grown_draft_model.GrownDraftModel):
  """A `GrownDraftModel` whose model sees what the target has committed.

  Nodes of a tree see no keys and values of the target of the root or of each
  other: these are computed after them.

  Attributes:
    model: a `models.glide.GlideModel`.
  """

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(target_cache=True, draws=(self.policy.draw,))

  def propose(self, params, state, ctx, sampling):
    both = glide.Beside(state.cache, ctx.target_cache)
    tree, state = super().propose(
        params, state.replace(cache=both), ctx, sampling)
    return tree, state.replace(cache=state.cache.own)
