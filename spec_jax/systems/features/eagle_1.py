"""EAGLE: features are drafted, and each knows the token that was drawn.

Li et al. 2024, Sec. 4.1 (the net: embedding of the next token and feature,
mapped to one, a decoder layer without a norm at its input, the target's head),
4.2 (its training, in `training.features`) and the repository's static tree of
25 nodes. Children are drawn without replacement and verified by the rule for
that. A chain (`branching` of ones) may be as long as a `controller` by name
wants, see `drafters.draft_chain`. The net is that of eagle_2: `python -m
experiments.train --system=eagle_2`. Departures: the last prompt token is the
first root, so a prompt of one token drafts nothing in its first round; the
repository's draws stop at ten candidates of a node, which four children never
need. In training, half of the text is the target's own (the paper: none); the
norm of the gradient is kept below 1 (the repository: each of its values below
0.5, with betas and a schedule of its own; `--recipe='{"optimizer": "eagle"}'`
trains so); the net starts near a copy of the feature that it reads; steps,
batches and rates are our recipe's.
"""

from spec_jax.core import registry
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.drafters import feature_drafter
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.trees import shapes
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="EAGLE: Speculative Sampling Requires Rethinking Feature"
    " Uncertainty", authors="Li, Wei, Zhang and Zhang", year=2024,
    arxiv="2401.15077", venue="ICML 2024")


@registration.register("eagle_1", papers=(PAPER,), family="features",
                       drafter=("target", "eagle_2"))
def eagle_1(parts: registration.Parts, *,
            branching: shapes.Shape = shapes.PUBLISHED["eagle"],
            controller: str | None = None,
            draft_cost: float = draft_chain.DRAFT_COST,
            check_cost: float = draft_chain.CHECK_COST):
  """Static tree of features and tokens drawn from them."""
  model = feature_model.from_hyper(
      parts.target, "eagle_2", parts.head("eagle_2"))
  if controller is not None:
    if any(level != (1,) for level in tree_lib.child_counts(branching)):
      draft_chain.refuse_tree(controller, "branching", branching)
    drafter = feature_chain.ChainFeatureDrafter(
        model, draft_chain.controller_of(
            controller, len(branching), draft_cost, check_cost),
        len(branching), "iid")
    return registration.compose(
        "eagle_1", parts, drafter, recursive.Rejection())
  drafter = feature_drafter.StaticFeatureDrafter(
      model, branching, "without_replacement")
  return registration.compose(
      "eagle_1", parts, drafter, recursive.RecursiveWithoutReplacement())
