"""The chain of a draft model: of one length, or as long as a controller wants.

For rules that are exact whatever length the chain of a row has, as long as the
length was decided by what had been drafted before (see `protocols.Controller`).
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from spec_jax import controllers
from spec_jax.controllers import cost_model
from spec_jax.controllers import fixed
from spec_jax.controllers import learned
from spec_jax.drafters import chain_draft_model

# Where nothing was measured; `python -m experiments.calibrate` measures both.
DRAFT_COST = cost_model.CostModel.draft_cost
CHECK_COST = cost_model.CostModel.check_cost
# Of the learned controller: its trained part and, as SpecDec++ has it (Huang et
# al. 2025, the repository), the tokens that are drafted at least.
LEARNED_PART = "specdec_pp"
LEARNED_MIN_LENGTH = 2
_FIXED = fixed.Fixed()


def draft_chain(model: Any, depth: int, draw: str = "iid",
                controller: str | None = None, draft_cost: float = DRAFT_COST,
                check_cost: float = CHECK_COST,
                head_of: Callable[[str], Mapping[str, Any]] | None = None
                ) -> Any:
  """A drafter of chains.

  Those of one length are written by the same loop on the device: it compiles in
  two thirds of the time of a forward for each token, and runs no slower.

  Args:
    model: a `protocols.TargetModel`.
    depth: most tokens; without a controller always so many.
    draw: how they are drawn, see `ChainDraftModel`.
    controller: one of `controllers.names()`, "learned", or None for `depth`
      tokens. The learned one needs `head_of`, and with it the drafter's
      parameters are those that `learned_part` names, by key.
    draft_cost: time of a draft forward over that of a target forward of one
      token; only controllers that weigh costs look at it.
    check_cost: what one more token adds to a target forward, likewise.
    head_of: gives the hyper-parameters of the bundle's trained part of a name,
      where `model` is the draft model that these parts were trained with.

  Raises:
    ValueError: for an unknown controller, a cost below 0, or where the bundle
      has no trained part for the learned controller.
  """
  if controller == controllers.LEARNED and head_of is not None:
    return learned_chain(model, head_of(LEARNED_PART), depth, draw)
  return chain_draft_model.ChainDraftModel(
      model, controller_of(controller, depth, draft_cost, check_cost), depth,
      draw)


def learned_chain(model: Any, head: Mapping[str, Any], depth: int,
                  draw: str = "iid", min_length: int = LEARNED_MIN_LENGTH,
                  threshold: float = learned.LearnedAcceptance.threshold
                  ) -> Any:
  """A drafter of chains that end when a rejection is likely.

  The head is asked about a token with the features of its forward, which is
  made to draw the next one: what ends a chain was known before its last token
  was drawn, so that every rule of chains of a controller stays exact.

  Args:
    model: the draft model, whose parameters go by "draft".
    head: hyper-parameters of a `learned.AcceptanceHead` on its features.
    depth: most tokens.
    draw: how they are drawn, see `ChainDraftModel`.
    min_length: tokens that are drafted in any case.
    threshold: see `learned.LearnedAcceptance`.

  Raises:
    ValueError: for a bad hyper-parameter.
  """
  controller = learned.LearnedAcceptance(
      learned.AcceptanceHead(**head), threshold)
  return chain_draft_model.ChainDraftModel(
      model, controller, depth, draw, min(min_length, depth),
      ("draft", LEARNED_PART))


def learned_part(hyper: Mapping[str, Any]) -> tuple[str, ...]:
  """The trained part that a `controller` among hyper-parameters reads."""
  is_learned = hyper.get("controller") == controllers.LEARNED
  return (LEARNED_PART,) if is_learned else ()


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
  if name == controllers.LEARNED:
    raise ValueError(
        f"controller={name!r}, expected one of {controllers.names()}: its head"
        " reads the features of the bundle's draft model, and this system"
        " drafts with something else.")
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
