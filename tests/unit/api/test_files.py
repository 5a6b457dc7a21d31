"""Files over HTTP: LocalAI's assertions, OpenAI's client, forms of every kind, and memory."""

import asyncio
import functools
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import psutil
import pytest
from fastapi import FastAPI

from api import body_limit
from api.files import Files, file_name
from api.form_stream import MAX_PARTS
from api.paging import Order, Page
from deployments.errors import InvalidRequest
from gallery.folder_blobs import FolderBlobs
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.waiting import until

MIB = 2**20
BOUNDARY = "x"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
UPLOAD_LIMIT_MB = 6


@pytest.fixture
async def app(make_app: AppFactory) -> AsyncIterator[FastAPI]:
    app = make_app(upload_limit_mb=UPLOAD_LIMIT_MB)
    yield app
    await app.state.files.close()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(app) as client:
        yield client


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], set[str]]:
    """The names in the folder of uploads."""
    return lambda: {path.name for path in (tmp_path / "blobs" / "uploads").glob("*")}


async def upload(
    client: httpx.AsyncClient, name: str, content: bytes = b"content", purpose: str | None = "fine-tune"
) -> httpx.Response:
    data = {} if purpose is None else {"purpose": purpose}
    return await client.post("/v1/files", files={"file": (name, content)}, data=data)


async def kept(app: FastAPI) -> list[str]:
    files: Files = app.state.files
    return [file.filename for file in (await files.listed(None, Page(100, Order.ASC)))[0]]


# ---- LocalAI's assertions (files_test.go) ----------------------------------------------------------------------------


async def test_what_localai_asserts(client: httpx.AsyncClient, left: Callable[[], set[str]]) -> None:
    too_large = await upload(client, "foo.txt", bytes(UPLOAD_LIMIT_MB * MIB + 1))
    assert too_large.status_code == 400
    assert "File size 6291457 exceeds upload limit 6291456" in too_large.text
    nameless = await upload(client, "foo.txt", purpose=None)
    assert nameless.status_code == 400
    assert "Purpose is not defined" in nameless.text

    content = os.urandom(5 * MIB)
    answer = await upload(client, "test.txt", content)
    assert answer.status_code == 200
    file = answer.json()
    assert file["bytes"] == 5_242_880
    assert file["created_at"].endswith("Z")
    assert (file["object"], file["filename"], file["purpose"]) == ("file", "test.txt", "fine-tune")
    assert left() == {file["id"]}
    again = await upload(client, "test.txt")
    assert again.status_code == 400
    assert "File already exists" in again.text

    for path in ("/v1/files", "/files", "/v1/files?purpose=fine-tune"):
        listed = await client.get(path)
        assert (listed.status_code, listed.json()["object"], listed.json()["data"]) == (200, "list", [file])
    none = await client.get("/v1/files", params={"purpose": "not-so-fine-tune"})
    assert (none.status_code, none.json()["data"], none.json()["has_more"]) == (200, [], False)
    assert (await client.get(f"/v1/files/{file['id']}")).json() == file
    assert (await client.get(f"/files/{file['id']}/content")).content == content

    deleted = await client.delete(f"/v1/files/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    assert left() == set()
    for answer in (
        await client.get(f"/v1/files/{file['id']}"),
        await client.delete(f"/v1/files/{file['id']}"),
        await client.get(f"/v1/files/{file['id']}/content"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
    assert (await upload(client, "test.txt")).status_code == 200, "the name is free again"


# ---- OpenAI's client -------------------------------------------------------------------------------------------------


async def test_openais_client(app: FastAPI) -> None:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with openai.AsyncOpenAI(base_url="http://manta/v1", api_key="-", http_client=http, max_retries=0) as client:
        files = [
            await client.files.create(file=(f"{number}.jsonl", b"{}" * number), purpose="batch") for number in range(5)
        ]
        assert [file.bytes for file in files] == [0, 2, 4, 6, 8]
        listed = [file.id async for file in client.files.list(limit=2)]
        assert listed == [file.id for file in reversed(files)]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == listed[::-1]
        assert await client.files.retrieve(files[3].id) == files[3]
        assert (await client.files.wait_for_processing(files[3].id)).id == files[3].id
        assert (await client.files.content(files[3].id)).content == b"{}" * 3
        async for file in client.files.list(limit=2):
            assert (await client.files.delete(file.id)).deleted
        assert [file async for file in client.files.list()] == []
        with pytest.raises(openai.NotFoundError, match="Unable to find file id"):
            await client.files.retrieve(files[3].id)


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "two", "", "1e3", "٣", "9" * 99])
async def test_limits_of_lists(client: httpx.AsyncClient, limit: str) -> None:
    for path in ("/v1/files", "/v1/assistants"):
        answer = await client.get(path, params={"limit": limit})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
        assert answer.json()["error"]["message"].startswith(f"Invalid limit query value: {limit[:64]}")


async def test_other_mistakes_about_lists(client: httpx.AsyncClient) -> None:
    for name, value in {"after": "file-1", "order": "up"}.items():
        answer = await client.get("/v1/files", params={name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        (r"C:\Users\x\a.txt", "a.txt"),
        ("a..b...txt", "ab.txt"),
        ("\0a\r\n\x7fb", "ab"),
        (" .\0./..a ", "a"),
        ("файл 🦑.txt", "файл 🦑.txt"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_name_is_a_base_name(sent: str, name: str) -> None:
    assert file_name(sent) == name


@pytest.mark.parametrize("sent", ["", ".", "..", "...", "a/", "/", "\\", " ", "\0", ".\0.", "a" * 256])
def test_names_that_are_none(sent: str) -> None:
    with pytest.raises(InvalidRequest):
        file_name(sent)


@pytest.mark.parametrize("name", ["файл.html", 'a"b;c.svg', "x.HTML", "a\u2028.js", "page", "a.xml"])
async def test_no_browser_runs_what_somebody_uploaded(client: httpx.AsyncClient, name: str) -> None:
    form = 'Content-Disposition: form-data; name="file"; filename="{}"'.format(name.replace('"', r"\""))
    file = (await client.post("/v1/files", content=parts((form, "<script>"), PURPOSE), headers=FORM)).json()
    assert file["filename"] == name
    answer = await client.get(f"/v1/files/{file['id']}/content")
    assert answer.text == "<script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert answer.headers["content-disposition"].isascii()


async def test_types_that_nobody_runs(client: httpx.AsyncClient) -> None:
    for name, kind in {"a.txt": "text/plain; charset=utf-8", "a.JSONL": "application/jsonl"}.items():
        file = (await upload(client, name)).json()
        assert (await client.get(f"/v1/files/{file['id']}/content")).headers["content-type"] == kind


# ---- forms -----------------------------------------------------------------------------------------------------------

FORM = {"Content-Type": MULTIPART}
FILE = ('Content-Disposition: form-data; name="file"; filename="a.txt"', "content")
PURPOSE = ('Content-Disposition: form-data; name="purpose"', "fine-tune")


def parts(*items: tuple[str, str], end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    return ("".join(f"--{BOUNDARY}\r\n{head}\r\n\r\n{content}\r\n" for head, content in items) + end).encode()


def named(name: str, value: str) -> tuple[str, str]:
    return f'Content-Disposition: form-data; name="{name}"', value


@pytest.mark.parametrize("order", [(PURPOSE, FILE), (FILE, PURPOSE), (named("X", "y"), FILE, named("z", ""), PURPOSE)])
@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_parts_come_in_any_order_and_pieces(client: httpx.AsyncClient, order: Any, cut: int) -> None:
    body = parts(*order)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), cut):
            yield body[start : start + cut]

    answer = await client.post("/v1/files", content=pieces(), headers=FORM)
    assert (answer.status_code, answer.json()["bytes"]) == (200, 7)
    assert (await client.get(f"/v1/files/{answer.json()['id']}/content")).content == b"content"


BROKEN = {
    "nothing": b"",
    "no parts": b"--x--\r\n",
    "no form": b"content",
    "cut in the boundary": parts(FILE, end="--"),
    "cut in the file": parts(PURPOSE, FILE)[:-20],
    "cut in the headers": b"--x\r\nContent-Dispo",
    "no closing boundary": parts(FILE, PURPOSE, end=""),
    "no name": parts(('Content-Disposition: form-data; filename="a"', "x"), PURPOSE),
    "no disposition": parts(("Content-Type: text/plain", "x"), PURPOSE),
    "no headers": parts(("", "x"), PURPOSE),
    "many headers": parts(("\r\n".join(["A: b"] * 10_000 + [FILE[0]]), "x"), PURPOSE),
    "a long header": parts(("A: " + "b" * 100_000 + "\r\n" + FILE[0], "x"), PURPOSE),
    "many parts": parts(FILE, PURPOSE, *[named("a", "b")] * MAX_PARTS),
    "another form inside": parts((FILE[0].replace("filename", "name2"), "--y\r\n\r\n--y--"), PURPOSE),
    "two files": parts(FILE, FILE, PURPOSE),
    "a file that is text": parts(named("file", "content"), PURPOSE),
    "no file": parts(PURPOSE),
    "no purpose": parts(FILE),
    "an empty purpose": parts(FILE, named("purpose", "")),
    "a purpose with NUL": parts(FILE, named("purpose", "a\0")),
    "a long purpose": parts(FILE, named("purpose", "a" * 100_000)),
    "a purpose in another charset": parts(FILE, PURPOSE).replace(b"fine-tune", b"\xff"),
    "no file name": parts((FILE[0].replace("a.txt", ""), "x"), PURPOSE),
    "a file name that is none": parts((FILE[0].replace("a.txt", "../.."), "x"), PURPOSE),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_forms_that_are_broken(
    app: FastAPI, client: httpx.AsyncClient, left: Callable[[], set[str]], body: bytes
) -> None:
    answer = await client.post("/v1/files", content=body, headers=FORM)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (left(), await kept(app), await app.state.files.sweep(-1)) == (set(), [], 0)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=x",
        "multipart/form-data; boundary=" + "x" * 10_000,
        "multipart/form-data; boundary*=x",
        "\xff",
    ],
)
async def test_what_is_no_form(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type.encode("latin-1")}
    answer = await client.post("/v1/files", content=parts(FILE, PURPOSE), headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


# ---- limits ----------------------------------------------------------------------------------------------------------


async def test_the_limit_is_that_of_the_file(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LINGER_S", 0.01)
    sizes = {UPLOAD_LIMIT_MB * MIB: 200, UPLOAD_LIMIT_MB * MIB + 1: 400, (UPLOAD_LIMIT_MB + 1) * MIB: 413}
    for size, status in sizes.items():
        answer = await upload(client, f"{size}.bin", bytes(size))
        assert answer.status_code == status
        body = parts((FILE[0].replace("a.txt", f"{size}.chunked"), "\0" * size), PURPOSE)

        async def chunks(body: bytes = body) -> AsyncIterator[bytes]:
            for start in range(0, len(body), MIB):
                yield body[start : start + MIB]

        assert (await client.post("/v1/files", content=chunks(), headers=FORM)).status_code == status
    assert len((await client.get("/v1/files")).json()["data"]) == 2


async def test_a_name_that_is_taken_is_refused_before_the_content_comes(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_limit, "LINGER_S", 0.01)
    assert (await upload(client, "a.txt")).status_code == 200
    head = parts(FILE, end="").removesuffix(b"\r\n")

    async def endless() -> AsyncIterator[bytes]:
        yield head
        await asyncio.Event().wait()

    answer = await asyncio.wait_for(client.post("/v1/files", content=endless(), headers=FORM), 5)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "File already exists")


# ---- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "status", "content", "part"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=3-", 206, b"3456789", "bytes 3-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=٣-", 200, b"0123456789", None),
    ],
)
async def test_parts_of_a_file(
    client: httpx.AsyncClient, wanted: str, status: int, content: bytes, part: str | None
) -> None:
    file = (await upload(client, "a.txt", b"0123456789")).json()
    answer = await client.get(f"/v1/files/{file['id']}/content", headers={"Range": wanted.encode()})  # type: ignore[dict-item]
    assert (answer.status_code, answer.content, answer.headers.get("content-range")) == (status, content, part)
    assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=5-3", "bytes=-0"])
async def test_parts_that_a_file_does_not_have(client: httpx.AsyncClient, wanted: str) -> None:
    file = (await upload(client, "a.txt", b"0123456789")).json()
    answer = await client.get(f"/v1/files/{file['id']}/content", headers={"Range": wanted})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range_not_satisfiable")


# ---- over a socket ---------------------------------------------------------------------------------------------------


def request_head(length: int) -> bytes:
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: m\r\nContent-Type: {MULTIPART}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


async def test_who_leaves_in_the_middle_leaves_nothing(app: FastAPI, left: Callable[[], set[str]]) -> None:
    async with Served(app) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request_head(4 * MIB) + parts(FILE, end="") + bytes(2 * MIB))
        await until(lambda: any(name.endswith(".partial") for name in left()))
        writer.close()
        await writer.wait_closed()
        await until(lambda: left() == set())
    assert (await kept(app), await app.state.files.sweep(-1)) == ([], 0)


async def test_a_file_may_be_deleted_while_it_is_sent(app: FastAPI) -> None:
    content = os.urandom(5 * MIB)
    async with Served(app) as served, httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        file = (await upload(client, "a.bin", content)).json()
        async with client.stream("GET", f"/v1/files/{file['id']}/content") as answer:
            blocks = answer.aiter_raw(1000)
            received = [await anext(blocks)]
            assert (await client.delete(f"/v1/files/{file['id']}")).status_code == 200
            received += [block async for block in blocks]
        assert b"".join(received) == content


async def test_a_content_that_is_lost_is_said(app: FastAPI, client: httpx.AsyncClient, tmp_path: Path) -> None:
    file = (await upload(client, "a.txt")).json()
    (tmp_path / "blobs" / "uploads" / file["id"]).unlink()
    assert (await client.get(f"/v1/files/{file['id']}/content")).status_code == 404
    assert (await client.delete(f"/v1/files/{file['id']}")).status_code == 200


async def grown(work: Awaitable[None]) -> int:
    """Bytes by which this process was larger while it did `work`."""
    process = psutil.Process()
    start = most = process.memory_info().rss
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait((task,), timeout=0.005)
        most = max(most, process.memory_info().rss)
    task.result()
    return most - start


async def test_a_large_file_does_not_pass_through_memory(make_app: AppFactory) -> None:
    app = make_app()
    size, block = 300 * MIB, os.urandom(MIB // 4)
    head, tail = parts(FILE, end="").removesuffix(b"content\r\n"), b"\r\n" + parts(PURPOSE)
    answers = []

    async with Served(app) as served:

        async def send() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request_head(len(head) + size + len(tail)) + head)
            for _ in range(size // len(block)):
                writer.write(block)
                await writer.drain()
            writer.write(tail)
            answers.append(await reader.read(65_536))
            writer.close()
            await writer.wait_closed()

        async def receive() -> None:
            async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
                (file,) = (await client.get("/v1/files")).json()["data"]
                async with client.stream("GET", f"/v1/files/{file['id']}/content") as answer:
                    received, checksum = 0, 0
                    async for piece in answer.aiter_raw():
                        received, checksum = received + len(piece), zlib.crc32(piece, checksum)
                assert received == file["bytes"] == size
                assert checksum == functools.reduce(lambda crc, _: zlib.crc32(block, crc), range(size // len(block)), 0)

        assert await grown(send()) < 60 * MIB
        assert answers[0].startswith(b"HTTP/1.1 200")
        assert await grown(receive()) < 60 * MIB
    await app.state.files.close()


# ---- two ingresses ---------------------------------------------------------------------------------------------------


async def test_two_ingresses_answer_alike(make_app: AppFactory) -> None:
    one, other = make_app(), make_app()
    async with http_client(one) as here, http_client(other) as there:
        file = (await upload(here, "a.txt")).json()
        assert (await there.get(f"/v1/files/{file['id']}")).json() == file
        assert (await there.get(f"/v1/files/{file['id']}/content")).content == b"content"
        assert (await upload(there, "a.txt")).status_code == 400
        assert (await there.delete(f"/v1/files/{file['id']}")).status_code == 200
        assert (await here.get("/v1/files")).json()["data"] == []
    for app in (one, other):
        await app.state.files.close()


def test_files_are_where_the_settings_say(make_app: AppFactory, tmp_path: Path) -> None:
    for settings, folder in (({}, "blobs/uploads"), ({"blobs": tmp_path / "b"}, "b/uploads")):
        blobs = make_app(**settings).state.files._blobs
        assert isinstance(blobs, FolderBlobs)
        assert blobs._folder == tmp_path / folder
    assert make_app(uploads=tmp_path / "u").state.files._blobs._folder == tmp_path / "u"
