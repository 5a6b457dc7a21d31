"""A Hugging Face tokenizer as text engines use one: text ↔ token ids, and the bytes of each token."""

from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from tokenizers import Tokenizer

from deployments.errors import ModelLoadFailed


class HfVocab:
    """Thread-safe: its tokenizers are copies that nobody configures."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        """`tokenizer`: transformers' fast one. `size`: rows of the model's output layer. Takes a second.

        Raises ModelLoadFailed for a slow tokenizer, whose tokens' bytes nobody knows.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelLoadFailed(f"{type(tokenizer).__name__} is no fast tokenizer (tokenizer.json)")
        self.size = size
        self.chat_template: str | None = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        self.guidance: LLTokenizer = from_tokenizer(tokenizer, size)
        """The vocabulary as llguidance wants it."""
        self._special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token")}
        self._controls = frozenset(tokenizer.all_special_ids)
        self._names = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        self._marked, self._plain = _copy(tokenizer), _copy(tokenizer)
        self._plain.encode_special_tokens = True
        begins = self._marked.encode("").ids[:1]
        self._bos: list[int] = [token for token in begins if token == tokenizer.bos_token_id]
        """Empty where the tokenizer's own template begins without it."""
        self._pieces: dict[int, bytes] = {}

    def special_tokens(self) -> dict[str, str]:
        """`bos_token` and `eos_token` as text, where the model has them."""
        return {name: text for name, text in self._special.items() if text}

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        """As `base.TextEngine.tokenize`."""
        valid = text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")
        tokenizer = self._marked if special else self._plain
        ids: list[int] = tokenizer.encode(valid, add_special_tokens=False).ids
        return [*self._bos, *ids] if add_bos else ids

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self.piece, tokens))

    def piece(self, token: int) -> bytes:
        """A token's bytes: empty for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            control = token in self._controls or self.guidance.is_special_token(token)
            piece = self._pieces[token] = b"" if control else self.guidance.decode_bytes([token])
        return piece

    def name(self, token: int) -> bytes:
        """Like `piece`, but control tokens have a text, too (`<|im_end|>`)."""
        return self.piece(token) or self._names.get(token, "").encode()


def _copy(tokenizer: Any) -> Tokenizer:
    copy: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
