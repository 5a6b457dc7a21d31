"""A llama.cpp model's weights in memory, and its vocabulary: text ↔ token ids."""

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
from llguidance import LLTokenizer

from deployments.backends.base import Progress
from deployments.backends.llama_library import complaints
from deployments.errors import InvalidRequest, ModelLoadFailed


class LlamaModel:
    """The weights. Freed when nobody refers to them any more, so that a call in another thread can't lose them."""

    def __init__(self, path: Path, params: llama_cpp.llama_model_params, progress: Progress) -> None:
        def report(fraction: float, _: object) -> bool:
            progress(fraction)
            return True

        params.progress_callback = llama_cpp.llama_progress_callback(report)
        if not path.is_file():
            raise ModelLoadFailed(f"there is no file {path}")
        with complaints() as said:
            pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
            if not pointer:
                raise ModelLoadFailed(f"llama.cpp could not load {path.name}: {said() or 'it gave no reason'}")
        self.pointer = pointer
        weakref.finalize(self, llama_cpp.llama_model_free, pointer)

    @property
    def trained_context(self) -> int:
        return int(llama_cpp.llama_model_n_ctx_train(self.pointer))

    @property
    def generates(self) -> bool:
        """Whether it is a decoder alone. Models with an encoder, too, are run in another way."""
        pointer = self.pointer
        return bool(llama_cpp.llama_model_has_decoder(pointer) and not llama_cpp.llama_model_has_encoder(pointer))

    def metadata(self, key: str) -> str | None:
        """A value of the GGUF file, as text. None: it is not there, or longer than names and numbers are."""
        text = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), text, len(text))
        return text.value.decode(errors="replace") if 0 <= size < len(text) else None

    @property
    def chat_template(self) -> str | None:
        template = llama_cpp.llama_model_chat_template(self.pointer, None)
        return template.decode() if template else None

    @property
    def reuses_prefixes(self) -> bool:
        """Whether the cache of a sequence can be cut at any position: a recurrent state can't."""
        return not (llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(self.pointer))


class LlamaVocab:
    """Thread-safe: llama.cpp only reads the vocabulary."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model.pointer)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.end_ids = [token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, token)]
        """End-of-generation tokens."""
        self._ends = frozenset(self.end_ids)
        self._pieces: dict[int, bytes] = {}

    @property
    def pointer(self) -> int:
        return self._vocab  # type: ignore[no-any-return]

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        data = text.encode("utf-8", errors="replace")
        room = len(data) // 2 + 16
        while True:
            ids = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, add_bos, special)
            if count >= 0:
                return ids[:count]
            if count == -(2**31):
                raise InvalidRequest("the text has more tokens than llama.cpp can count")
            room = -count

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        room = 8 * len(tokens) + 16
        while True:
            text = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_detokenize(self._vocab, ids, len(tokens), text, room, False, False)
            if count >= 0:
                return text.raw[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """A generated token's bytes: empty for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._render(token, special=False)
        return piece

    def name(self, token: int) -> bytes:
        """Like `piece`, but control tokens have a text, too (`<|im_end|>`)."""
        return self.piece(token) or self._render(token, special=True)

    def special_tokens(self) -> dict[str, str]:
        """`bos_token` and `eos_token` as text, where the model has them."""
        ids = {
            "bos_token": llama_cpp.llama_vocab_bos(self._vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self._vocab),
        }
        return {name: self.name(token).decode(errors="replace") for name, token in ids.items() if token >= 0}

    def guidance(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it. Takes a good part of a second."""
        eos = llama_cpp.llama_vocab_eos(self._vocab)
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
            tokens=[self._guided(token) for token in range(self.size)],
            vocab_ptr=self._vocab,
            tokenize_fptr=ctypes.cast(llama_cpp.llama_tokenize, ctypes.c_void_p).value,
            eos_token=sorted(self.end_ids, key=lambda token: token != eos),
            slices=LLTokenizer.json_slices(),
        )

    def _guided(self, token: int) -> bytes:
        """llguidance's mark for a token that is no text: a byte that UTF-8 never has."""
        special = llama_cpp.llama_vocab_is_control(self._vocab, token)
        return b"\xff" + self.name(token) if special else self.piece(token)

    def _render(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            text = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, text, room, 0, special)
            if count >= 0:
                return text.raw[:count]
            room = -count
