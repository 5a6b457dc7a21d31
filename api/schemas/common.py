"""What the text requests have in common, and the types their fields are made of."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.schemas.ignored import report_ignored
from deployments.errors import InvalidRequest, UnsupportedParameter


class WireModel(BaseModel):
    """Base of what clients send: unknown fields pass, wrong JSON types don't."""

    model_config = ConfigDict(
        extra="allow", strict=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


# ---- types -----------------------------------------------------------------------------------------------------------


def _integral(value: object) -> object:
    """JSON has one kind of number: 5.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_format(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


Integer = Annotated[int, BeforeValidator(_integral)]
StringOrList = Annotated[
    list[str],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]

LARGEST_COUNT = 2**31 - 1
"""What C's `int32_t` holds."""
LARGEST_SEED = 2**64 - 1
MOST_CHOICES = 2048
"""Sequences one request may ask for, all prompts and choices together."""


class JSONSchemaFormat(WireModel):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(WireModel):
    """What the output must be. Every schema is enforced, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """llama.cpp's server takes the schema here, with `json_object`."""


class StreamOptions(WireModel):
    include_usage: bool | None = None
    """Send a last chunk with the usage."""


class Text(WireModel):
    """Fields of every text request. What is null or left out is as the model's config says."""

    model: str | None = None
    """Left out: the first model that can do it."""
    temperature: Annotated[float | None, Field(ge=0)] = None
    """0 takes the likeliest token."""
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    seed: Annotated[Integer | None, Field(ge=-(2**63), le=LARGEST_SEED)] = None
    """Negative: a random one."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Token id → what is added to its logit."""
    max_tokens: Annotated[Integer | None, Field(ge=0, le=LARGEST_COUNT)] = None
    """0 and null: until the model ends or the context is full."""
    n: Annotated[Integer | None, Field(ge=1, le=128)] = None
    """Choices to generate."""
    stop: StringOrList | None = None
    """Where to stop; the text found is not part of the answer. Added to those of the model's config."""
    response_format: Annotated[ResponseFormat | None, BeforeValidator(_as_format)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # LocalAI's
    top_k: Annotated[Integer | None, Field(ge=-LARGEST_COUNT, le=LARGEST_COUNT)] = None
    """0 or less: off."""
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    typical_p: Annotated[float | None, Field(ge=0, le=1)] = None
    """0 and 1: off."""
    repeat_penalty: Annotated[float | None, Field(ge=0)] = None
    """0 and 1: off."""
    repeat_last_n: Annotated[Integer | None, Field(ge=-1, le=LARGEST_COUNT)] = None
    """Tokens the penalties look back on; -1: the whole context."""
    mirostat: Annotated[Integer | None, Field(ge=0, le=2)] = None
    mirostat_tau: Annotated[float | None, Field(ge=0)] = None
    mirostat_eta: Annotated[float | None, Field(ge=0)] = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    """What the output must match, in GBNF."""
    grammar_json_functions: dict[str, Any] | None = None
    """What it must be, as a JSON Schema of which every property is there."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


# ---- to the replica's types ------------------------------------------------------------------------------------------

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "ignore_eos",
)
"""Fields of Text that are fields of the engine's Sampling under the same name; `logit_bias` is one besides."""

_ZERO_IS_OFF = {"typical_p": 1.0, "repeat_penalty": 1.0}
"""Where LocalAI's clients send 0 for "none": the neutral value."""


def text_options(wire: Text, *, tenant: str, request_id: str) -> dict[str, Any]:
    """Arguments of a `TextRequest`, less those that each kind of request has for itself."""
    report_ignored(wire.model_extra or ())
    json_schema = _json_schema(wire.response_format)
    rules = {
        "grammar": wire.grammar,
        "grammar_json_functions": wire.grammar_json_functions,
        "JSON response_format": json_schema,
    }
    if len(asked := [name for name, rule in rules.items() if rule]) > 1:
        raise UnsupportedParameter(f"'{asked[0]}' and '{asked[1]}' can't both rule the output.").at(asked[0])
    return {
        "tenant": tenant,
        "request_id": request_id,
        "sampling": _sampling(wire),
        "max_tokens": wire.max_tokens or None,
        "n": wire.n or 1,
        "stop": [text for text in wire.stop or () if text],
        "grammar": wire.grammar or None,
        "json_schema": _with_every_property(wire.grammar_json_functions) or json_schema,
    }


def _sampling(wire: Text) -> dict[str, Any]:
    chosen = {name: value for name in SAMPLING_FIELDS if (value := getattr(wire, name)) is not None}
    for name, neutral in _ZERO_IS_OFF.items():
        if chosen.get(name) == 0:
            chosen[name] = neutral
    if chosen.get("seed", 0) < 0:
        chosen["seed"] = None
    if wire.logit_bias:
        chosen["logit_bias"] = {_token_id(key): bias for key, bias in wire.logit_bias.items()}
    return chosen


def _token_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(f"Invalid 'logit_bias': {text[:64]!r} is not a token id.").at("logit_bias")
    return int(text)


def _with_every_property(schema: Any) -> Any:
    """LocalAI's grammars know no optional properties, and its structures no `required`."""
    if isinstance(schema, list):
        return [_with_every_property(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {key: _with_every_property(value) for key, value in schema.items()}
    if whole.get("type") == "object":
        whole |= {"required": list(whole.get("properties") or ()), "additionalProperties": False}
    return whole


def _json_schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The schema that the output must follow, if any."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return wanted.schema_ or {"type": "object"}
    if wanted.json_schema is None:
        raise InvalidRequest("Missing required parameter: 'response_format.json_schema'.").at(
            "response_format.json_schema"
        )
    return wanted.json_schema.schema_ or {"type": "object"}
