"""A model's name, which is also that of its YAML."""

from deployments.errors import InvalidRequest

RESERVED = frozenset({"apply", "available", "delete", "galleries", "import-uri", "jobs"})
"""Paths of the gallery's routes, beside which `/models/{name}` stands."""

_LONGEST = 180
"""Bytes. File systems allow 255, and hidden files put something before and behind it."""


def model_name(name: str) -> str:
    """`name` as a model can have it: LocalAI writes `/` as `__`. Raises InvalidRequest where that isn't enough."""
    checked = name.strip().replace("/", "__")
    if not checked or checked.startswith(".") or "\\" in checked or not checked.isprintable():
        raise InvalidRequest(f"name: {name!r} can't be a model's name: it is that of its YAML file too").at("name")
    if len(checked.encode()) > _LONGEST:
        raise InvalidRequest(f"name: longer than {_LONGEST} bytes").at("name")
    if checked.lower() in RESERVED:
        raise InvalidRequest(f"name: {name!r} is the name of a route; choose another").at("name")
    return checked
