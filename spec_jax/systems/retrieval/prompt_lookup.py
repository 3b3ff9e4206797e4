"""Prompt lookup decoding: copy what followed the same n-gram before.

Saxena 2023 (no paper; the method and its defaults are from its repository).
The longest suffix of up to `max_ngram` tokens that occurred earlier is looked
up in prompt and output; the tokens behind it are the draft, verified by
matching the target's own sample. Departure: where the original takes the first
match only if `depth` tokens follow it, `allow_short` and `take_latest` offer
the variants of the libraries that adopted it.
"""

from spec_jax.core import registry
from spec_jax.drafters import prompt_lookup as drafter_lib
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Prompt Lookup Decoding", authors="Saxena", year=2023,
    venue="https://github.com/apoorvumang/prompt-lookup-decoding")


@registration.register("prompt_lookup", papers=(PAPER,), family="retrieval")
def prompt_lookup(parts: registration.Parts, *, depth: int = 10,
                  max_ngram: int = 3, take_latest: bool = False,
                  allow_short: bool = False):
  """N-gram copy from the text itself, on the device."""
  drafter = drafter_lib.PromptLookup(depth, max_ngram, take_latest, allow_short)
  return registration.compose(
      "prompt_lookup", parts, drafter, matching.SampleAndMatch())
