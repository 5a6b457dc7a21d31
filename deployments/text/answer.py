"""One answer: its tokens, as they come, to content, reasoning and tool calls."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from deployments.backends.base import Delta, FinishReason, Token
from deployments.text.decoding import Finetune, StopStrings, TextDecoder
from deployments.text.deltas import add_calls
from deployments.text.reasoning import ReasoningSplitter
from deployments.text.tool_parsing import Parsed, ToolParser


class Answer:
    """Tokens → text → reasoning and the rest → content and tool calls → content up to a stop string.

    All state is rebuilt by pushing the same tokens again: that is how a stream outlives its replica. With reasoning
    or tools the logprobs are those of all tokens, not of the content's alone.
    """

    def __init__(
        self,
        index: int,
        stop: Sequence[str],
        finetune: Finetune,
        *,
        splitter: ReasoningSplitter | None = None,
        parser: ToolParser | None = None,
        most_calls: float = 0,
        shown: Mapping[int, bytes] | None = None,
    ) -> None:
        """`shown`: control tokens whose text counts. With the first call over `most_calls` the answer ends."""
        self._index = index
        self._splitter = splitter
        self._parser = parser
        self._most_calls = most_calls
        self._shown = shown or {}
        plain = splitter is None and parser is None
        self._decoder = TextDecoder(stop if plain else ())  # a stop string is one in the content
        self._stop = StopStrings(() if plain else stop)
        self._finetune = finetune
        self._whole: list[str] = []
        """The content, where it can be sent only as a whole."""
        self._delta = Delta(index)
        """What has come since the last one."""
        self._called = False
        self._too_many_calls = False

    @property
    def stopped(self) -> bool:
        """What follows is not wanted."""
        return self._decoder.stopped or self._stop.found or self._too_many_calls

    def push(self, token: Token) -> None:
        if token.id in self._shown and not token.text:
            token = dataclasses.replace(token, text=self._shown[token.id])
        self._delta.token_ids.append(token.id)
        self._read(self._decoder.push(token))

    def delta(self, finish: FinishReason | None) -> Delta | None:
        """What there is to send; None: nothing. `finish`: the sequence has ended, and what was held back comes out."""
        if finish and not self.stopped:
            self._flush()
        delta = self._delta
        if self._finetune:
            self._whole.append(delta.text)
            delta.text = self._finetune("".join(self._whole)) if finish else ""
        if not (finish or delta.text or delta.reasoning or delta.tool_calls):
            return None
        delta.finish_reason = "tool_calls" if finish == "stop" and self._called else finish
        delta.logprobs = self._decoder.logprobs() or None
        self._delta = Delta(self._index)
        return delta

    def replay(self, tokens: Iterable[Token]) -> None:
        """Take `tokens` as sent already, with all that came of them."""
        for token in tokens:
            self.push(token)
        self.delta(None)
        self._delta = Delta(self._index)
        self._decoder.logprobs()

    def _flush(self) -> None:
        self._read(self._decoder.flush())
        if self._splitter is not None:
            self._add_split(*self._splitter.finish())
        if self._parser is not None:
            self._add(self._parser.finish())
        if not self.stopped:
            self._delta.text += self._stop.flush()

    def _read(self, text: str) -> None:
        if text:
            self._add_split(*(("", text) if self._splitter is None else self._splitter.push(text)))

    def _add_split(self, reasoning: str, text: str) -> None:
        self._delta.reasoning += reasoning
        if text:
            self._add(Parsed(text) if self._parser is None else self._parser.push(text))

    def _add(self, parsed: Parsed) -> None:
        calls = [call for call in parsed.calls if call.index < self._most_calls]
        self._too_many_calls |= len(calls) < len(parsed.calls)
        self._called |= bool(calls)
        add_calls(self._delta.tool_calls, calls)
        if parsed.content and not self._stop.found:
            self._delta.text += self._stop.push(parsed.content)
