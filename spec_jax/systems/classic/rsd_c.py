"""RSD-C: siblings by Gumbel-top-k, recursive rejection without replacement.

Jeon et al. 2024, Sec. 3.2.1 (constant branching factors) and Algorithm 2. The
children of a node are the top b of its log-probabilities perturbed by Gumbel
noise, tried in descending order of the perturbed values. Departures: none.
"""

from spec_jax.core import registry
from spec_jax.drafters import draft_model
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Recursive Speculative Decoding: Accelerating LLM Inference via"
    " Sampling Without Replacement", authors="Jeon et al.", year=2024,
    arxiv="2402.14160")


@registration.register("rsd_c", papers=(PAPER,), family="classic",
                       drafter="draft")
def rsd_c(parts: registration.Parts, *,
          branching: tuple[int, ...] = (2, 2, 1, 1)):
  """Tree of constant branching factors, drawn without replacement."""
  drafter = draft_model.DraftModel(
      parts.model("draft"), branching, "without_replacement")
  return registration.compose(
      "rsd_c", parts, drafter, recursive.RecursiveWithoutReplacement())
