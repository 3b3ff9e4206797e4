"""SpecTr: sequences drafted side by side, verified by K-SEQ.

Sun et al. 2023: K sequences of L tokens, drawn independently; all that agree
with the text so far stay active (their 8 by 4 and 8 by 8 by hyper-parameters);
K-SEQ (Algorithm 2) at each position, its rho solved anew for the number of
active sequences. Departure: rho is found by a fixed number of bisections, from
above, where every rho is exact.
"""

import dataclasses

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import active_set
from spec_jax.verifiers import k_seq

PAPER = registry.Paper(
    title="SpecTr: Fast Speculative Decoding via Optimal Transport",
    authors="Sun et al.", year=2023, arxiv="2310.15141",
    venue="NeurIPS 2023")


@registration.register("spectr", papers=(PAPER,), family="classic",
                       drafter="draft")
def spectr(parts: registration.Parts, *, num_sequences: int = 4,
           depth: int = 4):
  """Independent draft sequences, sequential selection with a shared target."""
  return side_by_side("spectr", parts, k_seq.KSeq(), num_sequences, depth)


def side_by_side(name: str, parts: registration.Parts, rule,
                 num_sequences: int, depth: int):
  """A system of independent sequences, all active ones shown to the rule."""
  drafter = draft_model.DraftModel(
      parts.model("draft"), (num_sequences,) + (1,) * (depth - 1), "iid")
  system = registration.compose(name, parts, drafter, rule)
  return dataclasses.replace(
      system, walk=active_set.ActiveSetWalk(num_sequences))
