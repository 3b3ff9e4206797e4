"""RSD-S: a tree by stochastic beam search, recursive rejection.

Jeon et al. 2024, Sec. 3.2.2 (stochastic beam search, of Kool et al. 2019) and
Algorithm 2. Each level keeps the W sequences of the largest perturbed
log-probability; siblings are tried in descending order of theirs. Departures:
none known; the paper compares several beam widths and lengths and recommends
none, so the defaults are a tree of about the size of those of `rsd_c`.
"""

from spec_jax.core import registry
from spec_jax.drafters import beam_draft_model
from spec_jax.systems import registration
from spec_jax.systems.classic import rsd_c as rsd_c_lib
from spec_jax.verifiers import recursive

BEAM_PAPER = registry.Paper(
    title="Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for"
    " Sampling Sequences Without Replacement", authors="Kool et al.",
    year=2019, arxiv="1903.06059")


@registration.register("rsd_s", papers=(rsd_c_lib.PAPER, BEAM_PAPER),
                       family="classic", drafter="draft")
def rsd_s(parts: registration.Parts, *, width: int = 3, depth: int = 4):
  """Tree of constant width, of sequences drawn without replacement."""
  drafter = beam_draft_model.BeamDraftModel(parts.model("draft"), width, depth)
  return registration.compose(
      "rsd_s", parts, drafter, recursive.RecursiveWithoutReplacement())
