"""A model written for other libraries and read back is the same model."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as st

import spec_jax
from spec_jax.models import checkpoint
from spec_jax.models import contract
from spec_jax.models import export
from spec_jax.models import tokenizer as tokenizer_lib
from tests import toy

_HF = pathlib.Path(__file__).parent.parent / "data" / "hf"
_TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


@pytest.mark.parametrize("changes", [
    {"num_heads": 4, "num_kv_heads": 2},  # scaled, head of its own
    {"tie_embeddings": True},  # scaled and tied
    {"tie_embeddings": True, "embed_scale": 1.0, "rope_theta": 500.0},
])
def test_round_trip_gives_the_same_logits(changes, tmp_path):
  model = contract.decoder_model(toy.config(**changes))
  params = model.init(jax.random.key(3))
  export.save_hf(tmp_path, model, params)
  again, loaded, tokenizer = spec_jax.load_hf(tmp_path)
  assert tokenizer is None
  np.testing.assert_allclose(
      again.score(loaded, _TOKENS).logits, model.score(params, _TOKENS).logits,
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama2"])
def test_a_published_checkpoint_comes_back_tensor_by_tensor(name, tmp_path):
  config = checkpoint.read_config(_HF / name)
  params = checkpoint.load_params(_HF / name, config)
  export.save_hf(tmp_path, contract.decoder_model(config), params)
  ours = st.load_file(tmp_path / "model.safetensors")
  theirs = st.load_file(_HF / name / "model.safetensors")
  assert ours.keys() == theirs.keys() - {"lm_head.weight"}
  for key, value in ours.items():
    np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_tokenizer_and_end_of_text_go_along(tmp_path):
  tokenizer = tokenizer_lib.TextTokenizer.from_file(
      spec_jax.models.bundle.SHIPPED / "tiny-python")
  model = contract.decoder_model(toy.config(vocab_size=tokenizer.vocab_size))
  export.save_hf(
      tmp_path, model, model.init(jax.random.key(0)), tokenizer)
  _, _, again = spec_jax.load_hf(tmp_path)
  assert again.encode("def f(x):") == tokenizer.encode("def f(x):")
  assert again.end_of_text == tokenizer.end_of_text is not None
  assert json.loads((tmp_path / "config.json").read_text())[
      "eos_token_id"] == tokenizer.end_of_text


def test_what_llama_has_no_word_for_is_named(tmp_path):
  config = dataclasses.replace(
      toy.config(), qk_norm=True, windows=(4, 0), final_softcap=30.0)
  with pytest.raises(ValueError, match=r"windows=\(4, 0\).*qk_norm=True.*"
                     r"final_softcap=30.0 \(a Llama has 0.0\)"):
    export.save_hf(tmp_path, contract.decoder_model(config), {})
