"""What each published architecture is called in Hugging Face's files.

Data only: `hf_config` reads config.json by these tables, `tensor_layout` the
tensors. Names and defaults are those of `transformers` 4 and 5.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Architecture:
  """One `model_type` of config.json.

  Attributes:
    fields: `DecoderConfig` field -> key of config.json.
    defaults: key of config.json -> value where the file has none.
    fixed: `DecoderConfig` field -> value that config.json does not state.
    only: key of config.json -> the values that the decoder can express.
    activation: key of config.json that names the activation.
    activations: activation in config.json -> `DecoderConfig.mlp`.
    windows: which layers slide: "none", "all", "late" (from layer
      `max_window_layers`, if `use_sliding_window`) or "alternate" (even ones).
    scales_embedding: whether embeddings are multiplied by sqrt(E).
    prefixes: of every tensor but the head; files of the bare model drop some.
    names: part of the decoder -> tensor, `{}` is the layer; parts fused by the
      decoder list several.
    kernels_in_first: kernels are stored `[in, out]` (GPT-2), not `[out, in]`.
    ignored: patterns of buffers that older files carry and nothing needs.
  """

  fields: Mapping[str, str]
  defaults: Mapping[str, Any]
  fixed: Mapping[str, Any]
  names: Mapping[str, str | tuple[str, ...]]
  prefixes: tuple[str, ...]
  activations: Mapping[str, str]
  activation: str = "hidden_act"
  only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  windows: str = "none"
  scales_embedding: bool = False
  kernels_in_first: bool = False
  ignored: tuple[str, ...] = ()


_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
_ROPE_FIELDS = _SIZES | {
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
_ROPE_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
_ATTENTION_BIAS = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}
_QKV = tuple(f"layers.{{}}.self_attn.{x}_proj" for x in "qkv")
_ROPE_NAMES = {
    "embedding": "embed_tokens.weight",
    "final_norm": "norm",
    "attn_norm": "layers.{}.input_layernorm",
    "qkv": _QKV,
    "q_norm": "layers.{}.self_attn.q_norm",
    "k_norm": "layers.{}.self_attn.k_norm",
    "out": "layers.{}.self_attn.o_proj",
    "mlp_norm": "layers.{}.post_attention_layernorm",
    "up": ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
    "down": "layers.{}.mlp.down_proj",
}
_GATED = {
    "silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_PLAIN = {
    "activation": "activation_function",
    "activations": {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
                    "gelu": "gelu", "relu": "relu"},
}
_ROPE_IGNORED = (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)


def _rope(fields=None, defaults=None, fixed=None, names=None, **kwargs):
  """A descendant of Llama: what it changes."""
  return Architecture(
      fields=_ROPE_FIELDS | (fields or {}),
      defaults=_ROPE_DEFAULTS | (defaults or {}),
      fixed={"positions": "rope"} | (fixed or {}),
      names=_ROPE_NAMES | (names or {}),
      **{"prefixes": ("model.", ""), "activations": _GATED,
         "ignored": _ROPE_IGNORED} | kwargs)


_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "max_position_embeddings": 8192,
    "use_bidirectional_attention": None,
}
_GEMMA = {
    "only": {"use_bidirectional_attention": (None, False)},
    # The first configs say "gelu" and mean the tanh form of the training.
    "activations": _GATED | {"gelu": "geglu"},
    "scales_embedding": True,
}
_LATE_WINDOWS = {"use_sliding_window": False, "sliding_window": 4096,
                 "max_window_layers": 28}
_LEARNED = {"norm": "layer", "positions": "learned"}

ARCHITECTURES = {
    "llama": _rope(
        fields=_ATTENTION_BIAS | {"mlp_bias": "mlp_bias"},
        defaults={"attention_bias": False, "mlp_bias": False,
                  "max_position_embeddings": 2048}),
    "mistral": _rope(
        defaults={"num_key_value_heads": 8, "sliding_window": 4096,
                  "max_position_embeddings": 131072},
        windows="all"),
    "qwen2": _rope(
        defaults=_LATE_WINDOWS | {"max_position_embeddings": 32768},
        fixed={"qkv_bias": True},
        windows="late"),
    "qwen3": _rope(
        fields=_ATTENTION_BIAS,
        defaults=_LATE_WINDOWS | {
            "head_dim": 128, "attention_bias": False,
            "max_position_embeddings": 32768},
        fixed={"qk_norm": True},
        windows="late"),
    "gemma": _rope(
        fields=_ATTENTION_BIAS,
        defaults=_GEMMA_DEFAULTS | {"hidden_act": "gelu_pytorch_tanh"},
        fixed={"norm": "rms_plus_one"},
        **_GEMMA),
    "gemma2": _rope(
        fields=_ATTENTION_BIAS | {"attn_softcap": "attn_logit_softcapping",
                                  "final_softcap": "final_logit_softcapping"},
        defaults=_GEMMA_DEFAULTS | {
            "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0},
        fixed={"norm": "rms_plus_one", "post_norms": True},
        names={
            "attn_post_norm": "layers.{}.post_attention_layernorm",
            "mlp_norm": "layers.{}.pre_feedforward_layernorm",
            "mlp_post_norm": "layers.{}.post_feedforward_layernorm"},
        activation="hidden_activation",
        windows="alternate",
        **_GEMMA),
    "gpt2": Architecture(
        fields={
            "vocab_size": "vocab_size", "d_model": "n_embd",
            "num_layers": "n_layer", "num_heads": "n_head", "d_ff": "n_inner",
            "max_positions": "n_positions", "norm_eps": "layer_norm_epsilon",
            "tie_embeddings": "tie_word_embeddings"},
        defaults={
            "n_inner": None, "n_positions": 1024, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True, "activation_function": "gelu_new",
            "scale_attn_weights": True, "add_cross_attention": False,
            "scale_attn_by_inverse_layer_idx": False},
        fixed=_LEARNED | {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
        only={"scale_attn_weights": (True,), "add_cross_attention": (False,),
              "scale_attn_by_inverse_layer_idx": (False,)},
        **_PLAIN,
        prefixes=("transformer.", ""),
        names={
            "embedding": "wte.weight", "position_embedding": "wpe.weight",
            "final_norm": "ln_f", "attn_norm": "h.{}.ln_1",
            "qkv": ("h.{}.attn.c_attn",), "out": "h.{}.attn.c_proj",
            "mlp_norm": "h.{}.ln_2", "up": ("h.{}.mlp.c_fc",),
            "down": "h.{}.mlp.c_proj"},
        kernels_in_first=True,
        ignored=(r"h\.\d+\.attn\.(masked_)?bias",)),
    "opt": Architecture(
        fields=_SIZES | {"d_ff": "ffn_dim", "qkv_bias": "enable_bias",
                         "out_bias": "enable_bias", "mlp_bias": "enable_bias"},
        defaults={
            "max_position_embeddings": 2048, "enable_bias": True,
            "tie_word_embeddings": True, "activation_function": "relu",
            "do_layer_norm_before": True, "_remove_final_layer_norm": False,
            "layer_norm_elementwise_affine": True},
        fixed=_LEARNED | {"position_offset": 2, "norm_eps": 1e-5},
        only={"do_layer_norm_before": (True,),
              "_remove_final_layer_norm": (False,),
              "layer_norm_elementwise_affine": (True,)},
        **_PLAIN,
        prefixes=("model.decoder.", "decoder.", ""),
        names={
            "embedding": "embed_tokens.weight",
            "position_embedding": "embed_positions.weight",
            "final_norm": "final_layer_norm",
            "attn_norm": "layers.{}.self_attn_layer_norm",
            "qkv": _QKV, "out": "layers.{}.self_attn.out_proj",
            "mlp_norm": "layers.{}.final_layer_norm",
            "up": ("layers.{}.fc1",), "down": "layers.{}.fc2"}),
}
