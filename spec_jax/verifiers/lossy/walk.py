"""The walk for lossy rules: at temperature 0 they relax matching."""

import dataclasses
from typing import Any
from typing import ClassVar

import jax

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.verifiers import walk as walk_lib


@dataclasses.dataclass(frozen=True)
class AtZero:
  """A rule as it is at temperature 0, given p at temperature 1.

  Attributes:
    rule: with `at_zero(p[V], drafts[K], is_draft[K]) -> f[V]`, a point mass.
  """

  exact: ClassVar[bool] = False

  rule: Any

  def law(self, p, q, drafts, is_draft):
    del q
    return self.rule.at_zero(p, drafts, is_draft)


def walk(verifier, sampling: sampling_lib.Sampling, tree: types.DraftTree,
         p_logits: jax.Array, ctx: types.Context) -> types.Verdict:
  """As `verifiers.walk`; a point mass has nothing to be lenient about.

  At temperature 0 the law is the argmax alone. A rule that tells how it
  relaxes greedy decoding is shown the law at temperature 1 instead, and what
  it then chooses is certain.
  """
  if sampling.is_greedy and hasattr(verifier, "at_zero"):
    verifier = AtZero(verifier)
    sampling = dataclasses.replace(sampling, temperature=1.0)
  return walk_lib.walk(verifier, sampling, tree, p_logits, ctx)
