"""What the settings want installed at the start, as requests to the gallery."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from api.gallery_settings import GalleryBlock, PreloadModel
from api.schemas.gallery import to_install_request
from api.validation import first_mistake
from deployments.config_file import load_yaml
from deployments.errors import ConfigInvalid, InvalidRequest
from gallery.request import InstallRequest, is_address


def install_requests(block: GalleryBlock) -> tuple[InstallRequest, ...]:
    """Of `preload_models`, `preload_models_config` and `install`. Raises ConfigInvalid with the place of a mistake."""
    return (
        *(_checked(model, f"gallery.preload_models[{i}]") for i, model in enumerate(block.preload_models)),
        *(_of_file(block.preload_models_config) if block.preload_models_config else ()),
        *(_of_word(word) for word in block.install),
    )


def _of_file(path: Path) -> Iterator[InstallRequest]:
    rows = _yaml(path)
    if not isinstance(rows, list):
        raise ConfigInvalid(f"{path}: expected a list of models such as `- id: smollm2-135m-instruct`")
    for i, row in enumerate(rows):
        try:
            yield _checked(PreloadModel.model_validate(row), f"{path}: [{i}]")
        except ValidationError as error:
            raise ConfigInvalid(f"{path}: [{i}]: {first_mistake(_in_body(error)).message}") from error


def _of_word(word: str | Path) -> InstallRequest:
    if isinstance(word, str):
        return InstallRequest(weights_uri=word) if is_address(word) else InstallRequest(id=word)
    config = _yaml(word)
    if not isinstance(config, dict):
        raise ConfigInvalid(f"{word}: expected one model's config")
    return InstallRequest(config_file=config, name=str(config.get("name") or word.stem))


def _checked(model: PreloadModel, where: str) -> InstallRequest:
    try:
        return to_install_request(model)
    except InvalidRequest as error:
        raise ConfigInvalid(f"{where}: {error.param or ''}: {error.message}") from error


def _yaml(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{path}: is not UTF-8 text") from error
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error.message}") from error


def _in_body(error: ValidationError) -> list[dict[str, Any]]:
    """As FastAPI has them: each place begins with where in the request it is."""
    return [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in error.errors(include_url=False)]
