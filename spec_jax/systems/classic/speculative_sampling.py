"""Speculative sampling: a chain from a small model, verified by rejection.

Leviathan et al. 2023, Sec. 2 and Algorithm 1; Chen et al. 2023, Algorithm 2.
Draft of a fixed number of tokens, each kept with probability min(1, p/q), the
first failure replaced by a draw from the normalised residual (p - q)+, a bonus
token from the target after full acceptance. With a `controller` by name the
number of tokens changes from round to round, `depth` at most; what it weighs
are the measured costs, see `drafters.draft_chain`. Departures: none.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_chain
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

LEVIATHAN = registry.Paper(
    title="Fast Inference from Transformers via Speculative Decoding",
    authors="Leviathan, Kalman and Matias", year=2022, arxiv="2211.17192",
    venue="ICML 2023")
CHEN = registry.Paper(
    title="Accelerating Large Language Model Decoding with Speculative"
    " Sampling", authors="Chen et al.", year=2023, arxiv="2302.01318")


@registration.register("speculative_sampling", papers=(LEVIATHAN, CHEN),
                       family="classic", drafter="draft",
                       extra=draft_chain.learned_part)
def speculative_sampling(parts: registration.Parts, *, depth: int = 5,
                         controller: str | None = None,
                         draft_cost: float = draft_chain.DRAFT_COST,
                         check_cost: float = draft_chain.CHECK_COST):
  """Draft-model chain, single-draft rejection."""
  drafter = draft_chain.draft_chain(
      parts.model("draft"), depth, "iid", controller, draft_cost, check_cost,
      parts.head)
  return registration.compose(
      "speculative_sampling", parts, drafter, recursive.Rejection())
