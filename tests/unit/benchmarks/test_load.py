"""The client's figures are right, or the run stops."""

import threading
from itertools import pairwise

import pytest

from benchmarks.load import StreamFailed, connect, read, stream_chat, stream_together
from tests.unit.benchmarks.conftest import ChatStub, chunk, sse

USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
BODY = {"messages": [], "stream": True, "max_tokens": 2}


def test_times_are_those_of_chunks_with_text() -> None:
    role, first, second, last = chunk(), chunk("a"), chunk("bcd"), chunk(finish_reason="length")
    arrivals = [
        (float(at), sse(item)[: -len(b"data: [DONE]\n\n")]) for at, item in enumerate([role, first, second, last], 11)
    ]
    stream = read([*arrivals, (15.0, sse(USAGE))], started=10.0, max_tokens=64)
    assert stream.chunk_times == [12.0, 13.0]
    assert stream.first_token_s == 2.0
    assert stream.finished == 15.0
    assert stream.text == "abcd"
    assert stream.chunk_gaps_s == [1.0]


def test_gap_is_by_tokens_not_chunks() -> None:
    lines = sse(chunk("a"), chunk("bcde"), chunk(finish_reason="stop"), USAGE).splitlines(keepends=True)
    stream = read([(1.0, b"".join(lines[:2])), (3.0, b"".join(lines[2:]))], started=0.0, max_tokens=64)
    assert stream.tokens == 5
    assert stream.token_gap_s == 0.5


@pytest.mark.parametrize(("finish_reason", "tokens"), [("length", 64), ("stop", 2)])
def test_tokens_without_usage(finish_reason: str, tokens: int) -> None:
    stream = read([(1.0, sse(chunk("a"), chunk("b"), chunk(finish_reason=finish_reason)))], 0.0, max_tokens=64)
    assert (stream.tokens, stream.prompt_tokens) == (tokens, None)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_lines_may_be_cut_anywhere(newline: bytes) -> None:
    whole = (
        b": comment" + newline + sse(chunk("a"), chunk("é"), chunk(finish_reason="stop"), USAGE).replace(b"\n", newline)
    )
    arrivals = [(float(place), whole[place : place + 1]) for place in range(len(whole))]
    stream = read(arrivals, 0.0, max_tokens=64)
    assert stream.text == "aé"
    assert all(whole[int(at) :].startswith(newline[-1:]) for at in stream.chunk_times), (
        "a chunk counts when its line is whole"
    )
    assert all(earlier < later for earlier, later in pairwise(stream.chunk_times))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        sse(chunk("a")),
        sse(chunk(finish_reason="stop"), USAGE),
        sse(chunk("a"), {"error": {"message": "the engine fell over"}}),
    ],
    ids=["nothing", "no finish_reason", "no text", "error event"],
)
def test_a_broken_stream_is_no_measurement(data: bytes) -> None:
    with pytest.raises(StreamFailed):
        read([(1.0, data)], 0.0, max_tokens=64)


async def test_streams_run_at_the_same_time(stub: ChatStub) -> None:
    stub.together = threading.Barrier(8)
    async with connect(stub.url) as session:
        streams = await stream_together(session, [BODY] * 8)
    assert [stream.text for stream in streams] == ["ab"] * 8
    assert all(0 < stream.first_token_s <= stream.finished - stream.started for stream in streams)


async def test_a_refusal_is_told_in_the_servers_words(stub: ChatStub) -> None:
    stub.status = 503
    async with connect(stub.url) as session:
        with pytest.raises(StreamFailed, match="status 503: data: "):
            await stream_chat(session, BODY)
