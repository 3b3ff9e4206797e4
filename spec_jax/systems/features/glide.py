"""GliDe: a small model that attends to the target's keys and values.

Du et al. 2024, Sec. 3.1 and the repository: between self-attention and
feed-forward of a one-layer model, with embedding and output head of its own,
stands cross-attention, without a norm, over the committed keys and values of
the target's last layer, as they are cached. A greedy chain of four drafts, or
as many of `depth` as a `controller` by name wants (`drafters.draft_chain`). In
training a token sees the target only in earlier blocks of five, as a draft
does. Train it with `python -m experiments.train --system=glide`. Departures:
one layer, where the repository allows more (their cache would depend on what
was drafted when); half of the training text is the target's own; at temperature
> 0, unfinished in the repository, drafts are matched with the target's own
draw, or with `draw="iid"` drawn themselves and verified as a block.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import glide_drafter
from spec_jax.models import glide as networks
from spec_jax.systems import registration

PAPER = registry.Paper(
    title="GliDe with a CaPE: A Low-Hassle Method to Accelerate Speculative"
    " Decoding", authors="Du et al.", year=2024, arxiv="2402.02082",
    venue="ICML 2024")


@registration.register("glide", papers=(PAPER,), family="features",
                       drafter="glide")
def glide(parts: registration.Parts, *, depth: int = 4, draw: str = "top_k",
          controller: str | None = None,
          draft_cost: float = draft_chain.DRAFT_COST,
          check_cost: float = draft_chain.CHECK_COST):
  """Chain of a small model that reuses the target's keys and values."""
  model = networks.from_hyper(parts.target, parts.head("glide"))
  drafter = glide_drafter.ChainGlideDrafter(
      model, draft_chain.controller_of(
          controller, depth, draft_cost, check_cost), depth, draw)
  return registration.compose_chain("glide", parts, drafter, draw)
