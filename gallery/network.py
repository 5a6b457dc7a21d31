"""The way out to other servers: which addresses may be reached, and what it means when a request fails."""

import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from errno import EACCES
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Busy, Interrupted
from gallery.settings import DownloadSettings

MAX_REDIRECTS = 10
READ_BUFFER = 1 << 20
"""Bytes of a body that may wait, for each connection, until they are read."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_REDIRECTS = (301, 302, 303, 307, 308)
_SECRETS = ("Authorization", "Cookie", "Proxy-Authorization")
"""Headers that are for the server asked, and for none that it redirects to."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_BUSY = (429, 503)
_TRANSIENT = (408, 425)
"""In addition to 5xx: another try makes sense."""

NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        # IANA's registries of special-purpose addresses; Python's own copy differs from version to version.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Global unicast is 2000::/3; all else of IPv6 is something else, and so is some of that.
        *("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "3fff::/20"),
        # Metadata services of clouds that have public addresses: Azure's.
        "168.63.129.16/32",
    )
)
_HOST = re.compile(r"[^\s/@?#]+")
_NAT64 = ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, after redirects. Valid inside the `async with` that gave it."""

    status: int
    headers: CIMultiDictProxy[str]
    redirects: tuple[CIMultiDictProxy[str], ...]
    """Headers of the answers that sent us on to this one, the first one first."""
    response: aiohttp.ClientResponse

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, undecoded."""
        while block := await self.response.content.readany():
            yield block

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises DownloadFailed if it is larger than `limit` bytes."""
        body = bytearray()
        async for block in self.blocks():
            body += block
            if len(body) > limit:
                raise DownloadFailed(f"GET {shown(self.response.url)}: more than {limit} bytes")
        return bytes(body)


@dataclass(slots=True)
class _Hop:
    """One request of a chain of redirects, as far as its connection is concerned."""

    host: str
    port: int | None
    refused: str = ""
    """The address that was."""
    permitted: bool = False
    """Another address was tried."""


_hop: ContextVar[_Hop] = ContextVar("_hop")
"""The socket factory sees addresses only; the host that was asked for comes to it this way."""


class Network:
    """HTTP requests to other servers, those on public addresses and those that `allow` lists. To be entered.

    The address is checked on each connection, when it is made: a name that resolves to another one by then, a
    literal, and the target of a redirect are all seen. No proxy of the environment is used: it would look names up
    behind our back. `trusted` checks nothing and uses these proxies: for servers that the operator has named.
    """

    def __init__(self, settings: DownloadSettings, *, trusted: bool = False, cafile: str | Path | None = None) -> None:
        """`cafile`: certificates to trust in place of the system's, a file or a folder. Raises ConfigInvalid."""
        self._stall_timeout = settings.stall_timeout
        self._trusted = trusted
        self._allowed = _Allowed(settings.allow)
        self._tls = _tls_context(Path(cafile)) if cafile else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # The connections of one client are bounded where they are made: gallery/download.py.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True, socket_factory=self._socket)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            headers={"User-Agent": "manta", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._stall_timeout,
                sock_connect=self._stall_timeout,
                sock_read=self._stall_timeout,
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @asynccontextmanager
    async def get(self, url: str, headers: Headers = (), *, accept: Collection[int] = (200,)) -> AsyncIterator[Answer]:
        """GET with redirects followed; the connection is closed at the end, unless the body was read.

        Raises ConfigInvalid for a URL or an address that isn't allowed, Interrupted where another try makes sense
        (Busy for 429 and 503), and DownloadFailed for every other status that isn't in `accept`. What breaks while
        the body is read is raised as Interrupted too.
        """
        sent = CIMultiDict(headers)
        target = _parsed(url, sent)
        redirects: list[CIMultiDictProxy[str]] = []
        while True:
            async with self._one(target, sent) as response:
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    if response.status not in accept:
                        raise _status_error(response)
                    yield Answer(response.status, response.headers, tuple(redirects), response)
                    return
                redirects.append(response.headers)
            if len(redirects) > MAX_REDIRECTS:
                raise DownloadFailed(f"GET {shown(url)}: more than {MAX_REDIRECTS} redirects")
            origin, target = target.origin(), _joined(target, response.headers["Location"], sent)
            if target.origin() != origin:
                for name in _SECRETS:
                    sent.popall(name, None)

    @asynccontextmanager
    async def _one(self, url: URL, headers: CIMultiDict[str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A single request, its errors translated."""
        assert self._session is not None
        hop = _Hop(_plain(url.raw_host or ""), url.port)
        _hop.set(hop)
        try:
            async with self._session.get(
                url, headers=headers, allow_redirects=False, proxy=_proxy(url) if self._trusted else None
            ) as response:
                yield response
        except aiohttp.ClientError as error:
            if hop.refused and not hop.permitted:
                raise ConfigInvalid(
                    f"{hop.host} has the address {hop.refused}, which is not public; "
                    "if files may come from there, list the host or the address in MANTA_DOWNLOAD_ALLOW"
                ) from error
            raise _translated(url, error, self._stall_timeout) from error

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for a connection, of the address info as `getaddrinfo` gives it.

        Refuses with an OSError: the connector then tries the host's other addresses, as it does for broken ones.
        """
        family, kind, protocol, _, address = info
        hop = _hop.get()
        if not self._trusted and not is_public(address[0]) and not self._allowed(hop.host, hop.port, address[0]):
            hop.refused = address[0]
            raise OSError(EACCES, "not a public address")
        hop.permitted = True
        return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether the address is one of the public Internet's; of one that wraps an IPv4 address, whether that is."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and (wrapped := _wrapped(found)) is not None:
        found = wrapped
    return not any(found in network for network in NOT_PUBLIC)


def shown(url: URL | str) -> str:
    """The URL without what may be secret: user, password, the values in its query."""
    url = URL(url)
    bare = url.with_user(None).with_query(None).with_fragment(None) if url.absolute else url.with_query(None)
    return f"{bare.human_repr()}?…" if url.raw_query_string else bare.human_repr()


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in one that is IPv4-mapped, 6to4 or NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class _Allowed:
    """The operator's list: `host`, `host:port`, an address or a network."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._hosts: set[tuple[str, int | None]] = set()
        self._networks = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry.strip(), strict=False))
            except ValueError:
                self._hosts.add(_host_and_port(entry.strip()))

    def __call__(self, host: str, port: int | None, address: str) -> bool:
        if {(host, None), (host, port)} & self._hosts:
            return True
        found = ip_address(address.partition("%")[0])
        wrapped = _wrapped(found) if isinstance(found, IPv6Address) else None
        return any(found in network or (wrapped is not None and wrapped in network) for network in self._networks)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    try:
        url = URL(f"http://{entry}")
        host, port = url.raw_host, url.explicit_port
    except ValueError:
        host, port = None, None
    if not host or not _HOST.fullmatch(entry):
        raise ConfigInvalid(
            f"MANTA_DOWNLOAD_ALLOW: {entry!r} is none of host, host:port, address and network (10.0.0.0/8)"
        )
    return _plain(host), port


def _plain(host: str) -> str:
    """A host name as it is compared."""
    return host.lower().rstrip(".")


def _parsed(url: str, headers: CIMultiDict[str]) -> URL:
    """The URL without its user and password, which go into `headers`."""
    try:
        parsed = URL(url)
    except ValueError as error:
        raise ConfigInvalid(f"not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise ConfigInvalid(f"{shown(parsed)}: expected http:// or https:// and a host")
    if parsed.user is None and parsed.password is None:
        return parsed
    headers["Authorization"] = aiohttp.encode_basic_auth(parsed.user or "", parsed.password or "")
    return parsed.with_user(None)


def _joined(url: URL, location: str, headers: CIMultiDict[str]) -> URL:
    """Where a redirect leads. Credentials that it holds are the redirecting server's own business: they are dropped."""
    try:
        target = url.join(URL(location))
    except ValueError as error:
        raise DownloadFailed(f"GET {shown(url)}: redirected to what is no URL") from error
    if target.scheme not in ("http", "https") or not target.raw_host:
        raise DownloadFailed(f"GET {shown(url)}: redirected to {shown(target)}")
    return target.with_user(None)


def _proxy(url: URL) -> str | None:
    """The environment's proxy for this URL."""
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def _tls_context(cafile: Path) -> ssl.SSLContext:
    try:
        if cafile.is_dir():
            return ssl.create_default_context(capath=cafile)
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:  # an SSLError is one
        raise ConfigInvalid(f"{cafile}: no certificates can be read: {error}") from error


def _status_error(response: aiohttp.ClientResponse) -> DownloadFailed:
    status = response.status
    phrase = _PHRASES.get(status, response.reason or "")
    message = f"GET {shown(response.url)}: {status} {phrase}".rstrip()
    if status < 500 and status not in (*_BUSY, *_TRANSIENT):
        return DownloadFailed(message)
    error = Busy(message) if status in _BUSY else Interrupted(message)
    error.retry_after = _seconds(response.headers.get("Retry-After", ""))
    return error


def _seconds(retry_after: str) -> float | None:
    """What the header says, in seconds from now: a number, or a date (RFC 9110, 10.2.3)."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _translated(url: URL, error: aiohttp.ClientError, stall_timeout: float) -> DownloadFailed:
    """The library's error as one of ours. Its own text may hold the whole URL: it isn't used."""
    message = f"GET {shown(url)}: "
    match error:
        case aiohttp.ServerTimeoutError():
            return Interrupted(f"{message}no byte came for {stall_timeout:g} s")
        case aiohttp.ClientConnectorCertificateError():
            return DownloadFailed(f"{message}its certificate is not trusted: {error.certificate_error}")
        case aiohttp.ClientSSLError():
            return DownloadFailed(f"{message}no TLS connection: {error.os_error}")
        case aiohttp.ClientConnectorDNSError() if _is_unknown_name(error.os_error):
            return DownloadFailed(f"{message}no such host")
        case aiohttp.ClientConnectorError():
            return Interrupted(f"{message}no connection: {error.os_error.strerror or error.os_error}")
        case aiohttp.InvalidURL() | aiohttp.ClientHttpProxyError():
            return DownloadFailed(f"{message}{type(error).__name__}")
    return Interrupted(f"{message}the connection broke")


def _is_unknown_name(error: OSError) -> bool:
    """Whether the name doesn't exist, rather than that no name server could be asked."""
    return isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
