"""Which systems a program builds."""

from absl import flags
import jax
import pytest

from experiments import common
import spec_jax
from spec_jax import systems
from spec_jax.verifiers import walk


def test_no_names_mean_the_default_and_all_means_all(tiny):
  bundle = spec_jax.load_bundle(tiny)
  names = lambda *arguments: [
      choice.name for choice in common.choose(bundle, *arguments)[0]]
  default = ("autoregressive", "specinfer")
  assert names(None, (), default) == list(default)
  assert names(["mcsd"], (), default) == ["mcsd"]
  for arguments in ((None, ()), (["all"], (), default)):
    chosen, skipped = common.choose(bundle, *arguments)
    built = [choice.name for choice in chosen]
    assert sorted([*built, *skipped]) == list(systems.names())
    # Left out is only what needs a store that nobody gave.
    assert all("build one with python -m experiments." in reason
               for reason in skipped.values()), skipped
    assert {"rest", "dresd"} <= set(skipped)


@pytest.mark.parametrize("flag,allowed", [
    ("--dtype=float23", "float32|bfloat16|float16"),
    ("--backend=palas", "auto|pallas|xla")])
def test_bad_choice_names_the_flag_and_what_is_allowed(flag, allowed, capsys):
  assert common.launch("", common.define_models, lambda values: 0, [flag]) == 2
  message = capsys.readouterr().err
  assert message.startswith(f"error: flag {flag}: ") and allowed in message


def test_the_backend_of_the_models_is_that_of_verification(tiny):
  bundle = spec_jax.load_bundle(tiny)
  names = ["mcsd", "block_verification"]
  plain, block = common.choose(bundle, names, ())[0]
  assert plain.system.walk is walk.walk
  asked = bundle.with_backend("xla")
  choices, _ = common.choose(asked, names, ())
  assert choices[0].system.walk == walk.Walk("xla")
  assert choices[1].system.walk is block.system.walk  # It has no kernel.
  baseline = common.baseline_of(asked, choices[0])
  assert baseline.system.walk == walk.Walk("xla")


def raising(error, *argv):
  """The exit code of a program that ends with an error."""
  def define(values):
    flags.DEFINE_string("out", "here", "", flag_values=values)
    common.define_systems(values, ["specinfer"])
  def run(values):
    raise error
  return common.launch("", define, run, argv)


@pytest.mark.parametrize("error, code, parts", [
    (ValueError("it is odd"), 2, ["it is odd (asked for: --set=depth=3;"]),
    (OSError(28, "No space left on device", "a.npy"), 2,
     ["No space left on device: 'a.npy'", "--out=here"]),
    (OverflowError("int too large"), 2, ["int too large", "--set=depth=3"]),
    (MemoryError(), 2, ["out of memory: MemoryError; asked for:",
                        "--system=specinfer --set=depth=3; expected less"]),
    (jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 222 bytes.\nmore"), 2,
     ["out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 222 bytes.;",
      "--system=specinfer --set=depth=3"]),
    (FloatingPointError("the logits are NaN"), 1, ["the logits are NaN\n"])])
def test_late_errors_are_one_line(error, code, parts, capsys):
  assert raising(error, "--set=depth=3") == code
  message = capsys.readouterr().err
  assert message.startswith("error: ") and message.count("\n") == 1
  assert all(part in message for part in parts), message


@pytest.mark.parametrize("error", [
    TypeError("a bug"), KeyError("a bug"),
    jax.errors.JaxRuntimeError("INTERNAL: a bug")])
def test_bugs_keep_their_traceback(error):
  with pytest.raises(type(error), match="a bug"):
    raising(error)


def test_a_flag_shows_where_an_error_came_up():
  for error in (ValueError("late"), common.UsageError("early")):
    with pytest.raises(type(error)):
      raising(error, "--traceback")


def test_long_flags_are_cut(capsys):
  assert raising(ValueError("late"), f"--out={'x' * 1000}") == 2
  assert len(capsys.readouterr().err) < 300


def test_a_choice_that_is_nearly_right_is_offered(capsys):
  flag = ["--dtype=flaot32"]
  assert common.launch("", common.define_models, lambda values: 0, flag) == 2
  assert "Did you mean 'float32'" in capsys.readouterr().err


def test_a_tree_that_is_too_large_is_named_before_it_is_compiled(tiny):
  bundle = spec_jax.load_bundle(tiny)
  with pytest.raises(common.UsageError, match=r"^specinfer: branching=.*: a"
                     " tree of 66430 nodes, expected at most 4096"):
    common.choose(bundle, ["specinfer"], ["branching=9,9,9,9,9"])
