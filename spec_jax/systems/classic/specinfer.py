"""SpecInfer: a token tree of iid drafts, multi-step speculative sampling.

Miao et al. 2024, Sec. 3 (expansion-based tree) and Algorithm 2 (verification).
Children of a node are independent draws of one small model; at temperature 0
they are its most likely tokens. Departures: duplicate siblings stay separate
nodes (merging them would change the law), children are tried in draw order
instead of a random order (the draws are exchangeable, the law is the same).
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="SpecInfer: Accelerating Generative Large Language Model Serving with"
    " Tree-based Speculative Inference and Verification",
    authors="Miao et al.", year=2023, arxiv="2305.09781", venue="ASPLOS 2024")


@registration.register("specinfer", papers=(PAPER,), family="classic",
                       drafter="draft")
def specinfer(parts: registration.Parts, *,
              branching: tuple[int, ...] = (1, 1, 3, 1, 1)):
  """Static token tree of iid drafts, recursive rejection."""
  drafter = draft_model.DraftModel(parts.model("draft"), branching, "iid")
  return registration.compose(
      "specinfer", parts, drafter, recursive.Recursive())
