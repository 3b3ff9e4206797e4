"""SpecDec++: a head on the draft model decides when to stop drafting.

Huang et al. 2025, Sec. 3 (the optimal policy is a threshold on the probability
that some drafted token will be rejected) and Sec. 4 (the head, its training on
soft labels min(1, p/q) with token mixing); verified by rejection. Bounds of 2
and 20 tokens and h = 0.7 as in the repository. Train the head with
`python -m experiments.train --system=specdec_pp`; other systems whose draft
model writes a chain have it as `controller="learned"`, see
`drafters.draft_chain`. Departures: the head's blocks have weights of their own
(the repository repeats one module); drafting does not stop at a drafted end of
text, which ends the row anyway.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="SpecDec++: Boosting Speculative Decoding via Adaptive Candidate"
    " Lengths", authors="Huang, Guo and Wang", year=2024, arxiv="2405.19715",
    venue="COLM 2025")


@registration.register("specdec_pp", papers=(PAPER,), family="lengths",
                       drafter=("draft", "specdec_pp"))
def specdec_pp(parts: registration.Parts, *, depth: int = 20,
               min_length: int = draft_chain.LEARNED_MIN_LENGTH,
               threshold: float = 0.7):
  """Draft-model chain that stops when a rejection is likely."""
  drafter = draft_chain.learned_chain(
      parts.model("draft"), parts.head("specdec_pp"), depth, "iid", min_length,
      threshold)
  return registration.compose(
      "specdec_pp", parts, drafter, recursive.Rejection())
