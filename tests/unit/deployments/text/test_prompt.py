"""Prompts: which template is used, what it is given, and what it gives back."""

import logging
from pathlib import Path
from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.config_blocks import Parameters, Template
from deployments.errors import ConfigInvalid, InvalidRequest, UnsupportedParameter
from deployments.text.prompt import Prompt, PromptBuilder

HELLO = [{"role": "user", "content": "hello"}]
TALK = [{"role": "system", "content": "be brief"}, *HELLO, {"role": "assistant", "content": "hi"}, *HELLO]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q":1}'}}

CHAT_MESSAGE = """<|im_start|>{{.RoleName}}
{{- if .FunctionCall}}
{{toJson .FunctionCall}}
{{- else}}
{{.Content}}
{{- end}}<|im_end|>"""
CHAT = "{{.Input}}\n<|im_start|>assistant\n"


def builder(
    folder: Path, jinja: str | None = None, tokens: dict[str, str] | None = None, **config: Any
) -> PromptBuilder:
    return PromptBuilder(ModelConfig(name="m", **config), folder, jinja, tokens or {})


# ---- LocalAI's templates -----------------------------------------------------------------------------------------


def test_message_template_then_chat_template(tmp_path: Path) -> None:
    prompts = builder(tmp_path, "ignored", template=Template(chat=CHAT, chat_message=CHAT_MESSAGE))
    assert prompts.chat(TALK).text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_roles_are_prefixes_and_calls_are_json(tmp_path: Path) -> None:
    roles = {"user": "USER: ", "assistant": "BOT: ", "assistant_function_call": "CALL:"}
    messages: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
    ]
    call = r'{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\"q\":1}"}}'
    assert builder(tmp_path, roles=roles).chat(messages).text == f"USER: hello\nCALL: [{call}]\n3"


def test_a_message_without_output_is_left_out(tmp_path: Path) -> None:
    template = Template(
        chat_message='{{if eq .RoleName "user"}}U:{{.Content}}{{end}}', join_chat_messages_by_character="|"
    )
    assert builder(tmp_path, template=template).chat(TALK).text == "U:hello|U:hello"


def test_what_a_message_template_is_given(tmp_path: Path) -> None:
    template = Template(
        chat_message="{{.MessageIndex}} {{.Role}}{{.RoleName}} {{.FunctionName}} "
        "{{.LastMessage}} {{.Function}} {{.SystemPrompt}}"
    )
    prompts = builder(tmp_path, template=template, roles={"user": "U/"}, grammar="root ::= x", system_prompt="S")
    messages = [{"role": "tool", "name": "f", "content": "1"}, *HELLO]
    assert prompts.chat(messages).text == "0 tool f false false S\n1 U/user  true true S"


def test_the_system_prompt_gives_way_to_the_requests(tmp_path: Path) -> None:
    chat = "{{if not .SuppressSystemPrompt}}{{.SystemPrompt}}\n{{end}}{{.Input}}"
    prompts = builder(tmp_path, template=Template(chat=chat), system_prompt="S")
    assert prompts.chat(HELLO).text == "S\nhello"
    assert prompts.chat([{"role": "system", "content": "mine"}, *HELLO]).text == "mine\nhello"


def test_functions_reach_the_template(tmp_path: Path) -> None:
    prompts = builder(tmp_path, template=Template(chat="{{range .Functions}}{{.Name}} {{toJson .Parameters}}{{end}}"))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert prompts.chat(HELLO, tools=tools).text == 'f {"type":"object"}'


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_the_function_template_goes_before_the_chat_template_where_there_are_tools(tmp_path: Path) -> None:
    template = Template(chat="chat {{.Input}}", function="{{range .Functions}}{{.Name}}{{end}} {{.Input}}")
    prompts = builder(tmp_path, template=template)
    assert prompts.chat(HELLO, tools=[TOOL], instructions="I").text == "f hello"
    assert prompts.chat(HELLO).text == "chat hello"
    assert not prompts.native_tools


def test_tools_that_no_go_template_writes_are_told_before_the_users_words(tmp_path: Path) -> None:
    prompts = builder(tmp_path, template=Template(chat="{{.SystemPrompt}}: {{.Input}}"), system_prompt="S")
    assert prompts.chat(HELLO, tools=[TOOL], instructions="I").text == "S: I\n\nhello"


def test_a_broken_function_template_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"^template\.function:1: "):
        builder(tmp_path, template=Template(function="{{if}}"))


def test_a_file_goes_before_the_text(tmp_path: Path) -> None:
    (tmp_path / "mine.tmpl").write_text("file {{.Input}}")
    assert builder(tmp_path, template=Template(chat="mine")).chat(HELLO).text == "file hello"
    assert builder(tmp_path, template=Template(chat="other")).chat(HELLO).text == "other"


def test_a_file_outside_the_models_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.tmpl").write_text("secret")
    (tmp_path / "models").mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        assert builder(tmp_path / "models", template=Template(chat=name)).chat(HELLO).text == name


def test_the_weights_own_template_file_is_used_when_nothing_is_configured(tmp_path: Path) -> None:
    (tmp_path / "w.gguf.tmpl").write_text("Q: {{.Input}}\nA:")
    config: dict[str, Any] = {"parameters": Parameters(model="w.gguf")}
    assert builder(tmp_path, "jinja", **config).chat(HELLO).text == "Q: hello\nA:"
    assert builder(tmp_path, "jinja", **config).completion("hello").text == "Q: hello\nA:"
    assert builder(tmp_path, template=Template(chat="own {{.Input}}"), **config).chat(HELLO).text == "own hello"


@pytest.mark.parametrize("key", ["chat", "chat_message", "completion", "edit"])
def test_a_broken_template_is_refused_by_its_key(tmp_path: Path, key: str) -> None:
    broken: dict[str, Any] = {key: "a\n{{if}}"}
    with pytest.raises(ConfigInvalid, match=rf"^template\.{key}:2: "):
        builder(tmp_path, "jinja", template=Template(**broken))


# ---- the model's own template ----------------------------------------------------------------------------------------


def test_jinja_gets_what_transformers_gives(tmp_path: Path) -> None:
    jinja = (
        "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'tool' %}{% continue %}{% endif %}\n"
        "[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}\n{{ tools | tojson }}"
        "{% generation %}{% if add_generation_prompt %}[assistant]{% endif %}{% endgeneration %}"
    )
    prompts = builder(tmp_path, jinja, {"bos_token": "<s>", "eos_token": "</s>"})
    prompt = prompts.chat([*HELLO, {"role": "tool", "content": "x"}], tools=[{"a": "<é>"}])
    assert prompt == Prompt('<s>[user]hello</s>\n[{"a": "<é>"}][assistant]', add_bos=False)


def test_bos_is_not_doubled_and_not_lost(tmp_path: Path) -> None:
    tokens = {"bos_token": "<s>"}
    assert not builder(tmp_path, "{{ bos_token }}x", tokens).chat(HELLO).add_bos
    assert builder(tmp_path, "x", tokens).chat(HELLO).add_bos
    assert builder(tmp_path, "x", tokens).completion("once").add_bos
    assert not builder(tmp_path, "x", tokens).completion("<s>once").add_bos
    assert builder(tmp_path, "x").completion("<s>once").add_bos


def test_the_config_chooses_the_models_template(tmp_path: Path) -> None:
    template = Template(chat="go", use_tokenizer_template=True)
    assert builder(tmp_path, "jinja", template=template, roles={"user": "U"}).chat(HELLO).text == "jinja"


def test_the_system_prompt_is_put_first(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    prompts = builder(tmp_path, jinja, system_prompt="S")
    assert prompts.chat(HELLO).text == "system=S;user=hello;"
    assert prompts.chat([{"role": "developer", "content": "D"}]).text == "developer=D;"


def test_variables_of_request_and_config(tmp_path: Path) -> None:
    jinja = "{{ a }} {{ b }} {{ reasoning_effort }} {{ enable_thinking }} {{ messages | length }}"
    prompts = builder(tmp_path, jinja, chat_template_kwargs={"a": 1, "b": 2}, reasoning_effort="low")
    assert prompts.chat(HELLO).text == "1 2 low  1"
    assert prompts.chat(HELLO, {"b": 3, "reasoning_effort": "none", "messages": []}).text == "1 3 none False 1"


def test_calls_and_results_pass_through(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}{% if m.tool_calls %}{{ m.content is none }}{{ m.tool_calls[0].function.name }}"
        "{% else %}{{ m.tool_call_id }}:{{ m.content }}{% endif %}{% endfor %}"
    )
    call: dict[str, Any] = {"role": "assistant", "tool_calls": [CALL]}
    messages = [call, {"role": "tool", "tool_call_id": "c1", "content": "3"}]
    assert builder(tmp_path, jinja).chat(messages).text == "Truefc1:3"
    older: dict[str, Any] = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    made = f"call_{0:024}"
    assert builder(tmp_path, jinja).chat([older, {"role": "function", "name": "f", "content": "3"}]).text == (
        f"Truef{made}:3"
    )


def test_tools_that_the_model_s_template_does_not_write_are_told(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    prompts = builder(tmp_path, jinja, system_prompt="S")
    assert not prompts.native_tools
    assert prompts.chat(HELLO, tools=[TOOL], instructions="I").text == "[system]S\n\nI[user]hello"
    assert prompts.chat(HELLO, instructions="I").text == "[system]S[user]hello"
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    told = prompts.chat([*HELLO, call, {"role": "tool", "tool_call_id": "c1", "content": "3"}]).text
    assert told.endswith('[user]hello[assistant]{"name": "f", "arguments": {"q": 1}}[user]Result of f: 3')
    older = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    assert prompts.chat([*HELLO, older, {"role": "function", "name": "f", "content": "3"}]).text == told


def test_tools_that_the_model_s_template_writes_are_its_own_affair(tmp_path: Path) -> None:
    prompts = builder(tmp_path, "{{ tools[0].function.name }} {{ messages[0].content }}")
    assert prompts.native_tools
    assert prompts.chat(HELLO, tools=[TOOL], instructions="I").text == "f hello"


def test_where_a_template_refuses_a_system_message_the_user_tells_of_the_tools(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert builder(tmp_path, jinja).chat(HELLO, tools=[TOOL], instructions="I").text == "[user]I\n\nhello"


def test_a_template_that_reads_parts_gets_parts(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    )
    prompts = PromptBuilder(ModelConfig(name="m"), tmp_path, jinja, {}, {"image": None})
    parts = [{"type": "text", "text": "see "}, {"type": "image", "index": 0}]
    prompt = prompts.chat([*HELLO, {"role": "user", "content": parts}], tools=[TOOL], instructions="I", media=1)
    assert (prompt.text, prompt.media) == ("[system]I[user]hello[user]see <image>", [0])


def test_a_go_template_can_not_write_a_medium_without_a_marker(tmp_path: Path) -> None:
    message = {"role": "user", "content": [{"type": "image", "index": 0}]}
    config = ModelConfig(name="m", template=Template(chat="{{.Input}}"))
    with pytest.raises(UnsupportedParameter, match="no images"):
        PromptBuilder(config, tmp_path, "jinja", {}, {"image": None}).chat([message], media=1)
    assert PromptBuilder(config, tmp_path, "jinja", {}, {"image": "<i>"}).chat([message], media=1).text == "<i>"


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{{ messages[0].nothing.at_all }}", "nothing"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_the_template_refuses_is_the_clients_error_in_its_words(tmp_path: Path, jinja: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        builder(tmp_path, jinja).chat(HELLO)
    assert refused.value.param == "messages"


def test_a_broken_template_of_the_model_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"own chat template, line 2: .*template\.chat"):
        builder(tmp_path, "\n{% if %}")


def test_today_is_known(tmp_path: Path) -> None:
    assert builder(tmp_path, "{{ strftime_now('%Y') | int > 2000 }}").chat(HELLO).text == "True"


# ---- neither ---------------------------------------------------------------------------------------------------------


def test_without_any_template_it_is_chatml_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    prompts = builder(tmp_path)
    text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.chat(TALK[:2]).text == text
    assert prompts.chat(TALK[:2]).text == text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "input_text", "text": "a"}], "a"),
        ([], ""),
        (None, ""),
    ],
)
def test_text_parts_are_joined(tmp_path: Path, content: Any, text: str) -> None:
    prompts = builder(tmp_path, "{{ messages[0].content }}")
    assert prompts.chat([{"role": "user", "content": content}]).text == text


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"}, {}, 3])
def test_what_is_not_text_is_refused(tmp_path: Path, part: Any) -> None:
    with pytest.raises(UnsupportedParameter, match="takes text only") as refused:
        builder(tmp_path, "x").chat([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_content_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="string or a list"):
        builder(tmp_path, "x").chat([{"role": "user", "content": 3}])


# ---- completion and edit ---------------------------------------------------------------------------------------------


def test_a_completion_is_raw_without_a_template(tmp_path: Path) -> None:
    assert builder(tmp_path, "jinja").completion("once {{.Input}}").text == "once {{.Input}}"


def test_completion_and_edit_templates(tmp_path: Path) -> None:
    template = Template(completion="{{.SystemPrompt}}:{{.Input}}", edit="{{.Instruction}}>{{.Input}}")
    prompts = builder(tmp_path, "jinja", template=template, system_prompt="S")
    assert prompts.completion("a").text == "S:a"
    assert prompts.edit("a", "do").text == "do>a"


def test_an_edit_without_a_template_is_a_chat(tmp_path: Path) -> None:
    prompts = builder(tmp_path, "{{ messages[0].content }}|")
    assert prompts.edit("text", "fix").text == "fix\n\ntext|"
    assert prompts.edit("text", "").text == "text|"
