"""Gumbel-coupled speculation: draft and target sample with the same noise.

Daliri et al. 2024, Sec. 3 (one chain) and Rowan et al. 2025 (a list of chains,
each on a noise of its own). The emitted token is always the target's own sample
from that noise, so the text depends on the seed and the number of chains, never
on the draft model; with one chain it equals autoregressive sampling with the
same seed, token for token, and a `controller` by name may say how long it is
(see `drafters.draft_chain`). Departure: Rowan et al. let only the noises of
chains that still match decide, which makes the text depend on the drafts; here
all decide at every position, at the price of some acceptance behind the first
token.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import list_coupling

PAPER = registry.Paper(
    title="Coupling without Communication and Drafter-Invariant Speculative"
    " Decoding", authors="Daliri, Musco and Suresh", year=2024,
    arxiv="2408.07978")
LISTS = registry.Paper(
    title="List-Level Distribution Coupling with Applications to Speculative"
    " Decoding and Lossy Compression", authors="Rowan, Phan and Khisti",
    year=2025, arxiv="2506.05632", venue="NeurIPS 2025")


@registration.register("gumbel_coupled", papers=(PAPER, LISTS),
                       family="classic", drafter="draft",
                       extra=draft_chain.learned_part)
def gumbel_coupled(parts: registration.Parts, *, depth: int = 5,
                   num_drafts: int = 1, controller: str | None = None,
                   draft_cost: float = draft_chain.DRAFT_COST,
                   check_cost: float = draft_chain.CHECK_COST):
  """Draft-model chains on the target's noise; no drafter changes the text."""
  model = parts.model("draft")
  if num_drafts == 1:
    drafter = draft_chain.draft_chain(
        model, depth, "coupled", controller, draft_cost, check_cost,
        parts.head)
    return registration.compose_chain(
        "gumbel_coupled", parts, drafter, "coupled")
  if controller is not None:
    draft_chain.refuse_tree(controller, "num_drafts", num_drafts)
  drafter = draft_model.DraftModel(
      model, (num_drafts,) + (1,) * (depth - 1), "coupled", num_drafts)
  return registration.compose(
      "gumbel_coupled", parts, drafter,
      list_coupling.ListCoupling(num_drafts), walk=list_coupling.walk)
