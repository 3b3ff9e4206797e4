"""All token rules by name.

A rule is a frozen dataclass with one method,
`law(p[V], q[V] | q[K, V] | None, drafts[K], is_draft[K]) -> probs[V]`: what is
emitted, given target, draft law and drafts. Sampling and exact enumeration
both call it; there is no second implementation of a rule.
"""

import dataclasses
import inspect

from spec_jax.core import registry
from spec_jax.verifiers import block
from spec_jax.verifiers import canonical_is
from spec_jax.verifiers import global_resolution
from spec_jax.verifiers import greedy_drafts
from spec_jax.verifiers import k_seq
from spec_jax.verifiers import matching
from spec_jax.verifiers import race_transport
from spec_jax.verifiers import recursive
from spec_jax.verifiers import traversal
from spec_jax.verifiers.lossy import lenience
from spec_jax.verifiers.lossy import relaxed
from spec_jax.verifiers.lossy import thresholds
from spec_jax.verifiers.lossy import typical

RULES = {
    "block_verification": block.BlockVerification(),
    "canonical_is": canonical_is.CanonicalIS(),
    "distance_acceptance": thresholds.DistanceAcceptance(),
    "global_resolution": global_resolution.GlobalResolution(),
    "greedy": matching.Greedy(),
    "greedy_block_verification": block.GreedyBlockVerification(),
    "k_seq": k_seq.KSeq(),
    "lenience": lenience.Lenience(),
    "mdsd_greedy": greedy_drafts.MdsdGreedy(),
    "race_transport": race_transport.RaceTransport(),
    "recursive": recursive.Recursive(),
    "recursive_without_replacement":
        recursive.RecursiveWithoutReplacement(),
    "rejection": recursive.Rejection(),
    "relaxed": relaxed.Relaxed(),
    "sample_and_match": matching.SampleAndMatch(),
    "spechub": greedy_drafts.SpecHub(),
    "threshold": thresholds.Threshold(),
    "top_k_acceptance": thresholds.TopKAcceptance(),
    "traversal_verification": traversal.TraversalVerification(),
    "traversal_without_replacement": traversal.TraversalWithoutReplacement(),
    "typical": typical.Typical(),
}


@dataclasses.dataclass(frozen=True)
class RuleInfo:
  """What is known of a rule.

  Attributes:
    name: the key.
    exact: whether the output law equals the target's.
    draws: the ways of drawing drafts it is valid for.
    max_drafts: most drafts per node, None = any number.
    summary: one line.
  """

  name: str
  exact: bool
  draws: tuple[str, ...]
  max_drafts: int | None
  summary: str


def names() -> tuple[str, ...]:
  """All rules, sorted.

  >>> names()[0]
  'block_verification'
  """
  return tuple(sorted(RULES))


def get(name: str):
  """A rule by name; raises `registry.UnknownName`, offering the nearest.

  >>> get("k_seq")
  KSeq()
  """
  if name not in RULES:
    raise registry.UnknownName(registry.unknown("rule", name, names()))
  return RULES[name]


def info(name: str) -> RuleInfo:
  """A rule described as data; raises as `get`.

  >>> info("spechub").draws, info("spechub").max_drafts
  (('greedy',), 2)
  """
  rule = get(name)
  return RuleInfo(name, rule.exact, rule.draws, rule.max_drafts,
                  inspect.getdoc(rule).splitlines()[0])
