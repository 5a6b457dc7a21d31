"""Quota windows that outlive their process: in the database, at most a second behind."""

import asyncio
import logging
import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.quota_windows import KEPT_S, Account, QuotaWindows
from api.quotas import Amounts, Lease, LeaseRequest
from api.records import QuotaRow, Records
from deployments.states import Settlement

logger = logging.getLogger("manta.quotas")

SAVE_S = 1.0
"""How often what changed is written, and, where the database is away, how long until it is tried again."""


class QuotaKeeper:
    """The controller's account of all quotas. Nothing is lent before what was lent by its predecessor is known."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._windows = QuotaWindows()
        self._restored = asyncio.Event()
        self._changed = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name="keep quotas")

    async def lease(self, request: LeaseRequest) -> Lease:
        await self._restored.wait()
        lease = self._windows.lease(request)
        self._changed.set()
        return lease

    def settle(self, settlements: list[Settlement]) -> None:
        if settlements:
            self._windows.settle(settlements)
            self._changed.set()

    async def used(self) -> dict[str, Amounts]:
        """Tenant → what its key has used of the last minute."""
        await self._restored.wait()
        return self._windows.used()

    async def close(self) -> None:
        """Write what is not written yet."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        if self._restored.is_set():
            await self._save()
        self._records.close()

    async def _keep(self) -> None:
        """Read, then write what changes: at once, and then when SAVE_S are over."""
        while not self._restored.is_set():
            try:
                self._windows.restore(await self._records.run(_read))
                self._restored.set()
            except Exception:
                logger.exception("quotas can't be read; keys with limits wait for it")
                await asyncio.sleep(SAVE_S)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._save()
            except Exception:
                logger.exception("quotas can't be written; they are tried again")
                self._changed.set()
            await asyncio.sleep(SAVE_S)

    async def _save(self) -> None:
        changes = self._windows.changes()

        def write(session: Session) -> None:
            for (key, resource), by_second in changes.items():
                session.merge(QuotaRow(key=key, resource=resource, sums={str(s): n for s, n in by_second.items()}))

        try:
            await self._records.run(write)
        except BaseException:
            self._windows.changed.update(changes)
            raise


def _read(session: Session) -> dict[Account, dict[int, int]]:
    """What still counts; rows that don't are deleted."""
    oldest, found = time.time() - KEPT_S, {}
    for row in session.scalars(select(QuotaRow)):
        sums = {int(second): amount for second, amount in row.sums.items() if int(second) > oldest}
        if sums:
            found[row.key, row.resource] = sums
        else:
            session.delete(row)
    return found
