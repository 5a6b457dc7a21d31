"""From a request's constraint to vLLM's StructuredOutputsParams, for its `guidance` backend: llguidance."""

from typing import Any

from deployments.backends.base import Generate
from deployments.errors import InvalidRequest
from deployments.text.constraint import grammar_of, lark_from_gbnf
from deployments.text.json_schema import guidance_schema


def constraint_arguments(request: Generate) -> dict[str, Any]:
    """The request's schema or grammar, of which it has one, as an argument of StructuredOutputsParams.

    Compiles it, in milliseconds, to raise here what vLLM would only log: InvalidRequest and UnsupportedParameter.
    """
    grammar = grammar_of(request)
    assert grammar is not None
    if problem := grammar.problem():
        raise InvalidRequest(f"this constraint can't be followed: {problem}").at(grammar.param)
    if request.json_schema is not None:
        return {"json": guidance_schema(request.json_schema, grammar.param)}
    if request.lark is not None:
        return {"grammar": request.lark}
    return {"grammar": lark_from_gbnf(request.grammar or "")}
