"""Which forward passes a round holds.

A round is traced once with models that write down every call.
"""

import dataclasses
from typing import Any

import jax
from jax.extend import core as extend_core
import jax.numpy as jnp

from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import hosted

_STATIC = ("taps", "with_logits", "layers")


@dataclasses.dataclass(frozen=True)
class Call:
  """One forward: static parts, and the shapes of the arrays."""

  model: Any
  static: tuple[tuple[str, Any], ...]
  structure: Any
  shapes: tuple[tuple[tuple[int, ...], str], ...]
  num_tokens: int

  def arrays(self) -> Any:
    """Some of these shapes."""
    return jax.tree.unflatten(self.structure, [
        jnp.ones(shape, bool) if dtype == "bool" else jnp.zeros(shape, dtype)
        for shape, dtype in self.shapes])

  def forward(self, params: Any, arrays: Any, zero: jax.Array | int = 0
              ) -> types.ModelOut:
    """The call once more; `zero` is added to the tokens."""
    (tokens, *args), kwargs = arrays
    return self.model.forward(
        params, tokens + zero, *args, **kwargs, **dict(self.static))


class _Recorder:
  """A model that notes its calls."""

  def __init__(self, model, calls):
    self._model, self._calls = model, calls

  def __getattr__(self, name):
    return getattr(self._model, name)

  def forward(self, params, tokens, *args, **kwargs):
    static = tuple(sorted((k, kwargs[k]) for k in _STATIC if k in kwargs))
    arrays = {k: v for k, v in kwargs.items() if k not in _STATIC}
    leaves, structure = jax.tree.flatten(((tokens,) + args, arrays))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    self._calls.append(Call(
        self._model, static, structure, shapes, tokens.shape[1]))
    return self._model.forward(params, tokens, *args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Round:
  """What a round calls.

  Attributes:
    target: forwards of the target.
    draft: of the drafter's model; of a loop's body once.
    drafts_in_a_loop: whether the proposal holds a loop with matrix products in
      its body.
    after: what `core.system.step` returns, a state and a `types.StepInfo`, both
      abstract.
  """

  target: list[Call]
  draft: list[Call]
  drafts_in_a_loop: bool
  after: tuple[types.DecodeState, types.StepInfo]


def of_round(system: system_lib.System, params: types.Params,
             state: types.DecodeState) -> Round:
  """The forwards of one round, traced once and not run."""
  target, draft = [], []
  drafter = system.drafter
  if hasattr(drafter, "model"):
    drafter = dataclasses.replace(
        drafter, model=_Recorder(drafter.model, draft))
  traced = dataclasses.replace(
      system, target=_Recorder(system.target, target), drafter=drafter)
  state, draft_of_host = hosted.on_device(system, state)
  proposal, drafted = jax.make_jaxpr(
      lambda params, state: system_lib.propose(
          traced, params, state, draft_of_host), return_shape=True)(
              params, state)
  after = jax.eval_shape(
      lambda params, state, drafted: system_lib.verify(
          traced, params, state, *drafted), params, state, drafted)
  return Round(target, draft, _multiplies_in_a_loop(proposal.jaxpr), after)


def _multiplies_in_a_loop(program) -> bool:
  bodies = [equation.params["body_jaxpr"].jaxpr
            for equation in _equations(program)
            if equation.primitive.name == "while"]
  return any(equation.primitive.name == "dot_general"
             for body in bodies for equation in _equations(body))


def _equations(program):
  """Those of a jaxpr and of all jaxprs inside."""
  for equation in program.eqns:
    yield equation
    for inner in extend_core.jaxprs_in_params(equation.params):
      yield from _equations(inner)
