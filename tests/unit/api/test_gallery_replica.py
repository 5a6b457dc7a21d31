"""The gallery as Serve makes it, behind the routes: everything but Ray is real."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import TypeAdapter

from api.gallery_replica import GalleryReplica, ServedModels
from api.http import create_app
from api.schemas.gallery import ListedModel
from api.settings import Settings
from api.sole_replica import SoleReplica
from deployments.samples import Samples, Snapshot
from gallery.blobs import BlobSettings
from gallery.settings import DownloadSettings, Gallery, GallerySettings
from tests.unit.http_clients import http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.paper_handles import Handle
from tests.unit.waiting import until

INDEX = """
- &base
  name: one
  description: the first
  license: apache-2.0
  tags: [chat]
  urls: [https://example.org]
  config_file: {backend: echo}
  files: [{filename: one.txt, uri: "file://WEIGHTS"}]
- !!merge <<: *base
  name: two
  overrides: {context_size: 128}
"""


class PaperController:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.samples: Samples = {}

    async def reload(self) -> dict[str, str]:
        self.told.append("reload")
        return {}

    async def removed(self, name: str) -> None:
        self.told.append(name)

    async def report_metrics(self, snapshot: Snapshot) -> None:
        self.samples |= snapshot.samples

    def handle(self) -> Handle:
        return Handle(reload=self.reload, removed=self.removed, report_metrics=self.report_metrics)


@pytest.fixture
def controller() -> PaperController:
    return PaperController()


@pytest.fixture
async def client(tmp_path: Path, controller: PaperController) -> AsyncGenerator[httpx.AsyncClient, None]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "weights").write_text("weights")
    index = tmp_path / "hub" / "index.yaml"
    index.write_text(INDEX.replace("WEIGHTS", str(tmp_path / "hub" / "weights")))
    settings = GallerySettings(
        models_path=tmp_path / "models",
        data_path=tmp_path / "data",
        database_url=f"sqlite:///{tmp_path}/manta.db",
        galleries=(Gallery("test", index.as_uri()),),
        downloads=DownloadSettings(file_roots=(str(tmp_path / "hub"),), min_free=0),
    )
    replica = await made(settings, controller)
    app = create_app(Settings(), LocalDispatch(), replica, LocalCluster())
    async with http_client(app) as client:
        yield client
    await replica.__del__()


async def made(settings: GallerySettings, controller: PaperController) -> GalleryReplica:
    """As Serve makes it: the constructor is a coroutine."""
    replica = GalleryReplica.__new__(GalleryReplica)
    blobs = BlobSettings(str(settings.data_path / "blobs"), generated_ttl=0.1)
    await replica.__init__(settings, controller.handle(), blobs, "INFO")
    return replica


async def ended(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    """The job's last status, which its stream ends with."""
    assert answer.status_code == 200, answer.text
    url = answer.json()["status"]
    await client.get(f"{url}/events")
    status: dict[str, Any] = (await client.get(url)).json()
    assert status["processed"]
    return status


async def test_from_the_list_to_an_installed_model_and_back(
    client: httpx.AsyncClient, controller: PaperController, tmp_path: Path
) -> None:
    listed = (await client.get("/models/available")).json()
    models = TypeAdapter(list[ListedModel]).validate_python(listed, strict=True)
    assert [(model.name, model.gallery.name, model.installed) for model in models] == [
        ("one", "test", False),
        ("two", "test", False),
    ]
    assert models[1].overrides == {"context_size": 128}

    status = await ended(client, await client.post("/models/apply", json={"id": "test@two", "name": "mine"}))
    assert (status["message"], status["error"], status["gallery_model_name"]) == ("completed", None, "mine")
    config = yaml.safe_load((tmp_path / "models" / "mine.yaml").read_text())
    assert (config["name"], config["context_size"]) == ("mine", 128)
    assert (tmp_path / "models" / "one.txt").read_text() == "weights"
    assert "reload" in controller.told
    listed = (await client.get("/models/available", params={"search": "two"})).json()
    assert [(model["name"], model["installed"]) for model in listed] == [("two", True)]

    status = await ended(client, await client.post("/models/delete/mine"))
    assert (status["message"], status["deletion"]) == ("completed", True)
    assert controller.told[-1] == "mine"
    ended_jobs = "manta_gallery_jobs_ended_total", (("kind", "delete"), ("phase", "completed"))
    await until(lambda: controller.samples.get(ended_jobs))
    assert not (tmp_path / "models" / "one.txt").exists()
    assert (await client.post("/models/delete/mine")).status_code == 404


async def test_mistakes_that_only_the_gallery_can_see(client: httpx.AsyncClient) -> None:
    status = await ended(client, await client.post("/models/apply", json={"id": "nope"}))
    assert status["message"].startswith("error: ") and "nope" in status["error"]
    assert (await client.get("/models/available", params={"gallery": "nope"})).status_code == 404
    url = "https://example.org/index.yaml"
    assert (await client.post("/models/galleries", json={"name": "test", "url": url})).status_code == 409
    assert (await client.request("DELETE", "/models/galleries", json={"name": "nope"})).status_code == 404


async def test_the_controller_is_asked_with_patience() -> None:
    told: list[str] = []

    async def removed(name: str) -> None:
        told.append(name)

    await ServedModels(SoleReplica(Handle(removed=removed), "the controller")).removed("m")
    assert told == ["m"]


async def test_generated_files_that_are_too_old_are_removed(client: httpx.AsyncClient, tmp_path: Path) -> None:
    images = tmp_path / "data" / "blobs" / "generated-images"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(b"x")
    await until(lambda: not any(images.iterdir()))
