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
  for arguments in ((None, ()), (["all"], (), default)):
    chosen, skipped = common.choose(bundle, *arguments)
    built = [choice.name for choice in chosen]
    assert sorted([*built, *skipped]) == list(systems.names())
    # Left out is only what needs a store that nobody gave.
    assert all("build one with python -m experiments." in reason
               for reason in skipped.values()), skipped
    assert {"rest", "dresd"} <= set(skipped)
