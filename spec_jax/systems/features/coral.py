"""CORAL: guesses that agree across training steps, and a head in groups.

Weng et al. 2025: EAGLE-2's net is trained over three steps of its own guesses,
with a contrastive loss that pulls together what different steps say of one
position; rows of the target's output head are split into groups by their
likeness, and a router on the drafted feature picks those that are asked. Tree
(60 nodes, depth 6) and rule are EAGLE-2's: children are the most likely tokens,
matched with the target's own draw. Train with `python -m experiments.train
--system=coral`. Departures: the text of the paper was not at hand, only its
abstract and descriptions by others (arXiv repository page): sizes, weights,
temperature and the form of the router, one linear map taught by the target's
law over the groups, are ours, as are groups of equal size; a head's rows are
read per group only where that is less than the whole head, else the whole is
computed and the rest left out; the net starts afresh, where HASS, whose
training in steps it takes over, starts with EAGLE's net; text, start, clipping
and rates of the training depart as in `eagle_1`; the last prompt token is the
first root, so a prompt of one token drafts nothing in its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import grouped_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

ACTIVE = 4
PAPER = registry.Paper(
    title="CORAL: Learning Consistent Representations across Multi-step"
    " Training with Lighter Speculative Drafter", authors="Weng et al.",
    year=2025, arxiv="2502.16880", venue="ACL 2025")


@registration.register("coral", papers=(PAPER,), family="features",
                       drafter=("target", "coral"))
def coral(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
          top_k: int = 10, active: int = ACTIVE,
          controller: str | None = None,
          draft_cost: float = draft_chain.DRAFT_COST,
          check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 with consistent guesses and a router to groups of tokens."""
  model = grouped_model.from_hyper(
      parts.target, "coral", parts.head("coral"), active)
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "coral", parts, drafter, matching.SampleAndMatch())
