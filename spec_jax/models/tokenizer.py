"""Text to token ids and back, by a Hugging Face tokenizer.json."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import os
import pathlib

import tokenizers

# Tried in this order: a chat model may have two of them.
END_OF_TEXT_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|eot_id|>",
                     "<|im_end|>", "<eos>")
_REPLACEMENT = "\ufffd"


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokenizer:
  """A tokenizer with the few things that decoding needs.

  Attributes:
    tokenizer: does the work.
    vocab_size: one more than the largest id, added tokens included.
    end_of_text: id that ends a text, or None when no token is known to.
  """

  tokenizer: tokenizers.Tokenizer
  vocab_size: int
  end_of_text: int | None

  @classmethod
  def from_file(cls, path: str | os.PathLike) -> "TextTokenizer":
    """Reads a tokenizer.json, or the one in a folder.

    Raises:
      ValueError: no such file, or not a tokenizer.
    """
    file = pathlib.Path(path)
    if file.is_dir():
      file = file / "tokenizer.json"
    if not file.is_file():
      raise ValueError(f"{file}: no such tokenizer file.")
    try:
      tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises no narrower type
      raise ValueError(f"{file}: not a tokenizer.json: {error}") from error
    return cls.wrap(tokenizer)

  @classmethod
  def wrap(cls, tokenizer: tokenizers.Tokenizer) -> "TextTokenizer":
    """Derives the fields; `tokenizer` must not be changed afterwards."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    # Only special tokens: "</s>" may also be an ordinary piece of HTML.
    special = {token.content: token_id for token_id, token
               in tokenizer.get_added_tokens_decoder().items()
               if token.special}
    end = next((special[name] for name in END_OF_TEXT_NAMES
                if name in special), None)
    return cls(tokenizer, max(vocabulary.values(), default=-1) + 1, end)

  def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
    """Token ids; with the start token where the file's template adds one."""
    return self.tokenizer.encode(
        text, add_special_tokens=add_special_tokens).ids

  def decode(self, ids: Sequence[int], skip_special_tokens: bool = True
             ) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    return self.tokenizer.decode(
        [int(i) for i in ids], skip_special_tokens=skip_special_tokens)

  def stream(self, ids: Iterable[int]) -> Iterator[str]:
    """Text of ids that arrive one by one, never half a character.

    The pieces together are `decode` of all ids (broken bytes aside, whose
    spelling may depend on bytes to come). A piece comes as soon as its last
    character is whole; what stays incomplete comes at the end.
    """
    # Some decoders (sentencepiece) treat the first token of a text in a
    # special way, so new ids are decoded behind the piece before them.
    shown, pending = [], []
    for token_id in ids:
      pending.append(int(token_id))
      piece = self._piece(shown, pending)
      if piece and not piece.endswith(_REPLACEMENT):
        yield piece
        shown, pending = pending, []
    if pending and (piece := self._piece(shown, pending)):
      yield piece

  def _piece(self, shown, pending):
    return self.decode(shown + pending)[len(self.decode(shown)):]


def check_same_vocabulary(target: TextTokenizer, draft: TextTokenizer) -> None:
  """Raises unless every id means the same token to both tokenizers.

  Padding rows of the embeddings play no role: they are no tokens.

  Raises:
    ValueError: names the first id that differs and both tokens.
  """
  for token_id in range(max(target.vocab_size, draft.vocab_size)):
    ours = target.tokenizer.id_to_token(token_id)
    theirs = draft.tokenizer.id_to_token(token_id)
    if ours != theirs:
      raise ValueError(
          f"Vocabularies differ first at id {token_id}: {ours!r} in the target"
          f" ({target.vocab_size} tokens), {theirs!r} in the draft"
          f" ({draft.vocab_size} tokens).")
