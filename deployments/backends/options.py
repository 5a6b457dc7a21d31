"""The `options:` of a model's config: settings of its backend, each `key:value`."""

from collections.abc import Callable, Mapping
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid

BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def read_options(config: ModelConfig, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Those that are set, each as its kind: bool, int, float, str, or a function that raises ValueError.

    Raises ConfigInvalid that names the option, and what there is or what is expected.
    """
    values: dict[str, Any] = {}
    for option in config.options or []:
        key, _, text = option.partition(":")
        if key not in kinds:
            raise ConfigInvalid(f'{config.name}: options: "{key}" is none of {", ".join(kinds)}')
        try:
            values[key] = BOOLS[text.strip().lower()] if kinds[key] is bool else kinds[key](text.strip())
        except (KeyError, ValueError) as error:
            kind = kinds[key]
            expected = f"not a {kind.__name__}" if isinstance(kind, type) else str(error)
            raise ConfigInvalid(f'{config.name}: options: {key} is "{text}", {expected}') from error
    return values
