"""Tool calls on the wire, in OpenAI's two forms: `tool_calls`, and the older `function_call` with room for one."""

from collections.abc import Iterator, Sequence
from typing import Any

from deployments.backends.base import ToolCallDelta


def tool_calls(calls: Sequence[ToolCallDelta]) -> dict[str, Any]:
    """Fields of a message that calls tools."""
    return {
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    }


def function_call(calls: Sequence[ToolCallDelta]) -> dict[str, Any]:
    first = calls[0]
    return {"function_call": {"name": first.name, "arguments": first.arguments}}


def tool_call_deltas(pieces: Sequence[ToolCallDelta]) -> Iterator[dict[str, Any]]:
    """Fields of the chunks for some pieces of calls: the name first, its arguments in other chunks."""
    for piece in pieces:
        if piece.name:
            function = {"name": piece.name, "arguments": ""}
            yield _entry({"index": piece.index, "id": piece.id, "type": "function", "function": function})
        if piece.arguments:
            yield _entry({"index": piece.index, "function": {"arguments": piece.arguments}})


def function_call_deltas(pieces: Sequence[ToolCallDelta]) -> Iterator[dict[str, Any]]:
    for piece in pieces:
        if piece.index > 0:
            return
        if piece.name:
            yield {"function_call": {"name": piece.name, "arguments": ""}}
        if piece.arguments:
            yield {"function_call": {"arguments": piece.arguments}}


def _entry(call: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [call]}
