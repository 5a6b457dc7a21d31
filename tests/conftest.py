"""Layers by directory: what lies under tests/<layer>/ has that marker."""

from pathlib import Path

import pytest

LAYERS = ("unit", "cluster", "models")
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests and order them by layer: the quick ones fail first."""
    for item in items:
        item.add_marker(_layer(item))
    items.sort(key=lambda item: LAYERS.index(_layer(item)))


def _layer(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]
