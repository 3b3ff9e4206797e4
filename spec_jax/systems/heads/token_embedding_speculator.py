"""The MLP speculator: stages that mix a state with the last drafted token.

Wertheimer et al. 2024, Sec. 3 (the speculator) and the published code, from
which all constants are. Of the grid of each stage's top tokens, 5 by 4 by 3
(of this default, as much as there are stages), the 5 paths of the largest
summed log-probability are verified, their beginnings shared. Train it with
`python -m experiments.train --system=token_embedding_speculator`, in both of
the published stages: ordinary text, then more and shorter windows that the
target goes on with, at temperature 1 among its 10 most likely tokens.
Departures: the second stage begins after half of the steps, its windows are a
quarter as long and four times as many, and the quarter of each that the corpus
begins is learnt too; one cosine of the rate spans both stages; our net has four
stages with tied weights, of which the default grid asks three; verified by
matching the target's own draw, exact at every temperature.
"""

import math

from spec_jax.core import registry
from spec_jax.drafters import token_head_drafter
from spec_jax.models import recurrent_heads
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Accelerating Production LLMs with Combined Token/Embedding"
    " Speculators", authors="Wertheimer et al.", year=2024, arxiv="2404.19124")


_BRANCHING = (5, 4, 3)


@registration.register(
    "token_embedding_speculator", papers=(PAPER,), family="heads",
    drafter="token_embedding_speculator")
def token_embedding_speculator(
    parts: registration.Parts, *, branching: tuple[int, ...] = _BRANCHING,
    candidates: int = 5):
  """A multi-stage MLP on the target's last feature, the n best paths."""
  network = recurrent_heads.MlpSpeculator.for_target(
      parts.target, **parts.head("token_embedding_speculator"))
  if tuple(branching) == _BRANCHING:
    branching = branching[:network.num_stages]
  widths = [math.prod(branching[:i + 1]) for i in range(len(branching))]
  plan = expansion.Beams((*widths[:-1], candidates), tuple(branching))
  return registration.compose(
      "token_embedding_speculator", parts, token_head_drafter.TokenHeadDrafter(
          parts.target, network, plan), matching.SampleAndMatch())
