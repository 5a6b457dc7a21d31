"""`python -m gallery list` and `python -m gallery install NAME`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.errors import MantaError
from gallery.index import STARTER, find, read
from gallery.install import config_path, install
from gallery.progress import shown

_console = Console()
_errors = Console(stderr=True)

app = typer.Typer(help="Models that Manta can install.", add_completion=False, no_args_is_help=True)

ModelsPath = Annotated[Path, typer.Option(envvar=["MODELS_PATH", "LOCALAI_MODELS_PATH"], help="The models directory.")]
Index = Annotated[Path, typer.Option(help="The gallery's index file.")]


@app.command("list")
def list_models(models_path: ModelsPath = Path("models"), index: Index = STARTER) -> None:
    """Show what the gallery holds; installed models have a star."""
    for entry in read(index):
        star = "*" if config_path(entry, models_path).exists() else " "
        _console.print(f"{star} {entry.name}  {entry.description}", markup=False, highlight=False, soft_wrap=True)


@app.command("install")
def install_model(name: str, models_path: ModelsPath = Path("models"), index: Index = STARTER) -> None:
    """Install a model of the gallery."""
    with shown(_console) as progress:
        path = install(find(read(index), name), models_path, progress)
    _console.print(f"installed: {path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        app()
    except MantaError as error:
        _errors.print(error.message, style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from None
