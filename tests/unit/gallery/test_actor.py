"""The gallery as a whole, against a real HTTP server on loopback and a real database."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.errors import JobNotFound, ModelNotFound, NotReady
from gallery.actor import Gallery
from gallery.request import File, InstallRequest
from gallery.settings import DownloadSettings, GallerySettings
from gallery.settings import Gallery as GalleryAddress
from gallery.status import JobStatus, Phase
from tests.file_server import FileServer
from tests.unit.waiting import until

MIB = 1 << 20


class FakeModels:
    """The server's models, for which there is no server."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Exception | None = None

    async def reload(self) -> None:
        self.calls.append("reload")
        if self.error:
            raise self.error

    async def removed(self, name: str) -> None:
        self.calls.append(f"removed {name}")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> GallerySettings:
    downloads = DownloadSettings(
        allow=("127.0.0.1",), connections=2, stall_timeout=0.3, retries=3, backoff=0.01, min_free=0
    )
    data = tmp_path / "data"
    return GallerySettings(tmp_path / "models", data, f"sqlite:///{data}/manta.db", downloads=downloads)


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


Start = Callable[..., Any]


@pytest.fixture
async def start(models: FakeModels) -> AsyncIterator[Start]:
    """Starts the gallery as a new process would; all are stopped at the end."""
    started: list[Gallery] = []

    async def start(settings: GallerySettings) -> Gallery:
        started.append(Gallery(settings, models))
        await started[-1].start()
        return started[-1]

    yield start
    for gallery in started:
        await gallery.stop()


async def final(gallery: Gallery, uuid: str) -> JobStatus:
    async with asyncio.timeout(30):
        async with aclosing(gallery.events(uuid)) as statuses:
            return [status async for status in statuses][-1]


def asked(name: str, url: str, sha256: str = "") -> InstallRequest:
    """A model of one file, written down in the request itself."""
    file = File(f"{name}.gguf", url, sha256)
    return InstallRequest(
        name=name, config_file={"backend": "llama-cpp", "parameters": {"model": file.filename}}, files=(file,)
    )


def left(settings: GallerySettings) -> set[str]:
    """Names in the models directory, the hidden ones too, but for the records of installed models."""
    found = {str(path.relative_to(settings.models_path)) for path in settings.models_path.rglob("*")}
    return {name for name in found if not name.startswith("._gallery_")}


# ---- installing and deleting ----


async def test_a_model_s_life(start: Start, settings: GallerySettings, server: FileServer, models: FakeModels) -> None:
    entry = {
        "name": "llama",
        "config_file": {"backend": "llama-cpp", "parameters": {"model": "weights.gguf"}},
        "files": [{"filename": "weights.gguf", "uri": server.add("weights.gguf", b"GGUF" * 1000)}],
    }
    address = GalleryAddress("mine", server.add("index.yaml", yaml.safe_dump([entry])))
    gallery = await start(settings)

    assert await gallery.add_gallery(address) == await gallery.galleries() == [address]
    assert [item.installed for item in (await gallery.available()).items] == [False]
    status = await final(gallery, await gallery.apply(InstallRequest(id="mine@llama", name="my-llama")))
    assert (status.phase, status.error, status.model) == (Phase.COMPLETED, "", "my-llama")
    assert (status.current_bytes, status.total_bytes, status.progress) == (4000, 4000, 100.0)
    assert models.calls == ["reload"]
    assert left(settings) == {"my-llama.yaml", "weights.gguf"}
    assert [item.installed for item in (await gallery.available()).items] == [True]

    status = await final(gallery, await gallery.delete("my-llama"))
    assert (status.phase, status.error, status.deletion) == (Phase.COMPLETED, "", True)
    assert models.calls == ["reload", "reload", "removed my-llama"]
    assert left(settings) == set()
    assert [status.deletion for status in (await gallery.jobs()).values()] == [False, True]
    assert await gallery.remove_gallery("mine") == []


async def test_deleting_what_is_not_there(start: Start, settings: GallerySettings) -> None:
    gallery = await start(settings)
    with pytest.raises(ModelNotFound):
        await gallery.delete("llama")
    assert await gallery.jobs() == {}


async def test_deleting_what_is_being_installed_waits_for_it(
    start: Start, settings: GallerySettings, server: FileServer
) -> None:
    gallery = await start(settings)
    url = server.add("llama.gguf", size=2 * MIB, rate=4 * MIB)
    install = await gallery.apply(asked("llama", url))
    delete = await gallery.delete("llama")
    assert (await final(gallery, delete)).phase is Phase.COMPLETED
    assert (await gallery.job(install)).phase is Phase.COMPLETED
    assert left(settings) == set()


async def test_a_server_that_cannot_be_told_is_a_warning(
    start: Start, settings: GallerySettings, server: FileServer, models: FakeModels
) -> None:
    models.error = NotReady("the controller restarts")
    gallery = await start(settings)
    status = await final(gallery, await gallery.apply(asked("llama", server.add("llama.gguf", b"GGUF"))))
    assert status.phase is Phase.COMPLETED
    assert any("the controller restarts" in warning for warning in status.warnings)


async def test_mistakes_show_in_the_job(start: Start, settings: GallerySettings) -> None:
    gallery = await start(settings)
    for request, said in (
        (InstallRequest(), "there is nothing to install"),
        (InstallRequest(id="unheard-of"), "no model found with name 'unheard-of'"),
        (InstallRequest(name="a", config_url="gopher://example.com/a.yaml"), "gopher"),
    ):
        status = await final(gallery, await gallery.apply(request))
        assert status.phase is Phase.FAILED and said in status.error
    with pytest.raises(JobNotFound):
        await gallery.job("unheard-of")


# ---- many jobs ----


async def test_twenty_jobs_of_which_five_fail(
    start: Start, settings: GallerySettings, server: FileServer, tmp_path: Path
) -> None:
    settings = replace(settings, parallel_jobs=8, downloads=replace(settings.downloads, limit=8 * MIB))
    gallery = await start(settings)
    good = {f"good-{i}": server.add(f"good-{i}.gguf", size=MIB + i, seed=i) for i in range(15)}
    requests = [asked(name, url, server.sha256(f"{name}.gguf")) for name, url in good.items()]
    escaping = asked("escapes", server.add("escapes.gguf", b"GGUF"))
    bad = {
        "missing": (asked("missing", f"{server.url}/missing.gguf"), "404 Not Found"),
        "wrong": (asked("wrong", server.add("wrong.gguf", size=MIB), "0" * 64), "0" * 64),
        "stalls": (asked("stalls", server.add("stalls.gguf", size=MIB, stall_after=0)), "stalls.gguf"),
        "large": (asked("large", server.add("large.gguf", size=9 * MIB)), "download_limit_mb"),
        "escapes": (
            replace(escaping, files=(replace(escaping.files[0], filename="../escapes.gguf"),)),
            "leads out of the models directory",
        ),
    }
    requests[7:7] = [request for request, _ in bad.values()]

    uuids = {request.name: await gallery.apply(request) for request in requests}
    statuses = {name: await final(gallery, uuid) for name, uuid in uuids.items()}
    assert {name for name, status in statuses.items() if status.phase is Phase.COMPLETED} == set(good)
    for name, (_, said) in bad.items():
        assert statuses[name].phase is Phase.FAILED
        assert said in statuses[name].error and len(statuses[name].error) < 400
    assert left(settings) == {f"{name}{suffix}" for name in good for suffix in (".yaml", ".gguf")}
    assert not (tmp_path / "escapes.gguf").exists()
    for name in good:
        assert (settings.models_path / f"{name}.gguf").stat().st_size == server.files[f"/{name}.gguf"].size


async def test_two_jobs_that_want_one_file_fetch_it_once(
    start: Start, settings: GallerySettings, server: FileServer
) -> None:
    gallery = await start(settings)
    url = server.add("shared.gguf", size=4 * MIB, rate=8 * MIB)
    shared = File("shared.gguf", url, server.sha256("shared.gguf"))
    config = {"backend": "llama-cpp", "parameters": {"model": "shared.gguf"}}
    uuids = [
        await gallery.apply(InstallRequest(name=name, config_file=config, files=(shared,))) for name in ("one", "two")
    ]
    assert [(await final(gallery, uuid)).phase for uuid in uuids] == [Phase.COMPLETED] * 2
    assert server.served["/shared.gguf"] < 5 * MIB
    assert (await final(gallery, await gallery.delete("one"))).phase is Phase.COMPLETED
    assert left(settings) == {"two.yaml", "shared.gguf"}, "the other model needs the file"


async def test_cancelling_leaves_nothing(start: Start, settings: GallerySettings, server: FileServer) -> None:
    gallery = await start(settings)
    uuid = await gallery.apply(asked("llama", server.add("llama.gguf", size=64 * MIB, rate=MIB)))
    await until(lambda: server.served["/llama.gguf"] > MIB // 2)
    assert (await gallery.cancel(uuid)).phase is Phase.CANCELLED
    assert left(settings) == set()


# ---- galleries that fail ----


async def test_a_gallery_that_cannot_be_read(start: Start, settings: GallerySettings, server: FileServer) -> None:
    index = yaml.safe_dump([{"name": "llama", "config_file": {"backend": "echo"}}])
    galleries = (
        GalleryAddress("gone", f"{server.url}/gone.yaml"),
        GalleryAddress("mine", server.add("index.yaml", index)),
    )
    gallery = await start(replace(settings, galleries=galleries))
    assert [item.entry.name for item in (await gallery.available()).items] == ["llama"]
    assert "404" in (await gallery.problems())["gone"]
    assert (await final(gallery, await gallery.apply(InstallRequest(id="llama")))).phase is Phase.COMPLETED


# ---- what the settings want ----


async def test_preloading(start: Start, settings: GallerySettings, server: FileServer) -> None:
    by_address = server.add("models/phi.yaml", "name: phi-2\nbackend: echo\n")
    wanted = replace(
        settings,
        preload=(
            InstallRequest(config_url=by_address),
            InstallRequest(id="unheard-of"),
            asked("llama", server.add("llama.gguf", b"GGUF")),
        ),
    )
    gallery = await start(wanted)
    statuses = [await final(gallery, uuid) for uuid in await gallery.jobs()]
    assert [status.phase for status in statuses] == [Phase.COMPLETED, Phase.FAILED, Phase.COMPLETED]
    assert left(settings) == {"phi-2.yaml", "llama.yaml", "llama.gguf"}
    await gallery.stop()

    (settings.models_path / "llama.yaml").write_text("name: llama\nbackend: echo\n")
    requests = len(server.requests)
    gallery = await start(wanted)
    again = [await final(gallery, uuid) for uuid in [*await gallery.jobs()][3:]]
    assert [status.error for status in again] == ["no model found with name 'unheard-of'"], "the others are there"
    assert len(server.requests) == requests
    assert "echo" in (settings.models_path / "llama.yaml").read_text()


async def test_preloading_what_someone_else_has_put_there(
    start: Start, settings: GallerySettings, server: FileServer
) -> None:
    """Only the YAML says the model's name."""
    settings.models_path.mkdir()
    (settings.models_path / "phi-2.yaml").write_text("name: phi-2\nbackend: llama-cpp\n")
    url = server.add("models/phi.yaml", "name: phi-2\nbackend: echo\n")
    gallery = await start(replace(settings, preload=(InstallRequest(config_url=url),)))
    (uuid,) = await gallery.jobs()
    assert (await final(gallery, uuid)).phase is Phase.COMPLETED
    assert "llama-cpp" in (settings.models_path / "phi-2.yaml").read_text()


async def test_a_preload_that_was_interrupted_goes_on_and_is_not_begun_twice(
    start: Start, settings: GallerySettings, server: FileServer
) -> None:
    url = server.add("llama.gguf", size=4 * MIB, rate=MIB)
    wanted = replace(settings, preload=(asked("llama", url),))
    gallery = await start(wanted)
    await until(lambda: server.served["/llama.gguf"] > MIB // 2)
    await gallery.stop()
    server.files["/llama.gguf"].rate = 0
    gallery = await start(wanted)
    (uuid,) = await gallery.jobs()
    assert (await final(gallery, uuid)).phase is Phase.COMPLETED


# ---- configs whose files aren't there ----


async def test_files_that_a_hand_written_config_names_are_fetched(
    start: Start, settings: GallerySettings, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    """LocalAI fetches them when it starts."""
    url = server.add("whole.gguf", b"GGUF 1")
    linked = {"name": "linked", "backend": "llama-cpp", "parameters": {"model": server.add("linked.gguf", b"GGUF 2")}}
    written = {
        "whole": f"# Mine.\nname: whole\nbackend: llama-cpp\ndownload_files: [{{filename: whole.gguf, uri: {url}}}]",
        "linked": yaml.safe_dump(linked),
        "there": f"name: there\nbackend: llama-cpp\ndownload_files: [{{filename: there.gguf, uri: {server.url}/no}}]",
        "misnamed": yaml.safe_dump({**linked, "name": "other"}),
        "several": yaml.safe_dump([{**linked, "name": "several"}, {"name": "b"}]),
        "broken": f"name: broken\ndownload_files: [{{filename: 7, uri: {url}}}]\nparameters: {{model: 'https://'}}",
    }
    settings.models_path.mkdir()
    for name, text in written.items():
        (settings.models_path / f"{name}.yaml").write_text(text)
    (settings.models_path / "there.gguf").write_bytes(b"GGUF 3")

    gallery = await start(settings)
    statuses = {status.model: await final(gallery, uuid) for uuid, status in (await gallery.jobs()).items()}
    assert {name: (status.phase, status.error) for name, status in statuses.items()} == {
        "whole": (Phase.COMPLETED, ""),
        "linked": (Phase.COMPLETED, ""),
    }
    for text in ("misnamed.yaml: ['linked.gguf'] can't", "several.yaml: ['linked.gguf'] can't"):
        assert text in caplog.text
    assert (settings.models_path / "whole.gguf").read_bytes() == b"GGUF 1"
    assert (settings.models_path / "whole.yaml").read_text() == written["whole"], "it is as it was written"
    installed = yaml.safe_load((settings.models_path / "linked.yaml").read_text())
    assert installed["parameters"]["model"] == "linked.gguf"
    assert (settings.models_path / "linked.yaml.bak").read_text() == written["linked"]

    (settings.models_path / "whole.gguf").unlink()
    await gallery.reload()
    assert (await final(gallery, [*await gallery.jobs()][-1])).phase is Phase.COMPLETED
    assert (settings.models_path / "whole.gguf").exists()


# ---- kill -9 ----

RUN = """
import asyncio, json, sys
from pathlib import Path
from gallery.actor import Gallery
from gallery.request import File, InstallRequest
from gallery.settings import DownloadSettings, GallerySettings

class NoModels:
    async def reload(self): pass
    async def removed(self, name): pass

async def main(folder, request):
    downloads = DownloadSettings(allow=("127.0.0.1",), connections=2, min_free=0)
    gallery = Gallery(GallerySettings(folder / "models", folder / "data", f"sqlite:///{folder}/data/manta.db",
                                      downloads=downloads), NoModels())
    await gallery.start()
    await gallery.apply(InstallRequest.from_json(json.loads(request)))
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def test_a_killed_gallery_goes_on_where_it_stood(
    start: Start, settings: GallerySettings, server: FileServer, tmp_path: Path
) -> None:
    size = 96 * MIB
    url = server.add("llama.gguf", size=size, seed=7, rate=20 * MIB)
    request = json.dumps(asked("llama", url, server.sha256("llama.gguf")).to_json())
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, str(tmp_path), request)
    try:
        await until(lambda: server.served["/llama.gguf"] > size // 2, seconds=30)
    finally:
        process.kill()
        await process.wait()
    assert not (settings.models_path / "llama.gguf").exists()

    server.files["/llama.gguf"].rate = 0
    gallery = await start(settings)
    (uuid,) = await gallery.jobs()
    status = await final(gallery, uuid)
    assert (status.phase, status.error) == (Phase.COMPLETED, "")
    assert server.served["/llama.gguf"] < size + 2 * 10 * MIB, "8 MiB a connection, and what was on its way"
    assert left(settings) == {"llama.yaml", "llama.gguf"}
