"""Types of settings: how the text of a variable becomes a value."""

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from deployments.config_file import seconds
from deployments.errors import ConfigInvalid
from gallery.blobs import S3_SCHEME


class Section(BaseModel):
    """A block of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port", ":port" (all interfaces) or "[v6]:port"."""
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:.%]+)\]|(?P<host>[^:\[\]\s]*)):(?P<port>\d{1,5})", text)
    if not match or not 0 <= int(match["port"]) <= 65535:
        raise ValueError('expected host:port, such as "127.0.0.1:8080", ":9090" or "[::1]:8080"')
    return match["v6"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104, LocalAI's meaning of ":8080"


def _address(text: str) -> str:
    parse_address(text)
    return text


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return seconds(value, "")
    except ConfigInvalid as error:
        raise ValueError(error.message.removeprefix(": ")) from error


def _comma_list(value: object) -> object:
    return [item for item in map(str.strip, value.split(",")) if item] if isinstance(value, str) else value


def _json_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('expected a list as JSON, such as [{"name": "…", "url": "…"}]') from None


def _web_address(text: str) -> str:
    """Without the slash at its end; a bare host is meant to be reached over TLS."""
    url = text if "://" in text else f"https://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError('expected an address such as "https://example.org/path"')
    return url.rstrip("/")


def _blob_location(text: str | Path) -> str | Path:
    if not str(text).startswith(S3_SCHEME):
        return Path(text)
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+[A-Za-z0-9](/[^?#]*)?", str(text)):
        raise ValueError("expected a folder, or s3://bucket/prefix")
    return str(text)


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"expected addresses and networks such as 10.1.2.3 or 10.1.0.0/16, got {text!r}") from None
    return texts


def _not_blank(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("expected a key, found nothing")
    return secret


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Whole = Annotated[int, Field(ge=0), BeforeValidator(_no_bool)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_duration), BeforeValidator(_no_bool)]
AutoWhole = Annotated[Whole | None, AfterValidator(lambda number: number or None)]
"""0 and null: worked out by the server."""
CommaList = BeforeValidator(_comma_list)
"""Put beside a list's type: a variable holds it with commas, a file as YAML."""
Names = Annotated[tuple[str, ...], CommaList]
Networks = Annotated[tuple[str, ...], AfterValidator(_networks), CommaList]
"""IP addresses, and networks in CIDR notation."""
Secrets = Annotated[tuple[Annotated[SecretStr, AfterValidator(_not_blank)], ...], CommaList]
JSONList = BeforeValidator(_json_list)
"""Put beside a list's type: a variable holds it as JSON, a file as YAML."""
WebAddress = Annotated[str, AfterValidator(_web_address)]
BlobLocation = Annotated[str | Path, AfterValidator(_blob_location)]
Address = Annotated[str, AfterValidator(_address)]
