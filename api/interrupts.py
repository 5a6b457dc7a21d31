"""Ctrl-C and its kin, for the launchers."""

import signal
import threading
from dataclasses import dataclass, field
from types import FrameType


@dataclass
class Interrupts:
    """The first asks to stop, the second to hurry."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)

    def catch(self) -> None:
        """Take the signals over, also where a background job inherited them as ignored."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()
