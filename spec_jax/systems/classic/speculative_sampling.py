"""Speculative sampling: a chain from a small model, verified by rejection.

Leviathan et al. 2023, Sec. 2 and Algorithm 1; Chen et al. 2023, Algorithm 2.
Draft of a fixed number of tokens, each kept with probability min(1, p/q), the
first failure replaced by a draw from the normalised residual (p - q)+, a bonus
token from the target after full acceptance. With a `controller` by name the
number of tokens changes from round to round, `depth` at most. Departures: none.
"""

from spec_jax import controllers
from spec_jax.core import registry
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import draft_model
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
                       family="classic", drafter="draft")
def speculative_sampling(parts: registration.Parts, *, depth: int = 5,
                         controller: str | None = None):
  """Draft-model chain, single-draft rejection."""
  drafter = draft_model.DraftModel(parts.model("draft"), (1,) * depth, "iid")
  if controller is not None:
    drafter = chain_draft_model.ChainDraftModel(
        parts.model("draft"), controllers.get(controller), depth, "iid")
  return registration.compose(
      "speculative_sampling", parts, drafter, recursive.Rejection())
