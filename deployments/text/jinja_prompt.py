"""A chat prompt by the model's own Jinja template."""

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.config import ModelConfig
from deployments.text.jinja_template import JinjaTemplate
from deployments.text.template_traits import template_traits
from deployments.text.tool_messages import (
    Message,
    as_template_reads,
    as_text,
    in_parts,
    in_tool_calls,
    with_instructions,
)


class JinjaPrompt:
    """The template, and what the config adds to its variables."""

    def __init__(self, config: ModelConfig, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises ConfigInvalid."""
        self._config = config
        self._special_tokens = special_tokens
        self._template = JinjaTemplate(source)
        self._traits = template_traits(self._template, special_tokens)
        self.native_tools = self._traits.tools

    def render(
        self,
        messages: Sequence[Message],
        request_kwargs: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        instructions: str,
    ) -> str:
        messages = in_tool_calls(self._with_system_prompt(messages))
        messages = as_template_reads(messages, self._traits) if self._traits.calls else as_text(messages)
        if tools and not self._traits.tools:
            messages = with_instructions(messages, instructions, system=self._traits.system)
        if self._traits.content_parts:
            messages = in_parts(messages)
        fixed = {"messages": messages, "tools": list(tools) or None, **self._special_tokens}
        return self._template.render({"add_generation_prompt": True, **self._kwargs(request_kwargs), **fixed})

    def _with_system_prompt(self, messages: Sequence[Message]) -> Sequence[Message]:
        system = self._config.system_prompt
        if not system or any(message.get("role") in ("system", "developer") for message in messages):
            return messages
        return [{"role": "system", "content": system}, *messages]

    def _kwargs(self, request_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        kwargs = dict(self._config.chat_template_kwargs or {})
        if self._config.reasoning_effort:
            kwargs["reasoning_effort"] = self._config.reasoning_effort
        kwargs |= request_kwargs
        if kwargs.get("reasoning_effort") == "none":
            kwargs.setdefault("enable_thinking", False)
        return kwargs
