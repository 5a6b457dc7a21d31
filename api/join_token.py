"""The join token: all that another machine needs to become a worker of this cluster."""

import base64
import binascii
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from api import __version__
from deployments.errors import ConfigInvalid

AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 – a variable's name


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Whoever has it can run code on every machine of the cluster."""

    address: str
    """Of Ray's control service on the head, IP:port."""
    token: str
    """Ray's authentication token."""
    ray: str
    python: str
    manta: str
    """Versions, which must be the same on all machines."""

    @classmethod
    def of(cls, address: str, token: str) -> Self:
        """For the cluster at `address`, which runs the versions that run here."""
        return cls(address, token, **_versions())

    @classmethod
    def decoded(cls, text: str) -> Self:
        """Raises ConfigInvalid."""
        try:
            fields = json.loads(base64.urlsafe_b64decode(text.strip()))
            return cls(**{name: str(fields[name]) for name in cls.__slots__})
        except (binascii.Error, ValueError, KeyError, TypeError):
            raise ConfigInvalid(
                "TOKEN is not a join token. Get one from the server: "
                'curl -H "Authorization: Bearer $API_KEY" http://<server>/api/p2p/token, then: make join TOKEN=<token>'
            ) from None

    def encoded(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    def require_same_versions(self) -> None:
        """Raise ConfigInvalid where this machine has others than the cluster."""
        for name, here in _versions().items():
            if (there := getattr(self, name)) != here:
                raise ConfigInvalid(f"the cluster runs {name} {there}, and this machine {here}: install {name} {there}")


def ray_token(environ: Mapping[str, str] = os.environ) -> str:
    """Ray's authentication token, from where Ray takes it. Empty: there is none."""
    if token := environ.get(AUTH_TOKEN, ""):
        return token.strip()
    path = environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return Path(path).read_text(encoding="utf-8").strip() if Path(path).is_file() else ""


def require_authentication(environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigInvalid where Ray lets anybody in: it runs code for whoever reaches its ports."""
    if (mode := environ.get(AUTH_MODE, "")).lower() != "token":
        raise ConfigInvalid(
            f"allow_join: other machines may join only a cluster with token authentication, and {AUTH_MODE} is "
            f'"{mode}"; set {AUTH_MODE}=token (configs/ray.env does), or allow_join to false'
        )


def require_reachable(address: str) -> None:
    """Raise ConfigInvalid where no other machine can reach Ray. `address`: IP:port."""
    if ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
        raise ConfigInvalid(
            f"allow_join: Ray listens on {address}, which no other machine reaches. Connect this machine to a network, "
            "or start Ray by hand (`ray start --head --node-ip-address=<IP>`) and the server with RAY_ADDRESS=auto"
        )


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"ray": version("ray"), "python": python, "manta": __version__}
