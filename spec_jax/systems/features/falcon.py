"""Falcon: a feature net that guesses two tokens in each forward.

Gao et al. 2024, Sec. 3.1 (a pair of feature and token leads to the feature k
tokens on; a recurrence of two LSTM layers, then one layer of attention in which
the pairs of a block of k see each other and all before; glancing distillation:
a share of the answers that a first pass misses is shown to a second one), 3.2
(a static tree; within a block all combinations of the columns' best tokens,
each combination of a whole block being the context of the next) and the
repository. Children are drawn without replacement and verified by the rule for
that, as in EAGLE-1. Train with `python -m experiments.train --system=falcon`.
Departures: the tree is ours, the best of 116 drafts on 8 levels for acceptance
that falls with rank and column as in `_ACCEPTS` (the repository's list holds
duplicates); the newest block is always the last k pairs, whatever was accepted,
and in training blocks begin at a random pair; the share that is shown falls
from 0.4 step by step, where the paper lets it fall with each epoch; what is
shown takes the place of what is read at that place, and is not learnt; the
hard label is the target's most likely token; text, start, clipping and rates of
the training depart as in `eagle_1`; a prompt of k tokens or fewer drafts
nothing in its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import block_drafter
from spec_jax.models import block_model
from spec_jax.systems import registration
from spec_jax.trees import shapes
from spec_jax.verifiers import recursive

# Shares of the tokens that a draft of each rank gets right, in the first and in
# the second column of a block.
_ACCEPTS = ((0.66, 0.12, 0.06, 0.03, 0.02, 0.015, 0.01, 0.008),
            (0.56, 0.12, 0.06, 0.04, 0.02, 0.015, 0.01, 0.008))
TREE = shapes.calibrated(_ACCEPTS * 4, 117)
PAPER = registry.Paper(
    title="Falcon: Faster and Parallel Inference of Large Language Models"
    " through Enhanced Semi-Autoregressive Drafting and Custom-Designed"
    " Decoding Tree", authors="Gao et al.", year=2024, arxiv="2412.12639",
    venue="AAAI 2025")


@registration.register("falcon", papers=(PAPER,), family="features",
                       drafter=("target", "falcon"))
def falcon(parts: registration.Parts, *, branching: shapes.Shape = TREE):
  """Static tree of blocks of features, guessed at once."""
  model = block_model.from_hyper(
      parts.target, "falcon", parts.head("falcon"))
  drafter = block_drafter.BlockDrafter(
      model, branching, "without_replacement")
  return registration.compose(
      "falcon", parts, drafter, recursive.RecursiveWithoutReplacement())
