"""Blockwise parallel decoding: all heads from one layer, a chain.

Stern et al. 2018, Sec. 3 (predict, verify, accept), 4 (scoring and proposing in
one pass: the heads at the last accepted place are the next round's) and 6 (one
hidden layer for all heads, the target's own output head behind it), heads on a
frozen target; exact match. The work that the card names, Kim et al. 2024,
rescores these drafts. Train the heads with `python -m experiments.train
--system=bpd`. Departures: the first of the paper's heads, which is the base
model itself, does not pass through the added layer, so the text is that of the
target as it was; fine-tuning the target is not built; all heads are trained at
every step (the paper draws one, to save memory); verified by matching the
target's own draw, which is the paper's greedy rule at temperature 0 and exact
above. The approximate rules of Sec. 5 are for systems of one's own: the
target's top k and the distance of ordinal tokens (`verifiers.lossy.thresholds`)
and the minimum block size (`verifiers.lossy.minimum_block`).
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.verifiers import matching

BASE = registry.Paper(
    title="Blockwise Parallel Decoding for Deep Autoregressive Models",
    authors="Stern, Shazeer and Uszkoreit", year=2018, arxiv="1811.03115",
    venue="NeurIPS 2018")
PAPER = registry.Paper(
    title="Exploring and Improving Drafts in Blockwise Parallel Decoding",
    authors="Kim et al.", year=2024, arxiv="2404.09221")


@registration.register("bpd", papers=(BASE, PAPER), family="heads",
                       drafter="bpd")
def bpd(parts: registration.Parts, *, depth: int | None = None):
  """Blockwise heads on the target's last feature, a chain."""
  network = token_heads.BlockwiseHeads.for_target(
      parts.target, **parts.head("bpd"))
  plan = expansion.Shape((1,) * (depth or network.num_heads))
  return registration.compose(
      "bpd", parts, token_head_drafter.TokenHeadDrafter(
          parts.target, network, plan), matching.SampleAndMatch())
