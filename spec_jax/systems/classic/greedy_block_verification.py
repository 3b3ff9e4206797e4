"""Greedy block verification: blocks whose debts are paid in later rounds.

Sun et al. 2025, Appendix (the greedy variant of Algorithm 2). A chain of a
fixed number of tokens from a small model, of which as many are kept as any
exact rule can keep of one block, given its drafts. What is emitted after a cut
then follows a changed target up to where the block would have ended; the rule's
state carries that from round to round, so that the text follows the target all
the same. Over whole texts it need not beat block verification. At temperature 0
it is plain matching. Departure: where a block begins before an older one has
ended, its target is the older one's changed target; how the paper lets changes
overlap could not be read.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.systems import registration
from spec_jax.verifiers import block
from spec_jax.verifiers import joint

PAPER = registry.Paper(
    title="Block Verification Accelerates Speculative Decoding",
    authors="Sun, Mendlovic, Leviathan, Aharoni, Beirami, Ro and Suresh",
    year=2024, arxiv="2403.10444", venue="ICLR 2025")


@registration.register("greedy_block_verification", papers=(PAPER,),
                       family="classic", drafter="draft")
def greedy_block_verification(parts: registration.Parts, *, depth: int = 8):
  """Draft-model chain, verified as a block that binds the next rounds."""
  drafter = draft_chain.draft_chain(parts.model("draft"), depth)
  return registration.compose(
      "greedy_block_verification", parts, drafter,
      block.GreedyBlockVerification(depth), walk=joint.walk)
