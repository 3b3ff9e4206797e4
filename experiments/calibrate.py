"""Measures what trees and draft lengths are planned with, on given models.

  python -m experiments.calibrate --bundle=tiny-python --temperature=0,0.8

By temperature: how often the child of each rank is the accepted one, on text
that the target writes behind the bundle's prompts. Once: how long the draft's
forward of one token and the target's forward of trees of several sizes take.
From these, the shapes that suit the models: Sequoia's, sized by the measured
times, and Medusa's calibrated one. Written to DIR/calibration.json and shown,
with the flags that have `sequoia` plan with these numbers and those that tell a
chain's controller the costs.
"""

from collections.abc import Sequence
import json
import math
import shlex
import sys

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
import spec_jax
from spec_jax import api
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import rank_acceptance
from spec_jax.evaluation import report
from spec_jax.systems import registration
from spec_jax.trees import sequoia
from spec_jax.trees import shapes

_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_PREFIX = 128  # Tokens in the cache.


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_decoding(values, ("0", "0.8"))
  flags.DEFINE_string("out", "out/calibrate", "Folder of calibration.json.",
                      flag_values=values)
  flags.DEFINE_integer("num_prompts", 8, "Prompts to continue.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("num_children", 8, "Ranks to measure.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("depth", 8, "Most levels of the shapes.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("repeats", 15, "Timed calls per forward.",
                       lower_bound=1, flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  temperatures = common.temperatures(values)
  bundle = common.load_models(values)
  with common.clean_errors():
    folder = report.make_folder(values.out)
    draft = registration.Parts(bundle.target, bundle.models).model("draft")
    if not bundle.prompts:
      raise ValueError(f"{bundle.name} comes without prompts to continue.")
  draft_cost, target_costs = costs(bundle, draft, values.repeats)
  one = target_costs[0][1]
  # As they are shown, so that the flags give the tree that is announced.
  relative = round(draft_cost / one, 4), [
      (size, round(cost / one, 4)) for size, cost in target_costs[1:]]
  found = {"draft_seconds": draft_cost, "target_seconds": target_costs,
           "draft_cost": draft_cost / one,
           "check_cost": _slope(target_costs) / one, "temperatures": {}}
  for temperature in temperatures:
    with common.clean_errors():
      accepts = rounded(acceptance(values, bundle, draft, temperature))
    budget, depth = sequoia.best_size(accepts, values.depth, *relative)
    shape = sequoia.best_shape(accepts, budget, depth)
    found["temperatures"][f"{temperature:g}"] = {
        "acceptance": accepts,
        "budget": budget, "depth": depth, "sequoia": shape,
        "expected_tokens": shapes.expected_tokens(shape, accepts),
        "calibrated": shapes.calibrated(
            np.sort(accepts)[::-1], budget, values.depth)}
    print(f"temperature {temperature:g}: acceptance by rank"
          f" {', '.join(f'{a:.3f}' for a in accepts)}; best {budget} nodes,"
          f" {depth} levels: --system=sequoia"
          f" {sequoia_flags(accepts, values.depth, *relative)}")
  print(f"draft forward {found['draft_cost']:.3f} of a target forward, each"
        f" further token {found['check_cost']:.4f}:"
        f" --set=draft_cost={found['draft_cost']:.3f}"
        f" --set=check_cost={found['check_cost']:.4f}")
  report.write_json(folder / "calibration.json", found)
  print(folder / "calibration.json")
  return 0


def rounded(accepts: Sequence[float]) -> list[float]:
  """To 4 digits, downwards: the sum must not come out above 1."""
  return [math.floor(a * 1e4) / 1e4 for a in accepts]


def sequoia_flags(accepts: Sequence[float], depth: int, draft_cost: float,
                  target_costs: Sequence[tuple[int, float]]) -> str:
  """What makes the system `sequoia` plan with these measurements."""
  found = {"acceptance": ",".join(map(str, accepts)), "depth": depth,
           "draft_cost": draft_cost,
           "target_costs": json.dumps(target_costs, separators=(",", ":"))}
  return " ".join("--set=" + shlex.quote(f"sequoia.{key}={value}")
                  for key, value in found.items())


def acceptance(values, bundle, draft, temperature) -> list[float]:
  """Acceptance by rank on the target's own text."""
  system, params = spec_jax.build("autoregressive", bundle)
  prompts = list(bundle.prompts[:values.num_prompts])
  result = api.generate(
      system, params, prompts, max_new_tokens=values.max_new_tokens,
      temperature=temperature, seed=values.seed)
  sampling = spec_jax.Sampling(temperature=temperature)
  score = jax.jit(lambda model, params, tokens: model.score(
      params, tokens).logits, static_argnums=0)
  rows = [[], []]
  for prompt, tokens in zip(prompts, result.tokens):
    begun = bundle.tokenizer.encode(prompt)
    text = jnp.asarray([begun + tokens], jnp.int32)
    for part, model, name in ((rows[0], bundle.target, "target"),
                              (rows[1], draft, "draft")):
      logits = score(model, bundle.params[name], text)
      part.append(np.asarray(logits[0, len(begun) - 1:-1]))
  return rank_acceptance.rank_acceptance(
      *map(np.concatenate, rows), sampling, values.num_children,
      values.seed).tolist()


def costs(bundle, draft, repeats) -> tuple[float, list[tuple[int, float]]]:
  """Seconds of a draft forward, and of target forwards by size, from 1."""
  timed = lambda model, name, sizes: costs_lib.grid(
      model, bundle.params[name], [(1, size) for size in sizes], _PREFIX,
      repeats)
  draft_cost, = timed(draft, "draft", (1,)).values()
  target = timed(bundle.target, "target", (1, *_SIZES))
  return draft_cost, [(size, seconds) for (_, size), seconds in target.items()]


def _slope(target_costs):
  """Seconds that a further token adds, by least squares."""
  sizes, seconds = np.asarray(target_costs).T
  return max(float(np.polyfit(sizes, seconds, 1)[0]), 0.0)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
