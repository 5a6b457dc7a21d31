"""What a model's Jinja chat template can be given: found out by rendering small conversations with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from deployments.errors import InvalidRequest
from deployments.text.jinja_template import JinjaTemplate

NEEDLE = "needle"
TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "A probe.", "parameters": {"type": "object", "properties": {}}},
}
LONG_ID, SHORT_ID = "call_0123456789abcdef01234567", "123456789"
"""An id as we make them, and the only length that Mistral's templates take."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """Templates differ in more than their text: each of these is something that one family refuses or garbles."""

    tools: bool
    """It writes the tools of a request."""
    calls: bool
    """It knows the calls and results in a conversation."""
    system: bool
    """It takes a system message."""
    content_parts: bool
    """It reads a message's content as a list of parts alone; a string would be lost."""
    object_arguments: bool
    """It writes a call's arguments from an object; otherwise from JSON text."""
    short_ids: bool
    """It refuses ids of calls that are not 9 letters and digits."""
    null_content: bool
    """A message that calls tools may have no content; otherwise it needs an empty one."""


def template_traits(template: JinjaTemplate, special_tokens: Mapping[str, str]) -> TemplateTraits:
    """Takes milliseconds."""

    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """Empty: the template refuses them."""
        try:
            return template.render({"messages": messages, "tools": tools, **special_tokens})
        except InvalidRequest:
            return ""

    content_parts = NEEDLE not in render([_user(NEEDLE)]) and NEEDLE in render([_user(_parts(NEEDLE))])
    text = _parts if content_parts else str
    tools = "tools" in template.names
    calls = tools or "tool_calls" in template.fields
    nones = render([_user(text("hello"))], [TOOL]).count("None") if calls else 0
    variants = product((True, False), (False, True), (True, False)) if calls else ()
    object_arguments, short_ids, null_content = next(
        (variant for variant in variants if _is_clean(render(_conversation(*variant, text), [TOOL]), nones)),
        (False, False, True),
    )
    return TemplateTraits(
        tools=tools,
        calls=calls,
        system=NEEDLE in render([{"role": "system", "content": text(NEEDLE)}, _user(text("hello"))]),
        content_parts=content_parts,
        object_arguments=object_arguments,
        short_ids=short_ids,
        null_content=null_content,
    )


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _parts(text: str) -> Any:
    return [{"type": "text", "text": text}]


def _conversation(
    object_arguments: bool, short_ids: bool, null_content: bool, text: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """A question, a call and its result."""
    call_id = SHORT_ID if short_ids else LONG_ID
    arguments = {NEEDLE: "1"} if object_arguments else f'{{"{NEEDLE}": "1"}}'
    call = {"id": call_id, "type": "function", "function": {"name": "probe", "arguments": arguments}}
    return [
        _user(text("hello")),
        {"role": "assistant", "content": None if null_content else text(""), "tool_calls": [call]},
        {"role": "tool", "name": "probe", "tool_call_id": call_id, "content": text("2")},
    ]


def _is_clean(text: str, nones: int) -> bool:
    """The argument is there, not as Python writes it nor as JSON text within JSON text, and no None came in."""
    garbled = f"'{NEEDLE}'" in text or f'\\"{NEEDLE}' in text or text.count("None") > nones
    return NEEDLE in text and not garbled
