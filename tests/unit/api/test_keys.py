"""API keys as they are written down, the file that is watched, and the list of them."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api import keyring as module
from api.keyring import Keyring
from api.keys import OPEN, Key, Role, read_key_file
from api.settings import Settings, load_settings
from deployments.errors import ConfigInvalid
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.waiting import until

SECRET = "sk-secret"
SHA256 = hashlib.sha256(SECRET.encode()).hexdigest()

Ring = Callable[..., Keyring]


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    """Makes a keyring whose file is in `tmp_path/configuration`."""

    def make(guarded: bool = False, **settings: Any) -> Keyring:
        return Keyring(Settings(config_dir=tmp_path / "configuration", **settings), guarded=guarded)

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "configuration" / "api_keys.json"


def write(path: Path, rows: object) -> None:
    """As a text editor does: a new file in the place of the old one."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    fresh.replace(path)


def found(keyring: Keyring, key: str) -> Key:
    known = keyring.find(key.encode())
    assert known
    return known


# ---- what a key is ---------------------------------------------------------------------------------------------------


def test_a_bare_key_is_an_admin_s_and_has_no_limits(ring: Ring) -> None:
    key = found(ring(api_keys=(SECRET,)), SECRET)
    assert key == Key(f"key-{SHA256[:6]}", Role.ADMIN, SHA256[:12])
    assert key.may_use("anything")


@pytest.mark.parametrize(
    "row", [{"key": SECRET}, {"key": f" {SECRET}\n"}, {"sha256": SHA256}, {"sha256": SHA256.upper()}]
)
def test_a_row_is_a_user_s_unless_it_says_otherwise(ring: Ring, row: dict[str, str]) -> None:
    keyring = ring(keys=[{**row, "name": "Jim", "models": "a, b-*", "requests_per_minute": 3}])
    assert found(keyring, SECRET) == Key("Jim", Role.USER, SHA256[:12], ("a", "b-*"), {"requests": 3})


def test_models_are_names_and_patterns() -> None:
    key = Key("k", Role.USER, "t", ("gpt-4", "org/*"))
    assert key.may_use("gpt-4")
    assert key.may_use("llama", "org/llama")
    assert not key.may_use("gpt-4o", None)


def test_names_of_keys_that_begin_alike_are_longer(ring: Ring) -> None:
    rows = [{"sha256": "abcdef" + digit * 58} for digit in "123"]
    assert sorted(key.name for key in ring(keys=rows)) == ["key-abcdef", "key-abcdef222222", "key-abcdef333333"]


def test_settings_for_other_processes_hold_no_key(tmp_path: Path) -> None:
    settings = Settings(config_dir=tmp_path, api_keys=("one",), keys=[{"key": SECRET, "name": "Jim"}])
    shared = settings.without_keys()
    assert shared.api_keys == () and all(row.key is None for row in shared.keys)
    assert list(Keyring(shared)) == list(Keyring(settings))
    assert SECRET not in repr(settings)


def test_the_server_s_own_tools_take_an_admin_s_key() -> None:
    assert Settings(keys=[{"key": "jim"}, {"sha256": SHA256}, {"key": "boss", "role": "admin"}]).own_key() == "boss"
    assert Settings(keys=[{"sha256": SHA256}]).own_key() == ""


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (f"[{{key: {SECRET}, rpm: 3}}]", "keys.0.rpm: no such setting; remove it"),
        ("[{name: Jim}]", "keys.0: expected `key`, or in its place `sha256`"),
        (f"[{{key: {SECRET}, sha256: '{SHA256}'}}]", "keys.0: expected `key`, or in its place `sha256`"),
        ("[{key: ' '}]", "keys.0.key: expected a key, got an empty one"),
        ("[{sha256: abc}]", "keys.0.sha256"),
        (f"[{{key: {SECRET}, role: root}}]", "keys.0.role: Input should be 'admin', 'user' or 'read-only'"),
        (f"[{{key: {SECRET}, requests_per_minute: 0}}]", "keys.0.requests_per_minute"),
        (f"[{{key: {SECRET}, models: []}}]", "keys.0.models"),
        ("[{key: a, name: Jim}, {key: b, name: Jim}]", "keys: name: another key is called 'Jim'"),
        ("[{key: a, name: anonymous}]", "keys: name: another key is called 'anonymous'"),
        ("[{key: a, name: Jim}, {key: a, name: Ann}]", "keys: Ann is a key that stands elsewhere with other rights"),
    ],
)
def test_mistakes_in_the_settings(tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "server.yaml").write_text(f"keys: {rows}\n")
    with pytest.raises(ConfigInvalid) as raised:
        load_settings(tmp_path / "server.yaml", env={}, directory=tmp_path)
    assert "server.yaml" in raised.value.message
    assert words in raised.value.message
    assert SECRET not in raised.value.message and SHA256 not in raised.value.message


def test_an_empty_key_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text("api_keys: [' ']\n")
    with pytest.raises(ConfigInvalid, match="expected a key, found nothing"):
        load_settings(tmp_path / "server.yaml", env={}, directory=tmp_path)


BROKEN: list[tuple[str, str]] = [
    ("", "Invalid JSON"),
    ("[", "Invalid JSON"),
    ("[" * 100_000, "Invalid JSON"),
    ('"sk-secret"', "valid array"),
    ('{"keys": ["sk-secret"]}', "valid array"),
    ('["a", 5]', "[1]"),
    ('["a", {"key": "sk-secret", "rpm": 3}]', "[1].rpm: no such field; there are key, sha256, name"),
    ('[{"key": "sk-secret", "role": "root"}]', "[0].role"),
    ('["a", ""]', "[1].key: expected a key, got an empty one"),
    ('[{"key": "a", "name": "Jim"}, {"key": "b", "name": "Jim"}]', "another key is called 'Jim'"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_a_broken_file_keeps_the_keys_and_says_what_is_wrong(
    ring: Ring, path: Path, caplog: pytest.LogCaptureFixture, text: str, words: str
) -> None:
    write(path, ["old"])
    keyring = ring()
    keyring.refresh()
    write(path, text)
    with caplog.at_level(logging.ERROR):
        keyring.refresh()
        keyring.refresh()
    assert found(keyring, "old") and not keyring.open
    (error,) = (record.message for record in caplog.records if record.levelno == logging.ERROR)  # not every second
    assert str(path) in error and words in error
    assert SECRET not in caplog.text
    write(path, ["new"])
    keyring.refresh()
    assert found(keyring, "new") and not keyring.find(b"old")


def test_bytes_that_are_no_text(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(ConfigInvalid, match=r"api_keys\.json"):
        read_key_file(path)


# ---- when the server is open -----------------------------------------------------------------------------------------


def test_open_without_keys_and_guarded_once_there_were_some(ring: Ring, path: Path) -> None:
    keyring = ring()
    keyring.refresh()
    assert keyring.open and keyring.find(b"whatever") is OPEN
    write(path, [SECRET])
    keyring.refresh()
    assert not keyring.open
    assert found(keyring, SECRET).role is Role.ADMIN and keyring.find(b"whatever") is None
    path.unlink()
    keyring.refresh()
    assert not keyring.open, "a file that gets lost opens nothing"
    assert keyring.find(SECRET.encode()) is None


def test_a_file_that_was_broken_from_the_start_opens_nothing(ring: Ring, path: Path) -> None:
    write(path, "{")
    keyring = ring()
    keyring.refresh()
    assert not keyring.open


def test_who_starts_after_the_keys_went_is_not_open(ring: Ring) -> None:
    assert not ring(guarded=True).open


def test_keys_of_the_settings_stay_when_the_file_goes(ring: Ring, path: Path) -> None:
    write(path, ["from-file", "both"])
    keyring = ring(api_keys=("fixed", "both"))
    keyring.refresh()
    assert found(keyring, "fixed") and found(keyring, "from-file") and found(keyring, "both")
    path.unlink()
    keyring.refresh()
    assert found(keyring, "fixed") and found(keyring, "both") and not keyring.find(b"from-file")


def test_a_key_can_t_have_less_rights_in_the_file_than_in_the_settings(ring: Ring, path: Path) -> None:
    write(path, [{"key": "fixed", "role": "user"}])
    keyring = ring(api_keys=("fixed",))
    keyring.refresh()
    assert found(keyring, "fixed").role is Role.ADMIN


async def test_the_file_is_watched(ring: Ring, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.01)
    keyring = ring()
    watching = asyncio.create_task(keyring.watch())
    try:
        assert keyring.open  # not even the folder is there
        write(path, ["one"])
        await until(lambda: not keyring.open)
        write(path, ["two"])
        await until(lambda: keyring.find(b"two"))
        assert not keyring.find(b"one")
    finally:
        watching.cancel()


@pytest.fixture
def exchange(path: Path, tmp_path: Path) -> Callable[[str], None]:
    """Puts a list of one key in the file's place as Kubernetes does with a ConfigMap: the file is a link to `..data`,
    and that one to a folder, which is exchanged."""

    def put(key: str) -> None:
        folder = tmp_path / key
        folder.mkdir()
        (folder / "api_keys.json").write_text(json.dumps([key]))
        os.utime(folder / "api_keys.json", (0, 0))
        (path.parent / "..fresh").symlink_to(folder)
        (path.parent / "..fresh").replace(path.parent / "..data")

    path.parent.mkdir()
    path.symlink_to("..data/api_keys.json")
    return put


def test_a_config_map_is_taken_up(ring: Ring, exchange: Callable[[str], None]) -> None:
    keyring = ring()
    for key in ("one", "two"):
        exchange(key)
        keyring.refresh()
        assert [found(keyring, key)] == list(keyring)


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    assert load_settings(env={}, directory=tmp_path).config_dir == tmp_path / "configuration"
    assert load_settings(env={"LOCALAI_CONFIG_DIR": "etc"}, directory=tmp_path).config_dir == tmp_path / "etc"


# ---- the list --------------------------------------------------------------------------------------------------------


async def test_the_list_says_all_but_the_key(make_app: AppFactory, cluster: LocalCluster) -> None:
    app = make_app(
        api_keys=("boss",),
        keys=[{"key": "j", "name": "Jim", "models": ["echo"], "requests_per_minute": 5, "tokens_per_minute": 1000}],
    )
    async with http_client(app) as client:
        for _ in range(2):
            await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-api-key": "j"})
        response = await client.get("/api/keys", headers={"x-api-key": "boss"})
        assert (await client.get("/api/keys", headers={"x-api-key": "j"})).status_code == 403
    jim, boss = response.json()
    used = jim.pop("used")
    assert jim == {
        "name": "Jim",
        "role": "user",
        "models": ["echo"],
        "requests_per_minute": 5,
        "tokens_per_minute": 1000,
    }
    assert used["requests"] == 2 and used["tokens"] > 0
    assert boss["role"] == "admin" and boss["models"] is None and boss["used"] == {"requests": None, "tokens": None}
    for key in ("boss", "j"):
        assert hashlib.sha256(key.encode()).hexdigest()[:12] not in response.text


async def test_without_keys_the_list_is_empty(make_app: AppFactory) -> None:
    async with http_client(make_app()) as client:
        assert (await client.get("/api/keys")).json() == []
