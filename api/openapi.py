"""The OpenAPI document: with every status that an operation may answer, and a name the framework can't give."""

from typing import Any

from fastapi import FastAPI

from api.auth import OPEN_PATHS
from api.examples import EXAMPLES

PARAMETER_NAMES = {"voice_id": "voice-id"}
"""Of a path's parameter: as Starlette can parse it → as LocalAI's document shows it."""

FAILURES: dict[int, str] = {
    400: "The request is wrong; `param` names the field, where it is one.",
    401: "No API key, or a wrong one.",
    403: "The key may not do this, or the model is disabled.",
    404: "What is asked for isn't there.",
    408: "The body came in too slowly.",
    409: "Not in the state it is in.",
    413: "The body is over the route's limit.",
    429: "Over a limit, or too many wait; `Retry-After` says when to try again.",
    500: "The engine failed, or the server has a defect.",
    503: "Not now: the model can't be loaded, or a part of the server starts or is full.",
    504: "The request's time ran out.",
    507: "The disk is full.",
}
"""Status → what it means. The body is OpenAI's error object, always."""

ALWAYS = (500, 503, 504)
BEHIND_KEYS = (401, 403, 429)
"""Of every operation but those that need no key."""

SOMETIMES: dict[str, tuple[int, ...]] = {
    "addGallery": (409,),
    "cancelJob": (409,),
    "createAssistant": (404,),
    "createFile": (507,),
    "createImage": (507,),
    "createImageEdit": (507,),
    "createImageInpainting": (507,),
    "createImageVariation": (507,),
    "listAvailableModels": (404,),
    "loadBackend": (404,),
    "removeGallery": (404,),
    "shutBackendDown": (404,),
}
"""Operation → what it may answer beside what follows from its parameters and body."""

UNPREFIXED = "Unprefixed"
"""Ends the id of an operation that is also there under `/v1`."""

Operation = dict[str, Any]


class DocumentedAPI(FastAPI):
    """Give it `responses={"default": …}` with the error's schema: each status of `FAILURES` gets that content."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            document = super().openapi()
            document["paths"] = {_shown(path): operations for path, operations in document["paths"].items()}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _complete(path, operation)
            _name_bounds(document)
        return self.openapi_schema or {}


def failures(path: str, operation: Operation) -> set[int]:
    """Statuses from 400 on that an operation may answer with."""
    parameters, body = operation.get("parameters", []), "requestBody" in operation
    statuses = {*ALWAYS, *SOMETIMES.get(_name(operation), ())}
    if path not in OPEN_PATHS:
        statuses.update(BEHIND_KEYS)
    if parameters or body:
        statuses.add(400)
    if body:
        statuses.update((408, 413))
    if any(parameter["in"] == "path" or parameter["name"] == "model" for parameter in parameters):
        statuses.add(404)
    return statuses


def _name(operation: Operation) -> str:
    name: str = operation["operationId"]
    return name.removesuffix(UNPREFIXED)


def _complete(path: str, operation: Operation) -> None:
    for parameter in operation.get("parameters", ()):
        parameter["name"] = PARAMETER_NAMES.get(parameter["name"], parameter["name"])
    (schema,) = operation["responses"].pop("default")["content"].values()
    for status in sorted(failures(path, operation)):
        answer = {"description": FAILURES[status], "content": {"application/json": schema}}
        operation["responses"][str(status)] = answer
    if example := EXAMPLES.get(_name(operation)):
        operation["requestBody"]["content"]["application/json"]["example"] = example


def _name_bounds(schema: Any) -> None:
    """Give bounds JSON Schema's names, where pydantic leaves its own: behind a validator that goes before the type."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            for name, bound in _BOUNDS.items():
                if name in schema:
                    schema[bound] = schema.pop(name)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _name_bounds(part)


_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _shown(path: str) -> str:
    for name, shown in PARAMETER_NAMES.items():
        path = path.replace(f"{{{name}}}", f"{{{shown}}}")
    return path
