"""What web pages may do to a server without keys."""

import pytest
from starlette.datastructures import Headers

from api.cross_site import CrossSiteMiddleware, is_loopback, is_private
from api.settings import load_settings
from deployments.errors import Forbidden
from tests.unit.http_clients import AppFactory, http_client

LOCAL = "localhost:8080"
OTHER = "https://evil.example"


def refuses(method: str = "POST", *, loopback: bool = True, base_url: str | None = None, **headers: str) -> bool:
    middleware = CrossSiteMiddleware(lambda *_: None, base_url=base_url, loopback=loopback)  # type: ignore[arg-type,return-value]
    sent = {name.replace("_", "-"): value for name, value in ({"host": LOCAL} | headers).items()}
    try:
        middleware.check(method, Headers(sent))
    except Forbidden:
        return True
    return False


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),  # no browser
        ({"sec_fetch_site": "cross-site", "origin": OTHER}, True),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "cross-site", "origin": "null"}, True),
        ({"sec_fetch_site": "same-origin", "origin": "http://localhost:8080"}, False),
        ({"sec_fetch_site": "same-site", "origin": "http://localhost:3000"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://ui.example", "host": "127.0.0.1:8080"}, False),
        ({"origin": OTHER}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://[", "host": "127.0.0.1"}, True),
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "http://192.168.1.5:3000", "host": "192.168.1.5:8080"}, False),
        ({"origin": "https://ui.example", "x_forwarded_host": "ui.example"}, False),
        ({"origin": "app://obsidian.md", "sec_fetch_site": "cross-site"}, False),
        ({"origin": "vscode-webview://1abc"}, False),
    ],
)
def test_pages_of_other_sites_change_nothing(headers: dict[str, str], refused: bool) -> None:
    assert refuses(**headers) == refused
    assert refuses("DELETE", **headers) == refused
    assert not refuses("GET", **headers)
    assert not refuses("OPTIONS", **headers)


def test_the_address_in_the_settings_is_this_site() -> None:
    assert refuses(origin="https://ai.example")
    assert not refuses(origin="https://ai.example", base_url="https://ai.example/manta")


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("localhost:8080", False),
        ("LOCALHOST", False),
        ("localhost.", False),
        ("manta.localhost", False),
        ("127.0.0.1:9000", False),
        ("[::1]:8080", False),
        ("192.168.1.5", False),
        ("workstation:8080", False),
        ("workstation.local", False),
        ("host.docker.internal:8080", False),
        ("", False),
        ("evil.example:8080", True),
        ("localhost.evil.example", True),
        ("127.0.0.1.evil.example", True),
        ("[::1", True),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_name_for_loopback_is_refused(method: str, host: str, refused: bool) -> None:
    assert refuses(method, host=host) == refused
    assert not refuses(method, host=host, loopback=False)


def test_the_name_that_a_proxy_passes_on_is_in_the_settings() -> None:
    assert not refuses(host="ai.example", base_url="https://ai.example")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("manta", False)],
)
def test_where_only_this_machine_is_a_client(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_names_that_a_stranger_can_own() -> None:
    assert not any(map(is_private, ("evil.example", "a.locals", "internal.example", "local.")))


@pytest.mark.parametrize(
    ("settings", "page", "name"),
    [
        ({}, 403, 403),
        ({"api_keys": ("key",)}, 200, 200),
        ({"cors": True}, 200, 200),
        ({"disable_csrf": True}, 200, 200),
        ({"address": "0.0.0.0:8080"}, 403, 200),
        ({"address": "0.0.0.0:8080", "base_url": "https://evil.example"}, 200, 200),
    ],
)
async def test_where_it_applies(make_app: AppFactory, settings: dict[str, object], page: int, name: int) -> None:
    async with http_client(make_app(**settings), headers={"Authorization": "Bearer key"}) as client:
        by_page = await client.post("/v1/completions", json={"prompt": "x"}, headers={"Origin": OTHER})
        by_name = await client.get("/v1/models", headers={"Host": "evil.example"})
        assert (by_page.status_code, by_name.status_code) == (page, name)
        assert (await client.get("/healthz", headers={"Host": "evil.example"})).status_code == 200
    if page == 403:
        assert by_page.json()["error"]["code"] == "forbidden"
        assert "CORS" in by_page.json()["error"]["message"]
    if name == 403:
        assert "base_url" in by_name.json()["error"]["message"]


def test_localais_variable_turns_it_off() -> None:
    assert load_settings(env={"DISABLE_CSRF": "true"}).disable_csrf
