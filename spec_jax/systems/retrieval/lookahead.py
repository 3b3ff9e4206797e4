"""Lookahead Decoding: n-grams of Jacobi iterations, verified in the same pass.

Fu et al. 2024, arXiv:2402.02057, Sec. 3 (window, pool, one forward for both)
and Algorithms 2-4 (verification); defaults of its repository. Departures: the
window's first row is drawn from the text by a fixed pattern instead of at
random, so that the speed does not depend on a seed; while its rows fill the
columns stay instead of starting wider and losing one each round, so that the
shapes are fixed; equal beginnings of phrases are merged, and the token behind a
whole phrase is emitted too (the repository loses it). Sampling matches the
target's own draw, the same law as the paper's rule. `from_text` is what the
repository calls POOL_FROM_PROMPT.
"""

from spec_jax.core import registry
from spec_jax.drafters import lookahead as drafter_lib
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Break the Sequential Dependency of LLM Inference Using Lookahead"
    " Decoding", authors="Fu et al.", year=2024, arxiv="2402.02057",
    venue="ICML 2024")


@registration.register("lookahead", papers=(PAPER,), family="retrieval")
def lookahead(parts: registration.Parts, *, level: int = 5, width: int = 7,
              guesses: int = 7, from_text: bool = False):
  """Jacobi window beside the drafts, n-gram pool, on the device."""
  drafter = drafter_lib.Lookahead(
      parts.target.vocab_size, level, width, guesses, from_text)
  return registration.compose(
      "lookahead", parts, drafter, matching.SampleAndMatch())
