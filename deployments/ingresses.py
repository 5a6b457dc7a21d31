"""The ingresses as the controller knows them: what each has been told, and what it does with which model."""

import asyncio
import time
import uuid
from contextlib import suppress

from deployments.states import Report

SYNC_S = 1.0
"""Ingresses report this often; a report is answered at once when there is news."""
INGRESS_TIMEOUT_S = 5.0
"""An ingress that hasn't reported for so long is taken for dead."""


class Ingresses:
    """Numbers the news, keeps the last report of each ingress, and knows who has seen what."""

    def __init__(self) -> None:
        self.epoch = uuid.uuid4().hex
        """One life of the controller: versions of another mean nothing."""
        self.version = 0
        """Of the latest news."""
        self._news = asyncio.Event()  # set, and replaced, with each version
        self._reports: dict[str, tuple[Report, float]] = {}  # with the monotonic time of arrival
        self._born = time.monotonic()

    async def heard(self, report: Report) -> int:
        """Take a report; return when there is news for its ingress, after SYNC_S at the latest.

        Returns the version that the ingress has seen: -1 when it has seen nothing of this epoch.
        """
        self._reports[report.ingress] = report, time.monotonic()
        if report.epoch != self.epoch:
            return -1
        if report.version >= self.version:
            with suppress(TimeoutError):  # no news is an answer too: it lets the ingress report again
                async with asyncio.timeout(SYNC_S):
                    await self._news.wait()
        return report.version

    def tell(self) -> int:
        """Something changes: a new version, for all who wait and all who come. They read it at the next await."""
        self.version += 1
        self._news.set()
        self._news = asyncio.Event()
        return self.version

    def in_flight(self, model: str) -> int:
        """Requests that live ingresses have on their way to the model, or running on it."""
        return sum(report.in_use[model].in_flight for report in self._live() if model in report.in_use)

    def last_used(self, model: str) -> float:
        """Unix time of the last request that a live ingress has had for the model; 0: none."""
        return max((report.in_use[model].last_used for report in self._live() if model in report.in_use), default=0.0)

    def nodes(self) -> set[str]:
        """Ids of the Ray nodes that live ingresses run on."""
        return {report.node for report in self._live() if report.node}

    def acknowledged(self, version: int) -> bool:
        """Every live ingress has seen that version. A new controller first gives them the time to show up."""
        if not self._reports and time.monotonic() - self._born < INGRESS_TIMEOUT_S:
            return False
        return all(report.epoch == self.epoch and report.version >= version for report in self._live())

    async def told(self, version: int) -> None:
        """Return when every live ingress has seen that version, or could have: this is a courtesy, not a barrier."""
        with suppress(TimeoutError):
            async with asyncio.timeout(INGRESS_TIMEOUT_S):
                while self._reports and not self.acknowledged(version):
                    await asyncio.sleep(0.02)

    def _live(self) -> list[Report]:
        deadline = time.monotonic() - INGRESS_TIMEOUT_S
        self._reports = {name: seen for name, seen in self._reports.items() if seen[1] >= deadline}
        return [report for report, _ in self._reports.values()]
