"""`python -m gallery`: list, search, install and remove models, on a running server or without one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer
from rich.console import Console

from api.settings import load_settings
from deployments.errors import MantaError
from gallery.client import RunningServer
from gallery.galleries import Available, Page
from gallery.offline import ModelsDirectory
from gallery.progress import shown
from gallery.request import InstallRequest, is_address
from gallery.status import JobStatus, Phase, Progress

T = TypeVar("T")

_console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)

app = typer.Typer(help="Models that Manta can install.", add_completion=False, no_args_is_help=True)
jobs_app = typer.Typer(help="Show the server's jobs: installations and deletions.", invoke_without_command=True)
app.add_typer(jobs_app, name="jobs")

Server = Annotated[str, typer.Option(envvar="MANTA_SERVER", help="A server's address, such as http://host:8080.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no server: work in the models directory.")]
ModelsPath = Annotated[Path | None, typer.Option(help="Another models directory than that of the settings; --offline.")]
InGallery = Annotated[str, typer.Option("--gallery", help="Of this gallery alone.")]
Tag = Annotated[str, typer.Option(help="With this tag alone, such as chat, vision or gguf.")]


class Target(Protocol):
    """What the commands work on."""

    @property
    def after_interrupt(self) -> str:
        """What to know when the command is interrupted now."""
        ...

    async def available(self, search: str = "", tag: str = "", gallery: str = "") -> Page: ...

    async def problems(self) -> dict[str, str]: ...

    async def install(self, request: InstallRequest, progress: Progress) -> str: ...

    async def remove(self, name: str, progress: Progress) -> None: ...

    async def jobs(self) -> list[JobStatus]: ...

    async def cancel(self, uuid: str) -> JobStatus: ...


# ---- commands --------------------------------------------------------------------------------------------------------


@app.command("list")
def list_models(
    gallery: InGallery = "",
    tag: Tag = "",
    installed: Annotated[bool, typer.Option("--installed", help="Installed models alone.")] = False,
    server: Server = "",
    offline: Offline = False,
    models_path: ModelsPath = None,
) -> None:
    """Show what can be installed; installed models have a star."""
    _run(_show_models(_opened(server, offline, models_path), "", tag, gallery, installed))


@app.command()
def search(
    words: list[str],
    gallery: InGallery = "",
    tag: Tag = "",
    server: Server = "",
    offline: Offline = False,
    models_path: ModelsPath = None,
) -> None:
    """Show what can be installed and has these words in its name, description or tags."""
    _run(_show_models(_opened(server, offline, models_path), " ".join(words), tag, gallery, installed=False))


@app.command()
def install(
    what: Annotated[str, typer.Argument(help="NAME or GALLERY@NAME of a gallery's model, or the address of weights.")],
    name: Annotated[str, typer.Option(help="To install it by; its own otherwise.")] = "",
    server: Server = "",
    offline: Offline = False,
    models_path: ModelsPath = None,
) -> None:
    """Install a model."""
    wanted = InstallRequest(weights_uri=what, name=name) if is_address(what) else InstallRequest(id=what, name=name)

    async def carry_out() -> None:
        async with _opened(server, offline, models_path) as target:
            with shown(_console) as progress:
                model = await _interruptible(target, target.install(wanted, progress))
        _say(f"installed: {model}")

    _run(carry_out())


@app.command()
def remove(name: str, server: Server = "", offline: Offline = False, models_path: ModelsPath = None) -> None:
    """Delete an installed model. Files that another model uses stay."""

    async def carry_out() -> None:
        async with _opened(server, offline, models_path) as target:
            with shown(_console) as progress:
                await _interruptible(target, target.remove(name, progress))
        _say(f"removed: {name}")

    _run(carry_out())


@jobs_app.callback()
def list_jobs(context: typer.Context, server: Server = "", offline: Offline = False) -> None:
    """Show the server's jobs, oldest first; without a server, as it left them."""

    async def carry_out() -> None:
        async with _opened(server, offline) as target:
            for job in await target.jobs():
                _say(_job_line(job))

    if context.invoked_subcommand is None:
        _run(carry_out())


@jobs_app.command()
def cancel(uuid: str, server: Server = "", offline: Offline = False) -> None:
    """End an installation and remove what it has fetched."""

    async def carry_out() -> None:
        async with _opened(server, offline) as target:
            job = await target.cancel(uuid)
        _say(_job_line(job) if job.phase.final else f"{uuid}  will be cancelled when the server runs again")

    _run(carry_out())


# ---- how they run ----------------------------------------------------------------------------------------------------


def _run(command: Coroutine[Any, Any, None]) -> None:
    """To its end. What goes wrong is one line and exit status 1; Ctrl-C is typer's 130."""
    try:
        asyncio.run(command)
    except MantaError as error:
        _errors.print(error.message, style="red", markup=False)
        raise typer.Exit(1) from None


@asynccontextmanager
async def _opened(server: str, offline: bool, models_path: Path | None = None) -> AsyncGenerator[Target, None]:
    """The server that was named, or that of the settings if it runs, else the models directory; said on stderr."""
    settings = load_settings()
    key = settings.own_key()
    if models_path:
        settings = settings.model_copy(update={"models_path": models_path})
    if not offline and not models_path:
        async with RunningServer(server or settings.local_url, key) as running:
            if server or await running.is_ready():
                _note(f"on the server {server or settings.local_url}")
                yield running
                return
    async with ModelsDirectory(settings.gallery_settings()) as directory:
        _note(f"without a server, in {settings.models_path}")
        yield directory


async def _interruptible(target: Target, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; when Ctrl-C ends it, say what that leaves."""
    try:
        return await work
    except asyncio.CancelledError:
        if target.after_interrupt:
            _note(target.after_interrupt)
        raise


async def _show_models(
    opened: AbstractAsyncContextManager[Target], words: str, tag: str, gallery: str, installed: bool
) -> None:
    async with opened as target:
        page = await target.available(words, tag, gallery)
        problems = await target.problems()
    for model in page.items:
        if model.installed or not installed:
            _say(_model_line(model))
    for name, problem in problems.items():
        _errors.print(f"gallery {name}: {problem}", style="yellow", markup=False)


# ---- what they print -------------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    _console.print(line, markup=False)


def _note(line: str) -> None:
    """On stderr, so that what is printed can be piped on."""
    _errors.print(line, style="dim", markup=False)


def _model_line(model: Available) -> str:
    """Its star, its name for `install`, and the first line of its description."""
    description = next(iter(model.entry.description.strip().splitlines()), "")
    return f"{'*' if model.installed else ' '} {model.gallery.name}@{model.entry.name}  {description}".rstrip()


def _job_line(job: JobStatus) -> str:
    when = datetime.fromtimestamp(job.created).astimezone().strftime("%Y-%m-%d %H:%M")
    what = "remove" if job.deletion else "install"
    outcome = f"{job.progress:.0f}%" if job.phase is Phase.DOWNLOADING else job.error
    return f"{job.uuid}  {when}  {what} {job.model}  {job.phase}  {outcome}".rstrip()


if __name__ == "__main__":
    logging.getLogger("manta").setLevel(logging.ERROR)  # what it warns of is what the commands print
    app()
