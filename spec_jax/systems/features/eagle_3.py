"""EAGLE-3: features of three depths, and a net trained on its own guesses.

Li et al. 2025, Sec. 3.1 (low, middle and high features of the target, mapped to
one; attention over embedding and feature side by side; an output head of its
own over the frequent tokens) and 3.2 (training-time test: the net reads its own
guesses over several steps and learns the target's law alone). Tree and rule are
EAGLE-2's, with 60 nodes and depth 8. With `top_k=1` a `controller` by name may
say how long the chain is, and tokens of the chain may be drawn from the net's
law in place of its likeliest: `draw="iid"`, as servers do at temperature > 0,
here verified as a block; `draw="coupled"`, with the noise of the target's own
draw, as in `gumbel_coupled`. Train with `python -m experiments.train
--system=eagle_3`. Departures: the head starts as the target's, rows and norm;
the last prompt token is the first root, so a prompt of one token drafts nothing
in its first round; targets of fewer than 7 layers lend the quarters of theirs.
Our recipe trains on three steps of own guesses (the release: seven), on text of
which half is the target's own (there: all answers are), with a head of up to
2,048 tokens (there 32,000 of 128,256); clipping, start of the rest and rates of
the training depart as in `eagle_1`.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.drafters import feature_chain
from spec_jax.models import feature_model
from spec_jax.systems import registration

PAPER = registry.Paper(
    title="EAGLE-3: Scaling up Inference Acceleration of Large Language Models"
    " via Training-Time Test", authors="Li, Wei, Zhang and Zhang", year=2025,
    arxiv="2503.01840", venue="NeurIPS 2025")


@registration.register("eagle_3", papers=(PAPER,), family="features",
                       drafter=("target", "eagle_3"))
def eagle_3(parts: registration.Parts, *, budget: int = 60, depth: int = 8,
            top_k: int = 10, draw: str = "top_k",
            controller: str | None = None,
            draft_cost: float = draft_chain.DRAFT_COST,
            check_cost: float = draft_chain.CHECK_COST):
  """Tree of a net that reads features of three depths."""
  model = feature_model.from_hyper(
      parts.target, "eagle_3", parts.head("eagle_3"), "eagle_3")
  costs = draft_cost, check_cost
  if draw == "top_k":
    drafter = feature_chain.most_likely(
        model, budget, depth, top_k, controller, *costs)
  else:
    drafter = feature_chain.chain(
        model, budget, depth, top_k, draw, controller, *costs)
  return registration.compose_chain("eagle_3", parts, drafter, draw)
