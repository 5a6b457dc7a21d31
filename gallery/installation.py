"""One run of an installation: what is missing, fetched side by side; then templates, YAML and record."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml

from deployments.errors import ConfigInvalid, DownloadFailed
from deployments.side_by_side import side_by_side
from gallery import pickles, records
from gallery.config_files import mentioned
from gallery.fetch import Fetcher, Located, Locator, locate, partial_path, require_sum, tried
from gallery.journal import Journal
from gallery.locks import locked, locked_if_free
from gallery.paths import inside
from gallery.plan import Plan
from gallery.records import Record
from gallery.request import File
from gallery.settings import DownloadSettings
from gallery.sources.base import Changed, Whole
from gallery.space import Space
from gallery.status import Phase, Progress
from gallery.threads import in_thread
from gallery.usage import Usage, configs

_FILES_AT_ONCE = 3
"""Each with several connections."""
_CHANGES = 3
"""A file that changes at its source more often while it is being fetched is given up."""


class Installation:
    """A run of `Installer.install`, under the lock of the model."""

    def __init__(
        self,
        plan: Plan,
        models_path: Path,
        sources: Locator,
        settings: DownloadSettings,
        space: Space,
        progress: Progress,
        *,
        keep_yaml: bool,
    ) -> None:
        self._plan = plan
        self._models_path = models_path
        self._sources = sources
        self._settings = settings
        self._space = space
        self._progress = progress
        self._keep_yaml = keep_yaml
        self._yaml = records.yaml_path(models_path, plan.name)
        self._fetcher = Fetcher(models_path, plan.name, settings, space, progress.at)
        self._sums: dict[str, str] = {}
        self._unpacked: dict[str, tuple[str, ...]] = {}

    async def run(self) -> None:
        for warning in self._plan.warnings:
            self._progress.warn(warning)
        self._progress.phase(Phase.RESOLVING)
        await in_thread(self._require_free_names)
        claims = [file.filename for file in self._plan.files]
        claims += [self._yaml.name, *(f"{template.name}.tmpl" for template in self._plan.templates)]
        self._journal = await in_thread(Journal.begin, self._models_path, self._plan.name, claims)
        self._previous = await in_thread(records.read, self._models_path, self._plan.name)
        located = await self._missing()
        if located:
            self._progress.phase(Phase.DOWNLOADING)
            await side_by_side(self._install_file, located, _FILES_AT_ONCE)
        self._progress.phase(Phase.INSTALLING)
        text = await in_thread(self._write_model)
        record = records.record_of(self._plan, self._sums, self._unpacked, text)
        await self._remove_outdated(record)
        await in_thread(records.write, self._models_path, self._plan, record, text)
        await in_thread(self._fetcher.clear)
        await in_thread(self._journal.finish)

    # ---- before the first byte ---------------------------------------------------------------------------------------

    def _require_free_names(self) -> None:
        """Raise ConfigInvalid when a path leads out, or what the plan would write is another model's."""
        paths = [inside(self._models_path, file.filename) for file in self._plan.files]
        paths += [inside(self._models_path, f"{template.name}.tmpl") for template in self._plan.templates]
        for path in paths:
            if paths.count(path) > 1 or path == self._yaml:
                raise ConfigInvalid(f"{path.name}: the plan would write this file twice")
        if self._plan.config is None:
            return
        for path, config in configs(self._models_path):
            name = config.get("name", path.stem)
            if (path == self._yaml) != (name == self._plan.name):
                raise ConfigInvalid(f"{path.name} is the config of the model {name!r}; install it by another name")

    async def _missing(self) -> list[Located]:
        """The files that are to be fetched, all of them looked up. Raises what stands against fetching them."""
        files = []
        for file in self._plan.files:
            async with locked_if_free(self._models_path, file.filename) as free:
                if not (free and await in_thread(self._is_there, file)):
                    files.append(file)
        located = await side_by_side(lambda file: locate(file, self._sources, self._settings), files)
        for one in located:
            await self._require_right(one)
        sizes = self._fetcher.expect(located)
        present = await in_thread(self._fetcher.present, located)
        self._space.require(_needed(located, sizes), present=present)
        self._progress.expect(sizes)
        return located

    async def _require_right(self, located: Located) -> None:
        """Refuse what is known to be wrong before it is fetched."""
        file, first = located.file, located.contents[0]
        if isinstance(first, Whole) and len(located.contents) == 1:
            _require_agreement(file, first.remote.sha256)
        checked = not self._plan.allow_pickles and located.folder is None and pickles.is_suspect(file.filename)
        if isinstance(first, Whole) and checked:
            head = await tried(lambda: pickles.read_head(first.remote), self._settings)
            pickles.require_harmless(file.filename, head)
        await in_thread(self._require_unused, file.filename)

    def _require_unused(self, filename: str) -> None:
        """A file that would be replaced must not be another model's."""
        if (self._models_path / filename).is_file():
            user = Usage(self._models_path, but=self._plan.name).user_of(filename)
            if user is not None:
                raise ConfigInvalid(f"{filename}: is there with another content, and the model {user!r} uses it")

    def _is_there(self, file: File) -> bool:
        """Whether the file needs no fetching: it has the right sum, or the gallery names none."""
        if self._previous and (known := self._kept_archive(self._previous, file)):
            self._unpacked[file.filename] = known
            return True
        path = self._models_path / file.filename
        if not path.is_file():
            return False
        if file.sha256:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.sha256.lower():
                return False
        if not self._plan.allow_pickles:
            pickles.require_harmless_file(file.filename, path)
        return True

    def _kept_archive(self, previous: Record, file: File) -> tuple[str, ...] | None:
        """The files that came out of this archive the last time, if it is the same one and all of them are there."""
        paths = previous.unpacked.get(file.filename)
        same = any((each.filename, each.uri) == (file.filename, file.uri) for each in previous.files)
        return paths if same and paths and all((self._models_path / path).exists() for path in paths) else None

    # ---- files -------------------------------------------------------------------------------------------------------

    async def _install_file(self, located: Located) -> None:
        """Fetch it and give it its name, unless another job has done so while this one waited for it."""
        file = located.file
        async with locked(self._models_path, file.filename):
            if await in_thread(self._is_there, file):
                return
            for left in reversed(range(_CHANGES)):
                try:
                    await self._fetch(located)
                except Changed:
                    if not left:
                        raise
                    located = await locate(file, self._sources, self._settings)
                    self._fetcher.expect([located])
                else:
                    return

    async def _fetch(self, located: Located) -> None:
        file = located.file
        if located.folder is not None:
            await self._unpack(located, located.folder)
            return
        partial = partial_path(self._models_path, file)
        await in_thread(inside(self._models_path, file.filename).parent.mkdir, parents=True, exist_ok=True)
        found = await self._fetcher.file(located, partial)
        await require_sum(file, found, partial)
        self._sums[file.filename] = found
        await in_thread(self._place, partial, file.filename)
        await in_thread(self._fetcher.clear_file, file)

    async def _unpack(self, located: Located, folder: str) -> None:
        unpacked = await self._fetcher.folder(located)
        names = await in_thread(self._place_all, unpacked, PurePosixPath(folder))
        self._unpacked[located.file.filename] = names

    def _place(self, fetched: Path, filename: str) -> None:
        if not self._plan.allow_pickles:
            pickles.require_harmless_file(filename, fetched)
        self._require_unused(filename)
        self._journal.place(fetched, filename)

    def _place_all(self, unpacked: Path, folder: PurePosixPath) -> tuple[str, ...]:
        """What came out of an archive, but for hidden files, which file managers leave there."""
        paths = sorted(path for path in unpacked.rglob("*") if path.is_file())
        relative = {path: path.relative_to(unpacked) for path in paths}
        names = {
            path: str(folder / place)
            for path, place in relative.items()
            if not any(part.startswith(".") for part in place.parts)
        }
        for path, name in names.items():  # all, before the first has its name
            inside(self._models_path, name)
            if not self._plan.allow_pickles:
                pickles.require_harmless_file(name, path)
            self._require_unused(name)
        self._journal.claim(names.values())
        for path, name in names.items():
            self._journal.place(path, name)
        return tuple(names.values())

    # ---- the model ---------------------------------------------------------------------------------------------------

    def _write_model(self) -> str:
        """Templates first, the YAML when all is there; its text, empty where there is none."""
        for template in self._plan.templates:
            self._write_template(f"{template.name}.tmpl", template.content)
        if self._plan.config is None:
            return ""
        text: str = yaml.safe_dump(self._plan.config, sort_keys=False, allow_unicode=True)
        if not (self._keep_yaml and self._yaml.exists()):
            self._keep_foreign_yaml(text)
            self._write(self._yaml.name, text)
        return text

    def _write_template(self, filename: str, content: str) -> None:
        path = self._models_path / filename
        differs = path.is_file() and path.read_bytes() != content.encode()
        if differs and (user := Usage(self._models_path, but=self._plan.name).user_of(filename)):
            self._progress.warn(f"{filename} is there with another content and stays: the model {user!r} uses it")
            return
        self._write(filename, content)

    def _write(self, filename: str, text: str) -> None:
        path = self._models_path / filename
        if path.is_file() and path.read_bytes() == text.encode():
            return
        written = self._fetcher.scratch("text", filename)
        written.write_text(text, encoding="utf-8")
        written.chmod(0o644)
        self._journal.place(written, filename)

    def _keep_foreign_yaml(self, text: str) -> None:
        """Copy a YAML that isn't as we wrote it to `<name>.yaml.bak`, or to `.bak1`, `.bak2`… if that is taken."""
        found = self._yaml.read_bytes() if self._yaml.is_file() else text.encode()
        ours = self._previous.yaml_sha256 if self._previous else ""
        if found == text.encode() or hashlib.sha256(found).hexdigest() == ours:
            return
        for number in itertools.count():
            backup = self._yaml.with_name(f"{self._yaml.name}.bak{number or ''}")
            if not backup.exists():
                backup.write_bytes(found)
                return
            if backup.read_bytes() == found:
                return

    async def _remove_outdated(self, record: Record) -> None:
        """Remove what this model had before and has no longer, where nothing else uses it."""
        before = self._previous.paths() if self._previous else []
        for filename in {*before} - {*record.paths()} - mentioned(self._plan.config or {}):
            async with locked_if_free(self._models_path, filename) as free:
                if free:
                    await in_thread(self._remove_unused, filename)

    def _remove_unused(self, filename: str) -> None:
        usage = Usage(self._models_path, but=self._plan.name)
        if usage.user_of(filename) is None:
            inside(self._models_path, filename).unlink(missing_ok=True)
            usage.remove_empty_folders(filename)


def _require_agreement(file: File, from_source: str) -> None:
    """Raise DownloadFailed when the gallery and the source speak of different files."""
    if file.sha256 and from_source and file.sha256.lower() != from_source.lower():
        raise DownloadFailed(
            f"{file.filename}: sha256 is {from_source.lower()} by its source, the gallery says {file.sha256.lower()}"
        )


def _needed(located: Sequence[Located], sizes: dict[str, int]) -> int:
    """Bytes of disk. What is put together or unpacked is there twice for a while."""
    twice = [one.file.filename for one in located if one.folder or not isinstance(one.contents[0], Whole)]
    twice += [one.file.filename for one in located if len(one.contents) > 1 and one.file.filename not in twice]
    return sum(sizes.values()) + sum(sizes.get(name, 0) for name in twice)
