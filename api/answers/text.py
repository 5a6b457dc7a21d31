"""The answer of a completion or an edit: choices that hold bare text."""

from collections import defaultdict
from typing import Any

from api.answers.envelope import Envelope
from api.answers.logprobs import LegacyLogprobs
from deployments.backends.base import DeltaGroup, TextResult


class PlainTextAnswer:
    """One answer. A choice's last chunk holds its finish reason."""

    def __init__(self, *, prefix: str, kind: str, model: str, include_usage: bool) -> None:
        self._envelope = Envelope(prefix=prefix, kind=kind, chunk_kind=kind, model=model, include_usage=include_usage)
        self._logprobs: defaultdict[int, LegacyLogprobs] = defaultdict(LegacyLogprobs)

    def whole(self, result: TextResult) -> dict[str, Any]:
        choices = [
            {
                "text": choice.text,
                "index": choice.index,
                "logprobs": LegacyLogprobs().take(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in result.choices
        ]
        return self._envelope.whole(choices, result.usage)

    def events(self, group: DeltaGroup) -> bytes:
        """All events of a group, as one piece of the body; may be empty."""
        pieces = [
            self._envelope.chunk(
                {
                    "text": delta.text,
                    "index": delta.index,
                    "logprobs": self._logprobs[delta.index].take(delta.logprobs) if delta.logprobs else None,
                    "finish_reason": delta.finish_reason,
                }
            )
            for delta in group.deltas
            if delta.text or delta.logprobs or delta.finish_reason
        ]
        pieces.append(self._envelope.usage_chunk(group.usage))
        return b"".join(pieces)


def completion_answer(model: str, *, include_usage: bool) -> PlainTextAnswer:
    return PlainTextAnswer(prefix="cmpl", kind="text_completion", model=model, include_usage=include_usage)


def edit_answer(model: str, *, include_usage: bool) -> PlainTextAnswer:
    return PlainTextAnswer(prefix="edit", kind="edit", model=model, include_usage=include_usage)
