"""Pictures and sounds for llama.cpp: a projector (`mmproj`) turns them into embedding rows, by libmtmd."""

import ctypes
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from numpy.typing import NDArray

from deployments import image_codec
from deployments.backends.base import Media
from deployments.backends.llama_library import complaints, log_callback
from deployments.backends.llama_params import projector_params
from deployments.backends.llama_vocab import LlamaModel
from deployments.backends.media_span import PLANES, MediaSpan, row_ids
from deployments.config import ModelConfig
from deployments.errors import EngineError, InvalidRequest, ModelLoadFailed, UnsupportedParameter

CACHE_BYTES = 2**28
"""Rows of encoded media that are kept: each turn of a conversation brings its pictures again."""
LEAST_TOKENS_PER_SECOND = 1
"""Of sound, by any projector: what is longer than the context is not even read."""

mtmd.mtmd_helper_log_set(log_callback, ctypes.c_void_p(0))


@dataclass(slots=True)
class Piece:
    """A chunk of a prompt that is not text."""

    chunk: int
    """`mtmd_input_chunk *`, of the prompt's chunks."""
    start: int
    count: int
    """Rows."""
    content: bytes
    """What its rows depend on: the digest of the file, and which part of it this is."""
    causal: bool
    planes: NDArray[np.int32] | None
    next_position: int


class MediaPrompt:
    """A prompt with media, as tokens and places for rows."""

    def __init__(self, chunks: int) -> None:
        self.ids: list[int] = []
        """Token ids; for each row its `row_ids`."""
        self.pieces: list[Piece] = []
        weakref.finalize(self, mtmd.mtmd_input_chunks_free, chunks)

    @property
    def text_ids(self) -> list[int]:
        """The tokens alone."""
        return [token for token in self.ids if token >= 0]

    @property
    def largest_whole(self) -> int:
        """Rows of the largest piece that must be decoded in one batch."""
        return max((piece.count for piece in self.pieces if not piece.causal), default=0)


class Projector:
    """A loaded projector file, which goes with a model."""

    def __init__(self, config: ModelConfig, path: Path, model: LlamaModel) -> None:
        """Raises ModelLoadFailed in llama.cpp's own words."""
        if not path.is_file():
            raise ModelLoadFailed(f"there is no file {path}")
        self._model = model
        # Not to be guessed: text in a message must not pass for a picture's place.
        self._marker = f"<__media_{secrets.token_hex(8)}__>"
        with complaints() as said:
            params = projector_params(config, self._marker)
            pointer = mtmd.mtmd_init_from_file(str(path).encode(), model.pointer, params)
            if not pointer:
                raise ModelLoadFailed(f"llama.cpp could not load the projector {path.name}: {said() or 'no reason'}")
        self._context = pointer
        weakref.finalize(self, mtmd.mtmd_free, pointer)
        self._width = int(llama_cpp.llama_model_n_embd_inp(model.pointer))
        self._cache = _RowCache(CACHE_BYTES)

    @property
    def markers(self) -> dict[str, str | None]:
        """Kind of Media → what stands for it in a prompt."""
        reads = {"image": mtmd.mtmd_support_vision(self._context), "audio": mtmd.mtmd_support_audio(self._context)}
        return {kind: self._marker for kind, can in reads.items() if can}

    @property
    def wants_whole_pictures(self) -> bool:
        """A picture's rows must be decoded in one batch."""
        return bool(mtmd.mtmd_decode_use_non_causal(self._context, None))

    # ---- text and files → a prompt ----

    def tokenize(self, text: str, media: Sequence[Media], *, add_bos: bool, most: int) -> MediaPrompt:
        """Decode the files and count their rows; blocking, up to a second for a large one. Thread-safe.

        `most`: tokens that the prompt may have. Sounds that can't but have more are not read to their end. Raises
        InvalidRequest, EngineError.
        """
        bitmaps: list[int] = []
        try:
            for index, item in enumerate(media):
                bitmaps.append(self._bitmap(item, most))
                mtmd.mtmd_bitmap_set_id(bitmaps[-1], str(index).encode())
            chunks = mtmd.mtmd_input_chunks_init()
            prompt = MediaPrompt(chunks)
            self._tokenize(chunks, text, bitmaps, add_bos)
        finally:
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)
        self._lay_out(prompt, chunks, [sha256(item.data).digest() for item in media])
        return prompt

    def _bitmap(self, media: Media, most: int) -> int:
        """The decoded file. Not by libmtmd's helper, which gives what it can't read to a child process of ffmpeg."""
        if media.kind not in self.markers:
            raise UnsupportedParameter(f"this model takes no {media.kind}").at("messages")
        try:
            pointer = self._image(media.data) if media.kind == "image" else self._audio(media.data, most)
        except InvalidRequest as error:
            raise error.at("messages") from None
        if not pointer:
            raise EngineError("llama.cpp could not take the decoded file")
        return pointer

    def _image(self, data: bytes) -> int:
        image = image_codec.decode(data, "image_url").image
        pixels = np.ascontiguousarray(image, np.uint8)
        pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return mtmd.mtmd_bitmap_init(image.width, image.height, pointer)  # type: ignore[no-any-return]

    def _audio(self, data: bytes, most: int) -> int:
        from deployments import audio_decoding

        rate = mtmd.mtmd_get_audio_sample_rate(self._context)
        longest = most / LEAST_TOKENS_PER_SECOND
        blocks = audio_decoding.decode(np.frombuffer(data, np.uint8), rate, max_seconds=longest)
        samples = np.concatenate(list(blocks))
        pointer = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return mtmd.mtmd_bitmap_init_from_audio(samples.size, pointer)  # type: ignore[no-any-return]

    def _tokenize(self, chunks: int, text: str, bitmaps: Sequence[int], add_bos: bool) -> None:
        data = text.encode("utf-8", errors="replace")
        said_text = mtmd.mtmd_input_text(data, len(data), add_bos, True)
        pointers = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
        with complaints() as said:
            code = mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(said_text), pointers, len(bitmaps))
            if code == 1:
                raise InvalidRequest("the prompt has other places for media than the request has media").at("messages")
            if code:
                raise InvalidRequest(f"llama.cpp could not prepare the media: {said() or code}").at("messages")

    def _lay_out(self, prompt: MediaPrompt, chunks: int, digests: Sequence[bytes]) -> None:
        position = 0
        parts = dict.fromkeys(range(len(digests)), 0)
        for number in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, number)
            count = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            following = position + mtmd.mtmd_input_chunk_get_n_pos(chunk)
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                prompt.ids += _text_tokens(chunk, count)
            else:
                index = int(mtmd.mtmd_input_chunk_get_id(chunk))
                # The count belongs to it: some projectors fill up with rows, depending on what stands before.
                content = digests[index] + parts[index].to_bytes(4) + count.to_bytes(4)
                parts[index] += 1
                causal = not mtmd.mtmd_decode_use_non_causal(self._context, chunk)
                planes = self._planes(chunk, count, position)
                prompt.pieces.append(Piece(chunk, len(prompt.ids), count, content, causal, planes, following))
                prompt.ids += row_ids(content, count)
            position = following

    def _planes(self, chunk: int, count: int, position: int) -> NDArray[np.int32] | None:
        """Positions of a chunk that begins at `position`: a picture's spread over two axes, a sound's go on in time."""
        if not mtmd.mtmd_decode_use_mrope(self._context):
            return None
        planes = np.zeros((PLANES, count), np.int32)
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_AUDIO:
            planes[:3] = np.arange(position, position + count)
            return planes
        places = (mtmd.mtmd_decoder_pos * count)()
        mtmd.mtmd_helper_image_get_decoder_pos(mtmd.mtmd_input_chunk_get_tokens_image(chunk), position, places)
        for plane, axis in enumerate("tyxz"):
            planes[plane] = [getattr(place, axis) for place in places]
        return planes

    # ---- a prompt's media → rows. One call at a time ----

    def encode(self, prompt: MediaPrompt, stopped: Callable[[], bool]) -> list[MediaSpan]:
        """Run the projector on what it has not seen lately; blocking, seconds on a CPU. Ends early when `stopped()`.

        Raises EngineError.
        """
        return [
            MediaSpan(piece.start, self._rows(piece), piece.causal, piece.planes, piece.next_position)
            for piece in prompt.pieces
            if not stopped()
        ]

    def _rows(self, piece: Piece) -> NDArray[np.float32]:
        rows = self._cache.get(piece.content)
        if rows is None:
            with complaints() as said:
                if mtmd.mtmd_encode_chunk(self._context, piece.chunk):
                    raise EngineError(f"llama.cpp could not encode the media: {said() or 'it gave no reason'}")
            output = mtmd.mtmd_get_output_embd(self._context)
            rows = np.ctypeslib.as_array(output, (piece.count, self._width)).copy()
            self._cache.put(piece.content, rows)
        return rows


def _text_tokens(chunk: int, count: int) -> list[int]:
    tokens: list[int] = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(ctypes.c_size_t()))[:count]
    if min(tokens, default=0) < 0:
        raise EngineError("the projector puts a token around media that the model doesn't have: is it another model's?")
    return tokens


class _RowCache:
    """Rows by their content, the most recently used within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._rows: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def get(self, content: bytes) -> NDArray[np.float32] | None:
        if content in self._rows:
            self._rows.move_to_end(content)
        return self._rows.get(content)

    def put(self, content: bytes, rows: NDArray[np.float32]) -> None:
        self._rows[content] = rows
        self._bytes += rows.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes
