"""A chat's answer: `chat.completion`, and the `chat.completion.chunk`s of its stream."""

from typing import Any

from api.answers.envelope import Envelope
from api.answers.logprobs import chat_logprobs
from deployments.backends.base import Delta, DeltaGroup, TextResult


class ChatAnswer:
    """One answer. Per choice: a chunk with the role, chunks with content, a chunk with the finish reason."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._envelope = Envelope(
            prefix="chatcmpl",
            kind="chat.completion",
            chunk_kind="chat.completion.chunk",
            model=model,
            include_usage=include_usage,
        )
        self._begun: set[int] = set()

    def whole(self, result: TextResult) -> dict[str, Any]:
        choices = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in result.choices
        ]
        return self._envelope.whole(choices, result.usage)

    def events(self, group: DeltaGroup) -> bytes:
        """All events of a group, as one piece of the body; may be empty."""
        pieces = [piece for delta in group.deltas for piece in self._chunks(delta)]
        pieces.append(self._envelope.usage_chunk(group.usage))
        return b"".join(pieces)

    def _chunks(self, delta: Delta) -> list[bytes]:
        chunks = []
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            chunks.append(self._chunk(delta.index, {"role": "assistant", "content": ""}))
        if delta.text or delta.logprobs:
            chunks.append(self._chunk(delta.index, {"content": delta.text}, logprobs=chat_logprobs(delta.logprobs)))
        if delta.finish_reason:
            chunks.append(self._chunk(delta.index, {}, finish_reason=delta.finish_reason))
        return chunks

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        return self._envelope.chunk(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        )
