"""Block verification: a chain of drafts judged as one block.

Sun et al. 2025, Algorithm 2. A chain of a fixed number of tokens from a small
model; how many are kept is decided jointly, so that in expectation never fewer
are than by rejection token by token, and the text follows the target all the
same. At temperature 0 it is plain matching. Departures: none. The greedy
variant is the system `greedy_block_verification`.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import block
from spec_jax.verifiers import joint

PAPER = registry.Paper(
    title="Block Verification Accelerates Speculative Decoding",
    authors="Sun, Mendlovic, Leviathan, Aharoni, Beirami, Ro and Suresh",
    year=2024, arxiv="2403.10444", venue="ICLR 2025")


@registration.register("block_verification", papers=(PAPER,),
                       family="classic", drafter="draft")
def block_verification(parts: registration.Parts, *, depth: int = 8):
  """Draft-model chain, verified as a block."""
  drafter = draft_model.DraftModel(parts.model("draft"), (1,) * depth, "iid")
  return registration.compose(
      "block_verification", parts, drafter, block.BlockVerification(),
      walk=joint.walk)
