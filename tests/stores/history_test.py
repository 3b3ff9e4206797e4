"""Histories: what is counted, what is kept, what is refused."""

import collections

import numpy as np
import pytest

from spec_jax.stores import history

RNG = np.random.default_rng(0)
ANSWERS = [RNG.integers(0, 4, 30).tolist() for _ in range(12)]


def expected(answers, level):
  """How many answers have each n-gram."""
  counts = collections.Counter()
  for answer in answers:
    counts.update({tuple(answer[i:i + level])
                   for i in range(len(answer) - level + 1)})
  return counts


def test_frequent_phrases_come_first_and_others_go():
  counts = expected(ANSWERS, 3)
  found = history.count(ANSWERS, 4, level=3, most=40, per_key=3)
  kept = [(key, *phrase) for key, phrases in found.phrases.items()
          for phrase in phrases]
  ranked = sorted(counts, key=lambda gram: (-counts[gram], gram))[:40]
  assert set(kept) <= set(ranked)
  for key in range(4):
    wanted = [gram[1:] for gram in ranked if gram[0] == key][:3]
    assert found.lookup(key) == wanted
  assert found.lookup(17) == []


def test_a_file_gives_back_what_was_saved(tmp_path):
  found = history.count(ANSWERS, 4, level=3)
  history.save(tmp_path / "h.npz", found)
  again = history.load(tmp_path / "h.npz", 2, 4)
  assert again.phrases == found.phrases and again.size == found.size


def test_what_does_not_fit_is_refused(tmp_path):
  path = tmp_path / "h.npz"
  with pytest.raises(ValueError, match="no history there.*build_history"):
    history.load(path)
  history.save(path, history.count(ANSWERS, 4, level=3))
  with pytest.raises(ValueError, match="phrases of 2 tokens, expected 4"):
    history.load(path, 4)
  with pytest.raises(ValueError, match="vocabulary of 4 tokens, the target has"
                     " 9"):
    history.load(path, 2, 9)
  data = path.read_bytes()
  for broken in (b"PK nonsense", data[:len(data) // 2], b"", b"text"):
    path.write_bytes(broken)
    with pytest.raises(ValueError, match="history.*build_history"):
      history.load(path)
  np.savez(path, other=np.zeros(3))
  with pytest.raises(ValueError, match="not a history"):
    history.load(path)
  with pytest.raises(ValueError, match="no answer has 5 tokens"):
    history.count([[1, 2]], 4)
