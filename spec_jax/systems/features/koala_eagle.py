"""KOALA with EAGLE as its host: a deeper net, trained against a discriminator.

Zhang et al. 2024, Sec. 3: several decoder layers in place of EAGLE's one, each
with keys and values of its own, and beside EAGLE's losses an adversarial one
that makes the net's laws look like the target's. Tree and verification are
those of `eagle_2`. Train the net with `python -m experiments.train
--system=koala_eagle`. Departures: those of `eagle_2`; two layers, and the
discriminator, its weight and the updates as in `koala`.
"""

from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.systems.heads import koala
from spec_jax.verifiers import matching


@registration.register("koala_eagle", papers=(koala.PAPER,),
                       family="features", drafter=("target", "koala_eagle"))
def koala_eagle(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
                top_k: int = 10, controller: str | None = None,
                draft_cost: float = draft_chain.DRAFT_COST,
                check_cost: float = draft_chain.CHECK_COST):
  """Tree of the most likely drafts of a net that was trained to fool."""
  model = feature_model.from_hyper(
      parts.target, "koala_eagle", parts.head("koala_eagle"))
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "koala_eagle", parts, drafter, matching.SampleAndMatch())
