"""PosS: a specialist of its own for each stretch of draft positions.

Huang et al. 2025, Sec. 3 and repository: EAGLE-2's net with several decoder
layers side by side; draft step i is guessed by layer min(i // n, S - 1), each
layer has keys and values of all committed pairs, and all share one fusion and
the target's embedding and head. Tree (60 nodes, depth 7, which the repository
counts from 0) and rule are EAGLE-2's. The layers begin as copies of EAGLE's and
are trained over steps of their own detached guesses: `python -m
experiments.train --system=poss`, after eagle_2. Departures: a layer's keys and
values of committed pairs are filled in every round, not when its first draft
comes; the last prompt token is the first root, so a prompt of one token drafts
nothing in its first round; our recipe has three specialists, each for one
position and the last for all later ones, and trains on four steps (the
repository: on six positions); text, clipping and rates of the training depart
as in `eagle_1`.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="POSS: Position Specialist Generates Better Draft for Speculative"
    " Decoding", authors="Huang et al.", year=2025, arxiv="2506.03566")


@registration.register("poss", papers=(PAPER,), family="features",
                       drafter=("target", "poss"))
def poss(parts: registration.Parts, *, budget: int = 60, depth: int = 7,
         top_k: int = 10,
         controller: str | None = None,
         draft_cost: float = draft_chain.DRAFT_COST,
         check_cost: float = draft_chain.CHECK_COST):
  """EAGLE-2 with a draft layer for each range of depths."""
  model = feature_model.from_hyper(parts.target, "poss", parts.head("poss"))
  drafter = feature_chain.most_likely(
      model, budget, depth, top_k, controller, draft_cost, check_cost)
  return registration.compose(
      "poss", parts, drafter, matching.SampleAndMatch())
