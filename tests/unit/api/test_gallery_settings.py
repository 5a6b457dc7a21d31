"""Settings of the gallery: galleries, downloads, and what is installed at the start."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from api.settings import PROJECT, Settings, load_settings
from deployments.errors import ConfigInvalid
from gallery.request import File, InstallRequest
from gallery.settings import ALL_SCHEMES, DownloadSettings, Gallery, GallerySettings

STARTER = PROJECT / "configs" / "gallery"


def load(directory: Path, file: str = "", **env: str) -> Settings:
    """Settings of this file and this environment only."""
    (directory / "server.yaml").write_text(file)
    return load_settings(Path("server.yaml"), env, directory)


def gallery_settings(directory: Path, file: str = "", **env: str) -> GallerySettings:
    return load(directory, file, **env).gallery_settings()


def test_defaults(tmp_path: Path) -> None:
    settings = gallery_settings(tmp_path)
    assert settings == GallerySettings(
        models_path=tmp_path / "models",
        data_path=tmp_path / "data",
        database_url=f"sqlite:///{tmp_path}/data/manta.db",
        galleries=(
            Gallery("manta", f"file://{STARTER}/starter.yaml"),
            Gallery("localai", "github:mudler/LocalAI/gallery/index.yaml@master"),
        ),
        downloads=DownloadSettings(file_roots=(str(STARTER),)),
    )
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_shipped_file_is_what_the_defaults_say(tmp_path: Path) -> None:
    shipped = load_settings(None, {}, tmp_path).gallery_settings()
    assert shipped.downloads == DownloadSettings(file_roots=(str(STARTER),))
    assert (shipped.parallel_jobs, shipped.preload) == (4, ())


def test_from_the_environment(tmp_path: Path) -> None:
    settings = gallery_settings(
        tmp_path,
        GALLERIES='[{"name": "a", "url": "s3://a"}, {"name": "b", "url": "file:///b", "allow_pickles": true}]',
        MANTA_DATABASE_URL="postgresql://u:p@h/db",
        MANTA_DOWNLOAD_ALLOW="127.0.0.1, hub.internal:8443,10.0.0.0/8,[::1]:80",
        MANTA_FILE_ROOTS="/srv/models,weights",
        MANTA_DOWNLOAD_SCHEMES="https,HF://",
        MANTA_DOWNLOAD_CONNECTIONS="2",
        MANTA_DOWNLOAD_STALL_TIMEOUT="5s",
        MANTA_DOWNLOAD_RETRIES="0",
        MANTA_MIN_FREE_DISK_MB="10",
        MANTA_DOWNLOAD_LIMIT_MB="20",
        MANTA_PARALLEL_JOBS="3",
        MANTA_GALLERY_TTL="10m",
        HF_MIRROR="mirror.example/",
        HF_TOKEN="hf_secret",
    )
    assert settings.galleries == (Gallery("a", "s3://a"), Gallery("b", "file:///b", allow_pickles=True))
    assert settings.database_url == "postgresql://u:p@h/db"
    assert (settings.parallel_jobs, settings.index_ttl) == (3, 600)
    assert settings.downloads == DownloadSettings(
        schemes=("https", "hf"),
        allow=("127.0.0.1", "hub.internal:8443", "10.0.0.0/8", "[::1]:80"),
        file_roots=(str(STARTER), "/srv/models", str(tmp_path / "weights")),
        connections=2,
        stall_timeout=5.0,
        retries=0,
        min_free=10 << 20,
        limit=20 << 20,
        hf_endpoint="https://mirror.example",
        hf_token="hf_secret",
    )


def test_from_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        base_url: https://ai.example/manta/
        gallery:
          galleries: [{name: ours, url: "https://o/index.yaml"}]
          download_allow: [10.0.0.0/8]
          disable_gallery_endpoint: true
        """,
        MANTA_PARALLEL_JOBS="1",
    )
    assert settings.base_url == "https://ai.example/manta"
    assert settings.gallery_settings().galleries == (Gallery("ours", "https://o/index.yaml"),)
    assert settings.gallery.disable_gallery_endpoint
    assert settings.origin["gallery.galleries"] == str(tmp_path / "server.yaml")
    assert settings.origin["gallery.parallel_jobs"] == "MANTA_PARALLEL_JOBS (environment)"


def test_no_galleries_at_all(tmp_path: Path) -> None:
    assert gallery_settings(tmp_path, GALLERIES="[]").galleries == ()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, "", HF_TOKEN="hush-1", MANTA_DATABASE_URL="postgresql://u:hush-2@h/db")
    assert "hush" not in repr(settings) + repr(settings.gallery_settings())


# ---- installed at the start ------------------------------------------------------------------------------------------


def test_preloaded_models(tmp_path: Path) -> None:
    (tmp_path / "preload.yaml").write_text("- id: two\n- url: github:o/r/base.yaml\n  name: three\n")
    (tmp_path / "mine.yaml").write_text("backend: echo\n")
    file = {"filename": "x.gguf", "uri": "https://x/x.gguf", "sha256": "ab" * 32}
    settings = gallery_settings(
        tmp_path,
        PRELOAD_MODELS=json.dumps([{"id": "test@one", "overrides": {"a": {"b": 1}}, "files": [file]}]),
        PRELOAD_MODELS_CONFIG="preload.yaml",
        MODELS="four, g@five:q4, ollama://gemma:2b, hf.co/o/r/x.yaml, mine.yaml",
    )
    assert settings.preload == (
        InstallRequest(
            id="test@one", overrides={"a": {"b": 1}}, files=(File("x.gguf", "https://x/x.gguf", "ab" * 32),)
        ),
        InstallRequest(id="two"),
        InstallRequest(url="github:o/r/base.yaml", name="three"),
        InstallRequest(id="four"),
        InstallRequest(id="g@five:q4"),
        InstallRequest(weights_uri="ollama://gemma:2b"),
        InstallRequest(weights_uri="hf.co/o/r/x.yaml"),
        InstallRequest(config_file={"backend": "echo"}, name="mine"),
    )


def test_preloaded_models_of_the_file(tmp_path: Path) -> None:
    file = "gallery: {preload_models: [{id: one, overrides: {context_size: 512}}], install: [two]}"
    preload = gallery_settings(tmp_path, file).preload
    assert preload == (InstallRequest(id="one", overrides={"context_size": 512}), InstallRequest(id="two"))


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "env", "words"),
    [
        ("gallery: 5", {}, ["server.yaml: gallery", "mapping such as `gallery: {galleries: …}`"]),
        ("gallery: {parallel_job: 5}", {}, ["server.yaml", "did you mean gallery.parallel_jobs?"]),
        ("gallery: {parallel_jobs: 0}", {}, ["server.yaml: gallery.parallel_jobs", "greater than or equal to 1"]),
        ("", {"GALLERIES": "nope"}, ["GALLERIES (environment): gallery.galleries", "as JSON"]),
        ("", {"GALLERIES": '{"name": "x"}'}, ["GALLERIES (environment): gallery.galleries", "tuple"]),
        ("", {"GALLERIES": '[{"name": "x"}]'}, ["gallery.galleries.0.url", "Field required"]),
        ("", {"GALLERIES": '[{"name": "x", "url": "y"}]'}, ["gallery.galleries.0.url", "expected an address"]),
        ("", {"GALLERIES": '[{"name": "a@b", "url": "https://y"}]'}, ["gallery.galleries.0.name"]),
        ("", {"GALLERIES": '[{"name": "x", "url": "https://y", "urI": 1}]'}, ["galleries.0.urI", "remove it"]),
        ("gallery: {galleries: [{name: x, url: 'a://b'}, {name: x, url: 'a://c'}]}", {}, ["the same name"]),
        ("gallery: {download_schemes: [ftp]}", {}, ["server.yaml: gallery.download_schemes.0", ", ".join(ALL_SCHEMES)]),
        ("", {"MANTA_DOWNLOAD_ALLOW": "http://x"}, ["MANTA_DOWNLOAD_ALLOW (environment)", "host:port"]),
        ("", {"MANTA_DOWNLOAD_ALLOW": "10.0.0.0/40"}, ["MANTA_DOWNLOAD_ALLOW (environment)", "10.0.0.0/40"]),
        ("", {"MANTA_DOWNLOAD_STALL_TIMEOUT": "0"}, ["MANTA_DOWNLOAD_STALL_TIMEOUT", "greater than 0"]),
        ("", {"HF_ENDPOINT": "ftp://x"}, ["HF_ENDPOINT (environment)", "https://example.org"]),
        ("", {"LOCALAI_BASE_URL": "https://x/?y"}, ["LOCALAI_BASE_URL (environment)", "base_url"]),
        (
            "",
            {"PRELOAD_MODELS": '[{"idd": "x"}]'},
            ["PRELOAD_MODELS (environment)", "preload_models.0.idd", "remove it"],
        ),
        ("", {"PRELOAD_MODELS": '[{"name": "x"}]'}, ["gallery.preload_models[0]: id", "Nothing to install"]),
        ("", {"PRELOAD_MODELS": '[{"id": "x", "name": "../y"}]'}, ["gallery.preload_models[0]: name"]),
        ("", {"PRELOAD_MODELS_CONFIG": "nope.yaml"}, ["nope.yaml", "No such file"]),
        ("", {"PRELOAD_MODELS_CONFIG": "server.yaml"}, ["server.yaml", "expected a list"]),
        ("", {"MODELS": "nope.yaml"}, ["nope.yaml", "No such file"]),
    ],
)
def test_mistakes_name_place_key_and_fix(tmp_path: Path, file: str, env: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigInvalid) as error:
        load(tmp_path, file, **env)
    for word in words:
        assert word in error.value.message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "a"}, {"idd": "x"}], "[1]"),
        ([{"id": 5}], "'id': expected a string"),
        (["x"], "[0]"),
        ([{"name": "x"}], "[0]: id: Nothing to install"),
    ],
)
def test_mistakes_in_the_list_of_models(tmp_path: Path, rows: Any, words: str) -> None:
    (tmp_path / "preload.yaml").write_text(json.dumps(rows))
    with pytest.raises(ConfigInvalid) as error:
        load(tmp_path, PRELOAD_MODELS_CONFIG="preload.yaml")
    assert "preload.yaml" in error.value.message and words in error.value.message
