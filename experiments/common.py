"""What the programs share: flags, systems by name, errors without traceback."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import sys
from typing import Any

from absl import flags
import jax.numpy as jnp

from experiments import errors
from experiments import listed
from experiments import process
import spec_jax
from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import registry
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.kernels import backend as backend_lib
from spec_jax.trees import shapes
from spec_jax.verifiers import walk

BASELINE = "autoregressive"
_TRUTH = {"true": True, "yes": True, "1": True,
          "false": False, "no": False, "0": False}

UsageError = errors.UsageError


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
  """Turns the ValueErrors of checks and files into usage errors."""
  try:
    yield
  except ValueError as error:
    raise UsageError(str(error)) from error


def launch(doc: str, define_fn: Callable[[flags.FlagValues], None],
           run_fn: Callable[[flags.FlagValues], int],
           argv: Sequence[str] | None = None) -> int:
  """Parses flags and runs a program.

  Flags belong to the call, not to the process, so that several programs can
  be run from one notebook or test.

  Errors of values, files and memory end with one line and exit code 2, logits
  that are NaN with exit code 1; `--traceback` lets all of them through. What
  else is raised is a bug and passes.

  Args:
    doc: shown by --help above the flags.
    define_fn: defines the flags.
    run_fn: the program; returns the exit code.
    argv: arguments without the program's name; default: the process's.
  """
  process.keep_compilations()
  process.trace_quickly()
  values = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this text and end.",
                    short_name="h", flag_values=values)
  flags.DEFINE_bool("traceback", False, "Whether errors show where they were"
                    " raised.", flag_values=values)
  define_fn(values)
  try:
    rest = values(["program", *(sys.argv[1:] if argv is None else argv)])[1:]
    if values.help:
      print(f"{doc.strip()}\n\nFlags:\n{values.get_help()}")
      return 0
    if rest:
      raise UsageError(f"unexpected argument {rest[0]!r}, expected flags only"
                       " (--help lists them).")
    if "out" in values and values.out == "":
      raise UsageError("--out is empty, expected a path; '.' is the current"
                       " folder.")
    return run_fn(values)
  except (UsageError, flags.Error, *errors.LATE) as error:
    message = errors.explained(error, values)
    if message is None or values["traceback"].value:
      raise
    print(f"error: {message}", file=sys.stderr)
    return 1 if isinstance(error, FloatingPointError) else 2
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130


def define_models(values: flags.FlagValues) -> None:
  """--bundle, --hf, --hf_draft, --draft_head, the types and the backend."""
  flags.DEFINE_string(
      "bundle", "tiny-python", "A shipped bundle"
      f" ({', '.join(spec_jax.models.bundle.shipped_names()) or 'none'}) or a"
      " folder with bundle.json.", flag_values=values)
  flags.DEFINE_string(
      "hf", None, "A folder with a Hugging Face model (config.json,"
      " safetensors, tokenizer.json), in place of --bundle.",
      flag_values=values)
  flags.DEFINE_string("hf_draft", None, "The same, of the draft model.",
                      flag_values=values)
  flags.DEFINE_string(
      "draft_head", None, "A folder with a published draft of the target"
      " (Medusa, Hydra, MLP speculator, ReDrafter, EAGLE), beside --hf or"
      " --bundle; a line says which --system drafts with it.",
      flag_values=values)
  flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16", "float16"),
                    "Of parameters and computation.", flag_values=values)
  flags.DEFINE_enum(
      "target_weights", None, ("bfloat16",), "Type of the target's matrices, in"
      " which its products take their factors; default: --dtype. All the rest"
      " stays in --dtype, and so do draft models.", flag_values=values)
  flags.DEFINE_enum(
      "backend", "auto", backend_lib.BACKENDS, "Of attention and verification:"
      " kernels where they are known to pay, wherever the device has them"
      " (interpreted on a CPU: slow), or never. Shapes, types, rules and walks"
      " that no kernel takes are left to XLA.", flag_values=values)


def define_systems(values: flags.FlagValues, default: Sequence[str] | None,
                   unset: str = "all that the models allow") -> None:
  """--system and --set; `unset` says what no --system means."""
  flags.DEFINE_list(
      "system", default, "Systems, separated by commas, or 'all' for all that"
      f" the models allow; default: {default or unset}. Known:"
      f" {', '.join(systems.names())}.", flag_values=values)
  flags.DEFINE_multi_string(
      "set", [], "A hyper-parameter, key=value or system.key=value; may be"
      " repeated. Lists are written 4,2,1 or, lists of lists too, in JSON:"
      " '[[4],[2,1,0,0]]'; tree shapes may be published ones"
      f" ({', '.join(shapes.PUBLISHED)}).", flag_values=values)


def define_decoding(values: flags.FlagValues, temperatures: Sequence[str],
                    max_new_tokens: int = 128) -> None:
  """--temperature, --max_new_tokens and --seed."""
  flags.DEFINE_list("temperature", list(temperatures),
                    "One or more, separated by commas; 0 is greedy.",
                    flag_values=values)
  flags.DEFINE_integer("max_new_tokens", max_new_tokens, "Tokens per prompt.",
                       flag_values=values)
  define_seed(values, "Row r draws from (seed, r, position).")


def define_seed(values: flags.FlagValues, what: str) -> None:
  """--seed, of `what`."""
  flags.DEFINE_integer("seed", 0, what, lower_bound=0,
                       upper_bound=keys_lib.MOST_SEED, flag_values=values)


def load_models(values: flags.FlagValues) -> spec_jax.Bundle:
  """The models that the flags ask for."""
  dtype = jnp.dtype(values.dtype)
  with clean_errors():
    if values.hf is None:
      if values.hf_draft is not None:
        raise ValueError(f"--hf_draft={values.hf_draft} is only used together"
                         " with --hf, which was not given.")
      bundle = spec_jax.load_bundle(values.bundle, dtype)
    else:
      bundle = spec_jax.from_hf(values.hf, values.hf_draft, dtype)
    if bundle.tokenizer is None:
      raise ValueError(f"{values.hf}: no tokenizer.json, but prompts are texts"
                       " and need one.")
    if values.draft_head is not None:
      bundle = _with_draft(bundle, values.draft_head)
    if values.target_weights is not None:
      bundle = bundle.with_target_weights(jnp.dtype(values.target_weights))
  return bundle.with_backend(values.backend)


def _with_draft(bundle, folder):
  """The bundle with a published draft; says what it is called."""
  grown = spec_jax.add_draft(bundle, folder)
  (name,) = [name for name in grown.heads
             if grown.params[name] is not bundle.params.get(name)]
  print(f"{folder}: a draft for --system={name}", file=sys.stderr)
  return grown


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """A system that was built.

  Attributes:
    name: as registered.
    system: at temperature 1.
    params: its parameters.
    hyper: all its hyper-parameters, defaults included.
    exact: whether it claims to be, for the target that it decodes.
    baseline: the name of plain decoding of that target.
    defers_temperature: see `executors.fused.Fused`.
  """

  name: str
  system: spec_jax.System
  params: spec_jax.Params
  hyper: dict[str, Any]
  exact: bool
  baseline: str = BASELINE
  defers_temperature: bool = False

  @property
  def executor(self) -> fused.Fused:
    return hosted.executor_for(
        self.system, defers_temperature=self.defers_temperature)

  def at(self, temperature: float) -> spec_jax.System:
    return self.system.with_sampling(spec_jax.Sampling(temperature))


def choose(bundle: spec_jax.Bundle, names: Sequence[str] | None,
           overrides: Sequence[str], default: Sequence[str] | None = None
           ) -> tuple[list[Choice], dict[str, str]]:
  """Builds the systems that were asked for.

  Args:
    bundle: the models.
    names: "all" alone for all that the models allow.
    overrides: `key=value` or `system.key=value`; they go before what the
      bundle recommends, and that before the papers' defaults.
    default: for no names, as far as the models allow; None for all.

  Returns:
    The systems, and those left out with the reason.

  Raises:
    UsageError: unknown names or values; a system that was asked for by name
      but cannot be built.
  """
  with clean_errors():
    if names and list(names) == ["all"]:
      names, default = None, None
    wanted = list(dict.fromkeys(names or default or systems.names()))
    hyper = hyper_parameters(wanted, overrides)
    chosen, skipped = [], {}
    for name in wanted:
      hyper[name] = bundle.tuned.get(name, {}) | hyper[name]
      try:
        system, params = build(name, bundle, **hyper[name])
      except ValueError as error:
        if names:
          raise ValueError(f"{name}: {error}") from error
        skipped[name] = str(error)
        continue
      chosen.append(Choice(
          name, system, params, systems.hyper_parameters(name) | hyper[name],
          systems.info(name).exact, baseline_name(name)))
  return chosen, skipped


def build(name: str, bundle: spec_jax.Bundle, **hyper: Any
          ) -> tuple[spec_jax.System, spec_jax.Params]:
  """`systems.build`, the verification on the backend of the bundle's models."""
  system, params = systems.build(name, bundle, **hyper)
  return dataclasses.replace(
      system, walk=walk.on(bundle.backend, system.walk)), params


def baseline_name(name: str) -> str:
  """What plain decoding of a system's target is called."""
  return f"{BASELINE} ({name})" if systems.info(name).own_target else BASELINE


def baseline_of(bundle: spec_jax.Bundle, choice: Choice) -> Choice:
  """Plain decoding of the target that a system decodes."""
  (plain,), _ = choose(
      systems.bundle_of(choice.name, bundle), [BASELINE], ())
  return dataclasses.replace(
      plain, name=choice.baseline, baseline=choice.baseline)


def with_baselines(bundle: spec_jax.Bundle, choices: Sequence[Choice]
                   ) -> list[Choice]:
  """The choices, and before them every baseline that is not among them."""
  known, missing = {choice.name for choice in choices}, {}
  for choice in choices:
    if choice.baseline not in known | missing.keys():
      missing[choice.baseline] = baseline_of(bundle, choice)
  return [*missing.values(), *choices]


def hyper_parameters(names: Sequence[str], overrides: Sequence[str]
                     ) -> dict[str, dict[str, Any]]:
  """What --set says about each system.

  Raises:
    ValueError: an override that is malformed or fits none of the systems.
  """
  known = {name: systems.hyper_parameters(name) for name in names}
  found = {name: {} for name in names}
  for override in overrides:
    key, is_pair, text = override.partition("=")
    owner, _, key = key.rpartition(".")
    if not is_pair or not key:
      raise ValueError(f"--set {override}: expected key=value, such as"
                       " depth=5.")
    if owner and owner not in known:
      raise ValueError("--set: " + registry.unknown("system", owner, known))
    takers = [name for name in ([owner] if owner else names)
              if key in known[name]]
    if not takers:
      everything = {k for name in names for k in known[name]} or {"none"}
      raise ValueError(f"--set {override}: " + registry.unknown(
          f"hyper-parameter of {owner or ', '.join(names)}", key, everything))
    for name in takers:
      found[name][key] = parse(override, text, known[name][key], name)
  return found


def parse(override: str, text: str, default: Any, name: str) -> Any:
  """A value of the type that the builder's default has."""
  kind, value = type(default), text.strip()
  try:
    if kind is bool:
      return _TRUTH[value.lower()]
    if kind is tuple:
      return listed.parse(value, default)
    if default is None:
      return _guess(value)
    return kind(value)
  except (KeyError, ValueError, TypeError) as error:
    if kind is tuple:
      raise ValueError(f"--set {override}: {value!r} does not fit {name},"
                       f" {error}.") from error
    raise ValueError(
        f"--set {override}: {value!r} is not of the type of {name}'s default"
        f" {default!r} ({kind.__name__}).") from error


def _guess(value):
  """Where the default is None: a number, a list of numbers, or a text."""
  try:
    return listed.number(value)
  except ValueError:
    pass
  found = listed.read(value)
  return value if found is None else found


def numbers(texts: Sequence[str], flag: str, kind: type = float) -> list:
  """A list flag as numbers, repetitions dropped.

  Raises:
    ValueError: naming the flag and the text that is no number.
  """
  found = []
  for text in texts:
    try:
      found.append(kind(text))
    except ValueError as error:
      wanted = "a whole number" if kind is int else "a number"
      raise ValueError(
          f"--{flag}: {text!r} is not {wanted}.") from error
  if not found:
    raise ValueError(f"--{flag} is empty, expected at least one value.")
  return list(dict.fromkeys(found))


def temperatures(values: flags.FlagValues) -> list[float]:
  """The values of --temperature, checked."""
  with clean_errors():
    found = numbers(values.temperature, "temperature")
    for value in found:
      spec_jax.Sampling(temperature=value)
  return found


def flags_of(values: flags.FlagValues) -> dict[str, Any]:
  """All flags that say what is done, for a result card."""
  return {k: v for k, v in values.flag_values_dict().items()
          if k not in ("help", "traceback")}
