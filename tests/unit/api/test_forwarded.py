"""Whose request it is, and which proxies are believed."""

import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.forwarded import ForwardedMiddleware, Front, address
from api.http import create_app
from api.ray_env import HAPROXY, haproxy, read
from api.settings import Settings, load_settings
from deployments.errors import ConfigInvalid
from tests.unit.http_clients import AppFactory
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.local_gallery import LocalGallery

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
TRUSTED = ("10.0.0.0/24", "fd00::/8")


def seen(front: Front, peer: str | None, **headers: str) -> tuple[str | None, str, set[str]]:
    """Client, scheme and the names of the headers that are left. HAProxy connects from this machine."""
    connected, told = (peer, []) if front is Front.NOTHING else ("127.0.0.1", [peer] if peer else [])
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if front is Front.HAPROXY:
        lines += [(b"x-forwarded-for", one.encode()) for one in told]
    scope: dict[str, Any] = {"client": (connected, 5) if connected else None, "scheme": "http", "headers": lines}
    middleware = ForwardedMiddleware(lambda *_: None, trusted=TRUSTED, front=front)  # type: ignore[arg-type,return-value]
    found = middleware.seen(scope)
    left = {name.decode() for name, _ in found["headers"]}
    return (found["client"] or (None,))[0], found["scheme"], left - {"x-forwarded-for"}


@pytest.mark.parametrize("front", [Front.NOTHING, Front.HAPROXY])
@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"{CLIENT}:4711", CLIENT),
        (PROXY, f"1.2.3.4, {CLIENT}", CLIENT),
        (PROXY, f"1.2.3.4, {CLIENT}, 10.0.0.2", CLIENT),
        (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (PROXY, f"{CLIENT}, unknown", PROXY),
        (PROXY, "", PROXY),
        ("::ffff:10.0.0.1", CLIENT, CLIENT),
        ("fd00::1", "[2001:db8::5]:80", "2001:db8::5"),
        (CLIENT, "1.2.3.4", CLIENT),
        (CLIENT, "10.0.0.2", CLIENT),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(
    front: Front, peer: str, forwarded_for: str, client: str
) -> None:
    assert seen(front, peer, x_forwarded_for=forwarded_for)[0] == client


@pytest.mark.parametrize("front", [Front.NOTHING, Front.HAPROXY])
def test_headers_of_trusted_proxies_stay(front: Front) -> None:
    said = {"x_forwarded_proto": "https", "x_forwarded_host": "h", "x_forwarded_prefix": "/p", "accept": "*/*"}
    names = {name.replace("_", "-") for name in said}
    assert seen(front, PROXY, **said) == (PROXY, "https", names)
    assert seen(front, CLIENT, **said) == (CLIENT, "http", {"accept"})
    assert seen(front, PROXY, x_forwarded_proto="gopher")[1] == "http"


def test_behind_a_haproxy_that_tells_nothing_nobody_is_believed() -> None:
    said = {"x_forwarded_for": PROXY, "x_forwarded_proto": "https", "x_forwarded_host": "h"}
    assert seen(Front.MUTE_HAPROXY, PROXY, **said) == (None, "http", set())


def test_what_stands_in_front_is_in_the_environment() -> None:
    assert Front.of({}) is Front.NOTHING
    assert Front.of(read()) is Front.MUTE_HAPROXY
    assert Front.of({**read(), **haproxy()}) is Front.HAPROXY
    assert Front.of({**read(), "RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/sbin/haproxy"}) is Front.MUTE_HAPROXY


def test_serve_can_start_the_script_and_the_script_haproxy() -> None:
    assert HAPROXY.stat().st_mode & 0o111
    assert haproxy()["MANTA_HAPROXY"].endswith("/haproxy")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4"),
        ("::1", "::1"),
        ("2001:db8::5:80", "2001:db8::5:80"),
        ("[::1]", "::1"),
        ("[::1]:80", "::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("", "None"),
        ("unknown", "None"),
        ("1.2.3.4:x", "None"),
        ("_hidden:80", "None"),
    ],
)
def test_addresses_as_proxies_write_them(text: str, found: str) -> None:
    assert str(address(text)) == found


@pytest.mark.parametrize(("peer", "link"), [(PROXY, "https://ai.example.org/manta/"), (CLIENT, "http://manta/")])
async def test_links_and_the_log_go_by_it(
    make_app: AppFactory, peer: str, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = {
        "X-Forwarded-For": CLIENT,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "ai.example.org",
        "X-Forwarded-Prefix": "/manta",
    }
    app = make_app(trusted_proxies=TRUSTED)
    with caplog.at_level(logging.INFO, "manta.request"):
        async with client_from(app, peer) as client:
            answer = await client.post("/models/apply", json={"id": "tiny"}, headers=said)
    assert answer.json()["status"].startswith(f"{link}models/jobs/")
    assert caplog.records[-1].client == CLIENT  # type: ignore[attr-defined]


async def test_by_default_proxies_on_this_machine_are_trusted() -> None:
    app = create_app(Settings(), LocalDispatch(), LocalGallery(), LocalCluster())
    for peer, scheme in (("127.0.0.1", "https"), ("::1", "https"), ("192.168.0.5", "http")):
        async with client_from(app, peer) as client:
            answer = await client.post(
                "/models/apply", json={"id": "tiny"}, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": CLIENT}
            )
        assert answer.json()["status"].startswith(f"{scheme}://")


def test_what_is_no_network_is_refused_at_the_start() -> None:
    assert load_settings(env={"MANTA_TRUSTED_PROXIES": "10.0.0.1, 10.1.0.9/16"}).trusted_proxies[1] == "10.1.0.9/16"
    with pytest.raises(ConfigInvalid, match=r"MANTA_TRUSTED_PROXIES.*trusted_proxies.*10\.1\.0\.0/16, got 'nginx'"):
        load_settings(env={"MANTA_TRUSTED_PROXIES": "nginx"})


def client_from(app: FastAPI, peer: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 5)), base_url="http://manta")
