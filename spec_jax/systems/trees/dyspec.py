"""DySpec: the next draw goes where it is most likely to be reached.

Xiong et al. 2024, Sec. 4: Algorithm 1 (a budget of 64 draws), Algorithm 2 (a
threshold instead); recursive rejection without replacement. Draft
temperature 0.6 as in the experiments. Departures: the draws of a level are made
together, which gives the tree of the published one-by-one loop in `depth`
instead of 64 draft forwards; `depth`, `width` and `top_k` bound levels, nodes
expanded per level and draws per node (the published loop has no such bounds;
its trees of 64 are less than 10 deep); the pseudo-code's `while v < t` is read
as `>=`. `budget` counts the root.
"""

from spec_jax.core import registry
from spec_jax.drafters import grown_draft_model
from spec_jax.systems import registration
from spec_jax.trees import dynamic
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="DySpec: Faster Speculative Decoding with Dynamic Token Tree"
    " Structure", authors="Xiong et al.", year=2024, arxiv="2410.11744",
    venue="World Wide Web 2025")


@registration.register("dyspec", papers=(PAPER,), family="trees",
                       drafter="draft")
def dyspec(parts: registration.Parts, *, budget: int = 65, depth: int = 10,
           width: int = 16, top_k: int = 16, threshold: float = 0.0,
           draft_temperature: float | None = 0.6):
  """Sampled tree that follows the draft's confidence."""
  policy = dynamic.MostReached(
      budget, width, depth, top_k, threshold, draft_temperature)
  drafter = grown_draft_model.GrownDraftModel(parts.model("draft"), policy)
  return registration.compose(
      "dyspec", parts, drafter, recursive.RecursiveWithoutReplacement())
