"""A pair of random weights is a bundle that decodes."""

import jax

from experiments import random_pair
from spec_jax import systems
from spec_jax.core import types
from spec_jax.models import bundle as bundle_lib


def test_a_larger_vocabulary_and_the_widths_of_the_other(tiny, tmp_path):
  out = tmp_path / "pair"
  base = bundle_lib.load_bundle(tiny)
  size = 2 * base.target.vocab_size
  assert random_pair.main([
      f"--models={tiny}", f"--vocab_size={size}", f"--out={out}"]) == 0
  bundle = bundle_lib.load_bundle(out)
  for name, model in {"target": bundle.target, **bundle.models}.items():
    before = base.target if name == "target" else base.models[name]
    assert model.vocab_size == size
    assert model.config.d_model == before.config.d_model
  assert bundle.prompts == base.prompts
  system, params = systems.build("speculative_sampling", bundle, depth=2)
  assert isinstance(params, types.Params)
  assert jax.tree.leaves(params.target) and system.target.vocab_size == size


def test_a_vocabulary_must_hold_the_tokenizer(tiny, tmp_path, capsys):
  assert random_pair.main([
      f"--models={tiny}", "--vocab_size=3", f"--out={tmp_path}"]) == 2
  assert "--vocab_size=3, expected at least" in capsys.readouterr().err
