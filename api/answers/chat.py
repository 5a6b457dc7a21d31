"""A chat's answer: `chat.completion`, and the `chat.completion.chunk`s of its stream."""

from collections.abc import Iterator
from typing import Any

from api.answers.envelope import Envelope
from api.answers.logprobs import chat_logprobs
from api.answers.tool_calls import function_call, function_call_deltas, tool_call_deltas, tool_calls
from deployments.backends.base import Choice, Delta, DeltaGroup, TextResult


class ChatAnswer:
    """One answer. Per choice: a chunk with the role, chunks with what it says and calls, one with the finish reason."""

    def __init__(self, model: str, *, include_usage: bool, legacy_calls: bool = False) -> None:
        """`legacy_calls`: of a request with `functions`, whose answer has a `function_call`, the first if any."""
        self._envelope = Envelope(
            prefix="chatcmpl",
            kind="chat.completion",
            chunk_kind="chat.completion.chunk",
            model=model,
            include_usage=include_usage,
        )
        self._begun: set[int] = set()
        self._calls = function_call if legacy_calls else tool_calls
        self._call_deltas = function_call_deltas if legacy_calls else tool_call_deltas
        self._finish = {"tool_calls": "function_call"} if legacy_calls else {}

    def whole(self, result: TextResult) -> dict[str, Any]:
        choices = [
            {
                "index": choice.index,
                "message": self._message(choice),
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": self._finish.get(choice.finish_reason, choice.finish_reason),
            }
            for choice in result.choices
        ]
        return self._envelope.whole(choices, result.usage)

    def events(self, group: DeltaGroup) -> bytes:
        """All events of a group, as one piece of the body; may be empty."""
        pieces = [piece for delta in group.deltas for piece in self._chunks(delta)]
        pieces.append(self._envelope.usage_chunk(group.usage))
        return b"".join(pieces)

    def _message(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            message |= {"content": choice.text or None, **self._calls(choice.tool_calls)}
        return message

    def _chunks(self, delta: Delta) -> Iterator[bytes]:
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            only_calls = delta.tool_calls and not delta.text
            yield self._chunk(delta.index, {"role": "assistant", "content": None if only_calls else ""})
        logprobs = chat_logprobs(delta.logprobs)
        for fields in self._said(delta):
            yield self._chunk(delta.index, fields, logprobs=logprobs)
            logprobs = None  # all of the delta's tokens are with its first chunk
        if delta.finish_reason:
            reason = self._finish.get(delta.finish_reason, delta.finish_reason)
            yield self._chunk(delta.index, {}, finish_reason=reason)

    def _said(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The wire's `delta`s for one of ours."""
        if delta.reasoning:
            yield {"reasoning_content": delta.reasoning}
        if delta.text or (delta.logprobs and not delta.reasoning and not delta.tool_calls):
            yield {"content": delta.text}
        yield from self._call_deltas(delta.tool_calls)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        return self._envelope.chunk(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        )
