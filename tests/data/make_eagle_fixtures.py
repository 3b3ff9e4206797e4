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
  bias = lambda part: tensors.get(f"{name}self_attn.{part}_proj.bias", 0.)
  split = lambda part: (
      x @ take(f"self_attn.{part}_proj").T + bias(part)).reshape(
          len(x), -1, _SIZE)
  queries, keys, values = split("q"), split("k"), split("v")
  if f"{name}self_attn.q_norm.weight" in tensors:
    queries = norm(queries, take("self_attn.q_norm"))
    keys = norm(keys, take("self_attn.k_norm"))
  queries, keys = rotated(queries), rotated(keys)
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


def bias_shapes(name):
  sizes = {"q": _HEADS, "k": _KV_HEADS, "v": _KV_HEADS}
  return {f"{name}self_attn.{part}_proj.bias": (heads * _SIZE,)
          for part, heads in sizes.items()}


def draw(rng, shapes):
  """Norms near 1; the rest large enough for every part to show."""
  return {name: (1 + .3 * rng.normal(size=shape) if "norm" in name else
                 .4 * rng.normal(size=shape)).astype(np.float32)
          for name, shape in shapes.items()}


def next_features(tensors, base, embedding, num_layers=1):
  """EAGLE-1's: both inputs to one, then layers, the first without a norm."""
  both = np.concatenate([embedding[base["tokens"]], base["features"]], axis=-1)
  x = both @ tensors["fc.weight"].T + tensors.get("fc.bias", 0.)
  for i in range(num_layers):
    read = norm(x, tensors[f"layers.{i}.input_layernorm.weight"]) if i else x
    x = layer(tensors, f"layers.{i}.", read, x)
  return x


def eagle_1(rng, base):
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | {
      "fc.weight": (_WIDTH, 2 * _WIDTH), "fc.bias": (_WIDTH,)})
  hidden = next_features(tensors, base, base["embedding"])
  tensors["embed_tokens.weight"] = base["embedding"].astype(np.float32)
  return _LAYER, tensors, hidden, hidden @ base["head"].T


def eagle_1_qkv_bias(rng, base):
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | bias_shapes(
      "layers.0.") | {"fc.weight": (_WIDTH, 2 * _WIDTH), "fc.bias": (_WIDTH,)})
  hidden = next_features(tensors, base, base["embedding"])
  tensors["embed_tokens.weight"] = base["embedding"]
  config = _LAYER | {"model_type": "llama", "qkv_bias": True}
  return config, tensors, hidden, hidden @ base["head"].T


def eagle_1_deep(rng, base):
  """Two layers, no bias and no embeddings."""
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | layer_shapes(
      "layers.1.", _WIDTH) | {
          "fc.weight": (_WIDTH, 2 * _WIDTH),
          "layers.1.input_layernorm.weight": (_WIDTH,)})
  hidden = next_features(tensors, base, base["embedding"], 2)
  config = _LAYER | {"num_hidden_layers": 2, "bias": False}
  return config, tensors, hidden, hidden @ base["head"].T


def eagle_1_own_table(rng, base):
  """Embeddings unlike the target's."""
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | {
      "fc.weight": (_WIDTH, 2 * _WIDTH), "fc.bias": (_WIDTH,),
      "embed_tokens.weight": (_VOCAB, _WIDTH)})
  hidden = next_features(tensors, base, tensors["embed_tokens.weight"])
  return _LAYER, tensors, hidden, hidden @ base["head"].T


def vllm(rng, base):
  """EAGLE-1 as converted for vLLM, with a head for the tokens it lists."""
  tensors = draw(rng, layer_shapes("layers.0.", _WIDTH) | {
      "fc.weight": (_WIDTH, 2 * _WIDTH), "fc.bias": (_WIDTH,)})
  hidden = next_features(tensors, base, base["embedding"])
  ids = rng.choice(_VOCAB, _ROWS, replace=False)
  logits = hidden @ base["head"][ids].T
  tensors = {name if name.startswith("fc.") else f"model.{name}": value
             for name, value in tensors.items()}
  tensors |= {"model.embed_tokens.weight": base["embedding"],
              "lm_head.weight": base["head"], "token_map": ids}
  config = {
      "architectures": ["EAGLEModel"], "model_type": "eagle", "model": _LAYER,
      "truncated_vocab_size": _ROWS, "eagle_fc_bias": True}
  return config, tensors, hidden, logits


def attended(tensors, name, base, entered, is_normed):
  """EAGLE-3's first layer on features that are one already."""
  features = norm(entered, tensors[f"{name}hidden_norm.weight"])
  table = tensors.get("embed_tokens.weight", base["embedding"])
  embeds = norm(table[base["tokens"]], tensors[f"{name}input_layernorm.weight"])
  return layer(tensors, name, np.concatenate([embeds, features], axis=-1),
               features if is_normed else entered)


def eagle_3_shapes(name, target_width=_WIDTH):
  return layer_shapes(name, 2 * _WIDTH) | {
      "fc.weight": (_WIDTH, 3 * target_width), "norm.weight": (_WIDTH,),
      f"{name}input_layernorm.weight": (_WIDTH,),
      f"{name}hidden_norm.weight": (_WIDTH,),
      "lm_head.weight": (_ROWS, _WIDTH)}


def add_tokens(rng, tensors):
  """Which tokens the rows of the head stand for."""
  ids = np.sort(rng.choice(_VOCAB, _ROWS, replace=False))
  tensors["d2t"] = ids - np.arange(_ROWS)
  tensors["t2d"] = np.isin(np.arange(_VOCAB), ids)


def spoken(rng, tensors, hidden, **config):
  """An EAGLE-3 fixture, given what its layer says."""
  logits = norm(hidden, tensors["norm.weight"]) @ tensors["lm_head.weight"].T
  add_tokens(rng, tensors)
  config = _LAYER | {"architectures": ["LlamaForCausalLMEagle3"],
                     "draft_vocab_size": _ROWS, **config}
  return config, tensors, hidden, logits


def eagle_3(rng, base, name="midlayer.", is_normed=False):
  tensors = draw(rng, eagle_3_shapes(name))
  entered = base["aux"] @ tensors["fc.weight"].T
  hidden = attended(tensors, name, base, entered, is_normed)
  return spoken(rng, tensors, hidden)


def eagle_3_other_width(rng, base):
  """Of a target that is not as wide; so it has embeddings of its own."""
  width = base["features"].shape[1]
  tensors = draw(rng, eagle_3_shapes("midlayer.", width) | {
      "embed_tokens.weight": (_VOCAB, _WIDTH)})
  entered = base["aux"] @ tensors["fc.weight"].T
  hidden = attended(tensors, "midlayer.", base, entered, False)
  return spoken(rng, tensors, hidden, target_hidden_size=width)


def eagle_3_fc_norm(rng, base):
  """Every tap has a norm of its own."""
  norms = [f"fc_norm.{i}.weight" for i in range(3)]
  tensors = draw(rng, eagle_3_shapes("midlayer.") | {
      name: (_WIDTH,) for name in norms})
  taps = [norm(tap, tensors[name]) for name, tap in zip(
      norms, np.split(base["aux"], 3, axis=-1), strict=True)]
  entered = np.concatenate(taps, axis=-1) @ tensors["fc.weight"].T
  hidden = attended(tensors, "midlayer.", base, entered, False)
  return spoken(rng, tensors, hidden, fc_norm=True)


def speculators(rng, base):
  _, tensors, hidden, logits = eagle_3(rng, base, "layers.0.", True)
  return speculators_config(_LAYER), tensors, hidden, logits


def speculators_normed(rng, base):
  """Two layers of Qwen 3, taps with one norm, features after the head's."""
  own = {f"layers.{i}.self_attn.{part}_norm.weight": (_SIZE,)
         for i in range(2) for part in "qk"}
  tensors = draw(rng, eagle_3_shapes("layers.0.") | layer_shapes(
      "layers.1.", _WIDTH) | own | {
          "layers.1.input_layernorm.weight": (_WIDTH,),
          "input_norm.weight": (3 * _WIDTH,)})
  entered = norm(base["aux"], tensors["input_norm.weight"]) @ tensors[
      "fc.weight"].T
  x = attended(tensors, "layers.0.", base, entered, True)
  x = layer(tensors, "layers.1.",
            norm(x, tensors["layers.1.input_layernorm.weight"]), x)
  hidden = norm(x, tensors["norm.weight"])
  logits = hidden @ tensors["lm_head.weight"].T
  add_tokens(rng, tensors)
  inner = _LAYER | {
      "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
      "num_hidden_layers": 2}
  config = speculators_config(inner) | {
      "norm_before_fc": True, "norm_output": True, "fc_norm": False}
  return config, tensors, hidden, logits


def speculators_config(inner):
  return {
      "architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3",
      "speculators_config": {"algorithm": "eagle3"},
      "transformer_layer_config": inner, "draft_vocab_size": _ROWS,
      "norm_before_residual": True,
      "eagle_aux_hidden_state_layer_ids": [1, 2, 3]}


# By folder: what makes it, and the width of its target. A fixture's seed is its
# place, so new ones come last.
_FIXTURES = {
    "eagle_1": (eagle_1, _WIDTH),
    "eagle_3": (eagle_3, _WIDTH),
    "speculators": (speculators, _WIDTH),
    "eagle_1_qkv_bias": (eagle_1_qkv_bias, _WIDTH),
    "eagle_1_deep": (eagle_1_deep, _WIDTH),
    "eagle_1_own_table": (eagle_1_own_table, _WIDTH),
    "eagle_3_narrow": (eagle_3_other_width, 24),
    "eagle_3_wide": (eagle_3_other_width, 10),
    "eagle_3_fc_norm": (eagle_3_fc_norm, _WIDTH),
    "speculators_normed": (speculators_normed, _WIDTH),
    "vllm": (vllm, _WIDTH),
}


def main():
  for seed, (name, (make, width)) in enumerate(_FIXTURES.items()):
    rng = np.random.default_rng(seed)
    base = {"embedding": rng.normal(size=(_VOCAB, width)),
            "head": rng.normal(size=(_VOCAB, width)),
            "tokens": rng.integers(0, _VOCAB, _LENGTH),
            "features": rng.normal(size=(_LENGTH, width)),
            "aux": rng.normal(size=(_LENGTH, 3 * width))}
    base = {key: value.astype(np.float32) if value.dtype == np.float64 else
            value for key, value in base.items()}
    config, tensors, hidden, logits = make(rng, base)
    folder = _OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    np.savez(folder / "expected.npz", hidden=hidden, logits=logits, **base)


if __name__ == "__main__":
  main()
