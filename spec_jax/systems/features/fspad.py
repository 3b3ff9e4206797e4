"""FSPAD: the token samples the feature, and guess and speech part at the end.

Gui et al. 2024: in EAGLE-2's net the linear map of embedding and feature is
replaced by feature sampling, where the embedding gates the feature in a wider
space; partial alignment distillation regresses the target's feature with one
output of the net and learns the target's law with another. Tree (60 nodes,
depth 6) and rule are EAGLE-2's: children are the most likely tokens, matched
with the target's own draw. Train with `python -m experiments.train
--system=fspad`, by EAGLE's recipe and losses. Departures: the formulas were not
at hand, only the abstract (arXiv repository page) and a digest, so that this is
a reconstruction: a space twice as wide, `f + W (U f * silu(G e))`, and the
outputs `x + A x` and `x + B x`; the regressed one is handed on. Text, start,
clipping and rates of the training depart as in `eagle_1`. The last prompt token
is the first root, so a prompt of one token drafts nothing in its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Boosting Lossless Speculative Decoding via Feature Sampling and"
    " Partial Alignment Distillation", authors="Gui et al.", year=2024,
    arxiv="2408.15562")


@registration.register("fspad", papers=(PAPER,), family="features",
                       drafter=("target", "fspad"))
def fspad(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
          top_k: int = 10,
          controller: str | None = None,
          draft_cost: float = draft_chain.DRAFT_COST,
          check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 with sampled features and two outputs."""
  model = feature_model.from_hyper(parts.target, "fspad", parts.head("fspad"))
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "fspad", parts, drafter, matching.SampleAndMatch())
