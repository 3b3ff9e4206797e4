"""Makes the tiny EAGLE drafts of tests/data/eagle, with NumPy alone.

  python tests/data/make_eagle_fixtures.py

Each folder gets random weights under the published names and `expected.npz`:
the target's embedding and head, tokens, features, and the features and logits
that the draft gives for them, in float64, by the few lines below, which follow
the published networks and nothing of this project.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

_OUT = pathlib.Path(__file__).parent / "eagle"
_WIDTH, _HEADS, _KV_HEADS, _SIZE, _HIDDEN, _VOCAB = 16, 4, 2, 6, 20, 40
_ROWS, _LENGTH, _THETA, _EPS = 12, 9, 500.0, 1e-5
_LAYER = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "vocab_size": _VOCAB, "hidden_size": _WIDTH, "intermediate_size": _HIDDEN,
    "num_hidden_layers": 1, "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS, "head_dim": _SIZE, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": _EPS, "rope_theta": _THETA,
    "tie_word_embeddings": False,
}


def norm(x, weight):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPS) * weight


def silu(x):
  return x / (1 + np.exp(-x))


def rotated(x):
  """`[T, heads, size]`, positions from 0."""
  half = _SIZE // 2
  angles = np.arange(len(x))[:, None] / _THETA ** (
      np.arange(0, _SIZE, 2) / _SIZE)[None]
  cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
  first, second = x[..., :half], x[..., half:]
  return np.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)


def layer(tensors, name, x, residual):
  """Attention on `x`, added to the residual; then the feed-forward."""
  take = lambda part: tensors[f"{name}{part}.weight"]
  split = lambda part: (x @ take(f"self_attn.{part}_proj").T).reshape(
      len(x), -1, _SIZE)
  queries, keys, values = rotated(split("q")), rotated(split("k")), split("v")
  mixed = []
  for head in range(_HEADS):
    own = head // (_HEADS // _KV_HEADS)
    scores = queries[:, head] @ keys[:, own].T / np.sqrt(_SIZE)
    scores[np.triu_indices(len(x), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed.append(weights / weights.sum(-1, keepdims=True) @ values[:, own])
  x = residual + np.concatenate(mixed, -1) @ take("self_attn.o_proj").T
  fed = norm(x, take("post_attention_layernorm"))
  fed = silu(fed @ take("mlp.gate_proj").T) * (fed @ take("mlp.up_proj").T)
  return x + fed @ take("mlp.down_proj").T


def layer_shapes(name, width):
  heads, kv_heads = _HEADS * _SIZE, _KV_HEADS * _SIZE
  shapes = {
      "self_attn.q_proj": (heads, width), "self_attn.k_proj": (kv_heads, width),
      "self_attn.v_proj": (kv_heads, width),
      "self_attn.o_proj": (_WIDTH, heads), "mlp.gate_proj": (_HIDDEN, _WIDTH),
      "mlp.up_proj": (_HIDDEN, _WIDTH), "mlp.down_proj": (_WIDTH, _HIDDEN),
      "post_attention_layernorm": (_WIDTH,)}
  return {f"{name}{part}.weight": shape for part, shape in shapes.items()}


def draw(rng, shapes):
  """Norms near 1; the rest large enough for every part to show."""
  return {name: (1 + .3 * rng.normal(size=shape) if "norm" in name else
                 .4 * rng.normal(size=shape)).astype(np.float32)
          for name, shape in shapes.items()}


def eagle_1(rng, base):
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | {
      "fc.weight": (_WIDTH, 2 * _WIDTH), "fc.bias": (_WIDTH,)})
  both = np.concatenate([base["embedding"][base["tokens"]], base["features"]],
                        axis=-1)
  x = both @ tensors["fc.weight"].T + tensors["fc.bias"]
  hidden = layer(tensors, "layers.0.", x, x)
  tensors["embed_tokens.weight"] = base["embedding"].astype(np.float32)
  return _LAYER, tensors, hidden, hidden @ base["head"].T


def eagle_3(rng, base, name="midlayer.", is_normed=False):
  tensors = draw(rng, layer_shapes(name, 2 * _WIDTH) | {
      "fc.weight": (_WIDTH, 3 * _WIDTH), "norm.weight": (_WIDTH,),
      f"{name}input_layernorm.weight": (_WIDTH,),
      f"{name}hidden_norm.weight": (_WIDTH,),
      "lm_head.weight": (_ROWS, _WIDTH)})
  entered = base["aux"] @ tensors["fc.weight"].T
  features = norm(entered, tensors[f"{name}hidden_norm.weight"])
  embeds = norm(base["embedding"][base["tokens"]],
                tensors[f"{name}input_layernorm.weight"])
  hidden = layer(tensors, name, np.concatenate([embeds, features], axis=-1),
                 features if is_normed else entered)
  logits = norm(hidden, tensors["norm.weight"]) @ tensors["lm_head.weight"].T
  ids = np.sort(rng.choice(_VOCAB, _ROWS, replace=False))
  tensors["d2t"] = ids - np.arange(_ROWS)
  tensors["t2d"] = np.isin(np.arange(_VOCAB), ids)
  config = _LAYER | {
      "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": _ROWS}
  return config, tensors, hidden, logits


def speculators(rng, base):
  _, tensors, hidden, logits = eagle_3(rng, base, "layers.0.", True)
  config = {
      "architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3",
      "speculators_config": {"algorithm": "eagle3"},
      "transformer_layer_config": _LAYER, "draft_vocab_size": _ROWS,
      "norm_before_residual": True,
      "eagle_aux_hidden_state_layer_ids": [1, 2, 3]}
  return config, tensors, hidden, logits


def main():
  for seed, make in enumerate((eagle_1, eagle_3, speculators)):
    rng = np.random.default_rng(seed)
    base = {"embedding": rng.normal(size=(_VOCAB, _WIDTH)),
            "head": rng.normal(size=(_VOCAB, _WIDTH)),
            "tokens": rng.integers(0, _VOCAB, _LENGTH),
            "features": rng.normal(size=(_LENGTH, _WIDTH)),
            "aux": rng.normal(size=(_LENGTH, 3 * _WIDTH))}
    base = {key: value.astype(np.float32) if value.dtype == np.float64 else
            value for key, value in base.items()}
    config, tensors, hidden, logits = make(rng, base)
    folder = _OUT / make.__name__
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    np.savez(folder / "expected.npz", hidden=hidden, logits=logits, **base)


if __name__ == "__main__":
  main()
