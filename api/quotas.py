"""What ingresses and the controller say to each other about the quotas of API keys.

A quota is an amount per minute: of requests, of tokens. The controller keeps account (`quota_windows.py`). Ingresses
take what they need, and a little ahead (`quota_leases.py`), and give back what they don't use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Amounts = Mapping[str, int]
"""Resource (`keys.REQUESTS`, `keys.TOKENS`) → amount."""

LEASE_S = 1.0
"""An ingress uses what it was lent ahead for so long."""


@dataclass(slots=True)
class LeaseRequest:
    """From an ingress, for all requests of one key that wait there."""

    key: str
    """The key's tenant."""
    limits: Amounts
    """Per minute."""
    needs: list[Amounts]
    """Of each request, in order. Nothing in them is without limit."""


@dataclass(slots=True)
class Lease:
    """The controller's answer."""

    second: int
    """Unix time at which it was lent."""
    granted: list[bool]
    """Which of the requests may go on."""
    ahead: dict[str, int] = field(default_factory=dict)
    """For the next ones."""
    remaining: dict[str, int] = field(default_factory=dict)
    """What others may still take."""
    exhausted: str = ""
    """The resource for want of which the first request was refused."""
    retry_after: float = 0.0
    """Seconds until there will be enough for that one."""
