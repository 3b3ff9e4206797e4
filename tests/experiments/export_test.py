"""What is written for servers is what was trained, or nothing is written."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export
from experiments import parts
from experiments import train
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_export
from spec_jax.models import feature_model
from spec_jax.models import part_file
from tests import toy
from tests.experiments import drafter_race_test
from tests.experiments import train_test
from tests.models import feature_export_test


@pytest.fixture(scope="module")
def trained(tiny_deep, tmp_path_factory):
  """A bundle with an `eagle_3` of two steps."""
  home = tmp_path_factory.mktemp("trained") / "bundle"
  shutil.copytree(tiny_deep, home)
  corpus = drafter_race_test.corpus(home.parent / "corpus")
  *names, recipe = parts.TRAINERS["eagle_3"].args
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parts, "TRAINERS", {"eagle_3": functools.partial(
        parts.TRAINERS["eagle_3"].func, *names,
        train_test.small("eagle_3", recipe))})
    with jax.numpy_dtype_promotion("standard"):  # Training mixes dtypes.
      assert train.main([
          "--system=eagle_3", f"--models={home}", f"--corpus={corpus}",
          f"--out={home.parent / 'out'}", "--install", "--steps=2",
          "--own_windows=4"]) == 0
  return home


def drafted(bundle, tokens):
  """What the part "eagle_3" says of texts, `f32[B, T - 1, Z]`."""
  model = feature_model.from_hyper(
      bundle.target, "eagle_3", bundle.heads["eagle_3"], "eagle_3")
  return feature_export_test.drafted(model, bundle.params, tokens)


def assert_says_the_same(folder, bundle):
  """Target and draft of the folder, beside what they were written from."""
  again = bundle_lib.from_hf(folder / "target")
  part = feature_checkpoint.load_eagle(
      folder / "eagle_3", again.target, again.params["target"])
  again = again.with_head("eagle_3", *part)
  assert tuple(again.heads["eagle_3"]["taps"]) == tuple(
      bundle.heads["eagle_3"]["taps"])
  assert again.tokenizer.encode("def f") == bundle.tokenizer.encode("def f")
  tokens = jax.random.randint(
      jax.random.key(0), (2, 20), 0, bundle.target.vocab_size)
  np.testing.assert_allclose(
      drafted(again, tokens), drafted(bundle, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", tuple(feature_export.LAYOUTS))
def test_a_trained_part_is_written_and_says_the_same(
    layout, trained, tmp_path, capsys):
  assert export.main([
      f"--bundle={trained}", "--system=eagle_3", f"--layout={layout}",
      f"--out={tmp_path}"]) == 0
  shown = capsys.readouterr().out
  for name in ("target", "eagle_3"):
    assert f"written: {tmp_path / name}\n" in shown
  bundle = bundle_lib.load_bundle(trained)
  assert bundle.heads["eagle_3"]["taps"] == [2, 3, 5]
  assert_says_the_same(tmp_path, bundle)


@pytest.mark.parametrize("layout", tuple(feature_export.LAYOUTS))
def test_the_shipped_part_is_written_and_says_the_same(layout, tmp_path):
  assert export.main([f"--layout={layout}", f"--out={tmp_path}"]) == 0
  assert_says_the_same(tmp_path, bundle_lib.load_bundle("tiny-python"))
  # A container that serves may not run as the one who wrote.
  for name in ("target", "eagle_3"):
    weights = tmp_path / name / "model.safetensors"
    assert weights.stat().st_mode & 0o044 == 0o044
  config = json.loads((tmp_path / "eagle_3" / "config.json").read_text())
  if layout == "speculators":
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(
        (tmp_path / "target").resolve())


@pytest.mark.parametrize("arguments, message", [
    (["--system=medusa_1"], "--system=medusa_1: its draft has no public layout"
     " that this program writes, expected eagle_3."),
    (["--system=autoregressive"], "--system=autoregressive: its draft has no"),
    (["--system=eagle3"], "unknown system 'eagle3'. Did you mean 'eagle_3'?"),
    (["--layout=specforge"], "<speculators|eagle>"),
    (["--bundle=/nowhere"], "'/nowhere' is neither a shipped bundle"),
    (["--out={file}/below"], "a writable folder (--out)"),
    (["--bundle={deep}"], "needs the trained part 'eagle_3'"),
    (["--bundle={tiny}"], "a target of 2 layers, expected a target of at"),
    (["surplus"], "unexpected argument 'surplus'"),
])
def test_mistakes_are_named_and_nothing_is_written(
    arguments, message, tiny, tiny_deep, tmp_path, capsys):
  file = tmp_path / "file"
  file.write_text("")
  arguments = [f"--out={tmp_path / 'out'}"] + [
      a.format(file=file, tiny=tiny, deep=tiny_deep) for a in arguments]
  assert export.main(arguments) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_a_part_of_two_layers_is_refused(tiny_deep, tmp_path, capsys):
  """Whatever a recipe may train."""
  home = tmp_path / "bundle"
  shutil.copytree(tiny_deep, home)
  bundle = bundle_lib.load_bundle(home)
  hyper = toy.HEADS["eagle_3"] | {
      "taps": (1, 2, 3), "layers": {"num_layers": 2}}
  net = feature_model.from_hyper(bundle.target, "eagle_3", hyper)
  params = {**net.init(jax.random.key(0)),
            "token_ids": jnp.asarray(toy.TOKEN_IDS["eagle_3"], jnp.int32)}
  part_file.write(
      home, "eagle_3", hyper, params, bundle_lib.fingerprint(home))
  assert export.main([f"--bundle={home}", f"--out={tmp_path / 'out'}"]) == 2
  assert "num_layers=2, expected 1" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
