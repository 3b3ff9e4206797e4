"""Medusa-1: heads on the frozen target, each for one token further ahead.

Cai et al. 2024, Sec. 2.1.1 (the heads), 2.1.2 (one static tree of the heads'
top tokens, the same ones below every node of a level) and 2.2.1 (training with
a frozen target: cross-entropy, head i weighted `0.8 ** i`). The tree is
`mc_sim_7b_63` of the repository, as many levels as there are heads. Train the
heads with `python -m experiments.train --system=medusa_1`. Departures: verified
by matching the target's own draw, which is exact; the paper's typical
acceptance is not, and is there as a rule (`verifiers.lossy.typical`). The
pending token is the target's draw at every temperature. The paper's layers
start with zero weights and PyTorch's random biases; here the biases start at
zero too. Our recipe trains four heads (published: five, of which the tree asks
four) of two blocks that end in the target's output head (published: one block,
and an output head each).
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Medusa: Simple LLM Inference Acceleration Framework with Multiple"
    " Decoding Heads", authors="Cai et al.", year=2024, arxiv="2401.10774",
    venue="ICML 2024")


@registration.register("medusa_1", papers=(PAPER,), family="heads",
                       drafter="medusa_1")
def medusa_1(parts: registration.Parts, *,
             branching: shapes.Shape = shapes.PUBLISHED["mc_sim_7b_63"]):
  """Independent heads on the target's last feature, a static tree."""
  network = token_heads.MedusaHeads.for_target(
      parts.target, **parts.head("medusa_1"))
  plan = expansion.Shape(shapes.within(branching, network.num_levels))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, plan)
  return registration.compose(
      "medusa_1", parts, drafter, matching.SampleAndMatch())
