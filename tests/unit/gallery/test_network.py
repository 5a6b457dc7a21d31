"""Network: what may be reached, what goes along with a redirect, and what failures mean."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Busy, Interrupted
from gallery.network import MAX_REDIRECTS, Network, is_public, shown
from gallery.settings import DownloadSettings
from tests.file_server import FileServer

LOOPBACK = ("127.0.0.1",)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


async def fetch(url: str, *, allow: tuple[str, ...] = LOOPBACK, stall_timeout: float = 10.0, **fields: Any) -> bytes:
    async with (
        Network(DownloadSettings(allow=allow, stall_timeout=stall_timeout)) as network,
        network.get(url, **fields) as answer,
    ):
        return await answer.read(1 << 20)


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.121.4", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"])
async def test_loopback_is_refused(server: FileServer, host: str) -> None:
    server.add("a", b"secret")
    with pytest.raises(
        ConfigInvalid, match=r"has the address (127\.0\.0\.1|::ffff:7f00:1|::1), .*MANTA_DOWNLOAD_ALLOW"
    ):
        await fetch(f"http://{host}:{server.port}/a", allow=())
    assert not server.requests


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
async def test_other_spellings_of_loopback_are_refused(server: FileServer, host: str) -> None:
    with pytest.raises((ConfigInvalid, DownloadFailed)):
        await fetch(f"http://{host}:{server.port}/a", allow=())
    assert not server.requests


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "127.0.0.1:{port}", " 127.0.0.1 "])
async def test_addresses_can_be_allowed(server: FileServer, entry: str) -> None:
    url = server.add("a", b"hello")
    assert await fetch(url, allow=(entry.format(port=server.port),)) == b"hello"


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "localhost", "127.0.0.1:1", "files.example"])
async def test_other_entries_do_not_allow_it(server: FileServer, entry: str) -> None:
    with pytest.raises(ConfigInvalid):
        await fetch(server.add("a", b"hello"), allow=(entry,))


@pytest.mark.parametrize("entry", ["localhost", "LocalHost", "localhost:{port}"])
async def test_a_host_allowed_by_name_is_allowed_by_that_name_alone(server: FileServer, entry: str) -> None:
    server.add("a", b"hello")
    allow = (entry.format(port=server.port),)
    assert await fetch(f"http://localhost:{server.port}/a", allow=allow) == b"hello"
    with pytest.raises(ConfigInvalid):
        await fetch(f"http://127.0.0.1:{server.port}/a", allow=allow)


@pytest.mark.parametrize("entry", ["http://host", "host/path", "10.0.0.0/33", "", "a b", "user@host", "host:port"])
def test_wrong_entries_are_named(entry: str) -> None:
    with pytest.raises(ConfigInvalid, match="MANTA_DOWNLOAD_ALLOW"):
        Network(DownloadSettings(allow=(entry,)))


async def test_a_redirect_to_an_address_that_is_not_allowed_is_refused(server: FileServer, other: FileServer) -> None:
    url = server.add("a", redirect=other.add("b", b"secret"))
    with pytest.raises(ConfigInvalid, match="MANTA_DOWNLOAD_ALLOW"):
        await fetch(url, allow=(f"127.0.0.1:{server.port}",))
    assert not other.requests


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes files.example resolve to both loopback addresses."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **fields: Any) -> Any:
        if host != "files.example":
            return resolve(host, port, *rest, **fields)
        addresses = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("two_addresses")
async def test_each_address_of_a_host_is_checked(server: FileServer) -> None:
    server.add("a", b"hello")
    url = f"http://files.example:{server.port}/a"
    with pytest.raises(ConfigInvalid, match=r"files\.example has the address (::1|127\.0\.0\.1)"):
        await fetch(url, allow=())
    assert not server.connections
    assert await fetch(url, allow=("127.0.0.1",)) == b"hello"
    with pytest.raises(Interrupted, match="no connection"):
        await fetch(url, allow=("::1",))  # where nobody listens; the other address isn't tried


async def test_a_trusted_network_checks_nothing(server: FileServer) -> None:
    async with Network(DownloadSettings(), trusted=True) as network, network.get(server.add("a", b"hello")) as answer:
        assert await answer.read(100) == b"hello"


# ---- redirects and credentials ---------------------------------------------------------------------------------------


async def test_redirects_are_followed_and_their_headers_kept(server: FileServer) -> None:
    server.add("c", b"hello")
    server.add("b", redirect="/c", headers={"X-Linked-Size": "5"})
    url = server.add("a", redirect="b", status=307)
    async with Network(DownloadSettings(allow=LOOPBACK)) as network, network.get(url) as answer:
        assert await answer.read(100) == b"hello"
        assert [headers.get("X-Linked-Size") for headers in answer.redirects] == [None, "5"]


async def test_redirects_without_end(server: FileServer) -> None:
    url = server.add("a", redirect="/a")
    with pytest.raises(DownloadFailed, match="more than 10 redirects") as caught:
        await fetch(url)
    assert not isinstance(caught.value, Interrupted)
    assert len(server.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a", "file:///etc/passwd", "data:,hello"])
async def test_redirects_to_other_schemes(server: FileServer, target: str) -> None:
    with pytest.raises(DownloadFailed, match="redirected to"):
        await fetch(server.add("a", redirect=target))


async def test_credentials_stay_with_the_server_they_are_for(server: FileServer, other: FileServer) -> None:
    other.add("c", b"hello")
    server.add("b", redirect=f"{other.url}/c")
    url = server.add("a", redirect="/b")
    headers = {"authorization": "Bearer secret", "Cookie": "secret", "X-Kept": "yes"}
    assert await fetch(url, headers=headers) == b"hello"
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer secret"] * 2
    assert other.requests[0].headers["x-kept"] == "yes"
    assert not {"authorization", "cookie"} & set(other.requests[0].headers)


async def test_user_and_password_of_the_url(server: FileServer, other: FileServer) -> None:
    server.add("a", redirect=f"http://spy:spy@127.0.0.1:{other.port}/c")
    with pytest.raises(DownloadFailed) as caught:
        await fetch(f"http://user:pass%3Aword@127.0.0.1:{server.port}/a?token=secret")
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwYXNzOndvcmQ="
    assert "authorization" not in other.requests[0].headers
    assert caught.value.message == f"GET http://127.0.0.1:{other.port}/c: 404 Not Found"


def test_what_is_secret_in_a_url_is_not_shown() -> None:
    assert shown("https://user:secret@host:8443/a%20b/c?X-Signature=secret#secret") == "https://host:8443/a b/c?…"


@pytest.mark.parametrize("url", ["ftp://host/a", "file:///etc/passwd", "http:///a", "host/a", "http://host:99999/"])
async def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigInvalid):
        await fetch(url)


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
async def test_statuses_that_no_other_try_mends(server: FileServer, status: int) -> None:
    with pytest.raises(DownloadFailed, match=rf"GET {server.url}/a\?…: {status} [A-Z]") as caught:
        await fetch(server.add("a", status=status) + "?token=secret")
    assert not isinstance(caught.value, Interrupted)


@pytest.mark.parametrize(("status", "kind"), [(429, Busy), (503, Busy), (500, Interrupted), (502, Interrupted)])
async def test_statuses_that_another_try_may_mend(server: FileServer, status: int, kind: type[Interrupted]) -> None:
    with pytest.raises(Interrupted) as caught:
        await fetch(server.add("a", status=status, headers={"Retry-After": "7"}))
    assert type(caught.value) is kind
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("kind", ["date", "nonsense", "none"])
async def test_retry_after_as_a_date_and_as_nonsense(server: FileServer, kind: str) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    value = {"date": soon, "nonsense": "later", "none": ""}[kind]
    with pytest.raises(Busy) as caught:
        await fetch(server.add("a", status=503, headers={"Retry-After": value}))
    after = caught.value.retry_after
    assert 90 < (after or 0) <= 100 if kind == "date" else after is None


async def test_no_server(server: FileServer) -> None:
    with FileServer() as gone:
        url = gone.add("a", b"hello")
    with pytest.raises(Interrupted, match="no connection"):
        await fetch(url)


@pytest.mark.parametrize("after", [0, 3])
async def test_a_body_that_stalls(server: FileServer, after: int) -> None:
    url = server.add("a", b"hello", stall_after=after)
    with pytest.raises(Interrupted, match=r"no byte came for 0\.2 s"):
        await fetch(url, stall_timeout=0.2)


async def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody is there
        port = silent.getsockname()[1]
        with pytest.raises(Interrupted, match=r"no byte came for 0\.2 s"):
            await fetch(f"http://127.0.0.1:{port}/a", stall_timeout=0.2)


async def test_slow_is_not_stalled(server: FileServer) -> None:
    url = server.add("a", b"x" * 200, rate=400)
    assert await fetch(url, stall_timeout=0.3) == b"x" * 200


async def test_a_body_that_is_cut_off(server: FileServer) -> None:
    with pytest.raises(Interrupted, match="the connection broke"):
        await fetch(server.add("a", b"hello", cut_after=3))


async def test_a_body_that_is_too_large(server: FileServer) -> None:
    with pytest.raises(DownloadFailed, match="more than 1048576 bytes"):
        await fetch(server.add("a", size=2 << 20))


# ---- certificates and proxies ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


async def test_certificates(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    settings = DownloadSettings(allow=LOOPBACK)
    with FileServer(tls) as server:
        url = server.add("a", b"hello")
        async with Network(settings, cafile=certificate[0]) as network, network.get(url) as answer:
            assert await answer.read(100) == b"hello"
        with pytest.raises(DownloadFailed, match="certificate is not trusted") as caught:
            await fetch(url)
        assert not isinstance(caught.value, Interrupted)
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigInvalid, match=r"empty\.pem"):
        Network(settings, cafile=tmp_path / "empty.pem")
    with pytest.raises(ConfigInvalid, match=r"none\.pem"):
        Network(settings, cafile=tmp_path / "none.pem")


async def test_proxies_of_the_environment_are_for_trusted_servers_alone(
    server: FileServer, other: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    assert await fetch(other.add("a", b"hello")) == b"hello"
    assert not server.requests
    with pytest.raises(DownloadFailed, match="404"):
        async with Network(DownloadSettings(), trusted=True) as network, network.get(f"{other.url}/a"):
            pytest.fail("the proxy has no such file")
    assert [request.path for request in server.requests] == [f"{other.url}/a"]
