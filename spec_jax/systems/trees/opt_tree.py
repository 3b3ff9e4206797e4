"""OPT-Tree: each round the tree of the largest expected accepted length.

Wang et al. 2024, Sec. 3 and Algorithm 1. Nodes are worth the product of draft
probabilities on their path; level by level the n best are expanded by their n
most likely children, until a level adds no more than `min_gain` to the expected
length; the n best of all levels are the tree. Matched against the target's own
draw. Departures: the stopping rule is tested on the level just drawn, and that
level takes part in the final choice (the published code does both one level
late); `budget` counts the root, so the default is the published 50 drafts;
`top_k` and `width` below the number of drafts bound the cost of a level.
"""

from spec_jax.core import registry
from spec_jax.drafters import grown_draft_model
from spec_jax.systems import registration
from spec_jax.trees import likelihood
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="OPT-Tree: Speculative Decoding with Adaptive Draft Tree Structure",
    authors="Wang et al.", year=2024, arxiv="2406.17276", venue="TACL 2025")


@registration.register("opt_tree", papers=(PAPER,), family="trees",
                       drafter="draft")
def opt_tree(parts: registration.Parts, *, budget: int = 51,
             depth: int = 10, min_gain: float = 0.5,
             width: int | None = None, top_k: int | None = None):
  """Tree of the largest expected length, grown while it pays."""
  policy = likelihood.MostLikely(
      budget, width or budget - 1, depth, top_k or budget - 1,
      min_gain)
  drafter = grown_draft_model.GrownDraftModel(parts.model("draft"), policy)
  return registration.compose(
      "opt_tree", parts, drafter, matching.SampleAndMatch())
