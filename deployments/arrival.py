"""How long something waits until an engine begins on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False, kw_only=True)
class Arrival:
    """A request, or a part of one. It has arrived when it is made."""

    arrived: float = field(default_factory=time.perf_counter)
    queue_seconds: float | None = None
    """From its arrival to its start; None: it still waits."""
    waited: Callable[[float], None] | None = None
    """Told these seconds when it starts."""

    @property
    def started(self) -> bool:
        return self.queue_seconds is not None

    def start(self) -> None:
        """The engine begins on it. No harm when it has started before."""
        if self.queue_seconds is None:
            self.queue_seconds = time.perf_counter() - self.arrived
            if self.waited is not None:
                self.waited(self.queue_seconds)
