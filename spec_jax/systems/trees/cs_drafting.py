"""Cascade speculative drafting: reviewed cheap proposals, cheaper ones behind.

Chen et al. 2023: vertical cascade (the draft model reviews Max-Gram instead of
decoding, with lenience), horizontal cascade (unreviewed Max-Gram at the late
positions), Max-Gram itself, and the repository's matrix K: `(13, 10), (0, 10)`
for one model and Max-Gram, lenience 3. The target's own draw decides, so the
text is exact at any temperature (the repository is greedy only). Train the
table of successors with `python -m experiments.train --system=cs_drafting`.
Departures: one neural drafter; suffixes longer than 16 tokens are not told
apart; the unreviewed tokens end exactly at the sum of the row.
"""

from spec_jax.core import registry
from spec_jax.drafters import cascade
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Cascade Speculative Drafting for Even Faster LLM Inference",
    authors="Chen et al.", year=2023, arxiv="2312.11462",
    venue="NeurIPS 2024")


@registration.register("cs_drafting", papers=(PAPER,), family="trees",
                       drafter=("draft", "cs_drafting"))
def cs_drafting(parts: registration.Parts, *, reviewed: int = 13,
                unreviewed: int = 10, proposed: int = 10,
                lenience: float = 3.0):
  """Chain of a two-level cascade, matched."""
  parts.head("cs_drafting")
  drafter = cascade.Cascade(
      parts.model("draft"), reviewed, unreviewed, proposed, lenience)
  return registration.compose(
      "cs_drafting", parts, drafter, matching.SampleAndMatch())
