"""Trains the parts that systems add to the finished models of a bundle."""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import time
from typing import Any

from absl import flags
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from experiments import parts
from spec_jax import api
from spec_jax.core import registry
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import none
from spec_jax.evaluation import report
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import part_file
from spec_jax.systems import registration
from spec_jax.training import data
from spec_jax.verifiers import matching

# How JSON may write a field of a recipe, by the field's type.
_JSON_TYPES = {bool: (bool,), int: (int,), float: (float, int), str: (str,),
               tuple: (list,), Mapping: (dict,)}
# How a target writes text for its drafter: rows at once, temperatures. Drafts
# are always judged by text of these, so that judgements can be compared.
_OWN_BATCH, OWN_TEMPERATURES = 256, (0.0, 0.8)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
  """What all parts of one bundle are trained with.

  Attributes:
    home: folder of the bundle.
    bundle: its models.
    train: `u16[n]`, text to learn from.
    heldout: `u16[n]`, text to judge by.
    folder: of checkpoints, logs, the target's own texts and the parts.
    seed: of weights and data order.
    checkpoint_every: steps.
    stored_steps: see `parts.Run`.
    own_temperatures: of the target's own text to learn from.
  """

  home: pathlib.Path
  bundle: bundle_lib.Bundle
  train: np.ndarray
  heldout: np.ndarray
  folder: pathlib.Path
  seed: int
  checkpoint_every: int
  stored_steps: int = 0
  own_temperatures: tuple[float, ...] = OWN_TEMPERATURES

  @functools.cached_property
  def made_for(self) -> str:
    """Fingerprint of the target."""
    return bundle_lib.fingerprint(self.home)

  def fit(self, name: str, changes: Mapping[str, Any],
          progress: Callable[[int, int], Any],
          folder: pathlib.Path | None = None) -> tuple[dict[str, Any], Any]:
    """Hyper-parameters and parameters of a part; goes on where it stopped.

    Args:
      name: of the system.
      changes: to its recipe.
      progress: see `parts.Run`.
      folder: of checkpoints and log; default: below the bench's.
    """
    return parts.TRAINERS[name](self.run(name, changes, progress, folder))

  def run(self, name: str, changes: Mapping[str, Any],
          progress: Callable[[int, int], Any],
          folder: pathlib.Path | None = None) -> parts.Run:
    """What the trainer of a part works with; arguments as of `fit`."""
    return parts.Run(
        bundle=self.bundle, train=self.train, heldout=self.heldout,
        own_text=self.own_text, folder=folder or self.folder / name,
        seed=self.seed, checkpoint_every=self.checkpoint_every,
        changes=changes, progress=progress, made_for=self.made_for,
        stored_steps=self.stored_steps)

  def judged(self, name: str, folder: pathlib.Path) -> dict[str, float]:
    """What the trainer of a part logs of the one that the bundle has.

    Args:
      name: of the system; its part is trained, not counted.
      folder: for what the trainer writes beside its log.
    """
    recipe = parts.recipe_of(name)
    # No step is made, so that little of the text to learn from will do.
    changes = {"hyper": self.bundle.heads[name], "own_windows": 2, "batch": 2}
    run = self.run(name, {
        key: value for key, value in changes.items()
        if key in {field.name for field in dataclasses.fields(recipe)}},
        None, folder)
    judge = parts.Judge(**vars(run), params=self.bundle.params[name])
    parts.TRAINERS[name](judge)
    return {key: float(value) for key, value in judge.found.items()}

  def own_text(self, options: Any, stream: np.ndarray,
               temperatures: tuple[float, ...] | None = None, top_k: int = 0
               ) -> np.ndarray:
    """See `parts.Run`; systems trained in one folder share the texts.

    Text to learn from is of the bench's temperatures where none are given.
    """
    is_train = stream is self.train
    if temperatures is None:
      temperatures = self.own_temperatures if is_train else OWN_TEMPERATURES
    how = "_".join(f"{t:g}" for t in temperatures)
    if top_k:
      how += f"_top_{top_k}"
    path = self.folder / (
        f"own_{'train' if is_train else 'heldout'}_"
        f"{self.made_for[:8]}_{self.seed}_{options.own_windows}x"
        f"{options.length}_at_{how}.npy")
    return own_text(path, options, self.bundle.target,
                    self.bundle.params["target"], stream, self.seed,
                    temperatures, top_k)

  def with_part(self, name: str, hyper: dict[str, Any], params: Any
                ) -> "Bench":
    """The same, with one more part, or another in its place."""
    return dataclasses.replace(
        self, bundle=self.bundle.with_head(name, hyper, params))

  def write(self, folder: pathlib.Path, name: str, hyper: dict[str, Any],
            params: Any, bits: int = 16) -> pathlib.Path:
    """Puts a part into a folder; returns its file."""
    return part_file.write(folder, name, hyper, params, self.made_for, bits)


def open_bench(models: str, corpus: str | None, folder: pathlib.Path,
               seed: int, checkpoint_every: int, stored_steps: int = 0,
               own_temperatures: tuple[float, ...] = OWN_TEMPERATURES
               ) -> Bench:
  """Reads the bundle and the corpus.

  Args:
    models: a bundle, by name or folder.
    corpus: folder of text, None for the standard library.
    folder: exists.
    seed: see `Bench`.
    checkpoint_every: see `Bench`.
    stored_steps: see `Bench`.
    own_temperatures: see `Bench`.

  Raises:
    ValueError: one of them is missing or broken.
  """
  home = bundle_lib.folder_of(models)
  bundle, texts = bundle_lib.load_bundle(home), data.read_corpus(corpus)
  tokenizer = bundle.tokenizer.tokenizer
  return Bench(
      home, bundle, data.pack(tokenizer, texts.train),
      data.pack(tokenizer, [text for _, text in texts.heldout]), folder, seed,
      checkpoint_every, stored_steps, own_temperatures)


def define(values: flags.FlagValues) -> None:
  """--models, --corpus, --checkpoint_every and --own_temperatures."""
  flags.DEFINE_string("models", "tiny-python", "A bundle, by name or folder.",
                      flag_values=values)
  flags.DEFINE_string("corpus", None, "As of experiments.train.",
                      flag_values=values)
  flags.DEFINE_integer("checkpoint_every", 50, "Steps between checkpoints.",
                       lower_bound=1, flag_values=values)
  define_own_temperatures(values)


def define_own_temperatures(values: flags.FlagValues, when: str = "") -> None:
  """--own_temperatures; `when` begins its help."""
  flags.DEFINE_list("own_temperatures", [f"{t:g}" for t in OWN_TEMPERATURES],
                    f"{when}Temperatures at which the target writes the text to"
                    " learn from, batch by batch in turn; not of recipes that"
                    " have their own, nor of the text to judge by.",
                    flag_values=values)


def own_temperatures(values: flags.FlagValues) -> tuple[float, ...]:
  """The values of --own_temperatures; raises ValueError."""
  found = common.numbers(values.own_temperatures, "own_temperatures")
  for value in found:
    if not 0 <= value < float("inf"):
      raise ValueError(
          f"--own_temperatures: {value:g}, expected numbers from 0 on.")
  return tuple(found)


def of_flags(values: flags.FlagValues) -> Bench:
  """What `define`, --out and --seed ask for; raises ValueError."""
  return open_bench(values.models, values.corpus,
                    report.make_folder(values.out), values.seed,
                    values.checkpoint_every,
                    own_temperatures=own_temperatures(values))


def changes(name: str, text: str, given: Mapping[str, Any] | None = None
            ) -> dict[str, Any]:
  """Fields of the recipe of a part, as --recipe writes them.

  Args:
    name: of the system.
    text: JSON of an object; lists become tuples, as hyper-parameters want them.
    given: fields that flags of their own give, those of them that the recipe
      has; they go before.

  Raises:
    ValueError: it is no such JSON, the recipe has no such field, it is of
      another type, or the recipe refuses its value.
  """
  try:
    found = json.loads(text, parse_constant=_refuse)
  except ValueError as error:
    raise ValueError(f"--recipe={text} is not JSON: {error}.") from error
  if not isinstance(found, dict):
    raise ValueError(f"--recipe={text}, expected a JSON object.")
  recipe = parts.recipe_of(name)
  known = {} if recipe is None else {
      field.name: field.type for field in dataclasses.fields(recipe)}
  for key, value in found.items():
    if key not in known:
      raise ValueError(registry.unknown(
          f"field of --recipe for {name}", key, known or ("none",)))
    _check_type(key, value, known[key], getattr(recipe, key))
  found = {key: _tuples(value) for key, value in found.items()} | {
      key: value for key, value in (given or {}).items() if key in known}
  try:
    if recipe is not None:
      dataclasses.replace(recipe, **found)
  except (TypeError, ValueError) as error:
    raise ValueError(f"--recipe for {name}: {error}") from error
  return found


def _refuse(constant):
  raise ValueError(f"{constant} is no number")


def _check_type(key, value, declared, default):
  """Raises ValueError for a field of a recipe that is of another type.

  Args:
    key: the field.
    value: as JSON gives it.
    declared: the field's type; where it is composed, that of the default says.
    default: what the recipe has.
  """
  kind = declared if declared in _JSON_TYPES else next(
      (kind for kind in _JSON_TYPES if isinstance(default, kind)), None)
  if kind is None and default is None:
    return
  allowed = _JSON_TYPES.get(kind, ())
  is_truth = isinstance(value, bool) and kind is not bool
  if is_truth or not isinstance(value, allowed):
    wanted = " or ".join(kind.__name__ for kind in allowed)
    raise ValueError(
        f"--recipe: {key}={value!r}, expected {wanted or 'no change of it'} as"
        f" in its default {default!r}.")


def _tuples(value):
  if isinstance(value, list):
    return tuple(map(_tuples, value))
  if isinstance(value, dict):
    return {key: _tuples(part) for key, part in value.items()}
  return value


@contextlib.contextmanager
def progress(name, num_steps, tokens):
  """A bar; gives the function that moves it.

  Args:
    name: what is trained.
    num_steps: in all.
    tokens: of a step; the bar tells how many are read in a second, from the
      first step that was made here on (that one compiles).
  """
  with tqdm.tqdm(total=num_steps, desc=name, unit="step") as bar:
    first = None
    def on_step(step, row):
      nonlocal first
      now = time.monotonic()
      bar.update(step - bar.n)
      shown = {k: f"{v:.3f}" for k, v in row.items() if k != "step"}
      if first is None:
        first = step, now
      else:
        rate = tokens * (step - first[0]) / max(now - first[1], 1e-9)
        shown = {"tokens/s": f"{rate:,.0f}"} | shown
      bar.set_postfix(shown)
    yield on_step


def own_text(path: pathlib.Path, recipe: Any, teacher: Any, params: Any,
             stream: np.ndarray, seed: int,
             temperatures: tuple[float, ...] = OWN_TEMPERATURES,
             top_k: int = 0) -> np.ndarray:
  """Windows `u16[n, length]` begun by the corpus, continued by the teacher.

  Args:
    path: where they are kept; read if there.
    recipe: has `own_windows` (n) and `length`.
    teacher: the model.
    params: its parameters.
    stream: `u16[m]`, the corpus.
    seed: of windows and draws.
    temperatures: that batches take in turn.
    top_k: tokens are drawn among so many most likely ones; 0: among all.

  Raises:
    ValueError: there are fewer windows than temperatures.
  """
  if path.exists():
    return np.load(path)
  if recipe.own_windows < len(temperatures):
    raise ValueError(
        f"own_windows={recipe.own_windows}, expected one at least for each of"
        f" the temperatures {', '.join(f'{t:g}' for t in temperatures)}.")
  # So small that every temperature has its turn.
  batch = min(_OWN_BATCH, recipe.own_windows // max(2, len(temperatures)))
  start = parts.begun(recipe.length)
  prompts = data.Windows(stream, batch, start, seed + 1)
  system = registration.compose(
      "autoregressive", registration.Parts(teacher, {}), none.NoDraft(),
      matching.SampleAndMatch())
  rows = []
  num_batches = -(-recipe.own_windows // batch)
  for step in tqdm.trange(num_batches, desc="teacher's text", unit="batch"):
    begun = prompts(step)
    result = api.generate(
        system, types.Params(params), begun.tolist(), seed=seed + step,
        max_new_tokens=recipe.length - start, sampling=sampling_lib.Sampling(
            temperatures[step % len(temperatures)], top_k))
    rows.append(np.concatenate(
        [begun, np.asarray(result.tokens)], axis=1).astype(np.uint16))
  own = np.concatenate(rows)[:recipe.own_windows]
  # Under a scratch name first, of this process: a torn file must not pass for a
  # whole one, and two trainings may share a folder.
  scratch = path.with_suffix(f".{os.getpid()}.npy")
  np.save(scratch, own)
  scratch.replace(path)
  return own
