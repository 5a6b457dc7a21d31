"""API keys: what one is and allows, and how a file or a setting writes it down."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from api.setting_types import Names, Section, Whole
from deployments.errors import ConfigInvalid

ANONYMOUS = "anonymous"
"""Name and tenant of everybody, where there are no keys."""

REQUESTS = "requests"
TOKENS = "tokens"
"""What a key may have a limit of, per minute."""

TENANT_DIGITS = 12
"""Of a key's SHA-256, in hexadecimal: by them a key goes in logs and in the fair queues."""


class Role(StrEnum):
    """What a key may do."""

    ADMIN = "admin"
    """Everything."""
    USER = "user"
    """All but changing what is installed and what runs."""
    READ_ONLY = "read-only"
    """Look, and change nothing."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as requests are judged by it. The key itself is nowhere."""

    name: str
    """Unique; for logs, metrics and operators."""
    role: Role
    tenant: str
    """Whose requests these are: the first 12 digits of the key's SHA-256."""
    models: tuple[str, ...] = ()
    """Names, or shell patterns of names, of the models that it may use; none: all."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Resource → amount per minute; one that isn't there is without limit."""

    def may_use(self, *names: str | None) -> bool:
        """Whether a model that goes by these names is among the key's."""
        return not self.models or any(fnmatchcase(name, one) for name in names if name for one in self.models)


OPEN = Key(ANONYMOUS, Role.ADMIN, ANONYMOUS)
"""Stands for the key of a request that needs none."""


def _bare(key: SecretStr | None) -> SecretStr | None:
    """As it comes out of a header."""
    if key is None:
        return None
    if not (text := key.get_secret_value().strip()):
        raise ValueError("expected a key, got an empty one")
    return SecretStr(text)


class KeyRow(Section):
    """A key as it is written down."""

    key: Annotated[SecretStr | None, AfterValidator(_bare)] = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    role: Role = Role.USER
    models: Annotated[Names, Field(min_length=1)] | None = None
    requests_per_minute: Annotated[Whole, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[Whole, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, row: Any) -> Any:
        return {"key": row, "role": Role.ADMIN} if isinstance(row, str) else row

    @model_validator(mode="after")
    def _is_one_key(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("expected `key`, or in its place `sha256`, the key's SHA-256 in hexadecimal digits")
        return self

    @classmethod
    def plain(cls, text: str) -> Self:
        """A key of an administrator, which is what LocalAI's are."""
        return cls(key=SecretStr(text), role=Role.ADMIN)

    def secret(self) -> str:
        """The key; empty where only its digest stands."""
        return self.key.get_secret_value() if self.key else ""

    def digest(self) -> str:
        return self.sha256.lower() if self.sha256 else digest(self.secret().encode())

    def hashed(self) -> Self:
        """The same without the key."""
        return self.model_copy(update={"key": None, "sha256": self.digest()})

    def to_key(self) -> Key:
        tenant = self.digest()[:TENANT_DIGITS]
        limits = {REQUESTS: self.requests_per_minute, TOKENS: self.tokens_per_minute}
        return Key(
            self.name or f"key-{tenant[:6]}",
            self.role,
            tenant,
            self.models or (),
            {resource: limit for resource, limit in limits.items() if limit is not None},
        )


def digest(key: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


def known_by_digest(sources: Iterable[tuple[str, Iterable[KeyRow]]]) -> dict[str, Key]:
    """Digest → key, of rows and where they stand. One that stands twice with the same rights is one.

    Raises ConfigInvalid for a key with two sets of rights, and for two keys of one name.
    """
    known: dict[str, Key] = {}
    names = {ANONYMOUS: ""}
    for where, rows in sources:
        for row in rows:
            digits, key = row.digest(), row.to_key()
            if not row.name and names.get(key.name, digits) != digits:  # of 1,000 keys two may begin alike
                key = replace(key, name=f"key-{key.tenant}")
            if known.setdefault(digits, key) != key:
                raise ConfigInvalid(f"{where}: {key.name} is a key that stands elsewhere with other rights; remove one")
            if names.setdefault(key.name, digits) != digits:
                raise ConfigInvalid(f"{where}: name: another key is called {key.name!r}; choose another `name`")
    return known


def read_key_file(path: Path) -> list[KeyRow]:
    """The keys of a JSON file. Raises ConfigInvalid that names file, place and fix, and no key."""
    try:
        return _ROWS.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}; make it readable, or remove it") from error
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        raise ConfigInvalid(
            "; ".join(_sentence(path, one["type"], one["loc"], one["msg"]) for one in mistakes)
        ) from None


_ROWS: TypeAdapter[list[KeyRow]] = TypeAdapter(list[KeyRow])


def _sentence(path: Path, kind: str, place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(f"[{step}]" if isinstance(step, int) else step for step in place)
    if not where:
        return f'{path}: {message}; expected a list such as ["key", {{"key": "…", "name": "…", "role": "user"}}]'
    if kind == "extra_forbidden":
        return f"{path}: {where}: no such field; there are {', '.join(KeyRow.model_fields)}"
    return f"{path}: {where}: {message.removeprefix('Value error, ')}"
