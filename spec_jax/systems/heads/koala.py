"""KOALA: deeper draft heads, trained against a discriminator.

Zhang et al. 2024, Sec. 3: several layers in place of a head's one, and beside
the supervised loss an adversarial one that makes a head's laws look like the
target's. The host is Medusa (`koala_eagle` has the other): residual blocks are
added to each head and start at zero, so that training begins where the host's
does; the tree and the verification are those of `medusa_1`. Train the heads
with `python -m experiments.train --system=koala`. Departures: those of
`medusa_1`; the number of blocks (three, one more than the recipe of the host
has), the discriminator (one hidden layer, on probabilities), its weight of 0.1
and updates of both players on the same batch are our choice, where the
published ones are not known to us.
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="KOALA: Enhancing Speculative Decoding for LLM via Multi-Layer Draft"
    " Heads with Adversarial Learning", authors="Zhang, Zhao and Chen",
    year=2024, arxiv="2408.08146")


@registration.register("koala", papers=(PAPER,), family="heads",
                       drafter="koala")
def koala(parts: registration.Parts, *,
          branching: shapes.Shape = shapes.PUBLISHED["mc_sim_7b_63"]):
  """Multi-layer Medusa heads with adversarial training, a static tree."""
  network = token_heads.MedusaHeads.for_target(
      parts.target, **parts.head("koala"))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, expansion.Shape(branching))
  return registration.compose(
      "koala", parts, drafter, matching.SampleAndMatch())
