"""Locks on names in a models directory."""

import asyncio
import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from gallery import locks
from gallery.locks import locked, locked_if_free


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_POLL_S", 0.001)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


async def test_one_at_a_time_and_nothing_is_left(tmp_path: Path) -> None:
    inside = 0
    most = 0

    async def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            async with locked(tmp_path, "sub/a.gguf"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(work() for _ in range(5)))
    assert most == 1
    assert is_empty(tmp_path)


async def test_other_names_are_free(tmp_path: Path) -> None:
    async with locked(tmp_path, "a"), asyncio.timeout(10), locked(tmp_path, "b"):
        async with locked_if_free(tmp_path, "a") as free:
            assert not free
        async with locked_if_free(tmp_path, "c") as free:
            assert free
    async with locked_if_free(tmp_path, "a") as free:
        assert free


async def test_an_error_and_a_cancellation_let_go(tmp_path: Path) -> None:
    async def fail() -> None:
        async with locked(tmp_path, "a"):
            waiting = asyncio.create_task(locked(tmp_path, "a").__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        await fail()
    assert is_empty(tmp_path)


def _hold(folder: Path, held: Event) -> None:
    async def hold() -> None:
        async with locked(folder, "a"):
            held.set()
            await asyncio.Event().wait()

    asyncio.run(hold())


async def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert await asyncio.to_thread(held.wait, 30)
    async with locked_if_free(tmp_path, "a") as free:
        assert not free
    process.kill()
    async with asyncio.timeout(30), locked(tmp_path, "a"):
        pass
    await asyncio.to_thread(process.join)
    assert is_empty(tmp_path)
