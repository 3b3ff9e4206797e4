"""FR-Spec: the draft's output head knows the frequent tokens only.

Zhao et al. 2025, Sec. 3: tokens are ranked by their frequency in a corpus, and
the head of EAGLE-2's net computes the logits, the softmax and the choice of
children over the first of them; trees and rule are EAGLE-2's, so the text is
the target's. Count with `python -m experiments.train --system=fr_spec`; the net
is that of eagle_2. Departures: the budget is not bound to the 64 nodes of a
machine word, it is EAGLE-2's.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="FR-Spec: Accelerating Large-Vocabulary Language Models via"
    " Frequency-Ranked Speculative Sampling", authors="Zhao et al.", year=2025,
    arxiv="2502.14856", venue="ACL 2025")


@registration.register("fr_spec", papers=(PAPER,), family="vocabulary",
                       drafter=("target", "eagle_2", "fr_spec"))
def fr_spec(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
            top_k: int = 10,
            controller: str | None = None,
            draft_cost: float = draft_chain.DRAFT_COST,
            check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 that drafts the tokens most frequent in a corpus."""
  parts.head("fr_spec")
  model = feature_model.from_hyper(
      parts.target, "eagle_2", parts.head("eagle_2"), "fr_spec")
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "fr_spec", parts, drafter, matching.SampleAndMatch())
