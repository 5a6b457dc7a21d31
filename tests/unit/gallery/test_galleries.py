"""Galleries: which there are after a restart, and what they serve when their addresses don't answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.errors import AlreadyExists, DownloadFailed, GalleryNotFound, InvalidRequest, ModelNotFound
from gallery import cached_index
from gallery.database import Database
from gallery.galleries import Available, Galleries, merged
from gallery.settings import Gallery, GallerySettings
from gallery.store import GalleryChange, GalleryStore
from tests.unit.waiting import until

MANTA = Gallery("manta", "file:///starter.yaml")
LOCALAI = Gallery("localai", "github:mudler/LocalAI/gallery/index.yaml@master")


class Texts:
    """The sources, with texts by address. An exception is raised; a missing one has not been found."""

    def __init__(self) -> None:
        self.at: dict[str, str | Exception] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        """Holds up all answers."""

    def add(self, url: str, *entries: dict[str, Any]) -> None:
        self.at[url] = yaml.safe_dump(list(entries))

    async def text(self, uri: str) -> str:
        self.asked.append(uri)
        if self.gate:
            await self.gate.wait()
        found = self.at.get(uri, DownloadFailed(f"GET {uri}: 404 Not Found"))
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def texts() -> Texts:
    texts = Texts()
    texts.add(MANTA.url, entry("smollm2", tags=["chat", "Small"]), entry("bert", description="Embeds sentences."))
    texts.add(LOCALAI.url, entry("Bert"), entry("phi-2"))
    return texts


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "config_file": {"backend": "echo"}, **fields}


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts the galleries as a new process would; all are stopped at the end."""
    monkeypatch.setattr(cached_index, "PATIENCE_S", 0.05)
    store = GalleryStore(Database(f"sqlite:///{tmp_path}/manta.db"))
    store.open()
    started: list[Galleries] = []

    async def start(*galleries: Gallery, ttl: float = 3600.0) -> Galleries:
        settings = GallerySettings(
            tmp_path / "models", tmp_path, "", galleries=galleries or (MANTA, LOCALAI), index_ttl=ttl
        )
        started.append(Galleries(store, texts, settings))
        await started[-1].start()
        return started[-1]

    (tmp_path / "models").mkdir()
    yield start
    for galleries in started:
        await galleries.stop()
    store.close()


async def names(galleries: Galleries, **query: Any) -> list[str]:
    return [item.entry.name for item in (await galleries.available(**query)).items]


# ---- which there are ----


async def test_those_of_the_settings_then_those_that_were_added(start: Start) -> None:
    galleries = await start()
    mine = Gallery("mine", "https://example.com/index.yaml", allow_pickles=True)
    await galleries.add(mine)
    assert galleries.registered() == [MANTA, LOCALAI, mine]
    assert (await start()).registered() == [MANTA, LOCALAI, mine]


async def test_a_removed_one_stays_removed(start: Start) -> None:
    galleries = await start()
    await galleries.remove("localai")
    assert galleries.registered() == [MANTA]
    assert (await start()).registered() == [MANTA]
    await galleries.add(LOCALAI)
    assert galleries.registered() == [MANTA, LOCALAI]
    assert (await start()).registered() == [MANTA, LOCALAI]


async def test_one_that_was_added_and_removed_is_gone(start: Start) -> None:
    galleries = await start()
    await galleries.add(Gallery("mine", "https://example.com/index.yaml"))
    await galleries.remove("mine")
    assert (await start()).registered() == [MANTA, LOCALAI]
    await galleries.add(Gallery("mine", "https://example.com/index.yaml"))


def test_what_the_settings_say_newly_wins() -> None:
    removed = GalleryChange("localai", "", instead_of="https://old")
    replaced = GalleryChange("localai", "https://mine", instead_of="https://old")
    added = GalleryChange("localai", "https://mine")
    old, new = Gallery("localai", "https://old"), Gallery("localai", "https://new")
    assert merged([old], [removed]) == []
    assert merged([new], [removed]) == [new]
    assert merged([old], [replaced]) == [Gallery("localai", "https://mine")]
    assert merged([new], [replaced]) == [new]
    assert merged([new], [added]) == [new]
    assert merged([], [added]) == merged([], [replaced]) == [Gallery("localai", "https://mine")]
    assert merged([], [removed]) == []


@pytest.mark.parametrize("name", ["", " ", "a@b", "a/b", "..\n", " a", "x" * 101])
async def test_a_name_that_cannot_be_one(name: str, start: Start) -> None:
    galleries = await start()
    with pytest.raises(InvalidRequest, match="can't be a gallery's name") as raised:
        await galleries.add(Gallery(name, "https://example.com/index.yaml"))
    assert raised.value.param == "name"


async def test_mistakes(start: Start) -> None:
    galleries = await start()
    with pytest.raises(AlreadyExists, match=r"^manta already exists$"):
        await galleries.add(replace(MANTA, url="https://example.com"))
    with pytest.raises(InvalidRequest, match="address"):
        await galleries.add(Gallery("mine", ""))
    with pytest.raises(GalleryNotFound, match=r"^x is not currently registered$"):
        await galleries.remove("x")
    with pytest.raises(GalleryNotFound):
        await galleries.available(gallery="x")


async def test_a_name_is_taken_once(start: Start) -> None:
    galleries = await start()
    mine = Gallery("mine", "https://example.com/index.yaml")
    outcomes = await asyncio.gather(*(galleries.add(mine) for _ in range(3)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExists", "AlreadyExists", "NoneType"]


# ---- finding ----


async def test_finding_by_name(start: Start, texts: Texts) -> None:
    galleries = await start()
    gallery, found = await galleries.find("BERT")
    assert (gallery, found.name) == (MANTA, "bert")
    assert texts.asked == [MANTA.url], "the first that has it ends the search"
    gallery, found = await galleries.find("localai@bert")
    assert (gallery, found.name) == (LOCALAI, "Bert")
    with pytest.raises(ModelNotFound, match="no model found with name 'smollm2'"):
        await galleries.find("localai@smollm2")
    with pytest.raises(ModelNotFound, match="no model found with name 'nowhere@bert'"):
        await galleries.find("nowhere@bert")


async def test_an_entry_may_have_an_at_sign(start: Start, texts: Texts) -> None:
    texts.add(MANTA.url, entry("llama@q4"))
    galleries = await start()
    assert (await galleries.find("llama@q4"))[1].name == "llama@q4"
    assert (await galleries.find("manta@llama@q4"))[1].name == "llama@q4"


async def test_a_name_that_may_be_in_a_gallery_that_cannot_be_read(start: Start, texts: Texts) -> None:
    del texts.at[MANTA.url]
    galleries = await start()
    assert (await galleries.find("bert"))[0] == LOCALAI
    with pytest.raises(ModelNotFound, match=r"'smollm2'; gallery 'manta' can't be read: .*404"):
        await galleries.find("smollm2")
    with pytest.raises(DownloadFailed, match=r"gallery 'manta' can't be read: .*404"):
        await galleries.find("manta@smollm2")


# ---- what there is ----


async def test_searching(start: Start) -> None:
    galleries = await start()
    assert await names(galleries) == ["smollm2", "bert", "Bert", "phi-2"]
    assert await names(galleries, gallery="localai") == ["Bert", "phi-2"]
    assert await names(galleries, search="BERT") == ["bert", "Bert"]
    assert await names(galleries, search="sentences bert") == ["bert"], "every word, wherever it is"
    assert await names(galleries, search="chat") == ["smollm2"]
    assert await names(galleries, tag="small") == ["smollm2"]
    assert await names(galleries, tag="smal") == []


async def test_pages(start: Start) -> None:
    galleries = await start()
    assert await names(galleries, offset=1, limit=2) == ["bert", "Bert"]
    assert await names(galleries, limit=0) == []
    page = await galleries.available(search="bert", offset=1, limit=5)
    assert (len(page.items), page.total) == (1, 2)


async def test_what_is_installed_is_known_by_its_gallery(start: Start, tmp_path: Path) -> None:
    galleries = await start()
    models = tmp_path / "models"
    (models / "._gallery_mine.yaml").write_text("{gallery: manta, entry: bert, yaml_sha256: '0'}")
    (models / "mine.yaml").write_text("name: mine")
    (models / "._gallery_gone.yaml").write_text("{gallery: manta, entry: smollm2, yaml_sha256: '0'}")
    page = await galleries.available()
    assert [(i.gallery.name, i.entry.name) for i in page.items if i.installed] == [("manta", "bert")]
    assert isinstance(page.items[0], Available)


# ---- the cache ----


async def test_an_index_is_fetched_once(start: Start, texts: Texts) -> None:
    galleries = await start()
    texts.gate = asyncio.Event()
    asking = [asyncio.create_task(names(galleries)) for _ in range(5)]
    await until(lambda: len(texts.asked) == 2)
    texts.gate.set()
    assert [len(found) for found in await asyncio.gather(*asking)] == [4] * 5
    await names(galleries)
    assert sorted(texts.asked) == sorted([MANTA.url, LOCALAI.url])


async def test_an_index_that_is_out_of_date_is_fetched_again(start: Start, texts: Texts) -> None:
    galleries = await start(ttl=0)
    await names(galleries)
    texts.add(MANTA.url, entry("smollm3"))
    assert await names(galleries, gallery="manta") == ["smollm3"]


async def test_one_that_cannot_be_read_is_named_and_the_others_go_on(start: Start, texts: Texts) -> None:
    texts.at[LOCALAI.url] = DownloadFailed("github.com: no such host")
    texts.at[MANTA.url] = yaml.safe_dump([entry("smollm2"), {"name": "broken", "files": 7}])
    galleries = await start()
    assert await names(galleries) == ["smollm2"]
    problems = galleries.problems()
    assert problems["localai"] == "github.com: no such host"
    assert problems["manta"].startswith("entries left out: ") and "broken" in problems["manta"]
    texts.asked.clear()
    await names(galleries)
    assert texts.asked == [], "nor is it asked for by every request"


async def test_a_broken_source_is_a_problem_of_its_gallery(
    start: Start, texts: Texts, caplog: pytest.LogCaptureFixture
) -> None:
    texts.at[LOCALAI.url] = ZeroDivisionError("secret")
    galleries = await start()
    assert await names(galleries) == ["smollm2", "bert"]
    assert galleries.problems() == {"localai": "internal error"}
    assert "ZeroDivisionError" in caplog.text


async def test_the_last_good_copy_is_served_after_a_restart(start: Start, texts: Texts) -> None:
    await names(await start())
    texts.at.clear()
    galleries = await start()
    assert await names(galleries) == ["smollm2", "bert", "Bert", "phi-2"]
    found = (await galleries.available(search="smollm2")).items[0].entry
    assert (found.config_file, found.tags) == ({"backend": "echo"}, ("chat", "Small"))
    assert galleries.problems()["localai"].endswith("404 Not Found")


async def test_a_copy_is_of_its_address(start: Start, texts: Texts) -> None:
    await names(await start())
    galleries = await start(replace(MANTA, url="https://example.com/other.yaml"))
    assert await names(galleries) == []


async def test_a_copy_that_is_broken(start: Start, texts: Texts, tmp_path: Path) -> None:
    await names(await start())
    (tmp_path / "galleries" / "manta.json").write_text("{")
    assert await names(await start()) == ["smollm2", "bert", "Bert", "phi-2"]


async def test_a_slow_gallery_does_not_hold_up_who_can_have_an_older_index(start: Start, texts: Texts) -> None:
    await names(await start())
    texts.gate = asyncio.Event()
    galleries = await start(ttl=0)
    texts.add(MANTA.url, entry("smollm3"))
    async with asyncio.timeout(5):
        assert await names(galleries, gallery="manta") == ["smollm2", "bert"]
    texts.gate.set()
    await until(lambda: (tmp := galleries._indexes["manta"]._fetching) and tmp.done())
    assert await names(galleries, gallery="manta") == ["smollm3"]


async def test_a_removed_gallery_leaves_no_copy(start: Start, tmp_path: Path) -> None:
    galleries = await start()
    await names(galleries)
    copies = tmp_path / "galleries"
    assert {path.name for path in copies.iterdir()} == {"manta.json", "localai.json"}
    await galleries.remove("localai")
    assert {path.name for path in copies.iterdir()} == {"manta.json"}
