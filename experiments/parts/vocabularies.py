"""The tokens that a trimmed draft may propose."""

import dataclasses
import functools
from types import MappingProxyType
from typing import Any

import numpy as np

from experiments.parts import run as run_lib
from spec_jax.models import feature_model
from spec_jax.training import vocabulary


@dataclasses.dataclass(frozen=True)
class VocabularyRecipe:
  """How the tokens of a draft are chosen.

  Attributes:
    size: how many.
    own_windows: of text that the target writes, where that is counted.
    length: tokens per window, the first quarter of them the corpus's.
  """

  size: int = 512
  own_windows: int = 512
  length: int = 256


def corpus_vocabulary(options: VocabularyRecipe, run: run_lib.Run
                      ) -> tuple[dict[str, Any], Any]:
  """The tokens most frequent in the corpus."""
  options = run.adapt(options)
  vocab_size = run.bundle.target.vocab_size
  return {}, {feature_model.TOKEN_IDS: vocabulary.most_frequent(
      run.train, vocab_size, min(options.size, vocab_size))}


def own_vocabulary(options: VocabularyRecipe, run: run_lib.Run
                   ) -> tuple[dict[str, Any], Any]:
  """The tokens that the target writes most."""
  options = run.adapt(options)
  own = run.own_text(options, run.train)
  return {}, {feature_model.TOKEN_IDS: written(
      options, run, own, options.size)}


def written(options: Any, run: run_lib.Run, own: np.ndarray, size: int
            ) -> np.ndarray:
  """The tokens that the target wrote most, and its end of text."""
  end = run.bundle.end_of_text
  vocab_size = run.bundle.target.vocab_size
  return vocabulary.most_frequent(
      own[:, run_lib.begun(options.length):], vocab_size, min(size, vocab_size),
      () if end is None else (end,))


TRAINERS = MappingProxyType({
    "fr_spec": functools.partial(corpus_vocabulary, VocabularyRecipe()),
    "vocab_trim": functools.partial(own_vocabulary, VocabularyRecipe()),
})
