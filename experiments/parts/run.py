"""What the trainer of a part works with."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np
from tqdm import auto as tqdm

from spec_jax.models import bundle as bundle_lib
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import recorded

# Of a window of the target's own text so much is begun by the corpus.
_BEGUN = 0.25


def begun(length: int) -> int:
  """Tokens of the corpus at the beginning of a window of the target's text."""
  return int(_BEGUN * length)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What a trainer works with.

  Attributes:
    bundle: the models, which stay as they are.
    train: `u16[n]`, text to learn from.
    heldout: `u16[n]`, text to judge by.
    own_text: `(options, tokens, **how) -> u16[n, length]`, text of the target,
      each window begun by the corpus, see `begun`; options have `own_windows`
      and `length`. The keyword `temperatures` may say at which it is written,
      `top_k` among how many tokens each is drawn.
    folder: of checkpoints and log.
    seed: of weights, draws and order.
    checkpoint_every: steps.
    changes: to the recipe.
    progress: `(num_steps, tokens of a step) ->` context of a function for
      `loop.fit`.
    made_for: fingerprint of the target.
    stored_steps: so many batches, of each stage, are kept on disk with what the
      target says of them, and taken again and again; 0: it is computed on-line.
  """

  bundle: bundle_lib.Bundle
  train: np.ndarray
  heldout: np.ndarray
  own_text: Callable[..., np.ndarray]
  folder: pathlib.Path
  seed: int
  checkpoint_every: int
  changes: Mapping[str, Any]
  progress: Callable[[int, int], Any]
  made_for: str = ""
  stored_steps: int = 0

  def adapt(self, options: Any) -> Any:
    """A recipe with what was asked for."""
    return dataclasses.replace(options, **self.changes)

  def mixed(self, options: Any) -> data.Windows | data.Mixed:
    """Batches of the corpus; half of each is the target's text, if any."""
    windows = data.Windows(
        self.train, options.batch, options.length, self.seed)
    if not options.own_windows:
      return windows
    return data.Mixed(windows, self.own_text(options, self.train), self.seed)

  def judged(self, options: Any, own_windows: int, **how: Any) -> np.ndarray:
    """`u16[n, length]`, n windows of the target's own held-out text."""
    return self.own_text(dataclasses.replace(
        options, own_windows=own_windows), self.heldout, **how)

  def fit(self, recipe: loop.Recipe, windows: Callable[[int], Any],
          num_steps: int, frozen: Any, **more: Any) -> Any:
    """`loop.fit` in this run's folder; goes on from its last checkpoint.

    Raises:
      ValueError: `stored_steps` are wanted of a training that has no use for
        them.
    """
    size = np.size(windows(0))
    if self.stored_steps:
      recipe, windows = self._stored(recipe, windows, num_steps, frozen)
    with self.progress(num_steps, size) as on_step:
      return loop.fit(
          recipe, windows, num_steps=num_steps, folder=self.folder,
          frozen=frozen, seed=self.seed, on_step=on_step,
          checkpoint_every=self.checkpoint_every, **more)

  def _stored(self, recipe, windows, num_steps, frozen):
    """The same over batches that are read from disk."""
    if recipe.reads is None:
      raise ValueError(
          f"stored_steps={self.stored_steps}, expected 0: what this training"
          " reads of the target is not the same each time it meets a text.")
    keep = lambda batches, steps, name: self._kept(
        recipe.reads, batches, steps, self.folder / name, frozen)
    if isinstance(windows, data.Stages):  # Batches of a shard are of one shape.
      stored = data.Stages(
          keep(windows.first, windows.switch, "features"),
          keep(windows.second, num_steps - windows.switch, "features_second"),
          windows.switch)
    else:
      stored = keep(windows, num_steps, "features")
    return recorded.reading(recipe), stored

  def _kept(self, reads, batches, num_steps, folder, frozen):
    """Batches of so many steps with their features, which are there then."""
    stored = recorded.Recorded(
        batches, reads, folder, self.made_for,
        min(self.stored_steps, num_steps), self.seed)
    if missing := stored.missing():
      print(f"features of the target: {stored.num_bytes:,} bytes in"
            f" {stored.folder}, {stored.num_shards} shards, {len(missing)} of"
            " them still to be written", flush=True)
      stored.write(frozen["target"], tqdm.tqdm(
          missing, desc="features", unit="shard"))
    return stored


@dataclasses.dataclass(frozen=True, eq=False)
class Judge(Run):
  """Makes no step: holds what was trained before against held-out text.

  Attributes, beside those of every run:
    params: of the part.
    found: metrics, filled by `fit`.
  """

  params: Any = None
  found: dict[str, float] = dataclasses.field(default_factory=dict)

  def fit(self, recipe: loop.Recipe, windows: Callable[[int], Any],
          num_steps: int, frozen: Any, *,
          evaluate: Callable[[Any], dict[str, float]], **more: Any) -> Any:
    """The parameters, once they are judged."""
    del recipe, windows, num_steps, frozen, more
    self.found.update(evaluate(self.params))
    return self.params
