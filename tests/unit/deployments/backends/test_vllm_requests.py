"""From requests to vLLM's parameters: sampling, constraints, media. No vLLM is imported."""

import io
from typing import Any

import pytest
from llguidance import LLMatcher, grammar_from
from PIL import Image

from deployments.backends.base import Generate, Media, Sampling
from deployments.backends.vllm_constraint import constraint_arguments
from deployments.backends.vllm_media import multi_modal_data
from deployments.backends.vllm_sampling import sampling_arguments
from deployments.errors import InvalidRequest, UnsupportedParameter


def request(sampling: Sampling | None = None, **fields: Any) -> Generate:
    return Generate(tokens=[1], sampling=sampling or Sampling(), **fields)


def test_every_sampling_field_reaches_vllm() -> None:
    sampling = Sampling(
        temperature=0.5,
        top_k=7,
        top_p=0.8,
        min_p=0.1,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        seed=11,
        logit_bias={5: -1.0},
        ignore_eos=True,
    )
    made = sampling_arguments(request(sampling, top_logprobs=3), room=9)
    expected = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.8,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "seed": 11,
        "logit_bias": {5: -1.0},
        "ignore_eos": True,
        "max_tokens": 9,
        "logprobs": 3,
    }
    assert expected.items() <= made.items()


def test_what_is_off_for_llama_cpp_is_off_for_vllm() -> None:
    made = sampling_arguments(request(Sampling(top_k=-1)), room=None)
    assert (made["top_k"], made["logit_bias"], made["seed"], made["max_tokens"]) == (0, None, None, None)


@pytest.mark.parametrize(("field", "value"), [("mirostat", 2), ("typical_p", 0.9), ("repeat_last_n", 16)], ids=str)
def test_what_vllms_sampler_hasnt_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter, match=field) as refusal:
        sampling_arguments(request(Sampling(repeat_penalty=1.2, **{field: value})), room=None)
    assert refusal.value.param == field


def test_a_lookback_that_no_penalty_uses_is_no_matter() -> None:
    assert sampling_arguments(request(Sampling(repeat_last_n=16)), room=None)["repetition_penalty"] == 1.0


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}, "json"),
        ({"lark": 'start: "a" %json {"type": "boolean"}'}, "grammar"),
        ({"grammar": 'root ::= ("a" | "b")+'}, "grammar"),
    ],
)
def test_constraints_are_given_as_vllms_guidance_backend_reads_them(fields: dict[str, Any], kind: str) -> None:
    (name, value), *rest = constraint_arguments(request(**fields)).items()
    assert (name, rest) == (kind, [])
    text = LLMatcher.grammar_from_json_schema(value) if kind == "json" else grammar_from("grammar", value)
    assert not LLMatcher.validate_grammar(text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": {"not": {}}}, "response_format"),
        ({"json_schema": {"$ref": "#/$defs/none"}}, "response_format"),
        ({"lark": "start: nothing"}, "tools"),
        ({"grammar": "root ::= nothing("}, "grammar"),
    ],
)
def test_a_constraint_that_cant_be_followed_is_refused_at_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        constraint_arguments(request(**fields))
    assert refusal.value.param == param


def test_pictures_become_rgb_in_the_order_of_their_places() -> None:
    def png(mode: str, size: tuple[int, int]) -> Media:
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG")
        return Media("image", file.getvalue())

    images = multi_modal_data([png("L", (2, 3)), png("RGBA", (4, 5))])["image"]
    assert [(image.mode, image.size) for image in images] == [("RGB", (2, 3)), ("RGB", (4, 5))]


def test_a_picture_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not an image"):
        multi_modal_data([Media("image", b"no picture")])
