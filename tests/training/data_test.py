"""Corpus, tokenizer, windows: split by file, nothing lost, same every time."""

import pathlib

import numpy as np
import pytest

from spec_jax.training import data


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  source = pathlib.Path(np.__file__).parent
  for i, path in enumerate(sorted(source.glob("*.py"))):
    (folder / f"file_{i}.py").write_text(path.read_text(encoding="utf-8"))
  (folder / "broken.py").write_bytes(b"\xff\xfe\x00 not utf-8")
  for i in range(60):
    (folder / f"small_{i}.py").write_text(
        f"def function_{i}(x):\n  '''é'''\n  return x + {i}\n" * 20)
  return data.read_corpus(folder)


def test_split_is_by_file_and_stable(corpus):
  assert corpus.train and corpus.heldout
  assert not {text for _, text in corpus.heldout} & set(corpus.train)
  assert data.is_heldout("unittest/loader.py")
  assert not data.is_heldout("os.py")


def test_tokenizer_is_lossless(corpus):
  tokenizer = data.train_tokenizer(corpus.train, 300)
  assert tokenizer.get_vocab_size() == 300
  text = corpus.heldout[0][1] + "\u20ac \U0001f600\t\r\n"
  assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_windows_cover_an_epoch_once_and_repeat(corpus):
  tokenizer = data.train_tokenizer(corpus.train, 300)
  stream = data.pack(tokenizer, corpus.train)
  windows = data.Windows(np.arange(5000, dtype=np.uint16), 4, 32, seed=1)
  batches = [windows(step) for step in range(windows.steps_per_epoch)]
  starts = np.concatenate([batch[:, 0] for batch in batches])
  assert len(set(starts.tolist())) == len(starts)
  assert all((np.diff(batch, axis=1) == 1).all() for batch in batches)
  np.testing.assert_array_equal(windows(3), batches[3])
  assert (windows(windows.steps_per_epoch) != batches[0]).any()
  end = tokenizer.token_to_id(data.END_OF_TEXT)
  assert (stream == end).sum() == len(corpus.train)


def test_prompts_are_whole_lines_of_heldout_code(corpus):
  tokenizer = data.train_tokenizer(corpus.train, 300)
  rows = data.heldout_prompts(corpus, tokenizer, 3, num_tokens=64)
  texts = dict(corpus.heldout)
  assert rows
  for row in rows:
    name = row["source"].rsplit(":", 1)[0]
    assert row["prompt"] in texts[name] and row["prompt"].endswith("\n")
    assert len(tokenizer.encode(row["prompt"]).ids) <= 64


def test_no_files_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"no readable \*\.py file"):
    data.read_corpus(tmp_path)


def test_too_little_text_is_an_error():
  with pytest.raises(ValueError, match="the corpus has 10 tokens"):
    data.Windows(np.zeros(10, np.uint16), 2, 8)
