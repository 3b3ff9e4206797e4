"""The training program: mistakes are named before any work is done."""

import dataclasses
import functools
import json
import shutil

import jax
import pytest

from experiments import parts
from experiments import train
from spec_jax import systems
from spec_jax.controllers import decision
from spec_jax.controllers import learned
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import part_file
from spec_jax.training import data
from spec_jax.training import loop


@pytest.mark.parametrize("arguments, message", [
    (["--bundle=huge"], "huge"),
    (["--checkpoint_every=0"], "checkpoint_every"),
    (["--corpus=/nowhere", "--out={tmp}"], "no readable *.py file"),
    (["--out={file}/below"], "a writable folder (--out)"),
    (["surplus"], "unexpected argument 'surplus'"),
    (["--system=eagle_1"],
     "eagle_1 decodes with the part of eagle_2, expected --system=eagle_2,"),
    (["--system=glide_cape"], "expected --system=glide, which trains it"),
    (["--system=specinfer"], "specinfer has no part to train, expected one of"),
    (["--system=eagle_4"], "'eagle_4'. Did you mean 'eagle_3' or 'eagle_2'"),
    (["--system=eagle_3", "--recipe={{"], "--recipe={ is not JSON: Expecting"),
    (["--system=eagle_3", "--recipe=[1]"], "[1], expected a JSON object"),
    (["--system=eagle_3", '--recipe={{"law_wait": 1}}'],
     "unknown field of --recipe for eagle_3 'law_wait'. Did you mean"
     " 'law_weight'"),
    (["--system=eagle_3", '--recipe={{"learning_rate": "x"}}'],
     "--recipe: learning_rate='x', expected float or int as in its default"),
    (["--system=eagle_3", '--recipe={{"batch": 1.5}}'],
     "--recipe: batch=1.5, expected int"),
    (["--system=eagle_3", '--recipe={{"batch": true}}'], "batch=True"),
    (["--system=eagle_3", '--recipe={{"hyper": [1]}}'],
     "--recipe: hyper=[1], expected dict"),
    (["--system=eagle_3", '--recipe={{"learning_rate": NaN}}'],
     "is not JSON: NaN is no number"),
    (["--system=specdec_pp", '--recipe={{"network": {{}}}}'],
     "--recipe: network={}, expected no change of it"),
    (["--system=bpd_rescored", '--recipe={{"steps": 1}}'], "Known: none"),
    (["--system=glide", '--recipe={{"optimizer": "eagel"}}'],
     "--recipe for glide: unknown optimizer 'eagel'. Did you mean 'eagle'"),
    (["--system=ada_eagle", '--recipe={{"optimizer": "sgd"}}'],
     "Known: adam, cosine, eagle, muon"),
    (["--system=glide", "--out={tmp}", "--own_temperatures=0,warm"],
     "--own_temperatures: 'warm' is not a number"),
    (["--system=glide", "--out={tmp}", "--own_temperatures=0,-1"],
     "--own_temperatures: -1, expected numbers from 0 on"),
    (["--system=glide", "--out={tmp}", "--own_temperatures="],
     "--own_temperatures is empty"),
    (["--system=medusa_1", '--recipe={{"length": "long"}}'],
     "--recipe: length='long', expected int as in its default 256"),
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


def test_full_disk(corpus, tmp_path, capsys, monkeypatch):
  def full(descriptor):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr("os.fsync", full)
  out = tmp_path / "out"
  assert train.main([f"--out={out}", f"--corpus={corpus}"]) == 2
  assert (f"error: {out / 'tokenizer.json'}: cannot be written: No space left"
          " on device; expected room for a result (--out)"
          ) in capsys.readouterr().err
  assert not list(out.iterdir())


def test_full_disk_while_it_trains(corpus, tmp_path, capsys, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device", "metrics.jsonl")
  monkeypatch.setattr(loop, "Log", full)
  monkeypatch.setattr(train, "train_model", lambda *args: loop.Log())
  assert train.main([f"--out={tmp_path / 'out'}", f"--corpus={corpus}"]) == 2
  message = capsys.readouterr().err
  assert "No space left on device: 'metrics.jsonl'" in message
  assert f"--out={tmp_path / 'out'}"[:60] in message


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
SMALL = dict(batch=2, length=16, cut=2, judged_windows=2, judged_depth=2,
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


def test_recipe_changes_the_net_and_its_training(
    tiny, corpus, tmp_path, monkeypatch):
  """A net narrower than its target, whose head cannot begin as the target's."""
  *names, recipe = parts.TRAINERS["eagle_3"].args
  monkeypatch.setattr(parts, "TRAINERS", {"eagle_3": functools.partial(
      parts.TRAINERS["eagle_3"].func, *names, small("eagle_3", recipe))})
  layers = {"num_layers": 2, "d_model": 8, "num_heads": 1, "num_kv_heads": 1}
  changes = {"hyper": {"layers": layers}, "rejection_weight": 1.0,
             "optimizer": "muon"}
  with jax.numpy_dtype_promotion("standard"):
    assert train.main([
        "--system=eagle_3", f"--models={tiny}", f"--corpus={corpus}",
        f"--out={tmp_path}", "--steps=2", "--own_windows=4",
        f"--recipe={json.dumps(changes)}"]) == 0
  hyper, params = part_file.read(
      tmp_path / "heads" / "eagle_3.safetensors", bundle_lib.fingerprint(tiny))
  assert hyper["layers"] == layers and params["head"].shape[1] == 8
  rows = loop.read_log(tmp_path / "eagle_3" / loop.LOG_NAME)
  assert 0 < rows[-1]["rejection_1"] <= 1
  bundle = bundle_lib.load_bundle(tiny).with_head("eagle_3", hyper, params)
  built, _ = systems.build("eagle_3", bundle, top_k=1, draw="iid")
  assert built.drafter.model.config.d_model == 8


def test_a_counted_part_heeds_its_recipe(tiny, corpus, tmp_path, capsys):
  assert train.main([
      "--system=fr_spec", f"--models={tiny}", f"--corpus={corpus}",
      f"--out={tmp_path}", '--recipe={"size": 40}', "--steps=3"]) == 0
  assert "fr_spec, counted, not trained" in capsys.readouterr().out
  _, params = part_file.read(
      tmp_path / "heads" / "fr_spec.safetensors", bundle_lib.fingerprint(tiny))
  assert params["token_ids"].shape == (40,)


def test_features_are_kept_and_taken_again(
    tiny, corpus, tmp_path, monkeypatch, capsys):
  """As many as were asked for, however long the training is."""
  *names, recipe = parts.TRAINERS["eagle_2"].args
  monkeypatch.setattr(parts, "TRAINERS", {"eagle_2": functools.partial(
      parts.TRAINERS["eagle_2"].func, *names, small("eagle_2", recipe))})
  arguments = ["--system=eagle_2", f"--models={tiny}", f"--corpus={corpus}",
               f"--out={tmp_path}", "--own_windows=4", "--stored_steps=2"]
  with jax.numpy_dtype_promotion("standard"):
    assert train.main(arguments + ["--steps=3"]) == 0
    assert "bytes in" in (said := capsys.readouterr()).out
    assert "tokens/s=" in said.err
    assert train.main(arguments + ["--steps=5"]) == 0
    assert "bytes in" not in capsys.readouterr().out
    folder = tmp_path / "eagle_2" / "features"
    assert [path.name for path in folder.iterdir()] == [
        "features-00000.safetensors"]
    assert train.main([*arguments, "--seed=1", "--steps=5"]) == 2
  assert "other texts, expected those of this training" in (
      capsys.readouterr().err)
  rows = loop.read_log(tmp_path / "eagle_2" / loop.LOG_NAME)
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
