"""What is shown of an error: one line for mistakes, tracebacks for bugs."""

import re

from absl import flags
import jax
import safetensors

from spec_jax.core import registry

# What comes late and is no bug: a value that no check named before, a file, a
# full disk, too little memory. Other kinds of errors keep their traceback.
LATE = (ValueError, OSError, OverflowError, FloatingPointError, MemoryError,
         safetensors.SafetensorError, jax.errors.JaxRuntimeError)
# Flags that decide how much memory a program takes.
_SIZES = ("bundle", "models", "hf", "system", "set", "batch", "max_new_tokens")
_LONGEST_FLAG = 80
_BAD_CHOICE = re.compile(r"flag --(\w+)=(.*): value should be one of ", re.S)


class UsageError(Exception):
  """A mistake of the caller; shown without a traceback, exit code 2."""


def explained(error: Exception, values: flags.FlagValues) -> str | None:
  """What is shown of an error; None if it is no mistake of the caller."""
  text = str(error) or type(error).__name__
  if isinstance(error, UsageError | FloatingPointError):
    return text
  if isinstance(error, flags.Error):
    return text + _nearest_choice(text, values)
  if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
    return _out_of_memory(error, text, values)
  is_file = isinstance(error, OSError | safetensors.SafetensorError)
  given = _written(values, [
      name for name in values
      if values[name].present or name == "out" and is_file])
  return f"{text} (asked for: {given}; --traceback shows where it came up)"


def _out_of_memory(error, text, values) -> str | None:
  is_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text
  if not is_memory and "out of memory" not in text.lower():
    return None
  return (f"out of memory: {text.splitlines()[0]}; asked for:"
          f" {_written(values, [k for k in _SIZES if k in values])}; expected"
          " less, such as smaller trees, fewer new tokens or rows, or fewer"
          " systems.")


def _written(values, names) -> str:
  """Flags as they are written on a command line, each once, cut to a line."""
  shown = []
  for name in dict.fromkeys(values[name].name for name in names):
    text = values[name].serialize().replace("\n", " ")
    if text:
      shown.append(text if len(text) <= _LONGEST_FLAG
                   else text[:_LONGEST_FLAG] + "...")
  return " ".join(shown) or "no flags"


def _nearest_choice(text, values) -> str:
  """A hint for a value that an enum flag does not have, or nothing."""
  found = _BAD_CHOICE.search(text)
  choices = getattr(values[found[1]].parser, "enum_values", ()) if found else ()
  hint = registry.hint(found[2], choices) if found else ""
  return f".{hint}" if hint else ""
