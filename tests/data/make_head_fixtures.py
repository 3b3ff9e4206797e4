"""Makes the tiny draft heads of tests/data/heads with torch.

Needs torch and safetensors, of which the project itself has not the first, so
run it in a venv of its own (last made with torch 2.13.0):

  pip install torch==2.13.0 safetensors numpy
  python tests/data/make_head_fixtures.py

Each folder gets random heads in the files of a published format, all biases
different from zero, and `expected.npz`: a target's embedding and output head
`f32[V, E]`, features `f32[T, E]`, paths `i32[D]` behind the last feature, and
the logits `f32[D, V]` along the path; of heads beside a base also tokens
`i64[T]` and its logits `f32[T, V]`. The modules below are written after the
formats' descriptions and carry their names; none of the project's code is used.
Further layouts are made by `make_head_variant_fixtures`.
"""

import json
import math
import pathlib
import shutil

import numpy as np
from safetensors.torch import save_file
import torch
from torch import nn
from torch.nn import functional

_OUT = pathlib.Path(__file__).parent / "heads"
V, E, T = 12, 16, 5
_HEADS = 2  # Query heads of the prefix layer, of size 8, one for keys.


class ResBlock(nn.Module):

  def __init__(self, width):
    super().__init__()
    self.linear = nn.Linear(width, width)

  def forward(self, x):
    return x + functional.silu(self.linear(x))


class Medusa(nn.ModuleList):
  """`{i}.{j}.linear`, `{i}.{layers}`."""

  def __init__(self, num, layers, with_out=True):
    super().__init__(nn.Sequential(
        *[ResBlock(E) for _ in range(layers)],
        *([nn.Linear(E, V, bias=False)] if with_out else []))
        for _ in range(num))

  def along(self, world, path):
    found = [head(world["features"][-1]) for head in self]
    if found[0].shape[-1] == E:
      found = [x @ world["head"].T for x in found]
    return torch.stack(found[:len(path)])


class HydraBlock(nn.Module):

  def __init__(self, width, is_first):
    super().__init__()
    self.linear = nn.Linear(width, E)
    if is_first:
      self.res_connection = nn.Linear(width, E)

  def forward(self, x):
    skip = self.res_connection(x) if hasattr(self, "res_connection") else x
    return skip + functional.silu(self.linear(x))


class Hydra(nn.Module):
  """`hydra_mlp.{i}`, `hydra_lm_head.{i}`, the latter with dropouts between."""

  def __init__(self, num, layers, is_deep):
    super().__init__()
    between = lambda blocks: nn.Sequential(*[
        module for block in blocks
        for module in ([nn.Dropout(.2)] if is_deep else []) + [block]])
    self.hydra_mlp = nn.ModuleList(
        between([HydraBlock((i + 2) * E if j == 0 else E, j == 0)
                 for j in range(layers)]) for i in range(num))
    out = lambda: nn.Linear(E, V)
    self.hydra_lm_head = nn.ModuleList(
        between([out()]) if is_deep else out() for _ in range(num))
    if is_deep:
      self.prefix_embeding_layer = Prefix()

  def along(self, world, path):
    read = world["features"]
    if hasattr(self, "prefix_embeding_layer"):
      read = self.prefix_embeding_layer(read)
    c, found = read[-1], []
    for token, mlp, out in zip(path, self.hydra_mlp, self.hydra_lm_head):
      c = torch.cat([c, world["embedding"][token]])
      found.append(out(mlp(c)))
    return torch.stack(found)


class Attention(nn.Module):

  def __init__(self):
    super().__init__()
    self.q_proj = nn.Linear(E, _HEADS * 8, bias=False)
    self.k_proj = nn.Linear(E, 8, bias=False)
    self.v_proj = nn.Linear(E, 8, bias=False)
    self.o_proj = nn.Linear(_HEADS * 8, E, bias=False)

  def forward(self, x):
    size = len(x)
    angles = torch.outer(torch.arange(size), 10000. ** (-torch.arange(4) / 4))
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    turn = lambda a: a * cos + torch.cat([-a[..., 4:], a[..., :4]], -1) * sin
    queries = turn(self.q_proj(x).view(size, _HEADS, 8).transpose(0, 1))
    keys, values = turn(self.k_proj(x)), self.v_proj(x)
    scores = queries @ keys.T / math.sqrt(8)
    mask = torch.ones(size, size).tril() == 0
    mixed = scores.masked_fill(mask, -math.inf).softmax(-1) @ values
    return self.o_proj(mixed.transpose(0, 1).reshape(size, -1))


class Norm(nn.Module):

  def __init__(self):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(E))

  def forward(self, x):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weight


class Mlp(nn.Module):

  def __init__(self):
    super().__init__()
    self.gate_proj = nn.Linear(E, 24, bias=False)
    self.up_proj = nn.Linear(E, 24, bias=False)
    self.down_proj = nn.Linear(24, E, bias=False)

  def forward(self, x):
    return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):

  def __init__(self):
    super().__init__()
    self.self_attn, self.mlp = Attention(), Mlp()
    self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()

  def forward(self, x):
    x = x + self.self_attn(self.input_layernorm(x))
    return x + self.mlp(self.post_attention_layernorm(x))


class Prefix(nn.Module):

  def __init__(self):
    super().__init__()
    self.embed_tokens = nn.Embedding(V, E)
    self.layers = nn.ModuleList([Layer()])
    self.norm = Norm()

  def forward(self, x):
    return self.norm(self.layers[0](x))


class Base(nn.Module):

  def __init__(self):
    super().__init__()
    self.embed_tokens = nn.Embedding(V, E)
    self.layers = nn.ModuleList([Layer(), Layer()])
    self.norm = Norm()

  def forward(self, tokens):
    x = self.embed_tokens(tokens)
    for layer in self.layers:
      x = layer(x)
    return self.norm(x)


class WholeMedusa(nn.Module):
  """`model`, `lm_head`, `medusa_head`."""

  def __init__(self, num, layers):
    super().__init__()
    self.model = Base()
    self.lm_head = nn.Linear(E, V, bias=False)
    self.medusa_head = Medusa(num, layers)

  def along(self, world, path):
    world["tokens"] = torch.randint(V, (T,))
    world["base_logits"] = self.lm_head(self.model(world["tokens"]))
    return self.medusa_head.along(world, path)


class StageNorm(nn.Module):

  def __init__(self, size):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(size))
    self.bias = nn.Parameter(torch.zeros(size))

  def forward(self, x):
    x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    return x * self.weight + self.bias


class Speculator(nn.Module):
  """`emb.{i}`, `proj.{i}`, `head.{i}`, `ln.{i}`."""

  def __init__(self, num, size, is_tied, scales):
    super().__init__()
    make = lambda build: nn.ModuleList(
        [build()] * num if is_tied else [build() for _ in range(num)])
    self.emb = make(lambda: nn.Embedding(V, size))
    self.head = make(lambda: nn.Linear(size, V, bias=False))
    self.ln = make(lambda: StageNorm(size))
    later = [nn.Linear(size, size, bias=False) for _ in range(num - 1)]
    self.proj = nn.ModuleList([nn.Linear(E, size, bias=False)] + (
        [later[0]] * (num - 1) if is_tied else later))
    self.scales, self.size = scales, size

  def along(self, world, path):
    state = world["features"][-1]
    if self.scales:
      state = state * torch.rsqrt((state * state).mean() + 1e-6) / 2 ** .5
    keep = .5 ** (.5 / len(self.emb))
    add, found = math.sqrt((1 - keep ** 2) * self.size / 2), []
    for token, emb, proj, ln, head in zip(
        path, self.emb, self.proj, self.ln, self.head):
      mixed = keep * proj(state) + add * emb(torch.tensor(token))
      state = functional.gelu(ln(mixed))
      found.append(head(state))
    return torch.stack(found)


class ReDrafter(nn.Module):
  """`rnn_w`, `rnn_u`, `lm_head`."""

  def __init__(self, layers):
    super().__init__()
    self.rnn_w = nn.Linear(E, E, bias=False)
    self.rnn_u = nn.Linear(E, E)
    self.lm_head = nn.Sequential(*[ResBlock(2 * E) for _ in range(layers)],
                                 nn.Linear(2 * E, V, bias=False))

  def along(self, world, path):
    memory, found = torch.zeros(E), []
    for token in path:
      memory = functional.silu(
          self.rnn_w(world["embedding"][token]) + self.rnn_u(memory))
      found.append(self.lm_head(torch.cat([world["features"][-1], memory])))
    return torch.stack(found)


def _vllm(state):
  """Medusa's tensors as vLLM calls them."""
  names = {}
  for name, tensor in state.items():
    head, layer, *rest = name.split(".")
    names[f"medusa_heads.blocks.{head}.layers.{layer}.weight"
          if rest == ["linear", "weight"]
          else f"medusa_heads.lm_heads.{head}.weight"] = tensor
  return names


def _write(name, module, config, file, rename=None, num_path=2):
  folder = _OUT / name
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  module = module.eval()
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(.3 * torch.randn_like(parameter))
    if config.get("medusa_fc_bias") is False:
      for key, parameter in module.named_parameters():
        if key.endswith("bias"):
          parameter.zero_()
    world = {"embedding": torch.randn(V, E), "head": torch.randn(V, E),
             "features": torch.randn(T, E)}
    path = torch.randint(V, (num_path,)).tolist()
    logits = module.along(world, path)
  state = module.state_dict()
  if rename:
    state = rename(state)
  if file.endswith("safetensors"):
    save_file({k: v.contiguous().clone() for k, v in state.items()},
              folder / file)
  else:
    torch.save(state, folder / file)
  (folder / "config.json").write_text(json.dumps(config, indent=1))
  np.savez(folder / "expected.npz", path=np.asarray(path, np.int32),
           logits=logits.numpy(), **{k: v.numpy() for k, v in world.items()})


def main():
  torch.manual_seed(0)
  # The published configs of this format state too few heads.
  _write("medusa_a", Medusa(3, 1),
         {"medusa_num_heads": 2, "medusa_num_layers": 1}, "medusa_lm_head.pt")
  _write("medusa_b", Medusa(2, 1, False),
         {"medusa_num_heads": 2, "medusa_num_layers": 1, "version": "2"},
         "medusa_lm_head.safetensors")
  _write("medusa_c", WholeMedusa(2, 2), {
      "model_type": "llama", "vocab_size": V, "hidden_size": E,
      "intermediate_size": 24, "num_hidden_layers": 2,
      "num_attention_heads": _HEADS, "num_key_value_heads": 1, "head_dim": 8,
      "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
      "hidden_act": "silu", "tie_word_embeddings": False,
      "medusa_num_heads": 2, "medusa_num_layers": 2}, "model.safetensors")
  _write("medusa_d", Medusa(2, 2), {
      "model_type": "medusa", "num_heads": 2, "num_hidden_layers": 2,
      "hidden_size": E, "vocab_size": V, "truncated_vocab_size": V,
      "medusa_fc_bias": False}, "model.safetensors",
         lambda state: _vllm({k: v for k, v in state.items()
                              if not k.endswith("bias")}))
  _write("hydra", Hydra(2, 1, False), {
      "hydra_num_heads": 2, "hydra_num_layers": 1, "hydra_head_arch": "mlp",
      "grounded_heads": True, "hidden_state_offset": 0}, "hydra_lm_head.pt")
  _write("hydra_pp", Hydra(2, 3, True), {
      "hydra_num_heads": 2, "hydra_num_layers": 3,
      "hydra_head_arch": "prefix-mlp", "grounded_heads": True,
      "hidden_state_offset": 0}, "hydra_lm_head.pt")
  common = {"model_type": "mlp_speculator", "vocab_size": V, "emb_dim": E}
  _write("speculator", Speculator(3, 8, False, False),
         common | {"inner_dim": 8, "n_predict": 3}, "model.safetensors",
         lambda state: {f"speculator.{k}": v for k, v in state.items()},
         num_path=3)
  _write("speculator_tied", Speculator(3, E, True, True), common | {
      "inner_dim": 0, "n_predict": 3, "tie_weights": True,
      "scale_input": True}, "pytorch_model.bin", num_path=3)
  _write("redrafter", ReDrafter(2), {
      "model_type": "recurrent_drafting_drafter", "vocab_size": V,
      "hidden_size": E, "exit_dim": 2 * E, "num_draft_layers": 2,
      "rnn": True}, "model.safetensors", num_path=3)


if __name__ == "__main__":
  main()
