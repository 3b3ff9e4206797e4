"""Hydra++: deeper heads behind a layer that has seen the whole text.

Ankner et al. 2024, Sec. 4: several blocks a head, distillation from the
target's own laws, and prefix attention, one decoder layer with a final norm
over the target's features of all committed text, once a round. Its keys and
values are those of committed features only, so a round commits all it accepted
and takes nothing back. Train it with `python -m experiments.train
--system=hydra_pp`. Departures: as in `hydra`; the blocks of a head have weights
of their own (the repository repeats one module); heads of our recipe have two
blocks and end in the target's output head (the paper: four, and an output head
each), and learn at twice the published rate.
"""

from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.systems.heads import hydra
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

PREFIX_LAYERS = 1


@registration.register("hydra_pp", papers=(hydra.PAPER,), family="heads",
                       drafter="hydra_pp")
def hydra_pp(parts: registration.Parts, *,
             branching: shapes.Shape = shapes.PUBLISHED["mc_sim_7b_63"]):
  """Hydra behind a prefix-attention layer, taught by the target."""
  network = token_heads.HydraHeads.for_target(
      parts.target, **parts.head("hydra_pp"))
  plan = expansion.Shape(shapes.within(branching, network.num_levels))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, plan,
      token_heads.encoder_of(parts.target, PREFIX_LAYERS))
  return registration.compose(
      "hydra_pp", parts, drafter, matching.SampleAndMatch())
