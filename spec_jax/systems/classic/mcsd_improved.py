"""Improved multi-candidate decoding: a fork that ends when it stops paying.

Lu et al. 2024 and the repository's dynamic script: a fork of `width` branches,
one draft token each per step; a small network on the draft's features decides
after each step whether to go on, and the mask is cut to what was drafted.
Width 2, depth 5 and threshold 0.4 are the script's. Train the network with
`python -m experiments.train --system=mcsd_improved`. Departures: the published
procedure is not lossless (it keeps whichever target-given first token has the
longest accepted run). Here the target-given token is its own draw, the pending
token of the round; the fork stands below it, its first tokens drawn without
replacement from the draft, and recursive rejection judges it: `width=1` without
the network is plain speculative sampling whose first token is a target sample.
"""

from spec_jax.controllers import decision
from spec_jax.core import registry
from spec_jax.drafters import grown_draft_model
from spec_jax.systems import registration
from spec_jax.trees import fork
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Improving Multi-candidate Speculative Decoding",
    authors="Lu et al.", year=2024, arxiv="2409.10644")


@registration.register("mcsd_improved", papers=(PAPER,), family="classic",
                       drafter=("draft", "mcsd_improved"))
def mcsd_improved(parts: registration.Parts, *, width: int = 2, depth: int = 5,
                  threshold: float = 0.4):
  """Fork of adaptive depth, drawn without replacement."""
  network = decision.DecisionNetwork(
      tuple(parts.head("mcsd_improved")["widths"]))
  drafter = grown_draft_model.GrownDraftModel(
      parts.model("draft"), fork.Fork(width, depth),
      decision.Decision(network, threshold), ("draft", "mcsd_improved"))
  return registration.compose(
      "mcsd_improved", parts, drafter, recursive.RecursiveWithoutReplacement())
