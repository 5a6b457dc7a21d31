"""Streams of deltas: run side by side, merged into what crosses together, collected into a whole answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

from deployments.backends.base import Choice, Delta, DeltaGroup, TextResult, ToolCallDelta, Usage


async def collect(stream: AsyncIterator[DeltaGroup]) -> TextResult:
    """The unary answer is the stream, collected."""
    choices: dict[int, Choice] = {}
    usage = Usage()
    async for group in stream:
        usage = group.usage or usage
        for delta in group.deltas:
            choice = choices.setdefault(delta.index, Choice(delta.index, "", "stop"))
            choice.text += delta.text
            choice.reasoning += delta.reasoning
            add_calls(choice.tool_calls, delta.tool_calls)
            choice.finish_reason = delta.finish_reason or choice.finish_reason
            if delta.logprobs:
                choice.logprobs = [*(choice.logprobs or []), *delta.logprobs]
    return TextResult([choices[index] for index in sorted(choices)], usage)


async def side_by_side(streams: Sequence[AsyncIterator[Delta]], window_s: float) -> AsyncGenerator[list[Delta], None]:
    """Run the streams at once. Yields the first delta at once, then groups of what came in within the window."""
    queue: asyncio.Queue[Delta | Exception] = asyncio.Queue()

    async def pump(stream: AsyncIterator[Delta]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait(delta)
        except Exception as error:  # noqa: BLE001 – raised by the reader, after what came before it
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            deltas = [item for item in items if isinstance(item, Delta)]
            running -= sum(delta.finish_reason is not None for delta in deltas)
            if deltas:
                yield _merged(deltas)
            if error := next((item for item in items if isinstance(item, Exception)), None):
                raise error
            if running:
                await asyncio.sleep(window_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def add_calls(calls: list[ToolCallDelta], more: Iterable[ToolCallDelta]) -> None:
    """Append pieces of calls; those of one call become one."""
    for call in more:
        if calls and calls[-1].index == call.index:
            calls[-1].arguments += call.arguments
        else:
            calls.append(call)


def _merged(deltas: list[Delta]) -> list[Delta]:
    """One delta per choice: what goes together needs one envelope."""
    merged: dict[int, Delta] = {}
    for delta in deltas:
        if (first := merged.setdefault(delta.index, delta)) is not delta:
            first.text += delta.text
            first.reasoning += delta.reasoning
            add_calls(first.tool_calls, delta.tool_calls)
            first.finish_reason = delta.finish_reason
            first.token_ids += delta.token_ids
            if delta.logprobs:
                first.logprobs = [*(first.logprobs or []), *delta.logprobs]
    return list(merged.values())
