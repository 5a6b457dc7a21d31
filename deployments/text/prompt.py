"""From OpenAI's messages to a prompt: LocalAI's Go templates, the model's own Jinja template, or ChatML."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.config import ModelConfig
from deployments.text.content_parts import Contents
from deployments.text.go_prompt import GoPrompt, go_template
from deployments.text.jinja_prompt import JinjaPrompt

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
    media: list[int] = field(default_factory=list)
    """Indices of the request's media, in the order of their places."""


class PromptBuilder:
    """One model's templates, compiled once. Thread-safe.

    A LocalAI template in the config (`template.chat`, `template.chat_message`, `roles`, or a file
    `<parameters.model>.tmpl`) goes before the model's own Jinja template, unless `template.use_tokenizer_template`.
    """

    def __init__(
        self,
        config: ModelConfig,
        models_path: Path,
        chat_template: str | None,
        special_tokens: dict[str, str],
        media_markers: Mapping[str, str | None] | None = None,
    ) -> None:
        """`media_markers`: see TextEngine. Raises ConfigInvalid naming the key of a template that doesn't parse."""
        self._model = config.name
        self._special_tokens = special_tokens
        self._go = GoPrompt(config, models_path)
        by_model = go_template(config.parameters.model or "", models_path, "parameters.model", inline=False)
        self._completion = go_template(config.template.completion, models_path, "template.completion") or by_model
        self._edit = go_template(config.template.edit, models_path, "template.edit") or by_model
        self._chat: GoPrompt | JinjaPrompt = self._go
        self._markers = dict(media_markers or {})
        if config.template.use_tokenizer_template or not self._go.configured:
            if chat_template is None:
                log.warning("model %s has no chat template: ChatML is used; template.chat replaces it", config.name)
            self._chat = JinjaPrompt(config, chat_template or CHATML, special_tokens)
        else:
            self._markers = {kind: marker for kind, marker in self._markers.items() if marker is not None}
        self.native_tools = self._chat.native_tools
        """The model's own template writes tools: the model was trained to call them, in a format of its own."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        instructions: str = "",
        media: int = 0,
    ) -> Prompt:
        """The prompt after which the model writes the next assistant message.

        `instructions` list the tools in words, for templates that don't write them; `media` counts the request's.
        Raises UnsupportedParameter for what the model can't read, and InvalidRequest where the template refuses the
        messages.
        """
        contents = Contents(self._model, self._markers, media)
        plain = [contents.plain(message) for message in messages]
        prompt = self._prompt(self._chat.render(plain, template_kwargs or {}, tools, instructions))
        prompt.media = contents.places
        return prompt

    def completion(self, prompt: str) -> Prompt:
        """`template.completion` around the prompt, or the prompt as it is."""
        if not self._completion:
            return self._prompt(prompt)
        return self._prompt(self._completion.render(self._go.data(prompt)))

    def edit(self, text: str, instruction: str) -> Prompt:
        """`template.edit`; without one, the instruction and the text as a chat message."""
        if not self._edit:
            return self.chat([{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}])
        return self._prompt(self._edit.render(self._go.data(text, Instruction=instruction)))

    def _prompt(self, text: str) -> Prompt:
        bos = self._special_tokens.get("bos_token", "")
        return Prompt(text, add_bos=not (bos and text.startswith(bos)))
