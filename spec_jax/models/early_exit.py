"""A target's first layers, and a small network that speaks for the rest."""

import dataclasses
from typing import Any

import jax

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import token_heads

STREAM, HIDDEN = "stream", "hidden"
_TARGET = "target"


@dataclasses.dataclass(frozen=True)
class EarlyExit:
  """A draft model made of the target; parameters are outside, by part.

  Its keys and values are those of the target's first layers, then those of the
  adapter. The target's output head reads what the adapter says.

  Attributes:
    target: the model.
    adapter: layers that read the residual stream in place of embeddings; see
      `adapter_of`.
    exit_layer: so many of the target's layers are run.
    part: the name of the adapter's parameters.
  """

  target: contract.LinenModel
  adapter: contract.LinenModel
  exit_layer: int
  part: str

  def __post_init__(self):
    num_layers = self.target.config.num_layers
    if not 1 <= self.exit_layer < num_layers:
      raise ValueError(
          f"exit_layer={self.exit_layer}, expected at least 1 and less than"
          f" the target's {num_layers} layers.")

  @property
  def vocab_size(self) -> int:
    return self.target.vocab_size

  def forward(self, params, tokens, positions, mask, caches=(None, None), *,
              past: types.FreshKV | None = None) -> types.ModelOut:
    """Runs tokens as far as the adapter's features.

    Args:
      params: by part, the target's under "target".
      tokens: `i32[B, T]`.
      positions: `i32[B, T]`.
      mask: see `core.protocols.TargetModel`.
      caches: the target's and the adapter's.
      past: in-flight keys and values.

    Returns:
      No logits; `taps["stream"]`, the residual stream at the exit, and
      `taps["hidden"]`, what the adapter makes of it, both `f[B, T, E]`.
    """
    exit_layer = self.exit_layer
    part = lambda which: None if past is None else past.layers(which)
    shallow = self.target.forward(
        params[_TARGET], tokens, positions, mask, caches[0],
        past=part(slice(exit_layer)), taps=(exit_layer,), with_logits=False,
        layers=(0, exit_layer))
    stream = shallow.taps[exit_layer]
    out = self.adapter.forward(
        params[self.part], tokens, positions, mask, caches[1],
        past=part(slice(exit_layer, None)), embeds=stream, taps=("final",),
        with_logits=False)
    return types.ModelOut(None, shallow.fresh.below(out.fresh), {
        STREAM: stream, HIDDEN: out.taps["final"]})

  def logits(self, params, hidden) -> jax.Array:
    """The adapter's features `f[..., E]` -> `f32[..., V]`."""
    return self.target.unembed(params[_TARGET], hidden)

  def empty_scratch(self, batch: int, num_tokens: int) -> types.FreshKV:
    """Zeroed room for the keys and values of in-flight tokens."""
    shallow = contract.empty_scratch(self.target, batch, num_tokens)
    return shallow.layers(slice(self.exit_layer)).below(
        self.adapter.empty_scratch(batch, num_tokens))


def adapter_of(target: contract.LinenModel, num_layers: int = 1,
               has_feed_forward: bool = True) -> contract.LinenModel:
  """Layers like the target's own, perhaps of attention alone."""
  fields = {} if has_feed_forward else {"mlp": "none"}
  return token_heads.encoder_of(target, num_layers, **fields)


def from_hyper(target: contract.LinenModel, part: str, hyper: dict[str, Any]
               ) -> EarlyExit:
  """The model of a trained part.

  Args:
    target: lends its layers.
    part: its name.
    hyper: what the bundle keeps of it: `exit_layer`, and arguments of
      `adapter_of`.
  """
  hyper = dict(hyper)
  exit_layer = hyper.pop("exit_layer")
  return EarlyExit(target, adapter_of(target, **hyper), exit_layer, part)
