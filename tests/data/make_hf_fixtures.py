"""Makes the tiny checkpoints of tests/data/hf with `transformers`.

Needs torch and transformers, which the project itself does not, so run it in
a venv of its own (last made with torch 2.13.0 and transformers 5.23.0):

  pip install torch==2.13.0 transformers
  python tests/data/make_hf_fixtures.py

Each folder gets a random model whose special features matter (small windows,
strong caps, biases that are not zero) and `expected.npz`: tokens `i32[2, 24]`
and the logits `f32[2, 24, V]` that transformers computes in float32.
"""

import pathlib
import shutil

import numpy as np
import tokenizers
import torch
import transformers

_OUT = pathlib.Path(__file__).parent / "hf"
_VOCAB = 96
_SHAPE = (2, 24)
_COMMON = dict(
    vocab_size=_VOCAB, hidden_size=32, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=64, bos_token_id=None,
    eos_token_id=None, pad_token_id=None, attn_implementation="eager")
_GATED = _COMMON | dict(intermediate_size=48, num_key_value_heads=2)

# Folder -> (config class, changes).
_MODELS = {
    "llama2": ("LlamaConfig", _GATED | dict(
        num_key_value_heads=4, tie_word_embeddings=True)),
    # Scaled from 8 positions on, so that a wrong scaling shows within 24.
    "llama3": ("LlamaConfig", _GATED | dict(
        tie_word_embeddings=False, rope_parameters=dict(
            rope_type="llama3", rope_theta=500.0, factor=8.0,
            low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8))),
    "mistral": ("MistralConfig", _GATED | dict(
        sliding_window=7, tie_word_embeddings=False)),
    "qwen2": ("Qwen2Config", _GATED | dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=1,
        tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", _GATED | dict(
        intermediate_size=40, head_dim=12, tie_word_embeddings=False)),
    "gemma": ("GemmaConfig", _GATED | dict(
        num_key_value_heads=1, head_dim=16)),
    "gemma2": ("Gemma2Config", _GATED | dict(
        head_dim=8, sliding_window=6, query_pre_attn_scalar=24,
        attn_logit_softcapping=2.0, final_logit_softcapping=4.0)),
    "gpt2": ("GPT2Config", dict(
        vocab_size=_VOCAB, n_embd=24, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=None, eos_token_id=None, attn_implementation="eager")),
    "opt": ("OPTConfig", _COMMON | dict(
        ffn_dim=64, word_embed_proj_dim=32, pad_token_id=1)),
}
_SHARDED = ("llama3",)
_WITH_TOKENIZER = ("qwen3",)
_TEXT = ["def area(r):\n  return 3 * r", "the café costs 5 €", "日本", "🙂"]


def _randomize(model, generator):
  """Initial values leave biases zero and norms one: nothing would show."""
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if "norm" in name or "ln_" in name:
        parameter.add_(0.2 * noise)
      else:
        parameter.copy_(0.25 * noise)


def _make_model(name, config_class, settings, generator):
  config = getattr(transformers, config_class)(**settings)
  model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
  _randomize(model, generator)
  shard_size = "48KB" if name in _SHARDED else "5GB"
  model.save_pretrained(_OUT / name, max_shard_size=shard_size)
  (_OUT / name / "generation_config.json").unlink(missing_ok=True)
  tokens = torch.randint(2, _VOCAB, _SHAPE, generator=generator)
  with torch.no_grad():
    logits = model(tokens).logits
  np.savez(_OUT / name / "expected.npz", tokens=tokens.numpy().astype(np.int32),
           logits=logits.numpy().astype(np.float32))


def _make_tokenizer(folder):
  """A byte-level BPE with fewer tokens than the model has rows."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
      vocab_size=64, special_tokens=["<|endoftext|>", "<|im_end|>"],
      show_progress=False)
  tokenizer.train_from_iterator(_TEXT, trainer)
  tokenizer.save(str(folder / "tokenizer.json"))


def main():
  torch.set_num_threads(1)
  shutil.rmtree(_OUT, ignore_errors=True)
  for seed, (name, (config_class, settings)) in enumerate(_MODELS.items()):
    generator = torch.Generator().manual_seed(seed)
    _make_model(name, config_class, settings, generator)
  for name in _WITH_TOKENIZER:
    _make_tokenizer(_OUT / name)


if __name__ == "__main__":
  main()
