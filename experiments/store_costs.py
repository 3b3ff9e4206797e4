"""What the stores of the retrieval systems cost: build, bytes, queries.

  python -m experiments.store_costs --tokens=1000000 --out=out/store_costs
  python -m experiments.store_costs --tokens=1000000 --dense_tokens=

Texts are files of the standard library; contexts to look up come from those
held out. Three kinds of stores, each with a flag for its sizes, which may be
empty: datastores (a sorted corpus), the automaton and the tree that grow while
decoding, and dense stores. Written to store_costs.json: seconds and bytes per
million tokens, microseconds of each query or update, median and quartiles, and
the most memory that the process ever took.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import gc
import pathlib
import resource
import sys
import tempfile
import time
from typing import Any

from absl import flags
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from experiments import corpus
from experiments import dense_costs
from spec_jax.drafters import retrieval
from spec_jax.evaluation import clock
from spec_jax.evaluation import memory
from spec_jax.evaluation import report
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import suffix_automaton
from spec_jax.stores import suffix_draft
from spec_jax.stores import suffix_tree
from spec_jax.stores import tree_search
from spec_jax.stores import trigrams
from spec_jax.training import data as data_lib

_MICRO, _MILLION = 1e6, 1e6
_TIMED = 20_000  # Appends that are timed one by one.


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_string("corpus", None, "Folder of texts; default: the standard"
                      " library.", flag_values=values)
  flags.DEFINE_list("tokens", ["1000000"], "Sizes of a datastore.",
                    flag_values=values)
  flags.DEFINE_list("online_tokens", ["20000"], "Tokens put into the stores"
                    " that grow while decoding: sizes.", flag_values=values)
  flags.DEFINE_list("dense_tokens", ["100000"], "Sizes of a dense store.",
                    flag_values=values)
  flags.DEFINE_integer("dense_sample", 20_000, "Tokens that the target reads;"
                       " larger dense stores are mixed from these.",
                       lower_bound=2, flag_values=values)
  flags.DEFINE_integer("queries", 300, "Contexts looked up.", lower_bound=10,
                       flag_values=values)
  flags.DEFINE_string("out", "out/store_costs", "Folder of the result.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  with common.clean_errors():
    sizes, online_sizes, dense_sizes = (
        _sizes(values, name) for name in ("tokens", "online_tokens",
                                          "dense_tokens"))
    folder = report.make_folder(values.out)
    texts = data_lib.read_corpus(values.corpus)
    if not texts.heldout:
      raise ValueError(f"{values.corpus}: no file of the corpus is held out, so"
                       " there are no contexts to look up; expected some"
                       " hundred files.")
  bundle = common.load_models(values)
  encoded = encode(bundle, shuffled(texts.train),
                   max([*sizes, *online_sizes, values.dense_sample]))
  heldout = encode(bundle, [text for _, text in texts.heldout], 10 ** 6)
  rng = np.random.default_rng(0)
  ends = rng.integers(64, len(heldout.ids), values.queries)
  contexts = [heldout.ids[end - 64:end].tolist() for end in ends]
  result = {
      "environment": report.environment(), "flags": common.flags_of(values),
      "encode_seconds_per_million": (
          encoded.seconds / len(encoded.ids) * _MILLION)}
  with common.clean_errors():
    for flag, some in (("tokens", sizes), ("online_tokens", online_sizes)):
      _check_sizes(flag, some, len(encoded.ids))
    result["datastores"] = [
        static_costs(bundle, encoded.ids[:size], contexts) for size in sizes]
    result["online"] = [
        online_costs(encoded.ids[:size].tolist(), contexts)
        for size in online_sizes]
    result["dense_stores"] = []
    if dense_sizes:
      sample = dense_costs.read(
          bundle, documents(bundle, encoded.ids[:values.dense_sample]),
          values.dense_sample)
      result["dense_stores"] = [
          dense_costs.costs(bundle, sample, size, values.queries, timed)
          for size in dense_sizes]
  result["peak_bytes"] = memory.peak_bytes()
  report.write_json(folder / "store_costs.json", result)
  show(result)
  print(f"{folder / 'store_costs.json'}")
  return 0


def show(result: dict[str, Any]) -> None:
  """A line per store."""
  for row in result["datastores"]:
    print(f"{row['tokens']} tokens: built in"
          f" {row['sort_seconds_per_million']:.2f} s and"
          f" {row['bytes_per_million'] / 1e6:.1f} MB per million,"
          f" a tree in {row['tree_microseconds']['median']:.0f} us")
  for row in result["online"]:
    for name in ("automaton", "tree"):
      part = row[name]
      print(f"{row['tokens']} tokens: {name} in"
            f" {part['seconds_per_million']:.1f} s and"
            f" {part['bytes_per_million'] / 1e6:.0f} MB per million, a draft in"
            f" {part['draft_microseconds']['median']:.0f} us")
  for row in result["dense_stores"]:
    print(f"{row['tokens']} tokens: dense store in"
          f" {row['forward_seconds_per_million']:.0f} s of forwards,"
          f" {row['index_seconds_per_million']:.1f} s of index and"
          f" {row['bytes_per_million'] / 1e6:.0f} MB per million, a query in"
          f" {row['query_microseconds']['median']:.0f} us")
  print(f"at most {result['peak_bytes'] / 1e9:.2f} GB of memory")


def _sizes(values, flag):
  """A list of sizes, which may be empty."""
  texts = [text for text in getattr(values, flag) if text]
  sizes = common.numbers(texts, flag, int) if texts else []
  if min(sizes, default=100) < 100:
    raise ValueError(f"--{flag}={min(sizes)}, expected sizes of at least 100.")
  return sizes


def _check_sizes(flag, sizes, known):
  if sizes and max(sizes) > known:
    raise ValueError(f"--{flag}={max(sizes)}: the corpus has only {known}"
                     " tokens; pass another --corpus.")


def shuffled(texts: Sequence[str]) -> list[str]:
  """From all over: neighbours in a folder are alike."""
  return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def documents(bundle, ids: np.ndarray) -> list[list[int]]:
  """The documents in a stream of token ids; the last may be cut."""
  ends = np.flatnonzero(ids == corpus.end_of(bundle))
  return [part[part != corpus.end_of(bundle)].tolist()
          for part in np.split(ids, ends + 1)]


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """Token ids `u16[n]` or `u32[n]` of many texts, and how long it took."""

  ids: np.ndarray
  seconds: float


def encode(bundle, texts: Sequence[str], limit: int) -> Encoded:
  """Each text is followed by the end of a document."""
  end, begin = corpus.end_of(bundle), time.perf_counter()
  parts, size = [], 0
  for text in tqdm.tqdm(texts, desc="encoding", leave=False):
    ids = bundle.tokenizer.encode(text, add_special_tokens=False)
    parts.append(np.asarray([*ids, end], np.uint32))
    size += len(parts[-1])
    if size >= limit:
      break
  ids = np.concatenate(parts)[:limit]
  if max(end, bundle.target.vocab_size) < 1 << 16:
    ids = ids.astype(np.uint16)
  return Encoded(ids, time.perf_counter() - begin)


def timed(fn: Callable[[Any], Any], arguments: Sequence[Any]
          ) -> dict[str, Any]:
  """Microseconds of one call: a `clock.Spread` as a dictionary."""
  taken = []
  for argument in arguments:
    begin = time.perf_counter()
    fn(argument)
    taken.append((time.perf_counter() - begin) * _MICRO)
  return dataclasses.asdict(clock.spread(taken))


def static_costs(bundle, ids: np.ndarray, contexts) -> dict[str, Any]:
  """A datastore, built and asked; and the trigrams of its text."""
  size = len(ids)
  with tempfile.TemporaryDirectory() as folder:
    begin = time.perf_counter()
    datastore_lib.write(
        folder, ids, bundle.target.vocab_size, corpus.end_of(bundle))
    seconds = time.perf_counter() - begin
    num_bytes = sum(
        path.stat().st_size for path in pathlib.Path(folder).iterdir())
    store = datastore_lib.open_store(folder)
    retrieve = retrieval.Retrieval()
    row = {
        "tokens": size,
        "sort_seconds_per_million": seconds / size * _MILLION,
        "bytes_per_million": num_bytes / size * _MILLION,
        "match_microseconds": timed(
            lambda text: store.longest_suffix(text, 16, 2), contexts),
        "tree_microseconds": timed(
            functools.partial(retrieve.draft, store), contexts)}
  begin = time.perf_counter()
  table = trigrams.count(ids, 12, corpus.end_of(bundle))
  search = tree_search.TreeSearch()
  return row | {
      "trigram_seconds_per_million": (
          (time.perf_counter() - begin) / size * _MILLION),
      "tree_search_microseconds": timed(
          functools.partial(search.draft, table), contexts[:100])}


def online_costs(ids: list[int], contexts) -> dict[str, Any]:
  """The stores that grow token by token, one after the other."""
  return {"tokens": len(ids), "automaton": automaton_costs(ids, contexts),
          "tree": tree_costs(ids, contexts)}


def automaton_costs(ids: list[int], contexts) -> dict[str, Any]:
  """A draft copies what followed the text's own end, as of every round."""
  automaton = suffix_automaton.SuffixAutomaton()
  found = grown(automaton.append, ids)
  draft = lambda _: automaton.after(automaton.match(39)[1], 39)
  return found | {"states_per_token": automaton.num_states / len(ids),
                  "draft_microseconds": timed(draft, contexts)}


def tree_costs(ids: list[int], contexts) -> dict[str, Any]:
  """A draft follows the counts of all suffixes of a context."""
  tree, speculation = suffix_tree.SuffixTree(), suffix_draft.Speculation()
  found = grown(functools.partial(tree.append, 0), ids)
  draft = functools.partial(speculation.draft, tree)
  return found | {"nodes_per_token": tree.num_nodes / len(ids),
                  "draft_microseconds": timed(draft, contexts)}


def grown(append: Callable[[int], None], ids: Sequence[int]
          ) -> dict[str, Any]:
  """Appends all tokens; some appends are timed one by one.

  Bytes are what the process grew by: of a small store they are rough.
  """
  gc.collect()
  before, taken = _resident_bytes(), []
  every = max(1, len(ids) // _TIMED)
  begin = time.perf_counter()
  for i, token in enumerate(ids):
    if i % every:
      append(token)
    else:
      start = time.perf_counter()
      append(token)
      taken.append((time.perf_counter() - start) * _MICRO)
  seconds = time.perf_counter() - begin
  return {
      "seconds_per_million": seconds / len(ids) * _MILLION,
      "bytes_per_million": (
          max(0, _resident_bytes() - before) / len(ids) * _MILLION),
      "append_microseconds": dataclasses.asdict(clock.spread(taken))}


def _resident_bytes():
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * resource.getpagesize()


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
