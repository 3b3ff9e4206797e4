"""Medusa-2: heads trained together with their target, which they change.

Cai et al. 2024, Sec. 2.2.2 (joint training: the target's own loss beside the
heads', different learning rates, a warm-up of the heads) and 2.3.2 (without the
target's data its own loss is the distance to what it was). The target is
changed by LoRA adapters, so the system brings a target of its own: its text is
exactly that target's, not that of the model it began as. Compare it with
`systems.bundle_of("medusa_2", bundle)`. Tree: `vicuna_7b_stage2` of the
repository. Train heads and adapters with `python -m experiments.train
--system=medusa_2`. Departures: those of `medusa_1`, its recipe's heads among
them; adapters on all linear maps of the layers, their product not scaled and
without dropout; of the shipped target they have rank 8, not 32, and half of the
text is a corpus, on which the distance to what the target was stands for its
own loss as well.
"""

import functools

from spec_jax.drafters import token_head_drafter
from spec_jax.models import lora
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.systems.heads import medusa_1
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching


@registration.register(
    "medusa_2", papers=(medusa_1.PAPER,), family="heads", drafter="medusa_2",
    own_target=functools.partial(lora.adapted, name="medusa_2"))
def medusa_2(parts: registration.Parts, *,
             branching: shapes.Shape = shapes.PUBLISHED["vicuna_7b_stage2"]):
  """Independent heads trained with their target, a static tree."""
  network = token_heads.MedusaHeads.for_target(
      parts.target, **parts.head("medusa_2"))
  plan = expansion.Shape(shapes.within(branching, network.num_levels))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, plan)
  return registration.compose(
      "medusa_2", parts, drafter, matching.SampleAndMatch())
