"""Multipart forms read part by part as they come in: a file goes where it is to be, and fits nowhere else."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from api.body_limit import linger
from api.validation import shown
from deployments.errors import InvalidRequest, MantaError

MAX_PARTS = 100


@dataclass(frozen=True, slots=True)
class Part:
    """One field or file of a form."""

    name: str
    """In lower case."""
    filename: str | None
    """As the client says; None: it is a field."""
    content: AsyncIterator[bytes]
    """To be read before the next part is asked for; what isn't is skipped."""


@asynccontextmanager
async def form_parts(request: Request) -> AsyncGenerator[AsyncIterator[Part], None]:
    """The parts of a request's form. Reading them raises InvalidRequest where the form is broken.

    After an error the rest of the body is read and dropped for a while, or the client might not see the answer.
    """
    boundary = _boundary(request.headers.get("content-type", ""))
    chunks = request.stream()
    async with aclosing(_events(chunks, boundary)) as events:
        try:
            yield _parts(events)
        except MantaError:
            await linger(_drop(chunks))
            raise


async def text(part: Part, limit: int) -> str:
    """A field's value. Raises InvalidRequest for one of more than `limit` bytes, or that is no text."""
    value = b""
    async for block in part.content:
        value += block
        if len(value) > limit:
            raise InvalidRequest(f"Invalid '{part.name}': expected at most {limit} bytes.").at(part.name)
    decoded = value.decode(errors="replace")
    if "\0" in decoded or decoded.encode() != value:
        raise InvalidRequest(f"Invalid '{part.name}': expected text in UTF-8, without NUL.").at(part.name)
    return decoded


@dataclass(frozen=True, slots=True)
class _Head:
    name: str
    filename: str | None


class _End:
    """The end of a part."""


_END: Final = _End()
_Event = _Head | bytes | _End


async def _parts(events: AsyncGenerator[_Event, None]) -> AsyncIterator[Part]:
    count = 0
    async for event in events:
        if isinstance(event, _Head):
            count += 1
            if count > MAX_PARTS:
                raise InvalidRequest(f"The form has more than {MAX_PARTS} parts.")
            yield Part(event.name, event.filename, _content(events))


async def _content(events: AsyncGenerator[_Event, None]) -> AsyncIterator[bytes]:
    async for event in events:
        if not isinstance(event, bytes):
            return
        yield event


async def _drop(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def _events(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[_Event, None]:
    form = _Form(boundary)
    async for chunk in chunks:
        for event in form.read(chunk):
            yield event
    if not form.ended:
        raise InvalidRequest("The form ends before its closing boundary.")


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        sent = shown(content_type) if content_type else "nothing"
        raise InvalidRequest(f"Send the file as multipart/form-data; the Content-Type says {sent}.").at("file")
    if not options.get(b"boundary"):
        raise InvalidRequest("The Content-Type names no boundary of the form's parts.").at("file")
    return options[b"boundary"]


class _Form:
    """The parser, whose callbacks become events."""

    def __init__(self, boundary: bytes) -> None:
        self.ended = False
        self._events: deque[_Event] = deque()
        self._disposition = b""
        self._header = self._value = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"The form's boundary can't be one: {error}.").at("file") from None

    def read(self, chunk: bytes) -> list[_Event]:
        """What a chunk of the body brings. Raises InvalidRequest."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"The form is broken: {error}.") from None
        events = list(self._events)
        self._events.clear()
        return events

    def _begin_part(self) -> None:
        self._disposition = b""

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidRequest("A part of the form has no name in its Content-Disposition.")
        filename = options.get(b"filename")
        name = _decoded(options[b"name"]).lower()
        self._events.append(_Head(name, None if filename is None else _decoded(filename)))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _end_part(self) -> None:
        self._events.append(_END)

    def _end(self) -> None:
        self.ended = True


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
