"""Tools as a constraint: which calls a model may write, and in which form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.config_blocks import FunctionConfig, GrammarConfig
from deployments.errors import InvalidRequest
from deployments.text.constraint import Grammar, json_grammar, lark_grammar
from deployments.text.function_lark import MAX_CALLS, CallKeys, Function, functions_lark
from deployments.text.json_schema import Schema, checked, closed, mapped

OPENAI_KEYS = CallKeys("name", "arguments")


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must be; with neither of the first two: anything."""

    json_schema: Schema | None = None
    lark: str | None = None
    no_action: str | None = None
    """Name of the pseudo-tool by which the model answers without calling any."""


def calls_constraint(
    tools: Sequence[Mapping[str, Any]],
    *,
    tool_name: str | None,
    required: bool,
    parallel: bool,
    config: FunctionConfig,
) -> Constraint:
    """The constraint on an answer to a request with `tools` (OpenAI's form).

    `required` or `tool_name`: bare JSON, `{"name": …, "arguments": …}`, or also an array of these where `parallel` and
    no tool is named. Else LocalAI's functions grammar with the options of `function.grammar` (localai.md §2.3, §4.2),
    by which the pseudo-tool of `no_action_tool` may be called, too.
    Raises InvalidRequest and UnsupportedParameter at `tools[i].function.parameters`.
    """
    if required or tool_name is not None:
        functions = [one for one in _functions(tools) if tool_name in (None, one.name)]
        if not functions:
            raise InvalidRequest(f"there is no tool {tool_name!r}").at("tool_choice")
        schema = _calls_schema(functions, OPENAI_KEYS, array=parallel and tool_name is None)
        _check(json_grammar(schema, "tools"), functions)
        return Constraint(json_schema=schema)

    answer = no_action_tool(tools, config)
    no_action = None if answer is None else str(answer["function"]["name"])
    grammar = config.grammar
    functions = _functions([*tools, answer] if answer else tools, _order(grammar))
    keys = CallKeys(
        config.function_name_key or OPENAI_KEYS.name,
        config.function_arguments_key or grammar.function_arguments_key or OPENAI_KEYS.arguments,
        _order(grammar),
    )
    array = parallel and bool(grammar.parallel_calls)
    if _is_plain_json(grammar, array=array):
        schema = _calls_schema(functions, keys, array=array)
        _check(json_grammar(schema, "tools"), functions)
        return Constraint(json_schema=schema, no_action=no_action)
    lark = functions_lark(functions, keys, grammar, array=array)
    _check(lark_grammar(lark), functions)
    return Constraint(lark=lark, no_action=no_action)


def no_action_tool(tools: Sequence[Mapping[str, Any]], config: FunctionConfig) -> dict[str, Any] | None:
    """The pseudo-tool by which a model answers without calling any, for the prompt (localai.md §4.4).

    None: it has to call one (`disable_no_action`, or a `strict` tool).
    """
    if config.disable_no_action or any(tool["function"].get("strict") for tool in tools):
        return None
    name = config.no_action_function_name or "answer"
    while any(tool["function"]["name"] == name for tool in tools):
        name += "_"
    message = {"type": "string", "description": "The message to reply the user with"}
    description = config.no_action_description_name or "use this action to answer without performing any action"
    parameters = {"type": "object", "properties": {"message": message}, "required": ["message"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _functions(tools: Sequence[Mapping[str, Any]], order: Sequence[str] = ()) -> list[Function]:
    functions = []
    for i, tool in enumerate(tools):
        param = f"tools[{i}].function.parameters"
        parameters = _parameters(tool["function"], param, order)
        functions.append(Function(tool["function"]["name"], param, {**parameters, "$id": f"tool:{i}"}))
    return functions


def _parameters(function: Mapping[str, Any], param: str, order: Sequence[str]) -> Schema:
    """The schema of its arguments. One that says nothing means none, and unless `strict` objects are shut."""
    given = function.get("parameters")
    schema = checked(given or {}, param)
    if schema.get("type", "object") != "object":
        raise InvalidRequest("the arguments of a function are an object").at(param)
    if given is None or not function.get("strict"):
        schema = {**schema, "additionalProperties": False} if _says_nothing(schema) else closed(schema)
    if order:
        schema = mapped(schema, lambda one: _with_ordered_properties(one, order))
    return {**schema, "type": "object"}


def _says_nothing(schema: Schema) -> bool:
    return schema.keys() <= {"type", "properties", "required"} and not any(
        schema.get(keyword) for keyword in ("properties", "required")
    )


def _with_ordered_properties(schema: Schema, order: Sequence[str]) -> Schema:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    names = sorted(properties, key=lambda name: order.index(name) if name in order else len(order))
    return {**schema, "properties": {name: properties[name] for name in names}}


def _order(grammar: GrammarConfig) -> tuple[str, ...]:
    return tuple(name.strip() for name in (grammar.properties_order or "").split(",") if name.strip())


def _is_plain_json(grammar: GrammarConfig, *, array: bool) -> bool:
    """Nothing is asked for that JSON Schema can't say."""
    return not (
        grammar.prefix
        or grammar.mixed_mode
        or grammar.triggers
        or grammar.schema_type == "llama3.1"
        or (array and grammar.disable_parallel_new_lines)
    )


def _calls_schema(functions: Sequence[Function], keys: CallKeys, *, array: bool) -> Schema:
    call = {"$ref": "#/$defs/call"}
    calls = {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}
    return {
        "anyOf": [call, calls] if array else [call],
        "$defs": {
            "call": {"anyOf": [_call_schema(function, keys) for function in functions]},
            **{f"arguments{i}": function.parameters for i, function in enumerate(functions)},
        },
    }


def _call_schema(function: Function, keys: CallKeys) -> Schema:
    values = {keys.name: {"const": function.name}, keys.arguments: {"$ref": function.parameters["$id"]}}
    return {
        "type": "object",
        "properties": {key: values[key] for key in keys.in_order},
        "required": keys.in_order,
        "additionalProperties": False,
    }


def _check(grammar: Grammar, functions: Sequence[Function]) -> None:
    """Raises InvalidRequest at the parameters that can't be followed."""
    problem = grammar.problem()
    if not problem:
        return
    for function in functions:
        own = json_grammar(function.parameters, function.param).problem()
        if own:
            raise InvalidRequest(f"the parameters of {function.name!r} can't be followed: {own}").at(function.param)
    raise InvalidRequest(f"these tools can't be followed: {problem}").at("tools")
