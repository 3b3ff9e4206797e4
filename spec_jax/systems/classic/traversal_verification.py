"""Traversal verification: a draft tree judged from its leaves to its root.

Weng et al. 2025, Algorithm "Traversal Verification". A node is tested only
after everything below it failed, with a probability that takes its whole path
into account; keeping it keeps the path. Siblings are drawn without replacement
or iid. At temperature 0 it is plain matching. Departure: the default tree has
the published depth 5 but branches at two levels only; the published binary tree
is `branching=(2, 2, 2, 2, 2)`.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import joint
from spec_jax.verifiers import traversal

PAPER = registry.Paper(
    title="Traversal Verification for Speculative Tree Decoding",
    authors="Weng et al.", year=2025, arxiv="2505.12398",
    venue="NeurIPS 2025")

_RULES = {
    "without_replacement": traversal.TraversalWithoutReplacement(),
    "iid": traversal.TraversalVerification(),
}


@registration.register("traversal_verification", papers=(PAPER,),
                       family="classic", drafter="draft")
def traversal_verification(parts: registration.Parts, *,
                           branching: tuple[int, ...] = (2, 2, 1, 1, 1),
                           draw: str = "without_replacement"):
  """Static draft tree, verified leaves first."""
  if draw not in _RULES:
    raise ValueError(f"draw={draw!r}, expected one of {tuple(_RULES)}."
                     + registry.hint(draw, _RULES))
  drafter = draft_model.DraftModel(parts.model("draft"), branching, draw)
  return registration.compose(
      "traversal_verification", parts, drafter, _RULES[draw], walk=joint.walk)
