"""Drafts with a small model that looks into the target's cache."""

import dataclasses

from spec_jax.core import protocols
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import grown_draft_model
from spec_jax.models import glide


class _BesideTarget:
  """Shows a draft model what the target has committed; to be mixed in.

  Its `model` is a `models.glide.GlideModel`. Nodes of a tree see no keys and
  values of the target of the root or of each other: these are computed after
  them.
  """

  @property
  def needs(self) -> protocols.Needs:
    return dataclasses.replace(super().needs, target_cache=True)

  def propose(self, params, state, ctx, sampling):
    both = glide.Beside(state.cache, ctx.target_cache)
    tree, state = super().propose(
        params, state.replace(cache=both), ctx, sampling)
    return tree, state.replace(cache=state.cache.own)


@dataclasses.dataclass(frozen=True)
class GlideDrafter(_BesideTarget, grown_draft_model.GrownDraftModel):
  """A `GrownDraftModel` whose model looks into the target's cache."""


@dataclasses.dataclass(frozen=True)
class ChainGlideDrafter(_BesideTarget, chain_draft_model.ChainDraftModel):
  """A `ChainDraftModel` whose model looks into the target's cache."""
