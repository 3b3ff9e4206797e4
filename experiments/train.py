"""Trains the shipped models: tokenizer, target, draft distilled from it.

  python -m experiments.train --bundle=tiny-python --out=DIR

runs the whole recipe and writes a bundle that `spec_jax.load_bundle(DIR)`
reads. Each stage resumes where it was interrupted; finished stages are kept.

  python -m experiments.train --system=specdec_pp --models=tiny-python

trains the part that a system adds to the finished models of a bundle, and with
--install puts it into that bundle.
"""

from collections.abc import Sequence
import functools
import pathlib
import sys

from absl import flags
from absl import logging
import tokenizers

from experiments import common
from experiments import expected
from experiments import part_training
from experiments import parts
from spec_jax import systems
from spec_jax.core import registry
from spec_jax.evaluation import curves
from spec_jax.evaluation import report
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import recipes

# Held-out prompts that go into the bundle.
_NUM_PROMPTS = 24
# Rows that are kept of a stage's log, besides the evaluated ones.
_MOST_ROWS = 500


def prepare(folder: pathlib.Path, corpus: data.Corpus, vocab_size: int
            ) -> tokenizers.Tokenizer:
  """Trains the tokenizer, or loads the one trained before.

  Raises:
    ValueError: it cannot be written.
  """
  path = folder / "tokenizer.json"
  if not path.exists():
    tokenizer = data.train_tokenizer(corpus.train, vocab_size)
    report.write_text(path, tokenizer.to_str(pretty=True))
  return tokenizers.Tokenizer.from_file(str(path))


def train_model(name, table, trained, streams, folder, seed, checkpoint_every):
  """Trains one model of a bundle; returns its parameters."""
  recipe = table[name]
  train, heldout, heldout_bytes = streams
  teacher = frozen = None
  start = trained.get(recipe.grown_from)
  if recipe.teacher:
    teacher = contract.decoder_model(table[recipe.teacher].config)
    frozen = trained[recipe.teacher]
  data_seed = seed + recipe.data_seed
  windows = data.Windows(train, recipe.batch, recipe.length, data_seed)
  if recipe.own_windows:
    windows = data.Mixed(windows, part_training.own_text(
        folder / f"{name}_own_text.npy", recipe, teacher, frozen, train,
        data_seed), seed)
  make = (recipes.distillation_recipe(recipe, teacher, start) if teacher
          else recipes.corpus_recipe(recipe, start))
  with part_training.progress(
      name, recipe.num_steps, recipe.batch * recipe.length) as on_step:
    return loop.fit(
        make, windows, num_steps=recipe.num_steps, folder=folder / name,
        frozen=frozen, seed=seed, checkpoint_every=checkpoint_every,
        evaluate=recipes.evaluator(recipe, heldout, heldout_bytes, teacher,
                                   frozen), on_step=on_step)


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_enum("bundle", "tiny-python", sorted(recipes.BUNDLES),
                    "Which recipe to run.", flag_values=values)
  flags.DEFINE_string("system", None, "Train the part of this system only, for"
                      f" --models. Known: {', '.join(sorted(parts.TRAINERS))}.",
                      flag_values=values)
  flags.register_validator("system", _has_part, flag_values=values)
  flags.DEFINE_string("models", "tiny-python", "With --system: a bundle, by"
                      " name or folder.", flag_values=values)
  flags.DEFINE_bool("install", False, "With --system: put the trained part into"
                    " the bundle itself.", flag_values=values)
  flags.DEFINE_enum("bits", "16", ["16", "8"], "With --system: of a weight in"
                    " the file; with 8 it drafts almost as well.",
                    flag_values=values)
  flags.DEFINE_integer("steps", None, "With --system: optimiser steps; default:"
                       " the recipe's, about ten minutes on two cores.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch", None, "With --system: windows per step;"
                       " default: the recipe's.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("own_windows", None, "With --system: windows of the"
                       " target's own text to learn from; default: the"
                       " recipe's.", lower_bound=2, flag_values=values)
  part_training.define_own_temperatures(values, "With --system: ")
  flags.DEFINE_integer("stored_steps", 0, "With --system: keep what the target"
                       " says of the batches of so many steps on disk and"
                       " train on these again and again; their bytes are told"
                       " first. 0: compute it as the text comes by.",
                       lower_bound=0, flag_values=values)
  flags.DEFINE_string("recipe", "{}", "With --system: JSON of further fields of"
                      " the part's recipe that differ, such as"
                      " '{\"learning_rate\": 1e-3, \"hyper\": {...}}'.",
                      flag_values=values)
  flags.DEFINE_string("out", "out/train", "Folder for checkpoints, logs and the"
                      " finished bundle.", flag_values=values)
  flags.DEFINE_string("corpus", None, "Folder of *.py files; default: this"
                      " interpreter's standard library.", flag_values=values)
  flags.DEFINE_integer("checkpoint_every", 50, "Steps between checkpoints.",
                       lower_bound=1, flag_values=values)
  common.define_seed(values, "Of weights and data order.")


def _has_part(name):
  """Raises where a system trains nothing, naming who does if it borrows."""
  if name is None or name in parts.TRAINERS:
    return True
  try:
    used = systems.info(name).drafter or ()
  except registry.UnknownName:
    raise flags.ValidationError(registry.unknown(
        "system with a part to train", name, parts.TRAINERS)) from None
  lenders = [part for part in ((used,) if isinstance(used, str) else used)
             if part in parts.TRAINERS]
  if lenders:
    raise flags.ValidationError(
        f"{name} decodes with the part of {' and '.join(lenders)}, expected"
        f" --system={lenders[0]}, which trains it.")
  raise flags.ValidationError(
      f"{name} has no part to train, expected one of"
      f" {', '.join(sorted(parts.TRAINERS))}; --bundle trains models.")


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells about every file.
  if values.system:
    return train_part(values)
  table = recipes.BUNDLES[values.bundle]
  with common.clean_errors():
    folder = report.make_folder(values.out)
    corpus = data.read_corpus(values.corpus)
    tokenizer = prepare(folder, corpus, table["target"].config.vocab_size)
  texts = [text for _, text in corpus.heldout]
  streams = (data.pack(tokenizer, corpus.train), data.pack(tokenizer, texts),
             sum(len(text.encode()) for text in texts))
  trained = {}
  for name in table:
    with common.clean_errors():
      trained[name] = train_model(name, table, trained, streams, folder,
                                  values.seed, values.checkpoint_every)
  with common.clean_errors():
    write(values.bundle, table, trained, folder, corpus, tokenizer)
  return 0


def train_part(values) -> int:
  """Trains what a system adds to a bundle; returns the exit code."""
  name = values.system
  with common.clean_errors():
    changes = part_training.changes(name, values.recipe, {
        key: value for key, value in (
            ("num_steps", values.steps), ("batch", values.batch),
            ("own_windows", values.own_windows)) if value is not None})
    bench = part_training.open_bench(
        values.models, values.corpus, report.make_folder(values.out),
        values.seed, values.checkpoint_every, values.stored_steps,
        part_training.own_temperatures(values))
  if known := expected.text(name):
    print(known)
  with common.clean_errors():
    hyper, params = bench.fit(name, changes, functools.partial(
        part_training.progress, name))
  for place in [bench.folder] + [bench.home] * values.install:
    print(bench.write(place, name, hyper, params, int(values.bits)))
  return 0


def write(name, table, trained, folder, corpus, tokenizer) -> None:
  """The loss curves and the finished bundle."""
  logs = {stage: loop.thinned(loop.read_log(folder / stage / loop.LOG_NAME),
                              _MOST_ROWS) for stage in trained}
  report.write_json(folder / "curves.json", logs)
  report.write_bytes(folder / "curves.png", curves.training_curves(
      logs, {stage: table[stage].batch * table[stage].length
             for stage in logs}))
  shipped = [stage for stage in table if table[stage].is_shipped]
  bundle_lib.save(
      folder / "bundle", name,
      {stage: table[stage].config for stage in shipped},
      {stage: trained[stage] for stage in shipped}, folder / "tokenizer.json",
      data.heldout_prompts(corpus, tokenizer, _NUM_PROMPTS),
      recipes.TUNED.get(name))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
