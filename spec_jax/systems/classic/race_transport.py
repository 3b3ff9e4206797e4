"""Race transport: a token tree of iid drafts, verified by optimal transport.

Proposed here; no paper. The tree is that of SpecInfer (Miao et al. 2024, Sec.
3): children are independent draws of one model. Verification is the canonical
two-step scheme of Khisti et al. (Sec. 3): a race selects one child, speculative
sampling accepts it or not. The race reaches the optimal acceptance of iid
drafts (Hu et al., arXiv 2502.18779, Theorem 3) at full vocabulary without an
enumeration, a truncation or a solver that iterates. Departure from Khisti et
al.: the selection is a martingale coupling instead of a linear program.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import race_transport as rule

PAPER = registry.Paper(
    title="Multi-Draft Speculative Sampling: Canonical Decomposition and"
    " Theoretical Limits", authors="Khisti et al.", year=2024,
    arxiv="2410.18234", venue="ICLR 2025")


@registration.register("race_transport", papers=(PAPER,), family="classic",
                       drafter="draft")
def race_transport(parts: registration.Parts, *,
                   branching: tuple[int, ...] = (1, 1, 3, 1, 1),
                   num_nodes: int = rule.RaceTransport.num_nodes):
  """Static token tree of iid drafts, optimal-transport verification."""
  drafter = draft_model.DraftModel(parts.model("draft"), branching, "iid")
  return registration.compose("race_transport", parts, drafter,
                              rule.RaceTransport(num_nodes))
