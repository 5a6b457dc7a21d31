"""Carrying a plan out: every file checked, then the YAML, which makes it a model. What is interrupted goes on."""

import asyncio
from pathlib import Path

from deployments.errors import MantaError
from gallery.fetch import Fetcher, Locator
from gallery.index import STARTER, Entry, find, read_index
from gallery.installation import Installation
from gallery.journal import Journal
from gallery.locks import locked, locked_if_free
from gallery.plan import Plan, resolve
from gallery.records import yaml_path
from gallery.request import InstallRequest
from gallery.settings import DownloadSettings, Gallery
from gallery.sources import Sources
from gallery.space import Space
from gallery.status import Progress, Silent
from gallery.threads import in_thread

_MODELS = ("*.yaml", "*.yml", "*.gguf")
"""Files that the server takes for models."""


class Installer:
    """Carries plans out in one models directory. One for all jobs of a process."""

    def __init__(self, models_path: Path, sources: Locator, settings: DownloadSettings, space: Space) -> None:
        """`sources` is open (`async with Sources(settings) as sources`); `space` is of `models_path`."""
        self._models_path = models_path
        self._sources = sources
        self._settings = settings
        self._space = space

    async def install(self, plan: Plan, progress: Progress, *, keep_yaml: bool = False) -> None:
        """Install, or go on with an installation that was interrupted; a second one fetches nothing.

        Files that are there are kept if their sha256 is right, or the gallery names none. Of several jobs or
        processes that want the same file one fetches it and the others wait. A YAML that someone else wrote is kept
        as `<name>.yaml.bak`; with `keep_yaml` it stays, and ours isn't written.

        When it is cancelled or raises, what was fetched stays for the next try: `abandon` removes it. Raises
        ConfigInvalid, DownloadFailed and InsufficientStorage.
        """
        await in_thread(self._models_path.mkdir, parents=True, exist_ok=True)
        async with locked(self._models_path, _lock_name(plan)):
            installation = Installation(
                plan, self._models_path, self._sources, self._settings, self._space, progress, keep_yaml=keep_yaml
            )
            await installation.run()

    async def abandon(self, plan: Plan) -> None:
        """Take back what an unfinished installation of `plan` did. Does nothing after a finished one.

        Files that another model uses, or is about to, stay.
        """
        async with locked(self._models_path, _lock_name(plan)):
            journal = await in_thread(Journal.find, self._models_path, plan.name)
            if journal is None:
                return
            fetcher = Fetcher(self._models_path, plan.name, self._settings, self._space, Silent().at)
            for file in plan.files:
                async with locked_if_free(self._models_path, file.filename) as free:
                    if free:  # otherwise another job goes on with what this one has fetched
                        await in_thread(fetcher.clear_file, file)
            await in_thread(fetcher.clear)
            for filename in journal.placed():
                async with locked_if_free(self._models_path, filename) as free:
                    if free:
                        await in_thread(journal.take_back, filename)
            await in_thread(journal.end)


def install_starter(
    models_path: Path, name: str, progress: Progress | None = None, settings: DownloadSettings | None = None
) -> Path | None:
    """Install that model of the starter gallery if `models_path` holds no model yet; an empty name asks for none.

    Blocks. Returns the path of its YAML, or None where there was nothing to do. Raises as `Installer.install`, and
    ModelNotFound.
    """
    if not name or any(path for pattern in _MODELS for path in models_path.glob(pattern)):
        return None
    return asyncio.run(_install_starter(models_path, name, progress or Silent(), settings or DownloadSettings()))


async def _install_starter(models_path: Path, name: str, progress: Progress, settings: DownloadSettings) -> Path:
    async with Sources(settings) as sources:
        plan = await resolve(InstallRequest(id=name), sources, _StarterGallery())
        space = Space(models_path, settings.min_free, settings.limit)
        installer = Installer(models_path, sources, settings, space)
        try:
            await installer.install(plan, progress, keep_yaml=True)
        except MantaError:
            await installer.abandon(plan)
            raise
    return yaml_path(models_path, plan.name)


class _StarterGallery:
    """The gallery that comes with Manta, read from its file."""

    async def find(self, name: str) -> tuple[Gallery, Entry]:
        text = await in_thread(STARTER.read_text, encoding="utf-8")
        return Gallery("manta", STARTER.as_uri()), find(read_index(text, str(STARTER)).entries, name)


def _lock_name(plan: Plan) -> str:
    return f"model {plan.name}"
