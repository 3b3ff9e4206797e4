"""Hydra: Medusa's heads, made to read the tokens drafted before theirs.

Ankner et al. 2024, Sec. 3 (sequentially dependent heads): head i sees the
target's last feature and the embeddings of the pending token and of the i
drafted ones on its path; trained on the text with a frozen target. Children of
a node are the top tokens of its own law, in Medusa's tree `mc_sim_7b_63`, the
repository's default. Train the heads with `python -m experiments.train
--system=hydra`. Departures: verified by matching the target's own draw (the
repository: greedy or typical acceptance, the pending token always the most
likely one), so the text is exact at every temperature; a head's residual map
starts as the identity of the feature and all biases at zero, so that untrained
heads say what the target says (the repository: PyTorch's random ones).
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding",
    authors="Ankner et al.", year=2024, arxiv="2402.05109", venue="COLM 2024")


@registration.register("hydra", papers=(PAPER,), family="heads",
                       drafter="hydra")
def hydra(parts: registration.Parts, *,
          branching: shapes.Shape = shapes.PUBLISHED["mc_sim_7b_63"]):
  """Heads that read the drafted path, a static tree."""
  network = token_heads.HydraHeads.for_target(
      parts.target, **parts.head("hydra"))
  plan = expansion.Shape(shapes.within(branching, network.num_levels))
  drafter = token_head_drafter.TokenHeadDrafter(
      parts.target, network, plan)
  return registration.compose(
      "hydra", parts, drafter, matching.SampleAndMatch())
