"""Parts that are counted, not trained."""

from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.models import ngram
from spec_jax.systems.retrieval import superposed
from spec_jax.training import bigrams
from spec_jax.training import ngrams


def successors(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """Max-Gram's table: of each token of the corpus the likeliest successor."""
  return {}, {"successors": bigrams.successors(
      run.train, run.bundle.target.vocab_size)}


def fluency(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """The corpus's 4-gram model; refiner=ngram ranks bpd's paths with it."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size, least=4)
  return {}, ngram.to_params(model)


def count_ratios(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """The n-grams of the corpus that superposed drafts are weighed with."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size,
                       order=superposed.ORDER, discount=1e-6, least=4)
  return {}, ngram.to_params(model)


TRAINERS = MappingProxyType({
    "cs_drafting": successors,
    "bpd_rescored": fluency,
    "superposed": count_ratios,
})
