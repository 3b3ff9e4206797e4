"""Which systems a program builds."""

from experiments import common
import spec_jax
from spec_jax import systems


def test_no_names_mean_the_default_and_all_means_all(tiny):
  bundle = spec_jax.load_bundle(tiny)
  names = lambda *arguments: [
      choice.name for choice in common.choose(bundle, *arguments)[0]]
  default = ("autoregressive", "specinfer")
  assert names(None, (), default) == list(default)
  assert names(["mcsd"], (), default) == ["mcsd"]
  for everything in (names(None, ()), names(["all"], (), default)):
    assert everything == list(systems.names())
