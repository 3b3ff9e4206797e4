"""What the stores of the retrieval systems cost: build, bytes, queries.

  python -m experiments.store_costs --tokens=1000000 --out=out/store_costs

Texts are files of the standard library; contexts to look up come from those
held out. Written to store_costs.json: seconds and bytes per million tokens of a
datastore, and microseconds of each query or update, median and quartiles.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import sys
import tempfile
import time
from typing import Any

from absl import flags
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from spec_jax.drafters import retrieval
from spec_jax.evaluation import clock
from spec_jax.evaluation import report
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import suffix_automaton
from spec_jax.stores import suffix_draft
from spec_jax.stores import suffix_tree
from spec_jax.stores import tree_search
from spec_jax.stores import trigrams
from spec_jax.training import data as data_lib

_MICRO, _MILLION = 1e6, 1e6


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_string("corpus", None, "Folder of texts; default: the standard"
                      " library.", flag_values=values)
  flags.DEFINE_list("tokens", ["1000000"], "Sizes of a datastore.",
                    flag_values=values)
  flags.DEFINE_integer("online_tokens", 20_000, "Tokens put into the stores"
                       " that grow while decoding.", lower_bound=100,
                       flag_values=values)
  flags.DEFINE_integer("queries", 300, "Contexts looked up.", lower_bound=10,
                       flag_values=values)
  flags.DEFINE_string("out", "out/store_costs", "Folder of the result.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  with common.clean_errors():
    sizes = common.numbers(values.tokens, "tokens", int)
    folder = report.make_folder(values.out)
    corpus = data_lib.read_corpus(values.corpus)
    if not corpus.heldout:
      raise ValueError(f"{values.corpus}: no file of the corpus is held out, so"
                       " there are no contexts to look up; expected some"
                       " hundred files.")
  bundle = common.load_models(values)
  texts = encode(bundle, corpus.train, max(sizes))
  heldout = encode(bundle, [text for _, text in corpus.heldout], 10 ** 6)
  rng = np.random.default_rng(0)
  ends = rng.integers(64, len(heldout.ids), values.queries)
  contexts = [heldout.ids[end - 64:end].tolist() for end in ends]
  result = {
      "environment": report.environment(), "flags": common.flags_of(values),
      "encode_seconds_per_million": texts.seconds / len(texts.ids) * _MILLION,
      "datastores": [], "online": {}}
  with common.clean_errors():
    for size in sizes:
      if size > len(texts.ids):
        raise ValueError(f"--tokens={size}: the corpus has only"
                         f" {len(texts.ids)} tokens; pass another --corpus.")
      result["datastores"].append(static_costs(
          bundle, texts.ids[:size], contexts))
  result["online"] = online_costs(
      heldout.ids[:values.online_tokens].tolist(), contexts)
  report.write_json(folder / "store_costs.json", result)
  for row in result["datastores"]:
    print(f"{row['tokens']} tokens: built in"
          f" {row['sort_seconds_per_million']:.2f} s and"
          f" {row['bytes_per_million'] / 1e6:.1f} MB per million,"
          f" a tree in {row['tree_microseconds']['median']:.0f} us")
  print(f"{folder / 'store_costs.json'}")
  return 0


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """Token ids `u16[n]` or `u32[n]` of many texts, and how long it took."""

  ids: np.ndarray
  seconds: float


def encode(bundle, texts: Sequence[str], limit: int) -> Encoded:
  """Each text is followed by the end of a document."""
  end, begin = _end(bundle), time.perf_counter()
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


def _end(bundle):
  end = bundle.end_of_text
  return bundle.target.vocab_size if end is None else end


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
    datastore_lib.write(folder, ids, bundle.target.vocab_size, _end(bundle))
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
  table = trigrams.count(ids, 12, _end(bundle))
  search = tree_search.TreeSearch()
  return row | {
      "trigram_seconds_per_million": (
          (time.perf_counter() - begin) / size * _MILLION),
      "tree_search_microseconds": timed(
          functools.partial(search.draft, table), contexts[:100])}


def online_costs(ids: list[int], contexts) -> dict[str, Any]:
  """The stores that grow token by token."""
  automaton = suffix_automaton.SuffixAutomaton()
  tree, speculation = suffix_tree.SuffixTree(), suffix_draft.Speculation()
  grow = timed(automaton.append, ids)
  plant = timed(lambda token: tree.append(0, token), ids)
  return {
      "tokens": len(ids),
      "automaton_append_microseconds": grow,
      "automaton_states_per_token": automaton.num_states / len(ids),
      "tree_append_microseconds": plant,
      "tree_nodes_per_token": tree.num_nodes / len(ids),
      "tree_draft_microseconds": timed(
          functools.partial(speculation.draft, tree), contexts)}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
