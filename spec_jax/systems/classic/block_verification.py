"""Block verification: a chain of drafts judged as one block.

Sun et al. 2025, Algorithm 2. A chain of a fixed number of tokens from a small
model; how many are kept is decided jointly, so that in expectation never fewer
are than by rejection token by token, and the text follows the target all the
same. At temperature 0 it is plain matching. With a `controller` by name blocks
have up to `depth` tokens, see `drafters.draft_chain`. Departures: none. The
greedy variant is the system `greedy_block_verification`.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.systems import registration

PAPER = registry.Paper(
    title="Block Verification Accelerates Speculative Decoding",
    authors="Sun, Mendlovic, Leviathan, Aharoni, Beirami, Ro and Suresh",
    year=2024, arxiv="2403.10444", venue="ICLR 2025")


@registration.register("block_verification", papers=(PAPER,),
                       family="classic", drafter="draft",
                       extra=draft_chain.learned_part)
def block_verification(parts: registration.Parts, *, depth: int = 8,
                       controller: str | None = None,
                       draft_cost: float = draft_chain.DRAFT_COST,
                       check_cost: float = draft_chain.CHECK_COST):
  """Draft-model chain, verified as a block."""
  drafter = draft_chain.draft_chain(
      parts.model("draft"), depth, "iid", controller, draft_cost, check_cost,
      parts.head)
  return registration.compose_chain(
      "block_verification", parts, drafter, "iid")
