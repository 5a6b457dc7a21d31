"""Where settings come from, and what is said of wrong ones."""

import logging
import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from api.environment import ACCEPTED_UNUSED
from api.setting_types import parse_address
from api.settings import DEFAULT_CONFIG, PROJECT, ModelSettings, Settings, load_settings, table
from deployments.config import ModelDefaults
from deployments.errors import ConfigInvalid


def load(directory: Path, file: str = "", **env: str) -> Settings:
    """Settings of this file and this environment only."""
    (directory / "server.yaml").write_text(file)
    return load_settings(Path("server.yaml"), env, directory)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.models_path == tmp_path / "models"
    assert (settings.json_limit_mb, settings.image_limit_mb, settings.audio_limit_mb) == (20, 50, 1024)
    assert settings.upload_limit_mb == 512
    assert settings.origin == {}
    assert settings.model_defaults() == ModelDefaults()


def test_the_shipped_file_is_what_the_defaults_say() -> None:
    assert load_settings(DEFAULT_CONFIG, {}).model_defaults() == ModelDefaults()


def test_model_settings_are_the_model_defaults() -> None:
    assert list(ModelSettings.model_fields) == [field.name for field in fields(ModelDefaults)]


def test_precedence(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOCALAI_ADDRESS=:3\nCORS=true\nTHREADS=2\n")
    (tmp_path / "localai.env").write_text("ADDRESS=:4\nTHREADS=9\nUPLOAD_LIMIT=7\n")
    file = "address: ':5'\njson_limit_mb: 1\nmodels: {threads: 4, parallel: 3}\n"
    settings = load(tmp_path, file, ADDRESS=":2")
    assert settings.address == ":3"  # the prefixed name wins, wherever it stands
    assert load(tmp_path, file, ADDRESS=":2", LOCALAI_ADDRESS=":1").address == ":1"
    assert load(tmp_path, file, MANTA_ADDRESS=":0", LOCALAI_ADDRESS=":1").address == ":0"
    assert settings.cors
    assert settings.models.threads == 2
    assert settings.models.parallel == 3
    assert settings.upload_limit_mb == 7
    assert settings.json_limit_mb == 1
    assert settings.origin == {
        "address": "LOCALAI_ADDRESS (.env)",
        "cors": "CORS (.env)",
        "models.threads": "THREADS (.env)",
        "upload_limit_mb": "UPLOAD_LIMIT (localai.env)",
        "json_limit_mb": str(tmp_path / "server.yaml"),
        "models.parallel": str(tmp_path / "server.yaml"),
    }


def test_localai_s_names(tmp_path: Path) -> None:
    env = {
        "MODELS_PATH": "/models",
        "API_KEY": "a, b",
        "CONTEXT_SIZE": "512",
        "F16": "true",
        "LLAMACPP_PARALLEL": "4",
        "LOAD_TO_MEMORY": "x,y",
        "CONFIG_FILE": "models.yaml",
        "WATCHDOG_IDLE_TIMEOUT": "1h30m",
        "MODEL_LOAD_FAILURE_COOLDOWN": "500ms",
        "SINGLE_ACTIVE_BACKEND": "true",
        "LOCALAI_LOG_LEVEL": "warn",
    }
    settings = load(tmp_path, "", **env)
    assert settings.models_path == Path("/models")
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
    defaults = settings.model_defaults()
    assert (defaults.context_size, defaults.f16, defaults.parallel) == (512, True, 4)
    assert defaults.idle_timeout == 5400
    assert settings.preload == ("x", "y")
    assert settings.models_config_file == tmp_path / "models.yaml"
    assert settings.load_failure_cooldown == 0.5
    assert settings.active_models_limit == 1
    assert settings.logging_level == "WARNING"
    assert load(tmp_path, "", DEBUG="1").logging_level == "DEBUG"
    assert load(tmp_path, "", WATCHDOG_IDLE="false").model_defaults().idle_timeout == 0


def test_an_empty_variable_is_unset_but_for_the_starter_model(tmp_path: Path) -> None:
    settings = load(tmp_path, "", API_KEY="", THREADS="", MANTA_STARTER_MODEL="")
    assert settings.api_keys == ()
    assert settings.models.threads is None
    assert settings.starter_model == ""


def test_keys_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\none\n\n two \n")
    settings = load(tmp_path, "api_key_file: keys", API_KEY="zero")
    assert [key.get_secret_value() for key in settings.api_keys] == ["zero", "one", "two"]
    assert "zero" not in repr(settings)


def test_settings_cross_processes(tmp_path: Path) -> None:
    settings = load(tmp_path, "", API_KEY="k", P2P="true")
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert copy.origin == settings.origin


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (":9090", ("0.0.0.0", 9090)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    ("file", "env", "words"),
    [
        ("json_limt_mb: 5", {}, ["server.yaml", "json_limt_mb", "did you mean json_limit_mb?"]),
        ("models: {thread: 5}", {}, ["server.yaml", "models.thread", "did you mean models.threads?"]),
        ("json_limit_mb: many", {}, ["server.yaml", "json_limit_mb", "integer"]),
        ("json_limit_mb: true", {}, ["server.yaml", "json_limit_mb", "expected a number"]),
        ("models: 5", {}, ["server.yaml", "models", "mapping"]),
        ("models: {parallel: 0}", {}, ["server.yaml", "models.parallel", "greater than or equal to 1"]),
        ("- a", {}, ["server.yaml", "mapping"]),
        ("a: [", {}, ["server.yaml", "not YAML"]),
        ("address: 8080", {}, ["server.yaml", "address", "string"]),
        ("", {"ADDRESS": "8080"}, ["ADDRESS (environment)", "address", '"127.0.0.1:8080"']),
        ("", {"LOCALAI_THREADS": "x"}, ["LOCALAI_THREADS (environment)", "models.threads"]),
        ("", {"WATCHDOG_IDLE_TIMEOUT": "1 week"}, ["WATCHDOG_IDLE_TIMEOUT", '"15m"']),
        ("", {"MANTA_API_KEY_FILE": "nope"}, ["nope", "one key a line"]),
    ],
)
def test_mistakes_name_place_key_and_fix(tmp_path: Path, file: str, env: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigInvalid) as error:
        load(tmp_path, file, **env)
    for word in words:
        assert word in error.value.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"nope\.yaml"):
        load_settings(None, {"MANTA_CONFIG": "nope.yaml"}, tmp_path)


def test_what_changes_nothing_is_reported_and_no_value_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = load(
        tmp_path, "", LOCALAI_AUTOLOAD_GALLERIES="true", P2P_TOKEN="secret", API_KEY="secret", LOCALAI_CSRF="true"
    )
    settings.log_origins()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    for name in ("LOCALAI_AUTOLOAD_GALLERIES", "P2P_TOKEN", "LOCALAI_CSRF"):
        assert any(text.startswith(f"{name} (environment) is accepted and changes nothing: ") for text in warnings)
    assert "secret" not in str([vars(record) for record in caplog.records])


def test_no_name_is_both_used_and_unused() -> None:
    rows = [row.split("|")[2] for row in table().splitlines()[2:]]
    used = {name.strip(" `").removeprefix("LOCALAI_") for row in rows for name in row.split(",")}
    assert not used & {name.removeprefix("LOCALAI_") for name in ACCEPTED_UNUSED}
    names = [name for row in rows for name in row.split(",")]
    assert len(set(names)) == len(names)


def test_every_setting_is_explained() -> None:
    for row in table().splitlines()[2:]:
        assert row.split("|")[4].strip(), row


def test_the_readme_has_the_table() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    written = readme.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    assert written.strip() == table(), "run `python -m api.settings` and put its output into README.md"


def test_a_file_of_aliases_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"names\.yaml: aliases_file: no such file; make it, or unset the setting"):
        load_settings(env={"MANTA_ALIASES_FILE": "names.yaml"}, directory=tmp_path)
    (tmp_path / "names.yaml").write_text("gpt-4: mine\n")
    assert load_settings(env={"MANTA_ALIASES_FILE": "names.yaml"}, directory=tmp_path).aliases_file
