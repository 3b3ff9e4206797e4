"""CaPE: GliDe's chain, with more candidates where it is unsure.

Du et al. 2024, Sec. 3.2 and the repository: at each step of the greedy chain so
many of the most likely tokens are proposed as `widths` says of the part of [0,
1], by default a tenth of it, in which the probability of the first one lies;
all but the first are leaves. The model is that of `glide`: `python -m
experiments.train --system=glide`. Departures: as in `glide`.
"""

from spec_jax.drafters import glide_drafter
from spec_jax.models import glide as networks
from spec_jax.systems import registration
from spec_jax.systems.features import glide as parent
from spec_jax.trees import likelihood
from spec_jax.verifiers import matching


@registration.register("glide_cape", papers=(parent.PAPER,),
                       family="features", drafter="glide")
def glide_cape(parts: registration.Parts, *, depth: int = 4,
               widths: tuple[int, ...] = likelihood.ConfidenceExpanded.widths):
  """GliDe's chain with leaves beside it, more of them in doubt."""
  model = networks.from_hyper(parts.target, parts.head("glide"))
  drafter = glide_drafter.GlideDrafter(model, likelihood.ConfidenceExpanded(
      1 + depth * max(widths, default=1), 1, depth, tuple(widths)))
  return registration.compose(
      "glide_cape", parts, drafter, matching.SampleAndMatch())
