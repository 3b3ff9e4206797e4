"""Trains the shipped models: tokenizer, target, draft distilled from it.

  python -m experiments.train --bundle=tiny-python --out=DIR

runs the whole recipe and writes a bundle that `spec_jax.load_bundle(DIR)`
reads. Each stage resumes where it was interrupted; finished stages are kept.
"""

import json
import pathlib

from absl import app
from absl import flags
import tokenizers
from tqdm import auto as tqdm

from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import recipes

_BUNDLE = flags.DEFINE_enum(
    "bundle", "tiny-python", sorted(recipes.BUNDLES), "Which recipe to run.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder for checkpoints, logs and the finished bundle.",
    required=True)
_CORPUS = flags.DEFINE_string(
    "corpus", None, "Folder of *.py files; default: this interpreter's"
    " standard library.")
_CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", 50, "Steps between checkpoints.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and data order.")

# Held-out prompts that go into the bundle.
_NUM_PROMPTS = 24


def prepare(folder: pathlib.Path, corpus: data.Corpus, vocab_size: int
            ) -> tokenizers.Tokenizer:
  """Trains the tokenizer, or loads the one trained before."""
  path = folder / "tokenizer.json"
  if not path.exists():
    tokenizer = data.train_tokenizer(corpus.train, vocab_size)
    scratch = path.with_suffix(".tmp")
    tokenizer.save(str(scratch))
    scratch.replace(path)
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
  windows = data.Windows(train, recipe.batch, recipe.length, seed)
  bar = tqdm.tqdm(total=recipe.num_steps, desc=name, unit="step")

  def on_step(step, row):
    bar.update(step - bar.n)
    bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k != "step"})

  make = (recipes.distillation_recipe(recipe, teacher, start) if teacher
          else recipes.corpus_recipe(recipe, start))
  params = loop.fit(
      make, windows, num_steps=recipe.num_steps, folder=folder / name,
      frozen=frozen, seed=seed, checkpoint_every=checkpoint_every,
      evaluate=recipes.evaluator(recipe, heldout, heldout_bytes, teacher,
                                 frozen), on_step=on_step)
  bar.close()
  return params


def main(argv):
  del argv
  table = recipes.BUNDLES[_BUNDLE.value]
  folder = pathlib.Path(_OUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  corpus = data.read_corpus(_CORPUS.value)
  tokenizer = prepare(folder, corpus, table["target"].config.vocab_size)
  texts = [text for _, text in corpus.heldout]
  streams = (data.pack(tokenizer, corpus.train), data.pack(tokenizer, texts),
             sum(len(text.encode()) for text in texts))
  trained = {}
  for name in table:
    trained[name] = train_model(name, table, trained, streams, folder,
                                _SEED.value, _CHECKPOINT_EVERY.value)
  logs = {name: loop.read_log(folder / name / loop.LOG_NAME)
          for name in trained}
  (folder / "curves.json").write_text(json.dumps(logs))
  shipped = [name for name in table if table[name].is_shipped]
  bundle_lib.save(
      folder / "bundle", _BUNDLE.value,
      {name: table[name].config for name in shipped},
      {name: trained[name] for name in shipped},
      folder / "tokenizer.json",
      data.heldout_prompts(corpus, tokenizer, _NUM_PROMPTS))


if __name__ == "__main__":
  app.run(main)
