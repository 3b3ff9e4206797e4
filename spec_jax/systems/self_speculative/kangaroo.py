"""Kangaroo: the target's first layers and an adapter draft, and stop in doubt.

Liu et al. 2024, Sec. 3 and the repository: the residual stream after the first
layers goes through one attention layer with a norm before and after it and no
feed-forward layer, then through the target's own output head. The most likely
token is drafted; after one with less than the threshold's probability, which is
still verified, drafting stops (the second early exit). Verification runs the
remaining layers on the buffered streams: no layer sees a token twice. Six
drafts and a threshold of 0.6 as in the repository; a `controller` by name takes
the threshold's place. Train the adapter with `python -m experiments.train
--system=kangaroo`. Departures: the last draft goes through the adapter in its
own round (the repository: in the next one, and only if all were accepted); at
temperature > 0, which the repository does not have, the drafts are matched with
the target's own draw; half of the training text is the target's own, the
gradient's norm is kept below 1 (the repository: 0.5), and the adapter starts
small, so that at first the stream is read as it is.
"""

from spec_jax.controllers import threshold as threshold_lib
from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import early_exit_drafter
from spec_jax.models import early_exit
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Kangaroo: Lossless Self-Speculative Decoding via Double Early"
    " Exiting", authors="Liu et al.", year=2024, arxiv="2404.18911",
    venue="NeurIPS 2024")


@registration.register("kangaroo", papers=(PAPER,), family="self_speculative",
                       drafter=("target", "kangaroo"))
def kangaroo(parts: registration.Parts, *, depth: int = 6,
             threshold: float = 0.6, controller: str | None = None,
             draft_cost: float = draft_chain.DRAFT_COST,
             check_cost: float = draft_chain.CHECK_COST):
  """Shallow layers and an attention adapter; stops after an unsure token."""
  model = early_exit.from_hyper(
      parts.target, "kangaroo", parts.head("kangaroo"))
  drafter = early_exit_drafter.EarlyExitDrafter(
      model, draft_chain.controller_of(
          controller, depth, draft_cost, check_cost,
          threshold_lib.ConfidenceThreshold(threshold, step=0.0)), depth,
      "top_k")
  return registration.compose(
      "kangaroo", parts, drafter, matching.SampleAndMatch())
