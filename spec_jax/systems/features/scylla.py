"""Scylla: a deeper feature net, pre-trained at the scale its laws ask for.

Yan et al. 2025, Sec. 3 (tokens per round rise with the logarithm of the draft's
training tokens and of its capacity; the speed follows the logarithm of the
batch, and the best width of the tree falls with it): EAGLE-2's drafting with
several layers of attention, trained for longer. The laws are fitted by
`theory.scaling`, in the program `experiments.draft_laws`; `top_k` is the width
to be chosen by batch, for which `theory.scaling.best_width` has a cost model.
Train with `python -m experiments.train --system=scylla`. Departures: the text
of the paper was not at hand, only its abstract and notes by others (arXiv
repository page), so that sizes and losses are ours: three layers, the target's
law alone; the target's output head in place of one of its own, and text half
the corpus's and half the target's, with start and clipping of `eagle_1`; the
last prompt token is the first root, so a prompt of one token drafts nothing in
its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Scaling Laws for Speculative Decoding", authors="Yan et al.",
    year=2025, arxiv="2505.07858")


@registration.register("scylla", papers=(PAPER,), family="features",
                       drafter=("target", "scylla"))
def scylla(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
           top_k: int = 10,
           controller: str | None = None,
           draft_cost: float = draft_chain.DRAFT_COST,
           check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 with a deeper net, trained for longer."""
  model = feature_model.from_hyper(
      parts.target, "scylla", parts.head("scylla"))
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "scylla", parts, drafter, matching.SampleAndMatch())
