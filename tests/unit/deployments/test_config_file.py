"""From YAML text to checked configs: what is read, and how every refusal is worded."""

from typing import Any

import pytest

from deployments.config_file import load_yaml, parse, seconds
from deployments.errors import ConfigInvalid

# As in LocalAI's gallery: blocks of every kind, a null block, an exponent without a point, a date as a text.
LOCALAI = """
name: hermes
backend: llama-cpp
mmap: true
context_size: 4096
rms_norm_eps: 1e-5
flash_attention: auto
main_gpu: 0
parameters:
  model: hermes.gguf
  temperature: 1
  logit_bias: {15: -100}
roles: {user: "USER: ", assistant_function_call: assistant}
stopwords: ["<|im_end|>", "</s>"]
function:
  disable_no_action: true
  grammar:
  replace_llm_results: [{key: "a(b)", value: ""}]
template:
  chat_message: |
    <|im_start|>{{.RoleName}}
    {{.Content}}<|im_end|>
  chat: |
    {{.Input}}
    <|im_start|>assistant
tts: {vall-e: {audio_path: a.wav}}
diffusers: {pipeline_type: StableDiffusionPipeline, cfg_scale: 7}
download_files: [{filename: hermes.gguf, sha256: "00", uri: "huggingface://a/b/hermes.gguf"}]
description: 2024-01-01
idle_timeout: 1h30m
load_timeout: 90
"""


def test_localais_yaml_is_read() -> None:
    config = parse(load_yaml(LOCALAI))
    assert config.rms_norm_eps == 1e-5
    assert config.parameters.temperature == 1.0
    assert config.parameters.logit_bias == {15: -100.0}
    assert config.function.grammar.disable is None
    assert config.function.replace_llm_results and config.function.replace_llm_results[0].key == "a(b)"
    assert config.template.chat == "{{.Input}}\n<|im_start|>assistant\n"
    assert config.tts.vall_e == {"audio_path": "a.wav"}
    assert config.download_files and config.download_files[0].filename == "hermes.gguf"
    assert config.description == "2024-01-01"
    assert (config.idle_timeout, config.load_timeout) == (5400.0, 90.0)


@pytest.mark.parametrize("merge", ["<<", "!!merge <<"])
def test_merge_keys(merge: str) -> None:
    raw = load_yaml(f"- &base\n  name: base\n  parameters: {{top_k: 1}}\n- {merge}: *base\n  name: other\n")
    assert raw[1] == {"name": "other", "parameters": {"top_k": 1}}


def test_a_zero_that_means_unset_to_localai_is_unset() -> None:
    config = parse({"name": "x", "context_size": 0, "threads": 0})
    assert config.context_size is None
    assert config.threads is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"context_size": "abc"}, 'context_size: expected an integer, got "abc"'),
        ({"context_size": [1]}, "context_size: expected an integer, got [1]"),
        ({"context_size": True}, "context_size: expected an integer, got true"),
        ({"mmap": "yes please"}, 'mmap: expected true or false, got "yes please"'),
        ({"parameters": {"top_p": "high"}}, 'parameters.top_p: expected a number, got "high"'),
        ({"parameters": {"logit_bias": {"a": 1}}}, 'parameters.logit_bias.a: expected an integer, got "a"'),
        ({"parameters": []}, "parameters: expected a mapping, got []"),
        ({"stopwords": "x"}, 'stopwords: expected a list, got "x"'),
        ({"stopwords": ["a", 1]}, "stopwords[1]: expected a text, got 1"),
        ({"flash_attention": "x"}, "flash_attention: expected true or false or 'auto', 'on' or 'off', got \"x\""),
        ({"mirostat": 3}, "mirostat: expected 0, 1 or 2, got 3"),
        ({"context_sise": 1}, "context_sise: unknown key (did you mean context_size?)"),
        ({"temperature": 1}, "temperature: unknown key (did you mean parameters.temperature?)"),
        ({"parameters": {"context_size": 1}}, "parameters.context_size: unknown key (did you mean context_size?)"),
        ({"parameters": {"modle": "x"}}, "parameters.modle: unknown key (did you mean model?)"),
        ({"template": {"zzz": "x"}}, "template.zzz: unknown key"),
        ({"download_files": [{"filename": "a"}]}, "download_files[0].uri: is missing"),
        ({"parallel": 0}, "parallel: expected at least 1, got 0"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas: expected at most max_replicas (2), got 3"),
        ({"idle_timeout": "soon"}, 'idle_timeout: expected seconds or a duration such as "15m" or "1h30m", got "soon"'),
        ({"backend": "a/b"}, 'backend: expected letters, digits, - and _, got "a/b"'),
        (
            {"parameters": {"model": "/etc/x"}},
            'parameters.model: expected a path inside the models directory, got "/etc/x"',
        ),
        ({"mmproj": "a/../../x"}, 'mmproj: expected a path inside the models directory, got "a/../../x"'),
        ({"lora_adapters": ["a", "../b"]}, 'lora_adapters[1]: expected a path inside the models directory, got "../b"'),
        ({"name": " "}, "name: must not be empty"),
        ({"name": None}, "name: is missing"),
    ],
)
def test_a_refusal_names_the_key_and_what_it_should_be(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse({"name": "x", **raw})
    assert refused.value.message == message


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigInvalid, match=r"(?s)threads: .*; parameters\.n: |parameters\.n: .*; threads: "):
        parse({"name": "x", "threads": "a", "parameters": {"n": "b"}})


@pytest.mark.parametrize("pattern", ["cutstrings", "extract_regex"])
def test_a_broken_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"{pattern}\[0\]: expected a regular expression"):
        parse({"name": "x", pattern: ["("]})


def test_an_unknown_usecase_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r'known_usecases: expected chat, .*; got "chatt"'):
        parse({"name": "x", "known_usecases": ["chatt"]})


@pytest.mark.parametrize("document", [None, "text", 3, []])
def test_a_document_that_is_no_mapping_is_refused(document: Any) -> None:
    with pytest.raises(ConfigInvalid, match="expected a mapping"):
        parse(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8"),
        ("name: a\nname: b", "'name' is given twice.*line 2"),
        ("a: b: c", "not YAML"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        load_yaml(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("15m", 900.0), ("1h30m", 5400.0), ("500ms", 0.5), ("90", 90.0), ("1.5h", 5400.0), ("0", 0.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text, "idle_timeout") == expected
