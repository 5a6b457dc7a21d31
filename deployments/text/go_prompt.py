"""A chat prompt by LocalAI's Go templates: core/http/endpoints/openai/chat.go of LocalAI v2."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deployments.config import ModelConfig
from deployments.text.go_functions import Struct, to_json
from deployments.text.go_template import GoTemplate
from deployments.text.tool_messages import Message, with_instructions


class GoPrompt:
    """The config's templates and roles. They know nothing of a model's own format of tool calls."""

    native_tools = False

    def __init__(self, config: ModelConfig, models_path: Path) -> None:
        """Raises ConfigInvalid naming the key of a template that doesn't parse."""
        self._config = config
        own = config.template
        by_model = go_template(config.parameters.model or "", models_path, "parameters.model", inline=False)
        self._chat = go_template(own.chat, models_path, "template.chat") or by_model
        self._chat_message = go_template(own.chat_message, models_path, "template.chat_message")
        self._function = go_template(own.function, models_path, "template.function")
        self.configured = bool(self._chat or self._chat_message or config.roles)
        """The config says anything about the prompt of a chat."""

    def render(
        self,
        messages: Sequence[Message],
        request_kwargs: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        instructions: str,
    ) -> str:
        """`template.function` goes around the messages where there are tools, else `template.chat`.

        LocalAI v2 leaves the tools out when there is no `template.function`; here `template.chat` gets them too, and
        where it doesn't write them either, the instructions stand before the user's words.
        """
        outer = (self._function if tools else None) or self._chat
        if tools and not (outer and ".Functions" in outer.source):
            messages = with_instructions(messages, instructions, system=False)
        text = self._conversation(messages, bool(tools))
        if not outer:
            return text
        suppress = any(message.get("role") == "system" and message["content"] for message in messages)
        functions = [_function(tool) for tool in tools]
        effort = request_kwargs.get("reasoning_effort") or self._config.reasoning_effort or ""
        return outer.render(self.data(text, SuppressSystemPrompt=suppress, Functions=functions, ReasoningEffort=effort))

    def data(self, text: str, **more: Any) -> Struct:
        """What a template around a whole prompt is given."""
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

    def _conversation(self, messages: Sequence[Message], tools: bool) -> str:
        rendered = [self._message(message, i, len(messages), tools) for i, message in enumerate(messages)]
        join = self._config.template.join_chat_messages_by_character
        return ("\n" if join is None else join).join(part for part in rendered if part is not None)

    def _message(self, message: Message, index: int, count: int, tools: bool) -> str | None:
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
            Function=(tools or bool(self._config.grammar)) and last,
            FunctionCall=calls,
            LastMessage=last,
        )
        return self._chat_message.render(data) or None


def go_template(value: str | None, models_path: Path, key: str, inline: bool = True) -> GoTemplate | None:
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
