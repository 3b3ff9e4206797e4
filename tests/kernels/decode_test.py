"""A decode whose attention is computed by kernels writes the same text."""

import jax
import numpy as np
import pytest

import spec_jax
from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import fused
from spec_jax.kernels import tree_attention_tpu
from spec_jax.models import contract
from tests import toy

MAX_NEW = 8


def decode(backend):
  # The draft grows its tree level by level: in-flight keys are covered too.
  model = contract.decoder_model(toy.config(num_layers=1, windows=(5,)))
  init = jax.jit(model.init)
  params = {name: toy.sharpen(init(jax.random.key(seed)))
            for seed, name in enumerate(("target", "draft"))}
  model = model.with_backend(backend)
  bundle = toy.ToyBundle(model, {"draft": model}, params)
  system, params = systems.build("specinfer", bundle, branching=(2, 1))
  prompts = toy.prompts((1, 7, 4))
  return fused.Fused().run(
      system.with_sampling(sampling_lib.GREEDY), params, prompts,
      keys_lib.row_keys(0, 3), MAX_NEW)


def test_the_same_greedy_text_and_the_same_rounds(monkeypatch):
  wanted = decode("xla")
  calls = []
  attend = tree_attention_tpu.attend
  monkeypatch.setattr(
      tree_attention_tpu, "attend",
      lambda *args, **kwargs: calls.append(1) or attend(*args, **kwargs))
  decoded = decode("pallas")
  assert calls
  np.testing.assert_array_equal(decoded.tokens, wanted.tokens)
  np.testing.assert_array_equal(decoded.length, wanted.length)
  np.testing.assert_array_equal(
      decoded.counts.target_calls, wanted.counts.target_calls)


def test_a_bundle_hands_the_choice_to_all_its_models():
  bundle = spec_jax.load_bundle("tiny-python").with_backend("xla")
  assert bundle.target.module.backend == "xla"
  assert {m.module.backend for m in bundle.models.values()} == {"xla"}


def test_unknown_backends_and_modules_without_one():
  model = toy.bundle().target
  assert model.with_backend("xla").with_backend("auto") == model
  with pytest.raises(ValueError, match="triton.*auto.*pallas.*xla"):
    model.with_backend("triton")
  with pytest.raises(ValueError, match="'xla'.*object.*backend"):
    contract.LinenModel(object()).with_backend("xla")
