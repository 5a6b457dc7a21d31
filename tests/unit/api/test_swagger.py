"""LocalAI's swagger: every operation is routed and documented. That each answers as it says: tests/cluster."""

from fastapi import FastAPI

from tests.localai import OPERATIONS, TABLE


def test_every_operation_is_in_our_document(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    ours = {(method, path) for path, operations in paths.items() for method in operations}
    assert ours >= OPERATIONS


def test_the_table_has_every_operation() -> None:
    assert TABLE.keys() == OPERATIONS
