"""A discriminator that tells the laws of draft heads from the target's.

KOALA (Zhang et al. 2024, arXiv 2408.08146): beside the supervised loss the
heads minimise -log D(q), the discriminator -log D(p) - log(1 - D(q)). Both
descend on the same batch, each with the other held constant.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

# Key of its parameters beside those of the heads; a bundle does not keep them.
DISCRIMINATOR = "discriminator"


class Discriminator(nn.Module):
  """A perceptron on a law `f32[..., V]`: logit of its being the target's.

  Attributes:
    hidden: width of its hidden layer.
  """

  hidden: int = 128

  @nn.compact
  def __call__(self, law: jax.Array) -> jax.Array:
    x = nn.relu(nn.Dense(self.hidden, name="hidden")(law))
    return nn.Dense(1, name="out")(x)[..., 0]


# The one that trainers play against.
NETWORK = Discriminator()


def losses(network: Discriminator, params: Any, p_logits: jax.Array,
           q_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the heads and what the discriminator lose, `f32[...]` each.

  The first is a function of `q_logits` alone, the second of `params` alone:
  the gradient of any sum of them is the gradient of each player's own loss.

  Args:
    network: the discriminator.
    params: of it.
    p_logits: `f32[..., V]`, the target's.
    q_logits: `f32[..., V]`, the heads'.
  """
  held = jax.lax.stop_gradient
  judge = lambda params, logits: network.apply(
      {"params": params}, jax.nn.softmax(logits))
  fooled = -jax.nn.log_sigmoid(judge(held(params), q_logits))
  real = -jax.nn.log_sigmoid(judge(params, held(p_logits)))
  drafted = -jax.nn.log_sigmoid(-judge(params, held(q_logits)))
  return fooled, real + drafted


def labels(params: Any) -> Any:
  """Which player a parameter belongs to, for `optax.multi_transform`."""
  return {part: jax.tree.map(lambda leaf, part=part: part == DISCRIMINATOR,
                             tree) for part, tree in params.items()}


def apart(rule: optax.GradientTransformation
          ) -> optax.GradientTransformation:
  """The same rule for each player: no gradient clips the other's."""
  return optax.multi_transform({True: rule, False: rule}, labels)


def beside(params: dict[str, Any], vocab_size: int, key: jax.Array
           ) -> dict[str, Any]:
  """Parameters of heads or nets, with fresh ones of `NETWORK`.

  Args:
    params: by part.
    vocab_size: of the laws that it judges.
    key: from which the others were drawn.
  """
  return {**params, DISCRIMINATOR: init(
      NETWORK, vocab_size, jax.random.fold_in(key, 2))}


def init(network: Discriminator, vocab_size: int, key: jax.Array) -> Any:
  """Random parameters; the key is consumed."""
  return network.init(key, jnp.zeros((1, vocab_size)))["params"]
