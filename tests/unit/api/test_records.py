"""Files and assistants over a database of their own; with PostgreSQL in tests/cluster/test_postgres.py."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.assistants import MAX_FILES, Assistant, Assistants
from api.files import File, Files
from api.form_stream import Part
from api.paging import Order, Page, from_cursors
from api.records import FileRow, LooseBlobRow, Records
from deployments.errors import AssistantNotFound, FileNotFound, InvalidRequest, NotReady, StorageFailed
from gallery.folder_blobs import FolderBlobs


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/manta.db"


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    records = Records(url)
    yield records
    records.close()


@pytest.fixture
def files(records: Records, tmp_path: Path) -> Files:
    return Files(records, FolderBlobs(tmp_path / "uploads", ttl=0))


@pytest.fixture
def assistants(records: Records) -> Assistants:
    return Assistants(records)


async def blocks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def form(name: str, content: bytes = b"x", purpose: str = "fine-tune") -> AsyncIterator[Part]:
    yield Part("file", name, blocks(content))
    yield Part("purpose", None, blocks(purpose.encode()))


async def upload(files: Files, name: str, **more: Any) -> File:
    return await files.create(form(name, **more), limit=100)


async def uploads(files: Files, count: int) -> list[File]:
    return [await upload(files, f"{number}.txt") for number in range(count)]


def stored(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "uploads").iterdir()}


async def loose(records: Records) -> int:
    return await records.run(lambda session: session.query(LooseBlobRow).count())


# ---- files -----------------------------------------------------------------------------------------------------------


async def test_a_file_is_kept_and_goes(files: Files, records: Records, tmp_path: Path) -> None:
    file = await upload(files, "Прайс-лист 🦑.txt", content=b"\0\xff")
    assert await files.get(file.id) == file
    assert (file.filename, file.size) == ("Прайс-лист 🦑.txt", 2)
    assert stored(tmp_path) == {file.id}
    await files.delete(file.id)
    for again in (files.get, files.content, files.delete):
        with pytest.raises(FileNotFound):
            await again(file.id)
    assert (stored(tmp_path), await loose(records)) == (set(), 0)


async def test_of_those_who_upload_a_name_at_once_one_wins(files: Files, records: Records, tmp_path: Path) -> None:
    answers = await asyncio.gather(*(upload(files, "a.txt") for _ in range(20)), return_exceptions=True)
    (winner,) = [answer for answer in answers if isinstance(answer, File)]
    refused = [answer for answer in answers if answer is not winner]
    assert {str(error) for error in refused} == {"File already exists"}
    assert {type(error) for error in refused} == {InvalidRequest}
    assert (stored(tmp_path), await loose(records)) == ({winner.id}, 0)


async def test_pages_of_files(files: Files) -> None:
    ids = [file.id for file in await uploads(files, 5)]
    assert ids == sorted(ids), "by their time"

    async def page(**cursors: Any) -> tuple[list[str], bool]:
        found, has_more = await files.listed(None, from_cursors(**{"order": Order.ASC, "after": None} | cursors))
        return [file.id for file in found], has_more

    assert await page(limit=5) == (ids, False)
    assert await page(limit=2) == (ids[:2], True)
    assert await page(limit=2, after=ids[1]) == (ids[2:4], True)
    assert await page(limit=2, after=ids[3]) == (ids[4:], False)
    assert await page(limit=2, order=Order.DESC) == (ids[:2:-1], True)
    await files.delete(ids[2])
    assert await page(limit=9, order=Order.DESC, after=ids[2]) == ([ids[1], ids[0]], False), "one that is gone"


@pytest.mark.parametrize("absurd", ["", "file-1", "\0", "x" * 10_000, "файл", "file-" + "0" * 31 + "\n", "../x"])
async def test_what_can_be_no_file(files: Files, assistants: Assistants, absurd: str) -> None:
    await upload(files, "a.txt")
    for operation in (files.get, files.content, files.delete):
        with pytest.raises(FileNotFound):
            await operation(absurd)
    for operate in (assistants.get, assistants.delete, assistants.files):
        with pytest.raises(AssistantNotFound):
            await operate(absurd)
    assistant = await assistants.create({"model": "m"}, ())
    with pytest.raises(FileNotFound, match="Unable to find file_id: "):
        await assistants.attach(assistant.id, absurd)
    assert (await files.listed(absurd, Page(9, Order.ASC)))[0] == [], "nor a purpose"


async def test_what_a_dead_process_left_is_swept(files: Files, records: Records, tmp_path: Path) -> None:
    kept = await upload(files, "kept.txt")

    async def cut() -> AsyncIterator[Part]:
        yield Part("file", "a.txt", blocks(b"x"))
        raise ProcessLookupError

    files._blobs.discard = None  # type: ignore[assignment,method-assign]  # the process ends
    with pytest.raises(TypeError):
        await files.create(cut(), limit=100)
    assert (len(stored(tmp_path)), await loose(records)) == (2, 1)
    other = Files(records, FolderBlobs(tmp_path / "uploads", ttl=0))
    assert await other.sweep() == 0, "an upload may take long"
    assert await other.sweep(older_than=-1) == 1
    assert (stored(tmp_path), await loose(records)) == ({kept.id}, 0)


async def test_an_upload_that_was_swept_meanwhile_is_none(files: Files, tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[Part]:
        yield Part("file", "a.txt", blocks(b"x"))
        assert await files.sweep(older_than=-1) == 1
        yield Part("purpose", None, blocks(b"fine-tune"))

    with pytest.raises(StorageFailed, match="took more than 6 hours"):
        await files.create(slow(), limit=100)
    assert stored(tmp_path) == set()
    await upload(files, "a.txt")


async def test_an_answer_of_the_database_that_is_lost_loses_no_content(
    files: Files, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = records.run

    async def run_and_lose(work: Any) -> Any:
        answer = await run(work)
        if work.func.__name__ == "_add":
            raise NotReady("the connection is gone")
        return answer

    monkeypatch.setattr(records, "run", run_and_lose)
    with pytest.raises(NotReady):
        await upload(files, "a.txt")
    ((file,), _) = await files.listed(None, Page(9, Order.ASC))
    assert stored(tmp_path) == {file.id}


# ---- assistants ------------------------------------------------------------------------------------------------------


async def test_an_assistant_is_kept_changed_and_goes(assistants: Assistants) -> None:
    fields = {"model": "m", "name": "n\0🦑", "tools": [{"type": "function", "function": {"name": "f\0"}}]}
    created = await assistants.create(fields | {"description": None}, ())
    assert await assistants.get(created.id) == created
    assert created.fields == fields
    changed = await assistants.modify(created.id, {"name": None, "description": "d"})
    assert changed.fields == {"model": "m", "tools": fields["tools"], "description": "d"}
    assert (changed.number, changed.created) == (created.number, created.created)
    assert await assistants.get(created.id) == changed
    await assistants.delete(created.id)
    with pytest.raises(AssistantNotFound):
        await assistants.get(created.id)


async def test_ids_never_come_again(assistants: Assistants) -> None:
    first, second = [await assistants.create({}, ()) for _ in range(2)]
    await assistants.delete(second.id)
    await assistants.delete(first.id)
    assert (await assistants.create({}, ())).number > second.number


async def test_pages_of_assistants(assistants: Assistants) -> None:
    numbers = [(await assistants.create({}, ())).number for _ in range(4)]

    async def page(*arguments: Any, **bounds: Any) -> list[int]:
        return [assistant.number for assistant in await assistants.listed(Page(*arguments, **bounds))]

    assert await page(20, Order.DESC) == numbers[::-1]
    assert await page(2, Order.ASC) == numbers[:2]
    assert await page(20, Order.ASC, above=numbers[1]) == numbers[2:]
    assert await page(20, Order.ASC, below=numbers[2]) == numbers[:2]
    assert await page(20, Order.DESC, above=numbers[3]) == []


async def test_changes_at_once_all_count(assistants: Assistants) -> None:
    created = await assistants.create({"model": "m"}, ())
    changes = {f"field-{number}": number for number in range(10)}
    await asyncio.gather(*(assistants.modify(created.id, {name: value}) for name, value in changes.items()))
    assert (await assistants.get(created.id)).fields == {"model": "m", **changes}


async def test_files_of_an_assistant(files: Files, assistants: Assistants) -> None:
    a, b, c = [file.id for file in await uploads(files, 3)]
    first = await assistants.create({}, [b, a, b])
    second = await assistants.create({}, [c])
    assert first.file_ids == [b, a]
    attached = await assistants.attach(first.id, c)
    assert (attached.id, attached.assistant_id) == (c, first.id)
    assert await assistants.attach(first.id, c) == attached, "once is enough"
    assert [file.id for file in await assistants.files(first.id)] == [b, a, c]
    assert [file.id for file in await assistants.files(second.id)] == [c]
    assert await assistants.file(first.id, c) == attached
    await assistants.detach(first.id, b)
    for operation in (assistants.file, assistants.detach):
        with pytest.raises(AssistantNotFound):
            await operation(first.id, b)
    assert (await assistants.modify(first.id, {}, [b, c])).file_ids == [b, c]
    assert (await assistants.get(first.id)).file_ids == [b, c]
    assert (await assistants.file(first.id, c)).created == attached.created
    await files.delete(c)
    assert (await assistants.get(first.id)).file_ids == [b]
    assert (await assistants.get(second.id)).file_ids == []
    await assistants.delete(first.id)
    assert (await files.get(b)).id == b


async def test_files_that_are_not_there(files: Files, assistants: Assistants) -> None:
    file = await upload(files, "a.txt")
    gone = file.id[:-1] + ("1" if file.id[-1] == "0" else "0")
    with pytest.raises(FileNotFound, match=f"Unable to find file_id: {gone}"):
        await assistants.create({}, [file.id, gone])
    assert await assistants.listed(Page(9, Order.ASC)) == []
    assistant = await assistants.create({}, [file.id])
    for attempt in (assistants.attach(assistant.id, gone), assistants.modify(assistant.id, {}, [gone])):
        with pytest.raises(FileNotFound):
            await attempt
    assert (await assistants.get(assistant.id)).file_ids == [file.id]


async def test_an_assistant_has_so_many_files_at_most(files: Files, assistants: Assistants) -> None:
    ids = [file.id for file in await uploads(files, MAX_FILES + 3)]
    assistant = await assistants.create({"name": "Ann"}, ids[: MAX_FILES - 1])
    attempts = (assistants.attach(assistant.id, file_id) for file_id in ids[MAX_FILES - 1 :])
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [str(answer) for answer in answers if isinstance(answer, Exception)]
    assert refused == ["Max files 20 for assistant Ann reached."] * 3
    assert len((await assistants.get(assistant.id)).file_ids) == MAX_FILES


async def test_a_file_that_goes_while_it_is_attached(files: Files, assistants: Assistants) -> None:
    assistant: Assistant = await assistants.create({}, ())
    for file in await uploads(files, 10):
        await asyncio.gather(assistants.attach(assistant.id, file.id), files.delete(file.id), return_exceptions=True)
    assert (await assistants.get(assistant.id)).file_ids == []


# ---- the tables ------------------------------------------------------------------------------------------------------


async def test_several_ingresses_may_begin_at_once(url: str) -> None:
    everybody = [Records(url) for _ in range(4)]
    barrier = threading.Barrier(len(everybody))

    def begin(records: Records) -> int:
        barrier.wait(10)
        return asyncio.run(records.run(lambda session: session.query(FileRow).count()))

    assert await asyncio.gather(*(asyncio.to_thread(begin, records) for records in everybody)) == [0] * 4
    for records in everybody:
        records.close()


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path}/folder/manta.db")
    assert list(tmp_path.iterdir()) == []
    records.close()
