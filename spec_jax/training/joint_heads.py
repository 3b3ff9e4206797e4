"""Trains draft heads together with adapters of their target.

Cai et al. 2024, Sec. 2.2.2 (Medusa-2): the loss of the target's own head, and
`weight * s(step)` times the heads', level k from 1 on counting `decay ** k`;
heads learn faster than adapters. Of the texts a target wrote itself, its own
loss is the distance of its laws from those it had (Sec. 2.3.2). Only heads and
factors are trained; the factors' products are added to the weights first, so
that one forward gives the laws and the features alike.
"""

from collections.abc import Callable
import dataclasses
import math
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from spec_jax.models import contract
from spec_jax.models import lora
from spec_jax.training import loop
from spec_jax.training import losses
from spec_jax.training import token_heads

TWO_STAGES = "two_stages"
# Share of the steps that are over -> s, how much of the heads' loss counts.
RAMPS: MappingProxyType[str, Callable[[jax.Array], jax.Array]] = (
    MappingProxyType({
        "constant": jnp.ones_like,
        "linear": lambda share: share,
        "sine": lambda share: jnp.sin(share * math.pi / 2),
        TWO_STAGES: jnp.ones_like,  # First the heads alone, then both.
    }))


@dataclasses.dataclass(frozen=True)
class JointRecipe(token_heads.TokenHeadRecipe):
  """How heads and adapters are trained; `learning_rate` is the heads'.

  Attributes:
    rank: of the adapters.
    weight: of the heads' losses beside the target's own.
    ramp: a name of `RAMPS`.
    first_stage: share of the steps that train the heads alone, where the ramp
      is "two_stages".
    adapter_rate: learning rate of the adapters over that of the heads.
    is_distilled: whether the target's own loss is KL(before || now) in place of
      the cross-entropy of the text.
  """

  rank: int = 32
  weight: float = 0.2
  ramp: str = "sine"
  first_stage: float = 0.5
  adapter_rate: float = 0.25
  is_distilled: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.ramp not in RAMPS:
      raise ValueError(
          f"ramp={self.ramp!r}, expected one of {', '.join(RAMPS)}.")
    if not 0 < self.first_stage < 1:
      raise ValueError(
          f"first_stage={self.first_stage}, expected a share of the steps"
          " between 0 and 1.")
    if self.adversarial_weight:
      raise ValueError(
          f"adversarial_weight={self.adversarial_weight}, expected 0: a"
          " discriminator would learn from a target that changes.")

  @property
  def waiting(self) -> int:
    """Steps in which the adapters stay as they are."""
    if self.ramp != TWO_STAGES:
      return 0
    return round(self.first_stage * self.num_steps)


def recipe(options: JointRecipe, target: contract.LinenModel, frozen: Any
           ) -> loop.Recipe:
  """For `loop.fit`, whose frozen is `{"target": params}`; here the params.

  Both are of the target before.
  """
  heads = token_heads.assemble(options, target)

  def init(key):
    params = token_heads.start(options, heads, frozen, key)
    change = lora.init(jax.random.fold_in(key, 3), frozen, options.rank)
    return {**params, lora.CHANGE: change}

  def loss(params, frozen, tokens, key, step):
    return loss_of(
        options, heads, params, frozen["target"], tokens, step, key)

  return loop.Recipe(init, loss, optimizer(options), wants_step=True)


def optimizer(options: JointRecipe) -> optax.GradientTransformation:
  """One for the heads, a slower one for the adapters, which may wait."""
  rate = options.adapter_rate * options.learning_rate
  return optax.multi_transform(
      {False: token_heads.optimizer(options, options.learning_rate),
       True: token_heads.optimizer(options, rate, options.waiting)},
      lambda params: {key: key == lora.CHANGE for key in params})


def loss_of(options: JointRecipe, heads: token_heads.Heads, params: Any,
            frozen: Any, tokens: jax.Array, step: jax.Array, key: jax.Array
            ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Both losses together, in nats; and each of them.

  Args:
    options: gives weights and labels.
    heads: from `token_heads.assemble`.
    params: of heads and adapters.
    frozen: of the target as it was.
    tokens: `i32[B, T]`.
    step: `i32[]`, of how many there were before.
    key: of dropout.
  """
  target_params = token_heads.target_params(params, frozen)
  out = heads.read(target_params, tokens, with_logits=True)
  before = heads.target.score(frozen, tokens).logits
  if options.is_distilled:
    own = losses.forward_kl(before, out.logits)
  else:
    own = losses.next_token(out.logits, tokens)
  drafts, metrics = token_heads.loss_given(
      options, heads, params, target_params, out, tokens, key)
  scale = options.weight * options.decay * ramp(options, step)
  return own + scale * drafts, metrics | {
      "own": own, "heads": drafts, "heads_weight": scale,
      "unchanged": losses.agreement(before, out.logits)}


def ramp(options: JointRecipe, step: jax.Array) -> jax.Array:
  """s, from 0 to 1."""
  share = jnp.asarray(step, jnp.float32) / options.num_steps
  return RAMPS[options.ramp](share)
