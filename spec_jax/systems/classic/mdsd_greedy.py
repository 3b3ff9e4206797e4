"""Greedy multi-draft: the top tokens and one draw, verified as one draft.

Hu et al. 2025, Sec. 5.1: the children of a node are the K - 1 most likely
tokens of the draft model and one draw from the rest; the verification reaches
the transport optimum of that draw. Tree of 2 children by 4 levels as in their
experiments; 4 by 3 is the other one. Departures: none.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import greedy_drafts

PAPER = registry.Paper(
    title="Towards Optimal Multi-draft Speculative Decoding",
    authors="Hu et al.", year=2025, arxiv="2502.18779", venue="ICLR 2025")


@registration.register("mdsd_greedy", papers=(PAPER,), family="classic",
                       drafter="draft")
def mdsd_greedy(parts: registration.Parts, *,
                branching: tuple[int, ...] = (2, 2, 2, 2)):
  """Tree of greedy drafts, one rejection per node."""
  drafter = draft_model.DraftModel(parts.model("draft"), branching, "greedy")
  return registration.compose(
      "mdsd_greedy", parts, drafter, greedy_drafts.MdsdGreedy())
