"""From OpenAI's messages to a prompt: LocalAI's Go templates, the model's own Jinja template, or ChatML."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.text.go_functions import Struct, to_json
from deployments.text.go_template import GoTemplate
from deployments.text.jinja_template import JinjaTemplate

log = logging.getLogger("manta.prompt")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
"""For models that bring no template. Most instruction-tuned ones without a template understand it."""


@dataclass(slots=True)
class Prompt:
    """What the model continues."""

    text: str
    add_bos: bool
    """The tokenizer should prepend BOS, where the model wants one. False when the text begins with it."""


class PromptBuilder:
    """One model's templates, compiled once. Thread-safe.

    A LocalAI template in the config (`template.chat`, `template.chat_message`, `roles`, or a file
    `<parameters.model>.tmpl`) goes before the model's own Jinja template, unless `template.use_tokenizer_template`.
    """

    def __init__(
        self, config: ModelConfig, models_path: Path, chat_template: str | None, special_tokens: dict[str, str]
    ) -> None:
        """Raises ConfigInvalid naming the key of a template that doesn't parse."""
        self._config = config
        self._special_tokens = special_tokens
        own = config.template
        by_model = _go_template(config.parameters.model or "", models_path, "parameters.model", inline=False)
        self._chat = _go_template(own.chat, models_path, "template.chat") or by_model
        self._chat_message = _go_template(own.chat_message, models_path, "template.chat_message")
        self._completion = _go_template(own.completion, models_path, "template.completion") or by_model
        self._edit = _go_template(own.edit, models_path, "template.edit") or by_model
        self._jinja: JinjaTemplate | None = None
        if own.use_tokenizer_template or not (self._chat or self._chat_message or config.roles):
            if chat_template is None:
                log.warning("model %s has no chat template: ChatML is used; template.chat replaces it", config.name)
            self._jinja = JinjaTemplate(chat_template or CHATML)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Prompt:
        """The prompt after which the model writes the next assistant message.

        Raises UnsupportedParameter for anything but text, and InvalidRequest where the template refuses the messages.
        """
        plain = [_with_text(message) for message in messages]
        if self._jinja:
            return self._prompt(self._by_jinja(self._jinja, plain, template_kwargs or {}, tools))
        return self._prompt(self._by_go(plain, tools))

    def completion(self, prompt: str) -> Prompt:
        """`template.completion` around the prompt, or the prompt as it is."""
        if not self._completion:
            return self._prompt(prompt)
        return self._prompt(self._completion.render(self._prompt_data(prompt)))

    def edit(self, text: str, instruction: str) -> Prompt:
        """`template.edit`; without one, the instruction and the text as a chat message."""
        if not self._edit:
            return self.chat([{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}])
        return self._prompt(self._edit.render(self._prompt_data(text, Instruction=instruction)))

    def _prompt(self, text: str) -> Prompt:
        bos = self._special_tokens.get("bos_token", "")
        return Prompt(text, add_bos=not (bos and text.startswith(bos)))

    # ---- Jinja ----

    def _by_jinja(
        self,
        template: JinjaTemplate,
        messages: list[dict[str, Any]],
        request_kwargs: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> str:
        system = self._config.system_prompt
        if system and not any(message.get("role") in ("system", "developer") for message in messages):
            messages = [{"role": "system", "content": system}, *messages]
        kwargs = dict(self._config.chat_template_kwargs or {})
        if self._config.reasoning_effort:
            kwargs["reasoning_effort"] = self._config.reasoning_effort
        kwargs |= request_kwargs
        if kwargs.get("reasoning_effort") == "none":
            kwargs.setdefault("enable_thinking", False)
        fixed = {"messages": messages, "tools": tools or None, **self._special_tokens}
        return template.render({"add_generation_prompt": True, **kwargs, **fixed})

    # ---- Go: core/http/endpoints/openai/chat.go of LocalAI v2 ----

    def _by_go(self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        rendered = [self._message(message, i, len(messages)) for i, message in enumerate(messages)]
        join = self._config.template.join_chat_messages_by_character
        text = ("\n" if join is None else join).join(part for part in rendered if part is not None)
        if not self._chat:
            return text
        suppress = any(message.get("role") == "system" and message["content"] for message in messages)
        functions = [_function(tool) for tool in tools or []]
        return self._chat.render(self._prompt_data(text, SuppressSystemPrompt=suppress, Functions=functions))

    def _message(self, message: dict[str, Any], index: int, count: int) -> str | None:
        """One message; None leaves it out."""
        roles = self._config.roles or {}
        role, content = str(message.get("role") or ""), message["content"] or ""
        calls = _calls(message)
        if calls and role == "assistant" and roles.get("assistant_function_call"):
            role = "assistant_function_call"
        prefix = roles.get(role, "")
        if not self._chat_message:
            said = [prefix + content] if content else []
            called = [f"{prefix} {to_json(calls)}" if prefix else to_json(calls)] if calls else []
            return "\n".join(said + called)
        last = index == count - 1
        data = Struct(
            SystemPrompt=self._config.system_prompt or "",
            Role=prefix,
            RoleName=role,
            FunctionName=message.get("name") or "",
            Content=content,
            MessageIndex=index,
            Function=bool(self._config.grammar) and last,
            FunctionCall=calls,
            LastMessage=last,
        )
        return self._chat_message.render(data) or None

    def _prompt_data(self, text: str, **more: Any) -> Struct:
        data = Struct(
            SystemPrompt=self._config.system_prompt or "",
            SuppressSystemPrompt=False,
            Input=text,
            Instruction="",
            Functions=[],
            MessageIndex=0,
            ReasoningEffort=self._config.reasoning_effort or "",
            Metadata={},
        )
        data.update(more)
        return data


def _go_template(value: str | None, models_path: Path, key: str, inline: bool = True) -> GoTemplate | None:
    """`value` names a file `<value>.tmpl` in the models directory or, where `inline`, is the template itself."""
    if not value:
        return None
    name = f"{value}.tmpl"
    inside = (
        "\n" not in name
        and len(name.encode()) < 256
        and ".." not in PurePosixPath(name).parts
        and not name.startswith("/")
    )
    if inside and (models_path / name).is_file():
        return GoTemplate((models_path / name).read_text("utf-8"), name)
    return GoTemplate(value, key) if inline else None


def _with_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its content as one string, or None beside tool calls. Text parts are joined, as LocalAI does."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_text_of(part) for part in content)
    elif content is None and not message.get("tool_calls"):
        content = ""
    elif not isinstance(content, str | None):
        raise InvalidRequest("a message's content must be a string or a list of parts").at("messages")
    return {**message, "content": content}


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
        raise UnsupportedParameter(f'this model takes text only, not a content part of type "{kind}"').at("messages")
    return str(part["text"])


def _calls(message: Mapping[str, Any]) -> Any:
    """The assistant's calls as LocalAI's templates know them, None without any."""
    if not message.get("tool_calls"):
        return message.get("function_call")
    return [
        Struct(
            Index=call.get("index", index),
            ID=call.get("id", ""),
            Type=call.get("type", "function"),
            FunctionCall=Struct(
                Name=call.get("function", {}).get("name", ""), Arguments=call.get("function", {}).get("arguments", "")
            ),
        )
        for index, call in enumerate(message["tool_calls"])
    ]


def _function(tool: Mapping[str, Any]) -> Struct:
    function = tool.get("function", tool)
    return Struct(
        Name=function.get("name", ""),
        Description=function.get("description", ""),
        Strict=bool(function.get("strict")),
        Parameters=function.get("parameters"),
    )
