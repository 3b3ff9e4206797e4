"""A bundle small enough to run every program in seconds."""

import jax
import pytest

from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.models import part_file
from spec_jax.training import data
from tests import toy

_TEXTS = ("def area(radius):\n  return 3.14 * radius * radius\n",
          "for name in names:\n  print(name, sizes[name])\n",
          "class Point:\n  def __init__(self, x, y):\n    self.x = x\n")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
  """Folder of a bundle: a random target, a noisy copy of it as the draft."""
  folder = tmp_path_factory.mktemp("bundle")
  vocab_size = write_pair(folder, _TEXTS, 280)
  for name, params in toy.head_params(vocab_size).items():
    part_file.write(folder, name, toy.HEADS[name], params,
                    bundle_lib.fingerprint(folder))
  return str(folder)


@pytest.fixture(scope="session")
def tiny_deep(tmp_path_factory):
  """The same without further parts, and with six layers."""
  folder = tmp_path_factory.mktemp("bundle_deep")
  write_pair(folder, _TEXTS, 280, num_layers=6)
  return str(folder)


def write_pair(folder, texts, vocab_size, num_layers=2) -> int:
  """Writes the models and a tokenizer of `texts`; returns its size."""
  tokenizer = data.train_tokenizer(texts, vocab_size)
  tokenizer.save(str(folder / "source.json"))
  config = toy.config(num_layers, vocab_size=tokenizer.get_vocab_size())
  params = toy.sharpen(contract.decoder_model(config).init(jax.random.key(1)))
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  draft = jax.tree.unflatten(structure, [
      leaf + 0.2 * leaf.std() * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)])
  bundle_lib.save(
      folder, "tiny", {"target": config, "draft": config},
      {"target": params, "draft": draft}, folder / "source.json",
      [{"prompt": text, "source": "test"} for text in _TEXTS])
  return config.vocab_size
