"""Plain autoregressive decoding: the baseline of every speed-up.

Bengio et al. 2003, Sec. 2 (one conditional law per token, by the chain rule).
The same executor and step as every other system, with an empty draft: one
target call emits one token. Departures: none.
"""

from spec_jax.core import registry
from spec_jax.drafters import none
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="A Neural Probabilistic Language Model",
    authors="Bengio, Ducharme, Vincent and Jauvin", year=2003, venue="JMLR")


@registration.register("autoregressive", papers=(PAPER,), family="classic")
def autoregressive(parts: registration.Parts):
  """One target call, one token."""
  return registration.compose(
      "autoregressive", parts, none.NoDraft(), matching.SampleAndMatch())
