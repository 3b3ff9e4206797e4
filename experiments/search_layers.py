"""Which sub-layers may a model leave out when it drafts for itself?

  python -m experiments.search_layers --trials=200 --out=out/layers

Bayesian optimisation of the speed of `draft_and_verify` on a few prompts, over
the box [0, 1] per sub-layer (above 0.5: left out), as in Draft & Verify, Sec.
3.2. The best set is printed as flags for the other programs. A search that was
interrupted goes on where it stopped; every trial is one line of trials.jsonl.
"""

from collections.abc import Sequence
import json
import pathlib
import shlex
import sys
import time

from absl import flags
import jax.numpy as jnp
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.systems.self_speculative import draft_and_verify
from spec_jax.training import loop

_NAME, _LOG = "draft_and_verify", "trials.jsonl"
# The paper searches on 8 prompts of 32 new tokens with this noise of the GP.
_NOISE = 1e-2


class Objective:
  """Tokens per second of the real loop, or per layer executed.

  Attributes:
    num_layers: of the model.
  """

  def __init__(self, bundle, values):
    self._system, self._params = common.build(
        _NAME, bundle, skip_attention=(), skip_feed_forward=())
    self._system = self._system.with_sampling(sampling_lib.GREEDY)
    self._values = values
    self.num_layers = bundle.target.config.num_layers
    limit = bundle.target.config.max_positions - values.max_new_tokens
    texts = bundle.prompts[:values.num_prompts]
    self._prompts = [
        prompts_lib.batch([bundle.tokenizer.encode(text)], limit)
        for text in texts]

  def __call__(self, skipped: np.ndarray) -> float:
    """The value of leaving out `bool[2 * num_layers]`, attention first."""
    gates = ~skipped.reshape(2, -1).T[None]
    tokens = seconds = layers = 0.0
    for prompts in self._prompts:
      counts, spent = self._decode(prompts, gates)
      tokens += float(counts.emitted.sum())
      seconds += spent
      # A draft runs the open half-layers, a verification all of them.
      layers += (float(counts.target_calls.sum()) * self.num_layers
                 + float(counts.drafted.sum()) * float(gates.sum()) / 2)
    return tokens / (seconds if self._values.objective == "speed" else layers)

  def _decode(self, prompts, gates):
    executor = fused.Fused()
    arguments = self._system, self._params
    state = executor.start(
        *arguments, prompts, keys_lib.row_keys(self._values.seed, 1),
        self._values.max_new_tokens)
    state = state.replace(
        drafter=state.drafter.replace(policy=jnp.asarray(gates)))
    counts = decoding.zero_counts(self._system, 1)
    began = time.perf_counter()
    state, counts = executor.rounds(*arguments, state, counts)
    state.length.block_until_ready()
    return counts, time.perf_counter() - began


def optimiser(num_layers: int, seed: int):
  """A `bayes_opt.BayesianOptimization` over the box."""
  try:
    import bayes_opt  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise common.UsageError(
        "the search needs the package bayesian-optimization: pip install"
        " 'spec-jax[search]'.") from error
  box = {f"{i:03d}": (0.0, 1.0) for i in range(2 * num_layers)}
  search = bayes_opt.BayesianOptimization(
      f=None, pbounds=box, random_state=seed, verbose=0,
      allow_duplicate_points=True)
  search.set_gp_params(alpha=_NOISE)
  return search


def probes(num_layers: int) -> list[np.ndarray]:
  """Sets to begin with: none, the default, half of the attention."""
  default = draft_and_verify.default_skips(num_layers)
  half = tuple(range(1, num_layers - 1, 2))
  return [skipped(num_layers, *sets)
          for sets in (((), ()), default, (half, ()))]


def skipped(num_layers, attention, feed_forward) -> np.ndarray:
  return ~draft_and_verify.open_gates(
      num_layers, attention, feed_forward).T.reshape(-1)


def search(objective, num_trials: int, path: pathlib.Path, seed: int
           ) -> list[dict]:
  """Runs the trials that `path` does not have yet; returns all."""
  rows = loop.read_log(path)
  search_lib = optimiser(objective.num_layers, seed)
  known = probes(objective.num_layers)
  for row in rows:
    search_lib.register(params=np.asarray(row["point"]), target=row["value"])
  if len(rows) < num_trials:
    objective(known[0])  # Compiles.
  bar = tqdm.trange(len(rows), num_trials, initial=len(rows),
                    total=num_trials, unit="trial")
  with path.open("a") as log:
    for trial in bar:
      if trial < len(known):
        point = known[trial].astype(float)
      else:
        point = np.asarray([value for _, value in sorted(
            search_lib.suggest().items())])
      value = objective(point > 0.5)
      search_lib.register(params=point, target=value)
      rows.append({"trial": trial, "point": point.tolist(), "value": value})
      log.write(json.dumps(rows[-1]) + "\n")
      log.flush()
      bar.set_postfix(best=f"{max(row['value'] for row in rows):.3g}")
  return rows[:num_trials]


def as_flags(point: Sequence[float]) -> str:
  """The set as the flags of the other programs."""
  attention, feed_forward = (np.asarray(point) > 0.5).reshape(2, -1)
  texts = [f"{_NAME}.{key}={np.flatnonzero(part).tolist()}".replace(" ", "")
           for key, part in (("skip_attention", attention),
                             ("skip_feed_forward", feed_forward))]
  return " ".join(f"--set {shlex.quote(text)}" for text in texts)


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_integer("trials", 200, "In total, those of earlier runs"
                       " included.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("num_prompts", 8, "Of the bundle's prompts.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("max_new_tokens", 32, "Per prompt.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_enum("objective", "speed", ("speed", "layers"), "Tokens per"
                    " second, or per layer executed (the same on every"
                    " machine).", flag_values=values)
  common.define_seed(values, "Of the search.")
  flags.DEFINE_string("out", "out/layers", "Folder.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  bundle = common.load_models(values)
  with common.clean_errors():
    folder = report.make_folder(values.out)
    if not bundle.prompts:
      raise ValueError(f"--bundle={values.bundle} has no prompts to search on.")
  objective = Objective(bundle, values)
  rows = search(objective, values.trials, folder / _LOG, values.seed)
  best = max(rows, key=lambda row: row["value"])
  report.write_json(folder / "best.json", {
      "flags": common.flags_of(values), "best": best,
      "nothing_skipped": rows[0]["value"], "set": as_flags(best["point"])})
  unit = "tokens/s" if values.objective == "speed" else "tokens per layer"
  print(f"{best['value']:.4g} {unit} after {len(rows)} trials"
        f" ({rows[0]['value']:.4g} with nothing left out):")
  print(as_flags(best["point"]))
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
