"""Messages with tool calls and their results, as a chat template can write them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.text.template_traits import SHORT_ID, TemplateTraits

Message = dict[str, Any]


def in_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """OpenAI's first form in the one that templates know: a `function_call` among `tool_calls`, the role `function` as
    `tool`.

    A result that names its function alone answers the latest call of it. The ids made here follow from a message's
    place: the same conversation is the same prompt in the next request, and its prefix stays cached.
    """
    return list(_newer(messages))


def as_template_reads(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """For a template that writes calls: arguments, ids and empty contents as it takes them."""
    return [_adapted(message, traits) for message in messages]


def as_text(messages: Sequence[Message]) -> list[Message]:
    """For a template that writes no calls: calls as the JSON that `tool_choice` asks for, results as what a user says.

    Results that follow each other are one message: such templates want user and assistant to take turns.
    """
    return list(_told(messages))


def in_parts(messages: Sequence[Message]) -> list[Message]:
    """For a template that reads contents as lists of parts alone."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]


def with_instructions(messages: Sequence[Message], instructions: str, *, system: bool) -> list[Message]:
    """`instructions` in the system message, or before the first user's words where the template takes no `system`."""
    role = "system" if system else "user"
    place = next((i for i, message in enumerate(messages) if message.get("role") == role), None)
    if place is None:
        return [{"role": role, "content": instructions}, *messages]
    message = messages[place]
    texts = (message["content"], instructions) if system else (instructions, message["content"])
    return [*messages[:place], {**message, "content": _joined(*texts)}, *messages[place + 1 :]]


def _newer(messages: Sequence[Message]) -> Iterator[Message]:
    latest: dict[Any, Any] = {}
    for place, message in enumerate(messages):
        own_id = f"call_{place:024}"
        if (function := message.get("function_call")) and not message.get("tool_calls"):
            call = {"id": own_id, "type": "function", "function": function}
            message = {**message, "content": message["content"] or None, "tool_calls": [call]}
            del message["function_call"]
        if message.get("role") in ("tool", "function"):
            answered = message.get("tool_call_id") or latest.get(message.get("name"), own_id)
            message = {**message, "role": "tool", "tool_call_id": answered}
        latest |= {_function(call).get("name"): call.get("id") for call in message.get("tool_calls") or ()}
        yield message


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function: Mapping[str, Any] = call.get("function") or {}
    return function


def _adapted(message: Message, traits: TemplateTraits) -> Message:
    if message.get("tool_calls"):
        message = {**message, "tool_calls": [_adapted_call(call, traits) for call in message["tool_calls"]]}
        if message["content"] is None and not traits.null_content:
            message["content"] = ""
    if traits.short_ids and message.get("tool_call_id"):
        message = {**message, "tool_call_id": _short(message["tool_call_id"])}
    return message


def _adapted_call(call: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    function = dict(_function(call))
    if traits.object_arguments:
        function["arguments"] = _object(function.get("arguments"))
    adapted = {**call, "function": function}
    if traits.short_ids:
        adapted["id"] = _short(call.get("id"))
    return adapted


def _object(arguments: Any) -> Any:
    """JSON text of an object as that object; anything else as it is."""
    try:
        read = json.loads(arguments or "{}")
    except (TypeError, ValueError):
        return arguments
    return read if isinstance(read, dict) else arguments


def _short(call_id: Any) -> str:
    """The end of the id: the same for a call and its result."""
    letters = "".join(char for char in str(call_id) if char.isascii() and char.isalnum())
    return letters[-len(SHORT_ID) :].rjust(len(SHORT_ID), "0")


def _told(messages: Sequence[Message]) -> Iterator[Message]:
    names: dict[Any, str] = {}
    results: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            name = message.get("name") or names.get(message.get("tool_call_id")) or "the tool"
            results.append(f"Result of {name}: {_text(message['content'])}")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        calls = [_function(call) for call in message.get("tool_calls") or ()]
        if not calls:
            yield message
            continue
        ids = (call.get("id") for call in message["tool_calls"])
        names |= {call_id: call.get("name", "") for call_id, call in zip(ids, calls, strict=True)}
        said = [{"name": call.get("name"), "arguments": _object(call.get("arguments"))} for call in calls]
        text = json.dumps(said[0] if len(said) == 1 else said, ensure_ascii=False)
        plain = {key: value for key, value in message.items() if key != "tool_calls"}
        yield {**plain, "content": _joined(message["content"], text)}
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _text(content: Any) -> str:
    """Of a string, or of the text parts of a list."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _joined(first: Any, second: Any) -> Any:
    """Two contents with an empty line between; a list of parts stays one."""
    if isinstance(first, list) or isinstance(second, list):
        first, second = (x if isinstance(x, list) else [{"type": "text", "text": x or ""}] for x in (first, second))
        return [*first, {"type": "text", "text": "\n\n"}, *second]
    return f"{first}\n\n{second}" if first and second else first or second
