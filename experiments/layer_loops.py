"""A target's layers one after the other, or one layer in a `lax.scan`.

  JAX_ENABLE_COMPILATION_CACHE=false python -m experiments.layer_loops

The decoder writes its layers out. A scan compiles one layer only, but has to
cut each layer's weights out of a stack. Both give the same logits; this program
times both, in a loop on the device as a decode has it, and their compilation.
"""

from collections.abc import Sequence
import functools
import sys
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from spec_jax.caches import dense
from spec_jax.evaluation import clock
from spec_jax.evaluation import report
from spec_jax.models import decoder

_STEPS = 20  # Forwards of a timed loop, each of which reads the one before.


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_list("num_tokens", ["1", "8"], "Tokens of a forward.",
                    flag_values=values)
  for name, default, text in (
      ("prefix", 128, "Committed tokens before them."),
      ("repeats", 15, "Times each loop is timed.")):
    flags.DEFINE_integer(name, default, text, lower_bound=1,
                         flag_values=values)
  flags.DEFINE_string("out", "out/layer_loops", "Folder of the result card and"
                      " the table.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  bundle = common.load_models(values)
  with common.clean_errors():
    counts = common.numbers(values.num_tokens, "num_tokens", int)
    if min(counts) < 1:
      raise ValueError(f"--num_tokens={counts}, expected at least 1 of each.")
    check(bundle.target.config)
    folder = report.make_folder(values.out)
  rows = [measure(bundle.target, bundle.params["target"], count, values.prefix,
                  values.repeats) for count in counts]
  with common.clean_errors():
    report.write_json(folder / "layer_loops.json", report.card(
        common.flags_of(values), bundle=bundle.name, rows=rows))
    report.write_text(folder / "layer_loops.md", text(rows))
  print(text(rows))
  return 0


def check(config) -> None:
  """Raises ValueError for layers that are not all alike."""
  if len({config.window(i) for i in range(config.num_layers)}) > 1:
    raise ValueError("the target's layers have different windows, expected one:"
                     " a scan needs layers that are alike.")


def written_out(model, params, tokens, positions, mask, cache) -> jax.Array:
  """Logits as the decoder gives them."""
  return model.forward(params, tokens, positions, mask, cache).logits


def scanned(model, params, stack, tokens, positions, mask, cache) -> jax.Array:
  """The same logits.

  Args:
    model: a `contract.LinenModel` of a decoder.
    params: its parameters; those of layers are not used.
    stack: see `stacked`.
    tokens: `i32[B, T]`.
    positions: `i32[B, T]`.
    mask: `bool[B, T, T]`.
    cache: only its length is used.
  """
  config, bound = model.config, model.module.bind({"params": params})
  block = decoder.Block(config, model.dtype, model.module.backend)
  angles = decoder.angles_of(config, positions)
  masks = decoder.FreshMasks(positions, mask, None)

  def layer(x, own):
    weights, keys, values = own
    scope = decoder.Scope(
        masks.get(config.window(0)), decoder.prefix_of(dense.DenseCache(
            (keys,), (values,), cache.length), 0), positions, config.window(0))
    return block.apply({"params": weights}, x, angles, scope, None, None)[0], ()

  return bound.read_out(jax.lax.scan(layer, bound.embed(tokens), stack)[0])


def stacked(params, cache):
  """Weights, keys and values of all layers, the layers' axis first."""
  layers = [params[f"layers_{i}"] for i in range(len(cache.k))]
  join = lambda *leaves: jnp.stack(leaves)
  return jax.tree.map(join, *layers), join(*cache.k), join(*cache.v)


def measure(model, params, num_tokens: int, prefix: int, repeats: int) -> dict:
  """Seconds of a forward, of a compilation, and how far the logits differ."""
  cache = dense.empty(model, 1, prefix + num_tokens).replace(
      length=jnp.full((1,), prefix, jnp.int32))
  positions = prefix + jnp.arange(num_tokens, dtype=jnp.int32)[None]
  mask = jnp.tril(jnp.ones((1, num_tokens, num_tokens), bool))
  tokens = jnp.arange(1, num_tokens + 1, dtype=jnp.int32)[None]
  stack = stacked(params, cache)
  forwards = {
      "written out": lambda args, x: written_out(
          model, args[0], x, positions, mask, args[1]),
      "scanned": lambda args, x: scanned(
          model, args[0], args[2], x, positions, mask, args[1])}
  args = params, cache, stack
  logits = [np.asarray(jax.jit(fn)(args, tokens)) for fn in forwards.values()]
  loops, compilation = {}, {}
  for name, fn in forwards.items():
    begin = time.perf_counter()
    loops[name] = jax.jit(functools.partial(_loop, fn)).lower(
        args, tokens).compile()
    compilation[name] = time.perf_counter() - begin
  seconds = clock.medians(
      {name: functools.partial(loop, args, tokens)
       for name, loop in loops.items()}, repeats)
  return {"num_tokens": num_tokens, "compilation": compilation,
          "difference": float(np.abs(logits[0] - logits[1]).max()),
          "seconds": {name: found / _STEPS for name, found in seconds.items()}}


def _loop(fn, args, tokens):
  return jax.lax.fori_loop(
      0, _STEPS, lambda _, x: jnp.argmax(fn(args, x), -1).astype(x.dtype),
      tokens)


def text(rows: Sequence[dict]) -> str:
  """The table in markdown."""
  return report.markdown([{
      "tokens": str(row["num_tokens"]), "layers": name,
      "forward, ms": report.number(1e3 * seconds, 2),
      "compilation, s": report.number(row["compilation"][name], 1)}
      for row in rows for name, seconds in row["seconds"].items()])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
