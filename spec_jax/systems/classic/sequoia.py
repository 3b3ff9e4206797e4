"""Sequoia: the best static tree for a measured acceptance, sized by hardware.

Chen et al. 2024, Sec. 3.1 (dynamic program over trees; acceptance depends on
the child's rank alone), 3.2 (children without replacement, recursive
rejection), 3.3 (size and depth of the least time per token, from measured
forward times). `python -m experiments.calibrate` measures both. Departures:
where the draft's law is used up, no further child is drawn (the paper goes on
with a uniform draw of the tokens not yet tried); truncation applies to the
draft's law too, as to the target's.
"""

from collections.abc import Sequence

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.trees import sequoia as sequoia_lib
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Sequoia: Scalable, Robust, and Hardware-aware Speculative Decoding",
    authors="Chen et al.", year=2024, arxiv="2402.12374", venue="NeurIPS 2024")


@registration.register("sequoia", papers=(PAPER,), family="classic",
                       drafter="draft")
def sequoia(parts: registration.Parts, *, budget: int = 64, depth: int = 10,
            acceptance: Sequence[float] = sequoia_lib.ACCEPTANCE,
            draft_cost: float = 0.0,
            target_costs: Sequence[tuple[int, float]] = ()):
  """Static tree of the dynamic program, drawn without replacement."""
  if target_costs:
    budget, depth = sequoia_lib.best_size(
        acceptance, depth, draft_cost, target_costs)
  drafter = draft_model.DraftModel(
      parts.model("draft"),
      sequoia_lib.best_shape(acceptance, budget, depth),
      "without_replacement")
  return registration.compose(
      "sequoia", parts, drafter, recursive.RecursiveWithoutReplacement())
