"""What reading weights costs: by how many there are, their type, and the rows.

  python -m experiments.weight_reads

Products of a few rows with many matrices in turn, as a forward pass has them,
each matrix as wide as the target's widest. What does not stay in the cache of
the processor from one pass to the next comes from memory each time; so a long
prefix costs more than its own keys and values, once it drives weights out.
"""

from collections.abc import Sequence
import functools
import sys

from absl import flags
import jax
import jax.numpy as jnp

from experiments import common
from spec_jax.evaluation import clock
from spec_jax.evaluation import report
from spec_jax.models import products

_PASSES = 10  # Over all matrices, in a timed loop.
_MEGABYTE = 1e6


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_list(
      "megabytes", ["6", "12", "24", "32", "40", "52", "64", "96"], "Of weights"
      " in float32; as many in 16 bits are half that.", flag_values=values)
  flags.DEFINE_list("rows", ["1", "8"], "Of a product: tokens of a forward.",
                    flag_values=values)
  flags.DEFINE_list("types", ["float32", "bfloat16"], "Of the weights.",
                    flag_values=values)
  flags.DEFINE_integer("repeats", 15, "Times each loop is timed.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_string("out", "out/weight_reads", "Folder of the result card and"
                      " the table.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  config = common.load_models(values).target.config
  with common.clean_errors():
    sizes = common.numbers(values.megabytes, "megabytes")
    counts = common.numbers(values.rows, "rows", int)
    if min(*sizes, *counts) <= 0:
      raise ValueError(f"--megabytes={sizes} --rows={counts}, expected positive"
                       " numbers.")
    if not values.types or set(values.types) - {"float32", "bfloat16"}:
      raise ValueError(f"--types={values.types}, expected float32, bfloat16 or"
                       " both.")
    folder = report.make_folder(values.out)
  shape = config.d_model, 2 * config.d_ff
  rows = [row for size in sizes
          for row in measure(shape, size, values.types, counts, values.repeats)]
  with common.clean_errors():
    report.write_json(folder / "weight_reads.json", report.card(
        common.flags_of(values), kernel=shape, rows=rows))
    report.write_text(folder / "weight_reads.md", text(rows))
  print(text(rows))
  return 0


def measure(shape: tuple[int, int], megabytes: float, types: Sequence[str],
            counts: Sequence[int], repeats: int) -> list[dict]:
  """Seconds of a pass over matrices that take so much room in float32.

  Args:
    shape: of a matrix.
    megabytes: of all of them; rounded to whole matrices, at least one.
    types: of the matrices; all are timed in turn.
    counts: rows of a product, likewise.
    repeats: samples of each.
  """
  size = shape[0] * shape[1] * 4 / _MEGABYTE
  keys = jax.random.split(jax.random.key(0), max(1, round(megabytes / size)))
  kernels = [jax.random.normal(key, shape) / shape[0] ** 0.5 for key in keys]
  cases = {}
  for kind in types:
    own = products.narrowed(kernels, jnp.dtype(kind))
    for count in counts:
      x = jnp.ones((count, shape[0]))
      cases[kind, count] = functools.partial(_loop.lower(own, x).compile(),
                                             own, x)
  seconds = clock.medians(cases, repeats)
  return [{"megabytes": len(keys) * size * jnp.dtype(kind).itemsize / 4,
           "type": kind, "rows": count, "seconds": found / _PASSES}
          for (kind, count), found in seconds.items()]


@jax.jit
def _loop(kernels, x):
  """Each product reads the one before."""

  def step(_, x):
    for kernel in kernels:
      found = products.matmul(x, kernel, 1)
      x = jnp.tanh(x + found.sum(1, keepdims=True))
    return x

  return jax.lax.fori_loop(0, _PASSES, step, x)


def text(rows: Sequence[dict]) -> str:
  """The table in markdown."""
  return report.markdown([{
      "weights": row["type"], "rows": str(row["rows"]),
      "MB": report.number(row["megabytes"], 0),
      "ms": report.number(1e3 * row["seconds"], 2),
      "GB/s": report.number(
          row["megabytes"] * _MEGABYTE / 1e9 / row["seconds"], 0)}
      for row in sorted(rows, key=lambda row: (
          row["type"] != "float32", row["rows"], row["megabytes"]))])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
