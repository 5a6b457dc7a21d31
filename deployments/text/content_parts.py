"""The content of a message: text, and the places of its media."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.errors import InvalidRequest, UnsupportedParameter

MEDIA_NAMES: Mapping[str, str] = {"image": "images", "audio": "audio"}
"""Kinds of media, as an error speaks of them."""


@dataclass(slots=True)
class Contents:
    """Reads the messages of one request, and remembers which media stand in them, in order."""

    model: str
    markers: Mapping[str, str | None]
    """See `TextEngine.media_markers`."""
    count: int
    """Media of the request."""
    places: list[int] = field(default_factory=list)
    """Their indices, as they come."""

    def plain(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message with its content as one string, or None beside tool calls. Text parts are joined, as LocalAI
        does. It stays a list only around media that the chat template must write.

        Raises UnsupportedParameter for a part that the model can't read, InvalidRequest for one that is none.
        """
        content = message.get("content")
        if isinstance(content, list):
            content = self._joined(content)
        elif content is None and not message.get("tool_calls"):
            content = ""
        elif not isinstance(content, str | None):
            raise InvalidRequest("a message's content must be a string or a list of parts").at("messages")
        elif content:
            content = self._without_markers(content)
        return {**message, "content": content}

    def _joined(self, parts: Sequence[Any]) -> str | list[dict[str, Any]]:
        read = [self._part(part) for part in parts]
        if any(isinstance(part, dict) for part in read):
            return [part if isinstance(part, dict) else {"type": "text", "text": part} for part in read]
        return "".join(part for part in read if isinstance(part, str))

    def _part(self, part: Any) -> str | dict[str, Any]:
        """Text, or a part that the template writes."""
        if isinstance(part, str):
            return self._without_markers(part)
        kind = str(part.get("type")) if isinstance(part, Mapping) else "none"
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            return self._without_markers(part["text"])
        if kind not in MEDIA_NAMES or "index" not in part:
            raise UnsupportedParameter(f'this model takes text only, not a content part of type "{kind}"').at(
                "messages"
            )
        if kind not in self.markers:
            raise UnsupportedParameter(f"model {self.model} takes no {MEDIA_NAMES[kind]}").at("messages")
        if not 0 <= part["index"] < self.count:
            raise InvalidRequest(f"there is no medium {part['index']} in this request").at("messages")
        self.places.append(part["index"])
        marker = self.markers[kind]
        return {"type": kind} if marker is None else marker

    def _without_markers(self, text: str) -> str:
        """What a user writes must not pass for the place of a medium."""
        if self.count:
            for marker in filter(None, self.markers.values()):
                text = text.replace(marker, "")
        return text
