"""Text to ids, back, and piece by piece."""

import pathlib

import pytest
import tokenizers

from spec_jax.models import tokenizer as tokenizer_lib

_FILE = (pathlib.Path(__file__).parent.parent / "data" / "hf" / "qwen3"
         / "tokenizer.json")
_TEXT = "def area(r):\n  return 日本 café 5 € 🙂"


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.TextTokenizer.from_file(_FILE)


def _words(*words, special=()):
  vocab = {word: i for i, word in enumerate(words)}
  inner = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(vocab, unk_token=words[0]))
  inner.add_special_tokens(list(special))
  return tokenizer_lib.TextTokenizer.wrap(inner)


def test_round_trip(tokenizer):
  ids = tokenizer.encode(_TEXT)
  assert tokenizer.decode(ids) == _TEXT
  assert 0 <= min(ids) and max(ids) < tokenizer.vocab_size == 64


def test_folder_and_file_are_the_same(tokenizer):
  from_folder = tokenizer_lib.TextTokenizer.from_file(_FILE.parent)
  tokenizer_lib.check_same_vocabulary(tokenizer, from_folder)


@pytest.mark.parametrize("special,end", [
    (("<|im_end|>", "<|endoftext|>"), 3), (("<eos>",), 2), ((), None),
    (("<|eot_id|>", "<|end_of_text|>"), 3)])
def test_end_of_text_by_known_names(special, end):
  assert _words("a", "b", special=special).end_of_text == end


def test_end_of_text_is_a_special_token():
  assert _words("a", "</s>").end_of_text is None


def test_special_tokens_are_skipped_unless_asked_for(tokenizer):
  ids = tokenizer.encode("area") + [tokenizer.end_of_text]
  assert tokenizer.decode(ids) == "area"
  assert tokenizer.decode(ids, skip_special_tokens=False) == (
      "area<|endoftext|>")


def test_stream_yields_whole_characters_as_soon_as_possible(tokenizer):
  ids = tokenizer.encode(_TEXT)
  pieces = list(tokenizer.stream(iter(ids)))
  assert "".join(pieces) == _TEXT
  assert not any("\ufffd" in piece for piece in pieces)
  assert len(pieces) > 0.4 * len(ids)  # one by one, not all at the end


def test_stream_never_waits_for_later_tokens(tokenizer):
  ids = tokenizer.encode("area")
  seen = []
  def source():
    for i, token_id in enumerate(ids):
      assert "".join(seen) == tokenizer.decode(ids[:i])
      yield token_id
  for piece in tokenizer.stream(source()):
    seen.append(piece)


def test_stream_shows_a_broken_end(tokenizer):
  ids = tokenizer.encode("r🙂")[:-1]
  assert "".join(tokenizer.stream(ids)) == tokenizer.decode(ids) == "r\ufffd"


def test_stream_keeps_spaces_of_sentencepiece_words():
  inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {"▁a": 0, "▁b": 1}, unk_token="▁a"))
  inner.decoder = tokenizers.decoders.Metaspace()
  wrapped = tokenizer_lib.TextTokenizer.wrap(inner)
  assert list(wrapped.stream([0, 1, 0])) == ["a", " b", " a"]


def test_same_vocabulary_names_the_first_difference():
  target, draft = _words("a", "b", "c"), _words("a", "x", "y")
  with pytest.raises(ValueError, match="id 1: 'b' in the target.*'x'"):
    tokenizer_lib.check_same_vocabulary(target, draft)
  with pytest.raises(ValueError, match="id 3: None.*'d' in the draft"):
    tokenizer_lib.check_same_vocabulary(target, _words("a", "b", "c", "d"))
  tokenizer_lib.check_same_vocabulary(target, _words("a", "b", "c"))


def test_missing_or_broken_files_are_named(tmp_path):
  with pytest.raises(ValueError, match="tokenizer.json: no such"):
    tokenizer_lib.TextTokenizer.from_file(tmp_path)
  file = tmp_path / "tokenizer.json"
  file.write_text("{}")
  with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer"):
    tokenizer_lib.TextTokenizer.from_file(file)
