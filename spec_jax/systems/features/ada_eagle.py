"""AdaEAGLE: the length of each draft is predicted before it is begun.

Zhang et al. 2024, Sec. 3: EAGLE's net drafts a greedy chain; a residual network
on embedding and feature of the last verified token says how many drafts will be
accepted, and so many are made, rounded, from none to `depth`. Exact matching.
Train with `python -m experiments.train --system=ada_eagle`, after eagle_2.
Departures: `depth` is our choice, the paper gives no bound; the weight of
predictions that are too short, which it leaves open too, is 2 in training; the
variant that also looks at the draft's joint probability is not built; drafts
are matched at every temperature, where the paper has greedy decoding only.
"""

from spec_jax.controllers import length_predictor
from spec_jax.core import registry
from spec_jax.drafters import feature_drafter
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.trees import likelihood
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="AdaEAGLE: Optimizing Speculative Decoding via Explicit Modeling of"
    " Adaptive Draft Structures", authors="Zhang et al.", year=2024,
    arxiv="2412.18910")


@registration.register("ada_eagle", papers=(PAPER,), family="features",
                       drafter=("target", "eagle_2", "ada_eagle"))
def ada_eagle(parts: registration.Parts, *, depth: int = 6):
  """EAGLE's chain, as long as its feature says that it will be accepted."""
  predictor = length_predictor.LengthPredictor(**parts.head("ada_eagle"))
  model = feature_model.from_hyper(
      parts.target, "eagle_2", parts.head("eagle_2"))
  drafter = feature_drafter.PredictedFeatureDrafter(
      model, likelihood.MostLikely(depth + 1, 1, depth, 1),
      predictor=predictor, part="ada_eagle")
  return registration.compose(
      "ada_eagle", parts, drafter, matching.SampleAndMatch())
