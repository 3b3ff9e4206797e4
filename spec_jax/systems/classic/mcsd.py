"""Multi-candidate speculative decoding: several candidates at each step.

Yang et al. 2024, Sec. 3.2 (with replacement) and 3.3 (without). Complete tree
given by the number of candidates per depth. Departure: at draft temperature 0
the published code verifies deterministic top-k candidates as if they had been
sampled, which biases the output; here top-k candidates are only matched.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Multi-Candidate Speculative Decoding", authors="Yang et al.",
    year=2024, arxiv="2401.06706")

_RULES = {
    "without_replacement": recursive.RecursiveWithoutReplacement(),
    "iid": recursive.Recursive(),
    "top_k": matching.SampleAndMatch(),
}


@registration.register("mcsd", papers=(PAPER,), family="classic",
                       drafter="draft")
def mcsd(parts: registration.Parts, *,
         branching: tuple[int, ...] = (4, 2, 2),
         draw: str = "without_replacement"):
  """Complete tree of candidates, recursive rejection."""
  if draw not in _RULES:
    raise ValueError(f"draw={draw!r}, expected one of {tuple(_RULES)}."
                     + registry.hint(draw, _RULES))
  drafter = draft_model.DraftModel(parts.model("draft"), branching, draw)
  return registration.compose("mcsd", parts, drafter, _RULES[draw])
