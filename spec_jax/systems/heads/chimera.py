"""Chimera: trigrams of the last tokens, attending to all of the target's text.

Zeng et al. 2024, Sec. 3 and the repository: a residual block and a linear map
make one vector of the last three embeddings (short range); it queries one
decoder layer over the target's last features (full context), which guesses the
feature of the last token; a head reads that guess beside the target's own last
feature. Later steps read guesses in place of features. Train it with `python -m
experiments.train --system=chimera`. Departures: one head serves all steps, as
it begins; the paths drafted are those of Medusa's static tree, the published
list being unknown to us; drafts are matched with the target's own draw (the
repository tests each of several paths by rejection for itself, which is not
exact); before the first token has a feature, its place is taken by zeros; the
weights of the losses on features, logits and tokens, 1, 0.01 and 1, are ours;
half of the training text is the target's own.
"""

from spec_jax.core import registry
from spec_jax.drafters import chimera_drafter
from spec_jax.models import chimera as networks
from spec_jax.systems import registration
from spec_jax.trees import shapes
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Chimera: A Lossless Decoding Method for Accelerating Large Language"
    " Models Inference by Fusing all Tokens", authors="Zeng et al.", year=2024,
    arxiv="2402.15758")


@registration.register("chimera", papers=(PAPER,), family="heads",
                       drafter=("target", "chimera"))
def chimera(parts: registration.Parts, *,
            branching: shapes.Shape = shapes.PUBLISHED["mc_sim_7b_63"]):
  """Trigram encoder over all features of the target, a static tree."""
  model = networks.from_hyper(parts.target, "chimera", parts.head("chimera"))
  drafter = chimera_drafter.ChimeraDrafter(model, branching)
  return registration.compose(
      "chimera", parts, drafter, matching.SampleAndMatch())
