"""The training program: mistakes are named before any work is done."""

import dataclasses
import functools
import shutil

import jax
import pytest

from experiments import parts
from experiments import train
from spec_jax import systems
from spec_jax.controllers import decision
from spec_jax.controllers import learned
from spec_jax.models import bundle as bundle_lib
from spec_jax.training import data


@pytest.mark.parametrize("arguments, message", [
    (["--bundle=huge"], "huge"),
    (["--checkpoint_every=0"], "checkpoint_every"),
    (["--corpus=/nowhere", "--out={tmp}"], "no readable *.py file"),
    (["--out={file}/below"], "a writable folder (--out)"),
    (["surplus"], "unexpected argument 'surplus'"),
])
def test_bad_flags(arguments, message, tmp_path, capsys):
  file = tmp_path / "file"
  file.write_text("")
  arguments = [a.format(tmp=tmp_path, file=file) for a in arguments]
  assert train.main(arguments) == 2
  assert message in capsys.readouterr().err


def test_help_tells_what_it_writes(capsys):
  assert train.main(["--help"]) == 0
  assert "load_bundle" in capsys.readouterr().out


@pytest.fixture
def corpus(tmp_path):
  """A few files of code, on both sides of the split."""
  folder = tmp_path / "corpus"
  folder.mkdir()
  names = [f"{i}.py" for i in range(200)]
  held = [name for name in names if data.is_heldout(name)]
  for name in names[:20] + held[:4]:
    (folder / name).write_text(
        f"def f{name[0]}(x):\n  return x + {len(name)}\n" * 30)
  return folder


# Fields of recipes that make them small; each has some of them.
SMALL = dict(batch=2, length=16, judged_windows=2, judged_depth=2,
             vocabulary=200)
NETWORKS = {"specdec_pp": learned.AcceptanceHead(1),
            "mcsd_improved": decision.DecisionNetwork((4,))}


def small(system, recipe):
  """The recipe, with small sizes."""
  network = {"network": NETWORKS[system]} if system in NETWORKS else {}
  changes = SMALL | network
  fields = {field.name for field in dataclasses.fields(recipe)}
  return dataclasses.replace(
      recipe, **{k: v for k, v in changes.items() if k in fields})


@pytest.mark.parametrize("system", sorted(parts.TRAINERS))
def test_part_of_a_system_is_trained_and_used(
    system, tiny, corpus, tmp_path, monkeypatch, capsys):
  home = tmp_path / "bundle"
  shutil.copytree(tiny, home)
  (home / "heads" / f"{system}.safetensors").unlink()
  train_fn = parts.TRAINERS[system]
  if isinstance(train_fn, functools.partial):
    *names, recipe = train_fn.args
    monkeypatch.setattr(parts, "TRAINERS", {system: functools.partial(
        train_fn.func, *names, small(system, recipe))})
  with pytest.raises(ValueError, match=f"trained part '{system}'.*train"):
    systems.build(system, bundle_lib.load_bundle(home))
  # Training libraries mix dtypes.
  with jax.numpy_dtype_promotion("standard"):
    assert train.main([
        f"--system={system}", f"--models={home}", f"--corpus={corpus}",
        f"--out={tmp_path / 'out'}", "--install",
        "--steps=2", "--own_windows=4"]) == 0
  assert f"{system}.safetensors" in capsys.readouterr().out
  bundle = bundle_lib.load_bundle(home)
  built, params = systems.build(system, bundle)
  trained = systems.bundle_of(system, bundle).params[system]
  used = params.drafter.get(system, params.drafter)
  assert built.name == system
  assert jax.tree.structure(used) == jax.tree.structure(trained)
  assert all(a is b for a, b in zip(jax.tree.leaves(used),
                                    jax.tree.leaves(trained)))
  assert (tmp_path / "out" / "heads" / f"{system}.safetensors").is_file()
