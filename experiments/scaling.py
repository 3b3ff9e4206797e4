"""Tokens per second over batch, prefix length, tree size and devices.

  python -m experiments.scaling
  python -m experiments.scaling --batch=1,8 --prefix= --nodes= --devices=

Each point is written at once, and found again when the program is started
anew. Prefixes may be longer than the positions the model was trained for:
rotary positions have no end, so what a round costs is real while the text is
not; there, and for trees, the tokens per call are those of the same system on
real prompts. Devices are counted in a fresh process, since a process cannot
change how many it has. Costs of a round are fitted by a line.
"""

from collections.abc import Sequence
import functools
import itertools
import json
import sys
from typing import Any

from absl import flags
import numpy as np
from tqdm import auto as tqdm

from experiments import cells
from experiments import common
from experiments import scaling_lab
from spec_jax.evaluation import profile_plots
from spec_jax.evaluation import report

_SHOWN = (common.BASELINE, "speculative_sampling")
_AXES = {"batch": "rows decoded at once", "prefix": "tokens before the round",
         "nodes": "nodes of the tree", "devices": "host devices (pmap)"}


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, None, ", ".join(_SHOWN))
  common.define_decoding(values, ("0",), 64)
  sizes = functools.partial(flags.DEFINE_list, flag_values=values)
  sizes("batch", ["1", "2", "4", "8", "16", "32"], "Batch sizes.")
  sizes("prefix", ["128", "512", "1024", "2048", "4096", "8192"],
        "Prefix lengths.")
  sizes("nodes", ["1", "4", "7", "16", "31", "64", "127"], "Nodes of the tree:"
        f" 1 + {scaling_lab.LEVELS} for each child of the root.")
  sizes("devices", ["1", "2"], "Host devices; CPU only.")
  flags.DEFINE_integer("device_rows", 8, "Rows split over the devices.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("prompt_tokens", 64, "Length of the real prompts.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("samples", 7, "Of each point.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_enum("timer", "wall", sorted(scaling_lab.TIMERS), "'cpu' counts"
                    " processor seconds of this process: other work on a CPU"
                    " stays out.", flag_values=values)
  flags.DEFINE_string("out", "out/scaling", "Folder of points, card and plot.",
                      flag_values=values)
  flags.DEFINE_bool("child", False, "Measures the devices that this process"
                    " has and prints one line of JSON; used by the program"
                    " itself.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a point failed."""
  temperatures = common.temperatures(values)
  with common.clean_errors():
    sizes = {axis: common.numbers(getattr(values, axis), axis, int)
             if "".join(getattr(values, axis)) else [] for axis in _AXES}
    check(sizes, temperatures)
    folder = report.make_folder(values.out)
    report.make_folder(folder / "cells")
  bundle = common.load_models(values)
  choices, _ = common.choose(bundle, values.system, values.set, _SHOWN)
  lab = scaling_lab.Lab(values, bundle, temperatures[0])
  if values.child:
    print(json.dumps(lab.replicated(choices[-1])))
    return 0
  shared = {"models": cells.fingerprint(bundle), "samples": values.samples,
            "timer": values.timer, "temperature": temperatures[0],
            "max_new_tokens": values.max_new_tokens, "seed": values.seed,
            "prompt_tokens": values.prompt_tokens,
            "environment": cells.stable_environment()}
  rows = []
  for axis, size, choice, fn in tqdm.tqdm(
      plan(lab, choices, sizes), desc="points", unit="point"):
    key = shared | {"axis": axis, "size": size, "system": choice.name,
                    "hyper_parameters": choice.hyper}
    if axis == "devices":
      key["rows"] = values.device_rows
    with common.clean_errors():
      rows.append(cells.finish(cells.path_of(
          folder / "cells", f"{axis}-{size}-{choice.name}", key), key, fn))
  with common.clean_errors():
    write(folder, values, bundle, rows)
  print(text(rows))
  failed = [row for row in rows if "error" in row]
  print(f"{len(rows) - len(failed)} of {len(rows)} points are whole: {folder}")
  return 1 if failed else 0


def check(sizes, temperatures) -> None:
  """Raises ValueError for sizes that cannot be measured."""
  for axis, found in sizes.items():
    if found and min(found) < 1:
      raise ValueError(f"--{axis}={found}, expected sizes >= 1.")
  for nodes in sizes["nodes"]:
    if (nodes - 1) % scaling_lab.LEVELS:
      raise ValueError(
          f"--nodes: {nodes} is not 1 + {scaling_lab.LEVELS} k, expected a root"
          f" with k chains of {scaling_lab.LEVELS}.")
  if len(temperatures) != 1:
    raise ValueError(f"--temperature={temperatures}, expected one.")


def plan(lab, choices, sizes) -> list[tuple]:
  """Axis, size, system and what measures it, point by point."""
  points = [("batch", n, c, functools.partial(lab.on_prompts, c, n))
            for n, c in itertools.product(sizes["batch"], choices)]
  points += [("prefix", n, c, functools.partial(lab.behind, c, n))
             for n, c in itertools.product(sizes["prefix"], choices)]
  for nodes in sizes["nodes"]:
    choice = lab.tree(nodes)
    points.append(("nodes", nodes, choice,
                   functools.partial(lab.on_prompts, choice, 1)))
  points += [("devices", n, choices[-1],
              functools.partial(lab.in_child, choices[-1], n))
             for n in sizes["devices"]]
  return points


def fits(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Seconds of a round as a line of the size, by axis and system."""
  lines = []
  for (axis, name), (sizes, rounds, _) in _by_line(rows).items():
    if len(sizes) < 3:
      continue
    slope, constant = np.polyfit(sizes, rounds, 1)
    left = np.asarray(rounds) - np.polyval((slope, constant), sizes)
    spread = np.var(rounds)
    lines.append({
        "axis": axis, "system": name, "seconds": float(constant),
        "seconds_per_unit": float(slope),
        "r_squared": float(1 - np.var(left) / spread) if spread else 1.0})
  return lines


def _by_line(rows):
  found = {}
  for row in rows:
    if "result" not in row:
      continue
    key, result = row["key"], row["result"]
    # Trees of all sizes are one line, the plain decode among them.
    name = "tree" if key["axis"] == "nodes" else key["system"]
    sizes, rounds, speeds = found.setdefault((key["axis"], name), ([], [], []))
    sizes.append(key["size"])
    rounds.append(result["seconds_per_round"]["median"])
    speeds.append(result["tokens_per_second"])
  return found


def text(rows: Sequence[dict[str, Any]]) -> str:
  """Points and fits in markdown."""
  lines = []
  for row in rows:
    key, result = row["key"], row.get("result")
    lines.append({
        "over": key["axis"], "size": str(key["size"]), "system": key["system"],
        "ms a round": "void" if result is None else report.number(
            1e3 * result["seconds_per_round"]["median"], 2),
        "tokens/call": "-" if result is None else report.number(
            result["tokens_per_call"]),
        "tokens/s": "-" if result is None else report.number(
            result["tokens_per_second"], 0)})
  fitted = [{
      "over": fit["axis"], "system": fit["system"],
      "ms": report.number(1e3 * fit["seconds"], 3),
      "ms per unit": report.number(1e3 * fit["seconds_per_unit"], 5),
      "R2": report.number(fit["r_squared"], 3)} for fit in fits(rows)]
  return "\n".join((report.markdown(lines), "A round's time as a line of the"
                    " size:\n", report.markdown(fitted)))


def write(folder, values, bundle, rows) -> None:
  """Card, table and plot; raises ValueError."""
  report.write_json(folder / "scaling.json", report.card(
      common.flags_of(values), bundle=bundle.name, rows=rows, fits=fits(rows)))
  report.write_text(folder / "scaling.md", text(rows))
  panels = {}
  for (axis, name), (sizes, _, speeds) in _by_line(rows).items():
    panels.setdefault(axis, {})[name] = (sizes, speeds)
  if panels:
    report.write_bytes(folder / "scaling.png", profile_plots.curves(
        [(axis, _AXES[axis], lines) for axis, lines in panels.items()],
        f"{bundle.name}: scaling"))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
