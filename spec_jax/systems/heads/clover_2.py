"""Clover-2: recurrent heads that regress the target's features.

Xiao et al. 2024, Sec. 3, and the repository, from which all sizes and weights
are: the target's residual stream before its final norm, fused with the token
that follows, goes through two decoder layers; from there one head projects a
guess of the target's next feature, and a second one, the same for all later
levels, after attending to each token drafted. Guesses become tokens by the
target's own output head. Trained on smooth L1 distance to the target's features
and cross-entropy with its laws, 10 to 1, level i weighted `0.7 ** i`. Drafts
EAGLE-1's static tree, with which the paper compares. Train it with `python -m
experiments.train --system=clover_2`. Departures: children are the top tokens,
matched against the target's own draw (the repository draws them without
replacement and tests them by rejection); what attention adds is in units of the
stream's root mean square (the repository: as it is); projections start as the
identity and the attention's values at zero, where the published initial values
are unknown to us; trained with AdamW's usual betas, 0.9 and 0.999, and
gradients of norm 1 at most (the repository: 0.9 and 0.95, clipped at 0.5).
Targets with LayerNorm are refused, as guesses have a norm without a bias.
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import clover_heads
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

ENCODER_LAYERS = 2
PAPER = registry.Paper(
    title="Clover-2: Accurate Inference for Regressive Lightweight Speculative"
    " Decoding", authors="Xiao et al.", year=2024, arxiv="2408.00264")


@registration.register("clover_2", papers=(PAPER,), family="heads",
                       drafter="clover_2")
def clover_2(parts: registration.Parts, *,
             branching: shapes.Shape = shapes.PUBLISHED["eagle"]):
  """Heads that guess features and attend to drafted tokens, a static tree."""
  network = clover_heads.CloverHeads.for_target(
      parts.target, **parts.head("clover_2"))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, expansion.Shape(branching),
      token_heads.encoder_of(parts.target, ENCODER_LAYERS))
  return registration.compose(
      "clover_2", parts, drafter, matching.SampleAndMatch())
