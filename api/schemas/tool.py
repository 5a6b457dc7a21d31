"""Tools in chat: what clients offer, which of them must be called, and the calls in messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import WireModel
from api.validation import shown
from deployments.errors import InvalidRequest

MOST_TOOLS = 128
"""Of one request."""


# ---- what clients send -----------------------------------------------------------------------------------------------


class FunctionDefinition(WireModel):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]
    """OpenAI's rule is stricter; other servers' names, such as MCP's, pass."""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of an object; left out: there are none."""
    strict: bool | None = None


def _nested(tool: object) -> object:
    """LocalAI's clients, and those of the Responses API, leave the inner object out."""
    if not isinstance(tool, dict) or "function" in tool or "name" not in tool:
        return tool
    function = dict(tool)
    return {"type": function.pop("type", "function"), "function": function}


class ChatCompletionToolParam(WireModel):
    type: Literal["function"] = "function"
    function: FunctionDefinition


def _json_text(value: object) -> object:
    """Arguments are JSON as text. Clients that send the object mean the same."""
    return orjson.dumps(value or {}).decode() if isinstance(value, (dict, type(None))) else value


class FunctionCallParam(WireModel):
    """What an earlier answer called."""

    name: str
    arguments: Annotated[str, BeforeValidator(_json_text)]


class ChatCompletionMessageToolCallParam(WireModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCallParam


Tool = Annotated[ChatCompletionToolParam, BeforeValidator(_nested)]
ToolChoice = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}, {"type": "null"}]})
]
"""`none`, `auto`, `required`, a tool to call, or the tools allowed; an object may come as its JSON text (LocalAI)."""
FunctionChoice = Annotated[Any, WithJsonSchema({"type": ["string", "object", "null"]})]
"""`none`, `auto`, a function's name, or an object with its name."""


class ToolCallFunction(BaseModel):
    name: str
    arguments: str
    """JSON text."""


class ChatCompletionMessageToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: ToolCallFunction


# ---- to the replica's form -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a client says about calling."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None
    """The one tool that must be called."""
    allowed: Sequence[str] | None = None
    """Names of those that may be called; None: all."""


def tool_options(
    tools: Sequence[ChatCompletionToolParam],
    functions: Sequence[FunctionDefinition],
    *,
    tool_choice: object,
    function_call: object,
    parallel: bool | None,
) -> dict[str, Any]:
    """The arguments of a ChatRequest that are about tools. `functions` and `function_call`: OpenAI's first form.

    Raises InvalidRequest.
    """
    if tools and functions:
        raise InvalidRequest("Send 'tools' or, in the older form, 'functions'; not both.").at("functions")
    if functions:
        definitions = _definitions(functions, "functions[{}].name")
        parallel = False  # a `function_call` has room for one
    else:
        definitions = _definitions([tool.function for tool in tools], "tools[{}].function.name")
    # LocalAI's clients say `function_call` with `tools`, too.
    if tool_choice is None and function_call is not None:
        choice, param = _function_choice(function_call), "function_call"
    else:
        choice, param = _tool_choice(tool_choice), "tool_choice"
    return _options(definitions, choice, param, parallel=parallel is not False)


def _definitions(functions: Sequence[FunctionDefinition], param: str) -> dict[str, dict[str, Any]]:
    """By name. Only the fields that we know go on: the prompt shows the tools as they are."""
    definitions: dict[str, dict[str, Any]] = {}
    for index, function in enumerate(functions):
        if function.name in definitions:
            raise InvalidRequest(f"There are two tools named '{function.name}'.").at(param.format(index))
        definitions[function.name] = function.model_dump(
            include=set(FunctionDefinition.model_fields), exclude_none=True
        )
    return definitions


def _options(definitions: dict[str, dict[str, Any]], choice: _Choice, param: str, *, parallel: bool) -> dict[str, Any]:
    named = [choice.name] if choice.name is not None else choice.allowed or ()
    if missing := [name for name in named if name not in definitions]:
        raise InvalidRequest(f"Invalid '{param}': there is no tool named '{missing[0]:.64}'.").at(param)
    offered = [
        {"type": "function", "function": definition}
        for name, definition in definitions.items()
        if choice.allowed is None or name in choice.allowed
    ]
    if not offered:
        if choice.mode == "required":
            raise InvalidRequest(f"Invalid '{param}': a call is required, and there is no tool to call.").at(param)
        return {}
    return {
        "tools": offered,
        "tool_choice": choice.mode,
        "tool_name": choice.name,
        "parallel_tool_calls": parallel,
    }


def _tool_choice(value: object) -> _Choice:
    match value:
        case None:
            return _Choice("auto")
        case "none" | "auto" | "required":
            return _Choice(value)
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return _Choice("required", name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": ("auto" | "required") as mode, "tools": [*tools]}}:
            return _Choice(mode, allowed=[_name(tool) for tool in tools])
        case {"type": "allowed_tools", "mode": ("auto" | "required") as mode, "tools": [*tools]}:
            return _Choice(mode, allowed=[_name(tool) for tool in tools])
        case str() if (decoded := _object_in(value)) is not None:
            return _tool_choice(decoded)
    raise InvalidRequest(
        f"Invalid value for 'tool_choice': {shown(value)}. Supported values are: 'none', 'auto', 'required', "
        "{'type': 'function', 'function': {'name': …}} and {'type': 'allowed_tools', …}."
    ).at("tool_choice")


def _name(tool: object) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
    raise InvalidRequest(f"Invalid 'tool_choice': {shown(tool)} names no tool.").at("tool_choice")


def _object_in(text: str) -> dict[str, Any] | None:
    """LocalAI's clients may send the object as its JSON text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _function_choice(value: object) -> _Choice:
    match value:
        case None:
            return _Choice("auto")
        case "none" | "auto":
            return _Choice(value)
        case {"name": str(name)} | str(name):
            return _Choice("required", name)
    raise InvalidRequest(
        f"Invalid value for 'function_call': {shown(value)}. Supported values are: 'none', 'auto' and {{'name': …}}."
    ).at("function_call")
