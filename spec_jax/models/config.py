"""The hyper-parameters that tell one decoder architecture from another."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's frequency scaling (Llama 3.1 model card, `rope_type: llama3`).

  Wavelengths longer than `original_max_positions / low_freq_factor` are
  stretched by `factor`, those shorter than
  `original_max_positions / high_freq_factor` are kept, those between are
  interpolated.
  """

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """One decoder family; each published architecture is a choice of fields.

  Hashable by value, so that a rebuilt model never causes a retrace.

  Attributes:
    vocab_size: rows of the embedding, padding rows included.
    d_model: width of the residual stream (axis E).
    num_layers: number of blocks (axis M).
    num_heads: query heads.
    num_kv_heads: key/value heads (axis K); divides `num_heads`.
    head_dim: size of one head (axis C).
    d_ff: hidden size of the feed-forward sub-layer (axis F).
    max_positions: longest sequence the positions are defined for, in tokens.
    real_vocab_size: ids at or above it are padding rows whose logits are set
      to -inf; None when every row is a token.
    norm: "rms", "rms_plus_one" (Gemma: scale is 1 + w) or "layer".
    mlp: "swiglu", "geglu" (gated), "gelu", "gelu_tanh" or "relu" (plain);
      "none": layers are attention alone.
    positions: "rope" or "learned".
    position_offset: added to a position before the learned table (OPT: 2).
    rope_theta: base of the rotary frequencies.
    rope_scaling: Llama 3's scaling, or None.
    windows: per-layer sliding window in tokens (0 = unlimited); empty = all
      unlimited. A query sees a key iff 0 <= distance < window.
    qkv_bias, out_bias, mlp_bias: which linear maps carry a bias.
    qk_norm: RMS-normalise queries and keys per head (Qwen 3).
    post_norms: also normalise each sub-layer's output (Gemma 2).
    embed_scale: multiplies the embeddings (Gemma: sqrt(E)).
    attn_softcap: tanh cap on attention scores (Gemma 2); 0 = none.
    final_softcap: tanh cap on the logits (Gemma 2); 0 = none.
    query_scale: multiplies queries; None = head_dim ** -0.5.
    tie_embeddings: whether the output head is the embedding.
  """

  vocab_size: int
  d_model: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  d_ff: int
  max_positions: int = 2048
  real_vocab_size: int | None = None
  norm: str = "rms"
  norm_eps: float = 1e-5
  mlp: str = "swiglu"
  positions: str = "rope"
  position_offset: int = 0
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  windows: tuple[int, ...] = ()
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  embed_scale: float = 1.0
  attn_softcap: float = 0.0
  final_softcap: float = 0.0
  query_scale: float | None = None
  tie_embeddings: bool = True

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f"num_heads={self.num_heads} is not a multiple of"
          f" num_kv_heads={self.num_kv_heads}.")
    if self.windows and len(self.windows) != self.num_layers:
      raise ValueError(
          f"windows has {len(self.windows)} entries, one per layer was"
          f" expected: num_layers={self.num_layers}.")
    for field, allowed in _CHOICES.items():
      if getattr(self, field) not in allowed:
        raise ValueError(
            f"{field}={getattr(self, field)!r}, expected one of {allowed}.")
    if self.positions == "rope" and self.head_dim % 2:
      raise ValueError(f"rope needs an even head_dim, got {self.head_dim}.")

  @property
  def num_groups(self) -> int:
    """Query heads that share one key/value head (axis G)."""
    return self.num_heads // self.num_kv_heads

  @property
  def num_params(self) -> int:
    """Trainable parameters, the embedding counted once when tied."""
    attention = self.d_model * self.head_dim * (
        2 * self.num_heads + 2 * self.num_kv_heads)
    gated = self.mlp in ("swiglu", "geglu")
    num_maps = 0 if self.mlp == "none" else 3 if gated else 2
    feed_forward = num_maps * self.d_model * self.d_ff
    heads = 1 if self.tie_embeddings else 2
    num_norms = 1 if self.mlp == "none" else 2
    return (self.num_layers * (
        attention + feed_forward + num_norms * self.d_model)
            + heads * self.vocab_size * self.d_model + self.d_model)

  def window(self, layer: int) -> int:
    return self.windows[layer] if self.windows else 0


_CHOICES = {
    "norm": ("rms", "rms_plus_one", "layer"),
    "mlp": ("swiglu", "geglu", "gelu", "gelu_tanh", "relu", "none"),
    "positions": ("rope", "learned"),
}
