"""SpecHub: binary trees whose drafts meet in the most likely token.

Sun et al. 2024 (pairs around the hub, four allocations in order) and the
repository's binary trees of depth 2 to 5; a node with one child is verified by
speculative sampling. Departures: siblings stand in one order, hub first, and
the coin that orders the paper's pairs is summed out of the emitted law; a hub
of almost all target mass is not accepted outright, as one port of the code
does, since that is not exact.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import greedy_drafts

PAPER = registry.Paper(
    title="SpecHub: Provable Acceleration to Multi-Draft Speculative Decoding",
    authors="Sun et al.", year=2024, arxiv="2411.05289", venue="EMNLP 2024")


@registration.register("spechub", papers=(PAPER,), family="classic",
                       drafter="draft")
def spechub(parts: registration.Parts, *,
            branching: tuple[int, ...] = (2, 2, 2)):
  """Binary tree of hub pairs, sparse optimal transport."""
  drafter = draft_model.DraftModel(parts.model("draft"), branching, "greedy")
  return registration.compose(
      "spechub", parts, drafter, greedy_drafts.SpecHub())
