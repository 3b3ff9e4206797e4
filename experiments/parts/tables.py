"""Parts that are counted, not trained."""

from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.models import ngram
from spec_jax.systems.retrieval import superposed
from spec_jax.training import bigrams
from spec_jax.training import ngrams


def successors(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """Max-Gram's table, counted."""
  return {}, {"successors": bigrams.successors(
      run.train, run.bundle.target.vocab_size)}


def fluency(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """The n-gram model of rescored heads, counted."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size, least=4)
  return {}, ngram.to_params(model)


def count_ratios(run: run_lib.Run) -> tuple[dict[str, Any], Any]:
  """The n-grams of superposed drafts: plain ratios of counts."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size,
                       order=superposed.ORDER, discount=1e-6, least=4)
  return {}, ngram.to_params(model)


TRAINERS = MappingProxyType({
    "cs_drafting": successors,
    "bpd_rescored": fluency,
    "superposed": count_ratios,
})
