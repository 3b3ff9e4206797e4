"""ReDrafter: one recurrent head, drafting by beam search.

Zhang et al. 2024, Sec. 3.1 (the head), 3.2 (beam search) and 3.3 (beginnings
that beams share are verified once). Scores are sums of log-probabilities among
the 50 most likely tokens, as in the repository; there 10 beams of 4 tokens, the
pending one among them, are the default. Train the head with `python -m
experiments.train --system=recurrent_drafter`. Departures: beams are grown as a
tree, so shared beginnings need not be found again; verified by matching the
target's own draw: the paper's choice of the longest of several rejection-tested
beams is not exact, as its repository says; our recipe learns at a rate of 2e-3
(the repository: 1e-3).
"""

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import recurrent_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Recurrent Drafter for Fast Speculative Decoding in Large Language"
    " Models", authors="Zhang et al.", year=2024, arxiv="2403.09919")
_LIKELY = 50


@registration.register("recurrent_drafter", papers=(PAPER,), family="heads",
                       drafter="recurrent_drafter")
def recurrent_drafter(parts: registration.Parts, *, width: int = 10,
                      depth: int = 3):
  """A recurrent head on the target's last feature, beam search."""
  vocab_size = parts.target.vocab_size
  network = recurrent_heads.RecurrentHead(
      vocab_size, parts.target.config.d_model,
      **parts.head("recurrent_drafter"))
  plan = expansion.Beams(
      (width,) * depth, (width,) * depth, min(max(width, _LIKELY), vocab_size))
  return registration.compose(
      "recurrent_drafter", parts, token_head_drafter.TokenHeadDrafter(
          parts.target, network, plan), matching.SampleAndMatch())
