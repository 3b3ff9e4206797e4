"""EAGLE-2: EAGLE's net on a tree that follows its confidence.

Li et al. 2024, Sec. 4.1 (the top k nodes of a level by the product of draft
probabilities are expanded) and 4.2 (the best of all levels are kept); 60 nodes
with the root, depth 6 and k = 10 as for 7B targets. The children are the most
likely tokens, so they are matched with the target's own draw, which is the
repository's rule with q = 1. With `top_k=1` a `controller` by name may say how
long the chain is. The net is EAGLE-1's: `python -m experiments.train
--system=eagle_2`. Departures: the last prompt token is the first root, so a
prompt of one token drafts nothing in its first round; ties go to the better
parent; the repository's timed choice of the number of nodes is left to
`experiments.calibrate`; the training is that of `eagle_1`, with its departures.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="EAGLE-2: Faster Inference of Language Models with Dynamic Draft"
    " Trees", authors="Li, Wei, Zhang and Zhang", year=2024,
    arxiv="2406.16858", venue="EMNLP 2024")


@registration.register("eagle_2", papers=(PAPER,), family="features",
                       drafter=("target", "eagle_2"))
def eagle_2(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
            top_k: int = 10,
            controller: str | None = None,
            draft_cost: float = draft_chain.DRAFT_COST,
            check_cost: float = draft_chain.CHECK_COST):
  """Tree of the most likely drafts of a feature net."""
  model = feature_model.from_hyper(
      parts.target, "eagle_2", parts.head("eagle_2"))
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "eagle_2", parts, drafter, matching.SampleAndMatch())
