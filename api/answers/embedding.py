"""The answer to an embedding request, written piece by piece: one of 10,000 vectors is 40 MB of JSON."""

import asyncio
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers.truncation import truncation_headers
from deployments.backends.base import Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_NUMBERS = 2**16
"""Numbers that are written in one step: 0.7 MB of JSON, 3 ms in which the event loop does nothing else."""
ROW_NUMBERS = 64
"""As long as it takes to write so many is how long it takes to begin a row."""


class EmbeddingAnswer:
    """One answer. Give it all vectors in order, then take the response: no byte is sent before the last one is there,
    so that an error on the way has its status."""

    def __init__(self, model: str, *, base64: bool) -> None:
        self._model = model
        self._embedding = _base64 if base64 else _floats
        self._pieces: list[bytes] = []
        self._rows = self._tokens = self._truncated = 0

    async def add(self, vectors: Vectors) -> None:
        """Write the next vectors, with pauses in which the event loop gets its turn."""
        for rows in _steps(vectors):
            data = [
                {"object": "embedding", "index": index, "embedding": self._embedding(row)}
                for index, row in enumerate(rows, self._rows)
            ]
            written = memoryview(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))[1:-1]  # without the brackets
            self._pieces.append(b"".join((b"," if self._pieces else b"", written)))
            self._rows += len(rows)
            await asyncio.sleep(0)
        self._tokens += vectors.prompt_tokens
        self._truncated += vectors.truncated

    def response(self) -> Response:
        """The whole answer; ask once."""
        head = {
            "id": f"embd-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self._model,
        }
        usage = {"prompt_tokens": self._tokens, "total_tokens": self._tokens}
        self._pieces[0] = orjson.dumps(head)[:-1] + b',"data":[' + self._pieces[0]
        self._pieces[-1] += b'],"usage":' + orjson.dumps(usage) + b"}"
        return _PiecedResponse(self._pieces, truncation_headers(self._truncated))


class _PiecedResponse(Response):
    """JSON that is sent in the pieces it is made of: to join them would take long, and twice the memory."""

    media_type = "application/json"

    def __init__(self, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        self.pieces = pieces
        self.status_code = 200
        self.background = None
        self.init_headers({**headers, "Content-Length": str(sum(map(len, pieces)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for left, piece in enumerate(self.pieces, 1 - len(self.pieces)):
            await send({"type": "http.response.body", "body": piece, "more_body": left < 0})


def _steps(vectors: Vectors) -> Iterator["NDArray[np.float32]"]:
    """Rows [some, width] that may be written in one step."""
    import numpy as np  # with the first vectors: whoever only reads these routes needs none

    rows = np.frombuffer(vectors.data, "<f4").astype(np.float32, copy=False).reshape(-1, vectors.width)
    step = max(1, PIECE_NUMBERS // (vectors.width + ROW_NUMBERS))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _floats(row: "NDArray[np.float32]") -> Any:
    """orjson writes the shortest decimals that a float32 reads back exactly."""
    return row


def _base64(row: "NDArray[np.float32]") -> Any:
    """Of the bytes, little-endian."""
    return b64encode(row.astype("<f4", copy=False).data).decode()
