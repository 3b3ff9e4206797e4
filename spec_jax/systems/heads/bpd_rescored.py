"""Blockwise parallel decoding with drafts refined by a language model.

Kim et al. 2024, Sec. 4: the top tokens of the heads of `bpd` form a lattice.
`refiner="neural"` (local rescoring) goes through it token by token, the head's
log-probability interpolated with that of a small autoregressive model, here the
bundle's draft model. `refiner="ngram"` (global rescoring) takes the 16 best of
all paths under heads and a back-off 4-gram model together and verifies them as
one tree. Count the n-grams with `python -m experiments.train
--system=bpd_rescored`; the heads are those of `bpd`. Departures: as in `bpd`;
paths are scored one by one where the paper composes automata, which gives the
same best ones and bounds `top_k`; the n-gram model discounts by a constant
(Katz: by Good and Turing's counts); the interpolation weight, which the paper
tunes, is 0.5.
"""

from spec_jax.drafters import rescored_heads
from spec_jax.drafters import token_head_drafter
from spec_jax.models import token_heads
from spec_jax.systems import registration
from spec_jax.systems.heads import bpd
from spec_jax.trees import expansion
from spec_jax.verifiers import matching

REFINERS = ("neural", "ngram")


@registration.register(
    "bpd_rescored", papers=(bpd.PAPER, bpd.BASE), family="heads",
    drafter=("bpd", "bpd_rescored", "draft"))
def bpd_rescored(parts: registration.Parts, *, refiner: str = "neural",
                 depth: int | None = None, top_k: int = 4,
                 weight: float = 0.5, drafts: int = 16):
  """Blockwise heads, their lattice rescored by a language model."""
  if refiner not in REFINERS:
    raise ValueError(f"refiner={refiner!r}, expected one of {REFINERS}.")
  parts.head("bpd_rescored")  # Names what is missing.
  network = token_heads.BlockwiseHeads.for_target(
      parts.target, **parts.head("bpd"))
  plan = expansion.Shape((1,) * (depth or network.num_heads))
  heads = token_head_drafter.TokenHeadDrafter(parts.target, network, plan)
  if refiner == "neural":
    drafter = rescored_heads.NeuralRescored(
        parts.model("draft"), heads, ("bpd", "draft"), top_k, weight)
  else:
    drafter = rescored_heads.NgramRescored(
        heads, ("bpd", "bpd_rescored"), top_k, weight, drafts)
  return registration.compose(
      "bpd_rescored", parts, drafter, matching.SampleAndMatch())
