"""Optimisers for small decoders and for the parts beside them."""

from typing import Any

import jax
import optax
from optax import contrib

from spec_jax.core import registry
from spec_jax.models import decoder

# How many leading axes of a kernel with more than two are inputs, by the name
# of its linear map.
_INPUT_AXES = {**decoder.INPUT_AXES, "queries": 1, "gate": 1}


def muon(learning_rate: float, num_steps: int, *, warmup: int = 50,
         decay: float = 0.5, weight_decay: float = 0.01
         ) -> optax.GradientTransformation:
  """Muon for the kernels, Adam for the rest, in a trapezoidal schedule.

  Jordan et al. 2024 (Muon); update scale of Liu et al. 2025 (consistent RMS
  0.2). At a few million training tokens it reaches a given loss in fewer steps
  than AdamW, and its extra products are cheap beside a batch of thousands of
  tokens.

  Args:
    learning_rate: peak, of the kernels; the others take 0.6 of it.
    num_steps: of the schedule.
    warmup: steps from 0 to the peak.
    decay: fraction of the steps over which the rate falls linearly to 0.
    weight_decay: of the kernels.
  """
  schedule = lambda peak: trapezoid(peak, num_steps, warmup, decay)
  return contrib.muon(
      schedule(learning_rate), adam_learning_rate=schedule(0.6 * learning_rate),
      adam_b2=0.95, weight_decay=weight_decay, consistent_rms=0.2,
      muon_weight_dimension_numbers=_kernel_axes)


def adam(learning_rate: float, num_steps: int, *, warmup: int = 50,
         decay: float = 0.5, weight_decay: float = 0.05
         ) -> optax.GradientTransformation:
  """AdamW in a trapezoidal schedule, for small batches.

  Muon's products cost the same for every batch; below some two thousand tokens
  they cost more than the gradient itself. Arguments as `muon`.
  """
  return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(trapezoid(learning_rate, num_steps, warmup, decay),
                  b2=0.99, weight_decay=weight_decay))


def eagle(learning_rate: float, num_steps: int, *, warmup: int = 50,
          decay: float = 1.0, weight_decay: float = 0.01
          ) -> optax.GradientTransformation:
  """AdamW as EAGLE's repository trains with it, and those that follow it.

  Li et al. 2024 (arXiv 2401.15077): betas 0.9 and 0.95, each value of the
  gradient clipped to 0.5, a rate that rises and falls linearly. Of the weight
  decay nothing is said: it is that of AdamW elsewhere. Arguments as `muon`.
  """
  del decay  # The rate falls from the end of the warm-up on.
  return optax.chain(
      optax.clip(0.5),
      optax.adamw(triangle(learning_rate, num_steps, warmup),
                  b1=0.9, b2=0.95, weight_decay=weight_decay))


def cosine(learning_rate: float, num_steps: int, *, warmup: int = 50,
           decay: float = 1.0, weight_decay: float = 0.01
           ) -> optax.GradientTransformation:
  """AdamW whose rate falls along a cosine (AdaEAGLE, GliDe).

  The papers name the schedule alone; betas, norm and weight decay are those of
  common trainers. Arguments as `muon`.
  """
  del decay  # The rate falls from the end of the warm-up on.
  return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(optax.warmup_cosine_decay_schedule(
          0.0, learning_rate, warmup, max(num_steps, warmup + 1)),
                  weight_decay=weight_decay))


def triangle(peak: float, num_steps: int, warmup: int) -> optax.Schedule:
  """Linear to `peak`, then linear to 0 at the end."""
  return optax.join_schedules([
      optax.linear_schedule(0.0, peak, warmup),
      optax.linear_schedule(peak, 0.0, max(num_steps - warmup, 1)),
  ], [warmup])


def trapezoid(peak: float, num_steps: int, warmup: int, decay: float
              ) -> optax.Schedule:
  """Linear to `peak`, constant, linear to 0 over the last `decay` of it."""
  decay_steps = int(decay * num_steps)
  return optax.join_schedules([
      optax.linear_schedule(0.0, peak, warmup),
      optax.constant_schedule(peak),
      optax.linear_schedule(peak, 0.0, decay_steps),
  ], [warmup, num_steps - decay_steps])


BY_NAME = {"muon": muon, "adam": adam, "eagle": eagle, "cosine": cosine}


def check(name: str) -> None:
  """Raises ValueError for a name that is not in `BY_NAME`."""
  if name not in tuple(BY_NAME):
    raise ValueError(registry.unknown("optimizer", str(name), BY_NAME))


def of_part(options: Any) -> optax.GradientTransformation:
  """What the recipe of a part asks for, see `part_recipe.PartRecipe`.

  A short training warms up for a quarter of its steps, one of them at least.
  """
  return BY_NAME[options.optimizer](
      options.learning_rate, options.num_steps,
      warmup=min(50, max(1, options.num_steps // 4)), decay=options.decay)


def _kernel_axes(params):
  """Muon orthogonalises the matrix between a kernel's inputs and outputs."""
  def axes(path, leaf):
    names = [getattr(entry, "key", None) for entry in path]
    if names[-1] != "kernel":
      return None
    num_in = 1 if leaf.ndim == 2 else _INPUT_AXES.get(names[-2])
    if num_in is None:
      raise ValueError(
          f"kernel {jax.tree_util.keystr(path)} of shape {leaf.shape}: Muon"
          " must know which axes are inputs; expected two axes, or a name"
          f" among {', '.join(_INPUT_AXES)}.")
    return contrib.MuonDimensionNumbers(
        tuple(range(num_in)), tuple(range(num_in, leaf.ndim)))
  return jax.tree_util.tree_map_with_path(axes, params)
