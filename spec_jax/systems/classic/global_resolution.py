"""Global Resolution: iid sequences, optimal selection by softmax rates.

Thomas and Pal 2025: the Algorithm of that name (H*, then the outer and inner
convex problems) inside SpecTr's loop over active sequences, as in their
end-to-end runs, which have 4 sequences of 8 tokens. Departures: what is
selected is thinned by its true law, so the output is exact where the paper is
within its tolerance; a fixed number of Newton steps; few tokens have a rate of
their own, the others share one with tokens of similar p/q.
"""

from spec_jax.core import registry
from spec_jax.systems import registration
from spec_jax.systems.classic import spectr
from spec_jax.verifiers import global_resolution as global_resolution_lib

PAPER = registry.Paper(
    title="Global Resolution: Optimal Multi-Draft Speculative Sampling via"
    " Convex Minimization", authors="Thomas and Pal", year=2025,
    arxiv="2511.15898", venue="ICLR 2026")


@registration.register("global_resolution", papers=(PAPER, spectr.PAPER),
                       family="classic", drafter="draft")
def global_resolution(parts: registration.Parts, *, num_sequences: int = 2,
                      depth: int = 4, num_tokens: int = 2, num_pools: int = 4,
                      num_steps: int = 12):
  """Independent draft sequences, optimal transport by convex minimisation."""
  rule = global_resolution_lib.GlobalResolution(
      num_tokens, num_pools, num_steps)
  return spectr.side_by_side(
      "global_resolution", parts, rule, num_sequences, depth)
