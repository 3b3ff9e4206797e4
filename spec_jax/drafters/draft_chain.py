"""The chain of a draft model: of one length, or as long as a controller wants.

For rules that are exact whatever length the chain of a row has, as long as the
length was decided by what had been drafted before (see `protocols.Controller`).
"""

from typing import Any

from spec_jax import controllers
from spec_jax.controllers import cost_model
from spec_jax.controllers import fixed
from spec_jax.drafters import chain_draft_model

# Where nothing was measured; `python -m experiments.calibrate` measures both.
DRAFT_COST = cost_model.CostModel.draft_cost
CHECK_COST = cost_model.CostModel.check_cost
_FIXED = fixed.Fixed()


def draft_chain(model: Any, depth: int, draw: str = "iid",
                controller: str | None = None, draft_cost: float = DRAFT_COST,
                check_cost: float = CHECK_COST) -> Any:
  """A drafter of chains.

  Those of one length are written by the same loop on the device: it compiles in
  two thirds of the time of a forward for each token, and runs no slower.

  Args:
    model: a `protocols.TargetModel`.
    depth: most tokens; without a controller always so many.
    draw: how they are drawn, see `ChainDraftModel`.
    controller: one of `controllers.names()`, or None for `depth` tokens.
    draft_cost: time of a draft forward over that of a target forward of one
      token; only controllers that weigh costs look at it.
    check_cost: what one more token adds to a target forward, likewise.

  Raises:
    ValueError: for an unknown controller, or a cost below 0.
  """
  return chain_draft_model.ChainDraftModel(
      model, controller_of(controller, depth, draft_cost, check_cost), depth,
      draw)


def controller_of(name: str | None, depth: int,
                  draft_cost: float = DRAFT_COST,
                  check_cost: float = CHECK_COST,
                  default: Any = _FIXED) -> Any:
  """The controller of a chain of at most `depth` tokens.

  Args:
    name: one of `controllers.names()`, or None for the default.
    depth: most tokens.
    draft_cost: see `draft_chain`.
    check_cost: likewise.
    default: a controller.

  Raises:
    ValueError: for an unknown controller, or a cost below 0.
  """
  if name is None:
    return default
  if not (draft_cost >= 0 and check_cost >= 0):  # Not even NaN.
    raise ValueError(
        f"draft_cost={draft_cost} and check_cost={check_cost}, expected >= 0.")
  # The target's forward has `depth` places for drafts, full or empty: what a
  # shorter chain saves are draft forwards, and beside such a forward.
  beside = 1 + depth * check_cost
  return controllers.get(name, draft_cost=draft_cost / beside)


def refuse_tree(controller: str, name: str, value: Any) -> None:
  """Raises a ValueError: with `name=value` more than one chain is drafted."""
  raise ValueError(
      f"controller={controller!r} and {name}={value}, expected 1: it decides"
      " about a single chain.")
