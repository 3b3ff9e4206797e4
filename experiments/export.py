"""Writes a target and its trained draft as folders that servers load.

  python -m experiments.export --system=eagle_3 --layout=speculators --out=DIR
  python -m experiments.export --bundle=FOLDER --layout=eagle

The target goes to DIR/target in the layout of Hugging Face, the draft to
DIR/SYSTEM in a layout that is published for it: of EAGLE-3 its authors' own
("eagle"), which SGLang and vLLM read, or that of speculators, which vLLM reads.
Both are in 32 bits; what a layout has no word for is an error.
"""

from collections.abc import Sequence
import pathlib
import sys

from absl import flags

from experiments import common
import spec_jax
from spec_jax import systems
from spec_jax.core import registry
from spec_jax.evaluation import report
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import export
from spec_jax.models import feature_export
from spec_jax.models import feature_model
from spec_jax.systems import registration

_TARGET = "target"
# Systems whose draft has a public layout that is written here.
SYSTEMS = ("eagle_3",)


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_string(
      "bundle", "tiny-python", "A shipped bundle"
      f" ({', '.join(bundle_lib.shipped_names()) or 'none'}) or a folder with"
      " bundle.json.", flag_values=values)
  flags.DEFINE_string("system", SYSTEMS[0], "Whose draft is written:"
                      f" {' or '.join(SYSTEMS)}.", flag_values=values)
  flags.DEFINE_enum("layout", feature_export.SPECULATORS,
                    tuple(feature_export.LAYOUTS), "Of the draft's folder.",
                    flag_values=values)
  flags.DEFINE_string("out", "out/export", "Folder of both folders.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  with common.clean_errors():
    check_system(values.system)
    bundle = spec_jax.load_bundle(values.bundle)
    model = draft_of(bundle, values.system)
    # Before anything is written, so that there are both folders or none.
    export.check_llama(bundle.target.config)
    feature_export.check(model, bundle.params, values.layout)
    folder = report.make_folder(values.out)
    for path in write(bundle, model, folder, values.layout):
      print(f"written: {path}")
  return 0


def check_system(name: str) -> None:
  """Raises ValueError for a system without a layout, or an unknown one."""
  if name in SYSTEMS:
    return
  if name not in systems.names():
    raise ValueError("--system: " + registry.unknown("system", name, SYSTEMS))
  raise ValueError(
      f"--system={name}: its draft has no public layout that this program"
      f" writes, expected {' or '.join(SYSTEMS)}.")


def draft_of(bundle: spec_jax.Bundle, name: str) -> feature_model.FeatureModel:
  """The trained net of a system; raises ValueError if the bundle has none."""
  parts = registration.Parts(bundle.target, {}, heads=bundle.heads)
  return feature_model.from_hyper(bundle.target, name, parts.head(name), name)


def write(bundle: spec_jax.Bundle, model: feature_model.FeatureModel,
          folder: pathlib.Path, layout: str
          ) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes target and draft below a folder; returns where."""
  target, draft = folder / _TARGET, folder / model.part
  export.save_hf(
      target, bundle.target, bundle.params[_TARGET], bundle.tokenizer)
  feature_export.save(
      draft, model, bundle.params, layout, verifier=str(target.resolve()))
  return target, draft


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
