"""Token Recycling: a tree from what the target last thought of each token.

Luo et al. 2024, arXiv:2408.08696, Sec. 3 (adjacency matrix, tree "2.2.2" with
80 nodes, merging of both in each round) and its repository. Departures: a token
that was never fed has no successors instead of the made-up ones of a matrix of
zeros; where a token was fed twice in a round the last node in breadth-first
order counts (undefined in the repository); sampling matches the target's own
draw (the repository is greedy). The matrix outlives a request ("hot start")
with its executor.
"""

from spec_jax.core import registry
from spec_jax.drafters import token_recycling as drafter_lib
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Turning Trash into Treasure: Accelerating Inference of Large"
    " Language Models with Token Recycling", authors="Luo et al.", year=2024,
    arxiv="2408.08696", venue="ACL 2025")


@registration.register("token_recycling", papers=(PAPER,), family="retrieval")
def token_recycling(parts: registration.Parts, *, width: int = 8,
                    depth: int = 6):
  """Static tree over a table of recent successors, on the device."""
  drafter = drafter_lib.TokenRecycling(parts.target.vocab_size, width, depth)
  return registration.compose(
      "token_recycling", parts, drafter, matching.SampleAndMatch())
