"""Gumbel-coupled speculation: draft and target sample with the same noise.

Daliri et al. 2024, Sec. 3 (drafter-invariant speculative decoding). The emitted
token is always the target's own Gumbel sample, so the text equals
autoregressive sampling with the same seed, token for token, whatever the draft
model. Departures: none.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import rules

PAPER = registry.Paper(
    title="Coupling without Communication and Drafter-Invariant Speculative"
    " Decoding", authors="Daliri, Musco and Suresh", year=2024,
    arxiv="2408.07978")


@registration.register("gumbel_coupled", papers=(PAPER,), family="classic",
                       drafter="draft")
def gumbel_coupled(parts: registration.Parts, *, depth: int = 5):
  """Draft-model chain on the target's noise; same text as no draft at all."""
  drafter = draft_model.DraftModel(
      parts.model("draft"), (1,) * depth, "coupled")
  return registration.compose(
      "gumbel_coupled", parts, drafter, rules.SampleAndMatch())
