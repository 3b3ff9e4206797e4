"""VocabTrim: the draft's output head knows what the target tends to write.

Goel et al. 2025, Sec. 3: the target writes text from calibration prompts, the
tokens that it generated most often are counted, and the rows of all others are
left out of the draft's head; nothing is trained. The draft is EAGLE-2's net
with its tree and its rule, so the text is the target's. Count with `python -m
experiments.train --system=vocab_trim`. Departures: the end of text is among the
tokens whatever its count; of the paper's hosts only EAGLE-2 is built here.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="VOCABTRIM: Vocabulary Pruning for Efficient Speculative Decoding in"
    " LLMs", authors="Goel et al.", year=2025, arxiv="2506.22694")


@registration.register("vocab_trim", papers=(PAPER,), family="vocabulary",
                       drafter=("target", "eagle_2", "vocab_trim"))
def vocab_trim(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
               top_k: int = 10,
               controller: str | None = None,
               draft_cost: float = draft_chain.DRAFT_COST,
               check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 that drafts the tokens which the target writes most often."""
  parts.head("vocab_trim")
  model = feature_model.from_hyper(
      parts.target, "eagle_2", parts.head("eagle_2"), "vocab_trim")
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "vocab_trim", parts, drafter, matching.SampleAndMatch())
