"""The OpenAPI document, with a name in it that the framework can't give a path parameter."""

from typing import Any

from fastapi import FastAPI

PARAMETER_NAMES = {"voice_id": "voice-id"}
"""Of a path's parameter: as Starlette can parse it → as LocalAI's document shows it."""


class DocumentedAPI(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            document = super().openapi()
            document["paths"] = {_shown(path): operations for path, operations in document["paths"].items()}
            for operations in document["paths"].values():
                for operation in operations.values():
                    for parameter in operation.get("parameters", ()):
                        parameter["name"] = PARAMETER_NAMES.get(parameter["name"], parameter["name"])
        return self.openapi_schema or {}


def _shown(path: str) -> str:
    for name, shown in PARAMETER_NAMES.items():
        path = path.replace(f"{{{name}}}", f"{{{shown}}}")
    return path
