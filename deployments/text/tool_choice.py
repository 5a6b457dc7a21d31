"""What a request's tools ask of the model: which it is shown, what its output must be, and how that is read.

| `tool_choice`                           | the model writes                                     | read as            |
|-----------------------------------------|------------------------------------------------------|--------------------|
| none, or no tools                       | as the request's own constraint says                 | content            |
| required, or a named tool               | JSON of calls, at least one                          | JSON               |
| auto and a `grammar`                    | what that allows                                     | the model's format |
| auto and a JSON `response_format`       | JSON of calls; a pseudo-tool takes the document      | JSON               |
| auto, a tool is `strict`                | JSON of calls; a pseudo-tool takes a plain answer    | JSON               |
| auto, the model's template writes tools | what it likes                                        | the model's format |
| auto, `function.grammar.disable`        | what it likes                                        | the model's format |
| auto, otherwise                         | LocalAI's functions grammar, with its no-action tool | as the config says |

Where this is not LocalAI's §4.1: v2 ignores the strings of `tool_choice`, and its `strict` forces a call.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from deployments.backends.base import ChatRequest
from deployments.config_blocks import FunctionConfig
from deployments.errors import UnsupportedParameter
from deployments.text.function_grammar import Constraint, calls_constraint, no_action_tool
from deployments.text.json_schema import checked
from deployments.text.no_action import NoActionParser
from deployments.text.tool_formats import ToolFormat
from deployments.text.tool_parsing import ToolParser


class Output(Enum):
    """What the model may write."""

    CALLS = auto()
    CALLS_OR_DOCUMENT = auto()
    CALLS_OR_ANSWER = auto()
    """Of strict tools."""
    LOCALAI = auto()
    """What LocalAI's functions grammar allows."""
    FREE = auto()
    """But for a `grammar` of the request's own."""


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How one request's tools are asked for and read back."""

    output: Output
    tools: list[Mapping[str, Any]]
    """Those in the prompt: what the model may call, also to give a plain answer."""
    constraint: Constraint
    """By the tools; empty: none."""
    parallel: bool
    format: ToolFormat
    answer_tool: str | None = None
    """The pseudo-tool by which the model gives a plain answer."""

    def parser(self) -> ToolParser:
        """For one choice."""
        parser = self.format.parser(self.tools, forced=self.constraint.json_schema is not None)
        if self.answer_tool is None:
            return parser
        return NoActionParser(parser, self.answer_tool, document=self.output is Output.CALLS_OR_DOCUMENT)

    @property
    def instructions(self) -> str:
        """What a model is told whose template doesn't write tools."""
        lines = ["You can call these tools:", *(json.dumps(_shown(tool), ensure_ascii=False) for tool in self.tools)]
        lines.append('To call one, answer with this JSON alone: {"name": <its name>, "arguments": {<its parameters>}}')
        if self.parallel:
            lines.append("To call several, answer with a JSON array of such objects.")
        if self.output is Output.FREE:
            lines.append("If none of them helps, answer as usual.")
        return "\n".join(lines)


def tool_plan(
    request: ChatRequest, function: FunctionConfig, tool_format: ToolFormat, *, native: bool
) -> ToolPlan | None:
    """None: the request's tools play no part. `native`: the model's own template writes tools.

    Raises UnsupportedParameter for a `grammar` beside `required`, and for what `calls_constraint` can't obey.
    """
    if not request.tools or request.tool_choice == "none":
        return None
    output = _output(request, function, native=native)
    tools: list[Mapping[str, Any]] = [tool for tool in request.tools if request.tool_name in (None, _name(tool))]
    answer = _answer_tool(output, request, function)
    tools += [answer] if answer else []
    constraint = Constraint()
    if output is not Output.FREE:
        constraint = calls_constraint(
            request.tools if output is Output.LOCALAI else tools,
            tool_name=request.tool_name,
            required=output is not Output.LOCALAI,
            parallel=request.parallel_tool_calls,
            config=function,
        )
    return ToolPlan(
        output, tools, constraint, request.parallel_tool_calls, tool_format, _name(answer) if answer else None
    )


def _output(request: ChatRequest, function: FunctionConfig, *, native: bool) -> Output:
    if request.tool_choice == "required":
        if request.grammar is not None:
            raise UnsupportedParameter("`grammar` and a required tool call can't both rule the output").at("grammar")
        return Output.CALLS
    if request.grammar is not None:
        return Output.FREE
    if request.json_schema is not None:
        return Output.CALLS_OR_DOCUMENT
    if any(tool["function"].get("strict") for tool in request.tools):
        return Output.CALLS_OR_ANSWER
    return Output.FREE if native or function.grammar.disable else Output.LOCALAI


def _answer_tool(output: Output, request: ChatRequest, function: FunctionConfig) -> dict[str, Any] | None:
    """The pseudo-tool with which the model answers without a call; None: it has none, or needs none."""
    if output in (Output.CALLS, Output.FREE):
        return None
    lenient = [{**tool, "function": {**tool["function"], "strict": False}} for tool in request.tools]
    if output is not Output.CALLS_OR_DOCUMENT:
        return no_action_tool(lenient, function)
    tool = no_action_tool(lenient, FunctionConfig(no_action_function_name=function.no_action_function_name))
    assert tool is not None, "nothing disables it"
    document = checked(request.json_schema or {}, "response_format")
    if document.get("type", "object") != "object":
        raise UnsupportedParameter("beside tools the answer's schema must be one of an object").at("response_format")
    final = {"description": "use this to give the final answer", "parameters": document, "strict": True}
    return {**tool, "function": {**tool["function"], **final}}


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """What the model needs to know of a tool."""
    return {key: tool["function"][key] for key in ("name", "description", "parameters") if tool["function"].get(key)}
