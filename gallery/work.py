"""What jobs do: installations, completions and deletions, from the request to the plan to the deed."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from deployments.errors import ConfigInvalid, InvalidRequest, MantaError
from gallery.config_files import with_local_files
from gallery.install import Installer
from gallery.names import model_name
from gallery.plan import Galleries, Lookup, Plan, resolve
from gallery.records import yaml_path
from gallery.removal import Models, Removal, carry_out, plan_removal
from gallery.request import InstallRequest
from gallery.status import Progress
from gallery.usage import configs

logger = logging.getLogger("manta.gallery")


class Installation:
    """Installs a model, then tells the server."""

    deletion = False
    downloads = True

    def __init__(self, sources: Lookup, galleries: Galleries, installer: Installer, models: Models) -> None:
        self._sources = sources
        self._galleries = galleries
        self._installer = installer
        self._models = models

    def model(self, request: dict[str, Any]) -> str:
        return asked_name(InstallRequest.from_json(request))

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        plan = await resolve(InstallRequest.from_json(request), self._sources, self._galleries)
        return plan.to_json()

    async def prepare(self, plan: dict[str, Any], progress: Progress) -> None:
        await self._installer.install(Plan.from_json(plan), progress)

    async def commit(self, plan: dict[str, Any], progress: Progress) -> None:
        try:
            await self._models.reload()
        except MantaError as error:  # the server looks at the models directory by itself, too
            progress.warn(f"installed, but the server could not be told yet: {error.message}")

    async def abandon(self, plan: dict[str, Any]) -> None:
        await self._installer.abandon(Plan.from_json(plan))


class Preload(Installation):
    """An installation that the settings ask for: nothing is done where the model is there."""

    def __init__(
        self, sources: Lookup, galleries: Galleries, installer: Installer, models: Models, models_path: Path
    ) -> None:
        super().__init__(sources, galleries, installer, models)
        self._models_path = models_path

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        plan = await super().plan(request)
        if plan is None or await asyncio.to_thread(is_there, Plan.from_json(plan), self._models_path):
            return None
        return plan


class Completion(Installation):
    """Fetches the files that a config in the models directory names and that aren't there, as LocalAI does."""

    def __init__(
        self, sources: Lookup, galleries: Galleries, installer: Installer, models: Models, models_path: Path
    ) -> None:
        super().__init__(sources, galleries, installer, models)
        self._models_path = models_path
        self._installer = installer

    async def prepare(self, plan: dict[str, Any], progress: Progress) -> None:
        """The YAML stays as it was written, unless it has addresses in the place of files."""
        complete = Plan.from_json(plan)
        as_written = await asyncio.to_thread(_config_of, self._models_path, complete.name) == complete.config
        await self._installer.install(complete, progress, keep_yaml=as_written)


class Deletion:
    """Deletes a model, which can't be taken back."""

    deletion = True
    downloads = False

    def __init__(self, models_path: Path, models: Models) -> None:
        self._models_path = models_path
        self._models = models

    def model(self, request: dict[str, Any]) -> str:
        return str(request["name"])

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        return (await plan_removal(request["name"], self._models_path)).to_json()

    async def prepare(self, plan: dict[str, Any], progress: Progress) -> None:
        """Nothing of a deletion can be taken back."""

    async def commit(self, plan: dict[str, Any], progress: Progress) -> None:
        await carry_out(Removal.from_json(plan), self._models_path, self._models, progress)

    async def abandon(self, plan: dict[str, Any]) -> None:
        """Nothing was prepared."""


def asked_name(request: InstallRequest) -> str:
    """The name that the model will have, as far as the request alone says it; else empty."""
    config_name = (request.config_file or {}).get("name")
    of_id = request.id.partition("@")[2] or request.id
    of_config = str(config_name or "") if not (request.config_url or request.url) else ""
    try:
        return model_name(request.name or of_id or of_config)
    except InvalidRequest:
        return ""  # the job will say so


def incomplete(models_path: Path) -> list[InstallRequest]:
    """What completes the configs in the models directory whose files aren't all there. Blocks.

    One that isn't alone in a file of its name can't be installed there: the log says so.
    """
    found = list(configs(models_path))
    requests = []
    for path, config in found:
        name = str(config.get("name") or path.stem)
        try:
            _, files = with_local_files(config)
        except ConfigInvalid as error:
            logger.warning("%s: its files can't be fetched: %s", path, error.message)
            continue
        missing = [file.filename for file in files if not (models_path / file.filename).exists()]
        if missing and (path != yaml_path(models_path, name) or [other for other, _ in found].count(path) > 1):
            logger.warning("%s: %s can't be fetched until the config is in %s.yaml, alone", path, missing, name)
        elif missing:
            requests.append(InstallRequest(name=name, config_file=config))
    return requests


def is_there(plan: Plan, models_path: Path) -> bool:
    """Whether a model of this name is installed, or, of a plan without a config, its files are."""
    if plan.config is not None:
        return yaml_path(models_path, plan.name).exists()
    return all((models_path / file.filename).exists() for file in plan.files)


def _config_of(models_path: Path, name: str) -> dict[str, Any] | None:
    own = yaml_path(models_path, name)
    return next((config for path, config in configs(models_path) if path == own), None)
