"""Importance-sampled selection of a draft, then speculative sampling of it.

Khisti et al. 2024, Sec. 3 (the optimal multi-draft rule is a selection of one
draft followed by single-draft verification) and Sec. 4 (faster weights by a
truncated program). Independent sequences, of which those that
agree with the text stay active. Departures: the weights of the truncated
program are a projection instead of a linear program, pairs outside the
truncation have fixed weights by the clipped difference of p/q, the alphabet is
not cut, all drafts come from one model at one temperature.
"""

from spec_jax.core import registry
from spec_jax.systems import registration
from spec_jax.systems.classic import spectr
from spec_jax.verifiers import canonical_is as canonical_is_lib

PAPER = registry.Paper(
    title="Multi-Draft Speculative Sampling: Canonical Decomposition and"
    " Theoretical Limits", authors="Khisti et al.", year=2024,
    arxiv="2410.18234", venue="ICLR 2025")


@registration.register("canonical_is", papers=(PAPER, spectr.PAPER),
                       family="classic", drafter="draft")
def canonical_is(parts: registration.Parts, *, num_sequences: int = 2,
                 depth: int = 4, num_free: int = 40):
  """Independent draft sequences, weighted selection in two steps."""
  rule = canonical_is_lib.CanonicalIS(num_free=num_free)
  return spectr.side_by_side(
      "canonical_is", parts, rule, num_sequences, depth)
