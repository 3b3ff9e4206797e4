"""EESD: an early exit drafts, Thompson sampling says how far.

Liu et al. 2024, Sec. 3: the residual stream after the first layers goes through
one decoder layer of the exit's own, then through the target's output head; the
exit learns from text that the target wrote (self-distillation). After each
draft the round goes on with a rate that is drawn from a Beta law, whose
parameters count accepted drafts and rejections of the text so far (Beta-TS); a
`controller` by name takes the place of the bandit. Verification runs the
remaining layers on the buffered streams and rejects or accepts each draft by
its two probabilities. Train the exit with `python -m experiments.train
--system=eesd`. Departures: the exit has no output head of its own; the prior
(1, 1), one rate a round, and `depth`, the longest draft, are our choice, where
the published values are not known to us; the variant that calibrates the rate
by the draft's confidence (Calibration-TS) and the tree of drafts are not built.
"""

from spec_jax.controllers import bandits
from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import early_exit_drafter
from spec_jax.models import early_exit
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Speculative Decoding via Early-exiting for Faster LLM Inference with"
    " Thompson Sampling Control Mechanism", authors="Liu et al.", year=2024,
    arxiv="2406.03853", venue="Findings of ACL 2024")


@registration.register("eesd", papers=(PAPER,), family="self_speculative",
                       drafter=("target", "eesd"))
def eesd(parts: registration.Parts, *, depth: int = 12,
         prior_accepted: float = 1.0, prior_rejected: float = 1.0,
         controller: str | None = None,
         draft_cost: float = draft_chain.DRAFT_COST,
         check_cost: float = draft_chain.CHECK_COST):
  """Early-exit layer whose draft length is learnt by a bandit."""
  model = early_exit.from_hyper(parts.target, "eesd", parts.head("eesd"))
  drafter = early_exit_drafter.EarlyExitDrafter(
      model, draft_chain.controller_of(
          controller, depth, draft_cost, check_cost,
          bandits.Thompson(prior_accepted, prior_rejected)), depth, "iid")
  return registration.compose("eesd", parts, drafter, recursive.Rejection())
