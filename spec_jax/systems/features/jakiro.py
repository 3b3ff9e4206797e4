"""Jakiro: two experts speak for the next token, and once for the one after it.

Huang et al. 2025 and the repository: the feed-forward of EAGLE's layer is a
mixture of two experts. Their weighted sum guesses the next feature, the
difference of their weighted outputs the one after it, with weights of its own;
both become tokens by the target's head. In each round the last forward gives
two levels of EAGLE-2's tree (60 nodes, depth 6), so that a level needs none.
Children are the most likely tokens, matched with the target's own draw. Train
with `python -m experiments.train --system=jakiro`: EAGLE's losses, half as
heavy for the second guess. Departures: the levels of the second guess hang
below the nodes it was made for (in the repository they keep the numbers of the
level above, so that some hang below a wrong parent); the variant with a static
tree for sampling is not built; text, start, clipping and rates of the training
depart as in `eagle_1`; the last prompt token is the first root, so a prompt of
one token drafts nothing in its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import ahead_drafter
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.trees import likelihood
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Jakiro: Boosting Speculative Decoding with Decoupled Multi-Head via"
    " MoE", authors="Huang et al.", year=2025, arxiv="2502.06282")


@registration.register("jakiro", papers=(PAPER,), family="features",
                       drafter=("target", "jakiro"))
def jakiro(parts: registration.Parts, *, budget: int = 60, depth: int = 6,
           top_k: int = 10, ahead: int = 1):
  """EAGLE-2 with experts, whose last forward gives two levels."""
  model = feature_model.from_hyper(
      parts.target, "jakiro", parts.head("jakiro"))
  drafter = ahead_drafter.AheadFeatureDrafter(
      model, likelihood.MostLikely(budget, top_k, depth, top_k),
      num_ahead=ahead)
  return registration.compose(
      "jakiro", parts, drafter, matching.SampleAndMatch())
