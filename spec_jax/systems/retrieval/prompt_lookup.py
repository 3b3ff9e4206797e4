"""Prompt lookup decoding: copy what followed the same n-gram before.

Saxena 2023 (no paper; the method and its defaults are from its repository).
The longest suffix of up to `max_ngram` tokens that occurred earlier is looked
up in prompt and output; the tokens behind it are the draft, verified by
matching the target's own sample. Departure: where the original takes the first
match only if `depth` tokens follow it, `allow_short` and `take_latest` offer
the variants of the libraries that adopted it. `most_frequent` drafts what most
of the matches go on with, token by token. `max_ngram=0` sets no limit to the
length of a match, which is the Max-Gram of CS Drafting (Chen et al. 2023) and
the text's own automaton of SAM Decoding (Hu et al. 2024), whose rule for the
length of a copy is `factor`.
"""

from spec_jax.core import registry
from spec_jax.drafters import prompt_lookup as drafter_lib
from spec_jax.drafters import suffix_match
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Prompt Lookup Decoding", authors="Saxena", year=2023,
    venue="https://github.com/apoorvumang/prompt-lookup-decoding")


@registration.register("prompt_lookup", papers=(PAPER,), family="retrieval")
def prompt_lookup(parts: registration.Parts, *, depth: int = 10,
                  max_ngram: int = 3, take_latest: bool = False,
                  allow_short: bool = False, most_frequent: bool = False,
                  factor: float = 0.0):
  """N-gram copy from the text itself, on the device."""
  if most_frequent and not max_ngram:
    raise ValueError("most_frequent=True is for matches of a limited length,"
                     " expected max_ngram >= 1, got max_ngram=0.")
  if factor and max_ngram:
    raise ValueError(f"factor={factor} is for matches of any length, expected"
                     f" max_ngram=0, got max_ngram={max_ngram}.")
  drafter = drafter_lib.PromptLookup(
      depth, max_ngram, take_latest, allow_short, most_frequent,
      parts.target.vocab_size) if max_ngram else (
          suffix_match.SuffixMatch(
              depth, 1, take_latest, allow_short, factor))
  return registration.compose(
      "prompt_lookup", parts, drafter, matching.SampleAndMatch())
