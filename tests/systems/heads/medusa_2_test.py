"""Medusa-2 decodes a target of its own, and says so."""

import jax
import numpy as np

import spec_jax
from spec_jax import systems
from spec_jax.models import lora
from tests import toy

PROMPTS = [[3, 1, 4], [5]]


def texts(name, bundle, temperature):
  hyper = {"branching": (2, 1, 2)} if name.startswith("medusa") else {}
  system, params = spec_jax.build(name, bundle, **hyper)
  return spec_jax.generate(system, params, PROMPTS, max_new_tokens=20,
                           temperature=temperature).tokens


def test_its_text_is_that_of_its_own_target_and_not_of_the_bundles():
  base, own = toy.bundle(), systems.bundle_of("medusa_2", toy.bundle())
  for temperature in (0.0, 0.8):
    found = texts("medusa_2", base, temperature)
    assert found == texts("autoregressive", own, temperature)
    assert found != texts("autoregressive", base, temperature)
    assert texts("medusa_1", base, temperature) == texts(
        "autoregressive", base, temperature)


def test_its_heads_alone_go_to_the_drafter():
  base = toy.bundle()
  _, params = spec_jax.build("medusa_2", base)
  assert set(base.params["medusa_2"]) == {"heads", lora.CHANGE}
  assert set(params.drafter) == {"heads"}
  jax.tree.map(np.testing.assert_array_equal, params.target, lora.merged(
      base.params["target"], base.params["medusa_2"][lora.CHANGE]))


def test_the_table_tells_what_it_is_exact_for():
  rows = {row.split("|")[1].strip(): row.split("|")[3].strip()
          for row in systems.table().splitlines()}
  assert rows["`medusa_2`"] == "yes, for its own target"
  assert rows["`medusa_1`"] == "yes"
  assert systems.info("medusa_1").own_target is None
