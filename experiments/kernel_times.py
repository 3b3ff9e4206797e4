"""Tree attention and verification: kernel and XLA beside the memory floor.

  python -m experiments.kernel_times                        # on a TPU or a GPU
  python -m experiments.kernel_times --prefix=4096 --rows=1,8 --dtype=float32
  python -m experiments.kernel_times --prefix= --vocab=32000  # no attention

The floor is the time in which the device moves the bytes that any attention
must move (keys and values up to each row's length, queries and outputs), or any
verification (the laws on the path), at the bandwidth that it reaches in a plain
sum, measured in the same run. Variants, JAX's own attention among them, are
timed in turn. On a CPU kernels are interpreted, which says nothing of their
speed: there only the XLA rows are timed.
"""

from collections.abc import Sequence
import functools
import pathlib
import sys
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from experiments import verification_times
from spec_jax.evaluation import clock
from spec_jax.evaluation import report
from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import tree_attention as lib
from spec_jax.kernels import tree_attention_gpu
from spec_jax.kernels import tree_attention_tpu

_LEGEND = """\
ms: median of a call; floor: milliseconds of the bytes alone; of floor: floor
divided by time (1 = nothing but the bytes); jax.nn: dot_product_attention with
a mask over prefix and tree joined beforehand, the copy not counted.
"""
_INNER = 10  # Calls between two looks at the watch.


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_list("prefix", ["4096", "16384", "65536"],
                    "Committed tokens of a row; empty = no attention.",
                    flag_values=values)
  flags.DEFINE_list("vocab", ["32000", "128256"], "Vocabulary sizes; empty ="
                    " no verification.", flag_values=values)
  flags.DEFINE_list("rows", ["1", "2", "4", "8"], "Rows of a batch.",
                    flag_values=values)
  for name, default, text in (
      ("num_nodes", 16, "Nodes of the tree."),
      ("kv_heads", 8, "Key/value heads."),
      ("groups", 4, "Query heads per key/value head."),
      ("head_size", 128, "Size of a head."),
      ("repetitions", 20, "Times each variant is timed."),
      ("bandwidth_mib", 512, "Size of the array whose sum gives the"
       " bandwidth.")):
    flags.DEFINE_integer(name, default, text, lower_bound=1,
                         flag_values=values)
  flags.DEFINE_integer("page", 0, "Slots of a page; 0 = contiguous.",
                       lower_bound=0, flag_values=values)
  flags.DEFINE_bool("ragged", False, "Row r of R holds (r + 1) / R of the"
                    " prefix.", flag_values=values)
  flags.DEFINE_enum("dtype", "bfloat16", ("float32", "bfloat16", "float16"),
                    "Of keys, values and queries.", flag_values=values)
  flags.DEFINE_string("out", "out/kernel_times", "Folder of the result card"
                      " and the table.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  with common.clean_errors():
    prefixes, vocabs = (  # Either may be left out.
        common.numbers(listed, name, int) if listed else []
        for name, listed in (("prefix", values.prefix),
                             ("vocab", values.vocab)))
    counts = common.numbers(values.rows, "rows", int)
    if min(prefixes + vocabs + counts) < 1:
      raise ValueError(f"--prefix={prefixes} --vocab={vocabs} --rows={counts}:"
                       " expected at least 1 of each.")
    for prefix in prefixes:
      if values.page and prefix % values.page:
        raise ValueError(f"--prefix={prefix} is not a multiple of"
                         f" --page={values.page}.")
    folder = report.make_folder(values.out)
  bandwidth = measured_bandwidth(values.bandwidth_mib, values.repetitions)
  found, walks = [], []
  # Written after every case: a run that is cut off leaves what it has measured.
  table = write(folder, values, bandwidth, found, walks)
  for prefix, rows in tqdm.tqdm(
      [(prefix, rows) for prefix in prefixes for rows in counts], unit="case"):
    found.append(measure(values, prefix, rows, bandwidth))
    table = write(folder, values, bandwidth, found, walks)
  for vocab, rows in tqdm.tqdm(
      [(vocab, rows) for vocab in vocabs for rows in counts], unit="case"):
    walks += measure_walks(values, vocab, rows, bandwidth)
    table = write(folder, values, bandwidth, found, walks)
  print(table)
  print(f"written: {folder}")
  return 0


def write(folder: pathlib.Path, values, bandwidth: float, found, walks) -> str:
  """Card and table of what was measured so far; returns the table."""
  notes = [] if any("kernel" in row["seconds"] for row in found + walks) else [
      f"No kernel was timed: {why_no_kernel(values)}."]
  with common.clean_errors():
    report.write_json(folder / "kernel_times.json", report.card(
        common.flags_of(values), bytes_per_second=bandwidth, notes=notes,
        rows=found, verification=walks))
    table = text(found, walks, notes)
    report.write_text(folder / "kernel_times.md", table)
  return table


def measured_bandwidth(mebibytes: int, repetitions: int) -> float:
  """Bytes per second of reading an array once; the best of all runs."""
  array = jnp.ones((mebibytes * 2 ** 18,), jnp.float32)
  seconds = timed({"sum": jax.jit(jnp.sum)}, (array,), repetitions)["sum"]
  return array.nbytes / min(seconds)


def measure(values, prefix: int, rows: int, bandwidth: float) -> dict:
  """Times of all variants at one prefix and one number of rows."""
  arrays, masks = inputs(values, prefix, rows)
  variants = {"xla": functools.partial(lib.tree_attention, backend="xla")}
  if has_kernel(arrays):
    variants["kernel"] = functools.partial(
        lib.tree_attention, backend="pallas")
  seconds = timed({name: jax.jit(fn) for name, fn in variants.items()}, arrays,
                  values.repetitions)
  seconds |= timed({"jax.nn": jax.jit(jax_attention)},
                   joined(arrays, masks), values.repetitions)
  floor = num_bytes(arrays) / bandwidth
  return {
      "prefix": prefix, "rows": rows, "floor": floor,
      "seconds": {name: vars(clock.spread(laps))
                  for name, laps in seconds.items()}}


def measure_walks(values, vocab: int, rows: int, bandwidth: float
                  ) -> list[dict]:
  """Times of the verification of one batch, for each way of sampling."""
  arguments = verification_times.inputs(vocab, rows, values.num_nodes)
  found = []
  for name, sampling in verification_times.SAMPLINGS.items():
    variants = verification_times.variants(sampling, *arguments)
    seconds = timed(variants, arguments, values.repetitions)
    verdict = variants["xla"](*arguments)
    floor = verification_times.num_bytes(verdict, arguments[1]) / bandwidth
    found.append({
        "vocab": vocab, "rows": rows, "sampling": name, "floor": floor,
        "seconds": {name: vars(clock.spread(laps))
                    for name, laps in seconds.items()}})
  return found


def inputs(values, prefix, rows):
  """Random arguments of `tree_attention`, and which slots are in use."""
  dtype = jnp.dtype(values.dtype)
  nodes, heads, size = values.num_nodes, values.kv_heads, values.head_size
  keys = iter(jax.random.split(jax.random.key(0), 5))
  normal = lambda *shape: jax.random.normal(next(keys), shape, dtype)
  lengths = jnp.full((rows,), prefix, jnp.int32)
  if values.ragged:
    lengths = lengths * jnp.arange(1, rows + 1) // rows
  stored, table = (rows, heads, prefix, size), None
  if values.page:
    num_pages = rows * prefix // values.page
    stored = (num_pages, heads, values.page, size)
    table = jax.random.permutation(jax.random.key(1), num_pages).reshape(
        rows, -1).astype(jnp.int32)
  prefix_kv = lib.Prefix(normal(*stored), normal(*stored), lengths, table)
  queries = normal(rows, heads, nodes, values.groups, size) * size ** -0.5
  # A binary tree: node n hangs below (n - 1) / 2.
  mask = np.eye(nodes, dtype=bool)
  for node in range(1, nodes):
    mask[node] |= mask[(node - 1) // 2]
  mask = jnp.broadcast_to(jnp.asarray(mask), (rows, nodes, nodes))
  depth = mask.sum(-1).astype(jnp.int32) - 1
  positions = lengths[:, None] + depth
  arrays = (queries.astype(dtype), normal(rows, heads, nodes, size),
            normal(rows, heads, nodes, size), mask, prefix_kv, positions)
  return arrays, jnp.concatenate([prefix_kv.mask(positions, 0), mask], -1)


def joined(arrays, mask):
  """The same problem as arguments of `jax_attention`."""
  queries, fresh_keys, fresh_values, _, prefix, _ = arrays
  stored = prefix.contiguous()
  keys, values = (
      jnp.concatenate([old, new], axis=2).swapaxes(1, 2)
      for old, new in zip(stored, (fresh_keys, fresh_values)))
  rows, heads, nodes, groups, size = queries.shape
  queries = queries.transpose(0, 2, 1, 3, 4).reshape(
      rows, nodes, heads * groups, size)
  return queries, keys, values, mask[:, None]


def jax_attention(queries, keys, values, mask):
  """JAX's own attention; queries are scaled already."""
  with jax.numpy_dtype_promotion("standard"):  # It promotes by itself.
    return jax.nn.dot_product_attention(
        queries, keys, values, mask=mask, scale=1.0)


def num_bytes(arrays) -> int:
  """What any attention must move: each row's own prefix, and the fresh part."""
  queries, fresh_keys, fresh_values, _, prefix, _ = arrays
  heads, size = fresh_keys.shape[1], fresh_keys.shape[3]
  slots = int(prefix.length.sum())
  stored = 2 * slots * heads * size * prefix.keys.dtype.itemsize
  return stored + 2 * queries.nbytes + fresh_keys.nbytes + fresh_values.nbytes


def has_kernel(arrays) -> bool:
  """Whether this device has a kernel for these shapes, not interpreted."""
  queries, fresh_keys, _, _, prefix, _ = arrays
  kernel = {"tpu": tree_attention_tpu, "gpu": tree_attention_gpu}.get(
      jax.default_backend())
  if kernel is tree_attention_gpu and not backend_lib.has_hopper():
    return False
  return kernel is not None and kernel.supports(queries, fresh_keys, prefix)


def why_no_kernel(values) -> str:
  """One clause for the report."""
  if jax.default_backend() == "cpu":
    return "on a CPU kernels are interpreted, their time says nothing"
  return (f"none takes {values.dtype} heads of {values.head_size} on"
          f" {jax.devices()[0].device_kind}")


def timed(variants, arguments, repetitions) -> dict[str, list[float]]:
  """Seconds per call of each variant; they alternate."""
  for fn in variants.values():
    jax.block_until_ready(fn(*arguments))
  seconds = {name: [] for name in variants}
  for _ in range(repetitions):
    for name, fn in variants.items():
      start = time.perf_counter()
      jax.block_until_ready([fn(*arguments) for _ in range(_INNER)])
      seconds[name].append((time.perf_counter() - start) / _INNER)
  return seconds


def text(found, walks, notes) -> str:
  """The tables in markdown."""
  lines = []
  for row in found:
    times = {name: spread["median"] for name, spread in row["seconds"].items()}
    line = {"prefix x rows": f"{row['prefix']} x {row['rows']}"}
    for name in ("kernel", "xla", "jax.nn"):
      value = times.get(name)
      line[f"{name}, ms"] = report.number(value and 1e3 * value, 3)
    line["floor, ms"] = report.number(1e3 * row["floor"], 3)
    best = times.get("kernel", times["xla"])
    line["of floor"] = report.number(row["floor"] / best)
    line["xla / kernel"] = report.number(
        times["xla"] / times["kernel"] if "kernel" in times else None)
    lines.append(line)
  parts = [report.markdown(lines), _LEGEND] if lines else []
  if walks:
    parts += [verification_times.text(walks), verification_times.LEGEND]
  return "\n".join([*parts, *notes])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
