"""The verification part of `experiments.kernel_times`: what is timed."""

import functools

import jax
import jax.numpy as jnp

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.evaluation import report
from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import verify_gpu
from spec_jax.kernels import verify_tpu
from spec_jax.verifiers import recursive
from spec_jax.verifiers import walk

SAMPLINGS = {
    "T 0.8": sampling_lib.Sampling(0.8),
    "T 0.8, top-k 50": sampling_lib.Sampling(0.8, top_k=50),
    "T 0.8, top-p 0.9": sampling_lib.Sampling(0.8, top_p=0.9),
}
LEGEND = """\
verification: the walk of recursive rejection through a binary tree drawn from
a law near the target's, float32; floor: the logits and draft laws of the nodes
on the path, read once. Where xla / kernel is well above 1 on a GPU, the kernel
should be what "auto" takes in `spec_jax.verifiers.walk`.
"""


def inputs(vocab: int, rows: int, num_nodes: int):
  """A tree, its logits and a context, as `walk.walk` takes them."""
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (rows, num_nodes, vocab)
  logits = 3 * jax.random.normal(keys[0], shape)
  q_logits = logits + jax.random.normal(keys[1], shape)
  # Node n hangs below (n - 1) / 2, and was drawn from what that one says.
  parents = (jnp.arange(num_nodes, dtype=jnp.int32) - 1) // 2
  tokens = jax.random.categorical(
      keys[2], q_logits[:, jnp.maximum(parents, 0)]).astype(jnp.int32)
  tree = types.DraftTree(
      tokens, jnp.broadcast_to(parents, tokens.shape),
      jnp.ones(tokens.shape, bool), jax.nn.softmax(q_logits), "iid",
      depth=num_nodes.bit_length() - 1, max_children=2)
  ctx = types.Context(jnp.zeros((rows, 1), jnp.int32),
                      jnp.ones((rows,), jnp.int32),
                      keys_lib.row_keys(0, rows), None, None)
  return tree, logits, ctx


def variants(sampling, tree, logits, ctx):
  """Functions of `inputs` by name."""
  backends = {"xla": "xla"}
  if has_kernel(sampling, tree, logits, ctx):
    backends["kernel"] = "pallas"
  return {name: jax.jit(functools.partial(
      walk.walk, recursive.Recursive(), sampling, backend=backend))
          for name, backend in backends.items()}


def has_kernel(sampling, tree, logits, ctx) -> bool:
  """Whether this device has a kernel for these shapes, not interpreted."""
  arguments = "iid", sampling, tree, logits
  if jax.default_backend() == "tpu":
    return verify_tpu.supports(*arguments, ctx.keys)
  return backend_lib.has_hopper() and verify_gpu.supports(*arguments)


def num_bytes(verdict: types.Verdict, logits: jax.Array) -> int:
  """What any walk must read: two laws for each node on its path."""
  return 2 * int(verdict.count.sum()) * logits.shape[-1] * logits.itemsize


def text(found) -> str:
  """The table in markdown."""
  lines = []
  for row in found:
    times = {name: spread["median"] for name, spread in row["seconds"].items()}
    kernel, xla = times.get("kernel"), times["xla"]
    lines.append({
        "vocabulary x rows": f"{row['vocab']} x {row['rows']}",
        "sampling": row["sampling"],
        "kernel, ms": report.number(kernel and 1e3 * kernel, 3),
        "xla, ms": report.number(1e3 * xla, 3),
        "floor, ms": report.number(1e3 * row["floor"], 3),
        "xla / kernel": report.number(kernel and xla / kernel)})
  return report.markdown(lines)
