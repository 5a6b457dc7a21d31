"""Text → an encoder's token ids, by the model's fast tokenizer (Hugging Face `tokenizers`)."""

import os
from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from deployments.backends.base import Tokens
from deployments.backends.encoder_input import InputTemplate, check_ids
from deployments.errors import ConfigInvalid, ModelLoadFailed

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else one call takes every core, whatever `threads` says

PROBE = "a"
"""Any text: it shows the special tokens that the tokenizer puts around one."""


class EncoderTokenizer:
    """Thread-safe. The tokenizer is Rust and works without the GIL: threads that call it run in parallel."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, *, prompt: str = "", keep_end: bool = False) -> None:
        """`prompt` goes before each text, or before the first of a pair. `keep_end`: see `InputTemplate`.

        Raises ModelLoadFailed for a tokenizer whose template can't be read, ConfigInvalid when `max_length` tokens
        don't hold the special ones.
        """
        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy that nobody else configures
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        single, pair = self._tokenizer.encode(PROBE), self._tokenizer.encode(PROBE, PROBE)
        if len(pair.ids) > max_length:
            raise ConfigInvalid(f"a context of {max_length} tokens has no room beside the model's special tokens")
        self.max_length = max_length
        self.any_id: int = single.ids[_span(single, 0).start]
        self.second_type: int = pair.type_ids[_span(pair, 1).start]
        """Token type of a pair's second text; the first text's is 0."""
        self._size: int = self._tokenizer.get_vocab_size()
        self._single = _template(single, last=0, keep_end=keep_end)
        self._pair = _template(pair, last=1, keep_end=keep_end)
        self._prompt = prompt
        self._prompt_ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []

    @property
    def prompt_length(self) -> int:
        """Tokens before an input's own, special ones among them. 0 without a prompt."""
        return len(self._single.before) + len(self._prompt_ids) if self._prompt_ids else 0

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        """As `base.Embedder.tokenize`."""
        texts = iter(self._encode([self._prompt + text for text in inputs if isinstance(text, str)]))
        bodies = (
            next(texts) if isinstance(item, str) else self._given(item, index) for index, item in enumerate(inputs)
        )
        return self._single.singles(bodies, self.max_length, truncate=truncate)

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        """As `base.Reranker.tokenize_pairs`."""
        first, *seconds = self._encode([self._prompt + query, *documents])
        return self._pair.pairs(first, seconds, self.max_length, truncate=truncate)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _given(self, ids: Sequence[int], index: int) -> Sequence[int]:
        check_ids(ids, self._size, index)
        return [*self._prompt_ids, *ids] if self._prompt_ids else ids


def _template(probe: Encoding, *, last: int, keep_end: bool) -> InputTemplate:
    """What stands around the texts of an encoding; `last` is the number of its last text."""
    first, second = _span(probe, 0), _span(probe, last)
    before, between, after = probe.ids[: first.start], probe.ids[first.stop : second.start], probe.ids[second.stop :]
    return InputTemplate(tuple(before), tuple(after), tuple(between), keep_end)


def _span(encoding: Encoding, text: int) -> range:
    """Where a text's tokens stand. Those of no text are special ones."""
    places = [place for place, owner in enumerate(encoding.sequence_ids) if owner == text]
    if not places:
        raise ModelLoadFailed(f"the model's tokenizer gives no token for {PROBE!r}")
    return range(places[0], places[-1] + 1)


def _valid(text: str) -> str:
    """JSON may hold half a surrogate pair, which is no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")
