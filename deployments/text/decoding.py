"""From tokens to text: UTF-8 that spans tokens, stop strings that span tokens, LocalAI's clean-up of finished text."""

import codecs
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.backends.base import Token, TokenLogprob


class StopStrings:
    """Text in pieces, up to a stop string. What may be the start of one is held back; it itself is never sent."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [s for s in stop if s]
        self._held = ""
        self.found = False
        """What follows is not wanted."""

    def push(self, text: str) -> str:
        """What can be sent now."""
        if not self._stop:
            return text
        self._held += text
        if places := [at for s in self._stop if (at := self._held.find(s)) >= 0]:
            self.found = True
            return self._release(min(places))
        return self._release(len(self._held) - max(overlap(self._held, s) for s in self._stop))

    def flush(self) -> str:
        """What is held back, at the end of the text."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


class TextDecoder:
    """Turns one sequence's tokens into text that may be sent.

    Held back: bytes that don't end a UTF-8 character, and text that may be the start of a stop string. A stop
    string itself is never sent, nor are the logprobs of its tokens.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = StopStrings(stop)
        self._read = self._sent = 0  # characters
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()  # where the token's text ends, in characters

    @property
    def stopped(self) -> bool:
        """A stop string was found: what follows is not wanted."""
        return self._stop.found

    def push(self, token: Token) -> str:
        """Text that this token makes ready; empty when all of it is held back."""
        text = self._utf8.decode(token.text)
        self._read += len(text)
        if token.logprob is not None:
            self._logprobs.append((self._read, token.logprob))
        return self._send(self._stop.push(text))

    def flush(self) -> str:
        """What is held back, at the end of the sequence. A broken character becomes U+FFFD."""
        return self._send(self._stop.push(self._utf8.decode(b"", final=True)) + self._stop.flush())

    def logprobs(self) -> list[TokenLogprob]:
        """Those of the tokens whose text has been released since the last call."""
        out = []
        while self._logprobs and self._logprobs[0][0] <= self._sent:
            out.append(self._logprobs.popleft()[1])
        return out

    def _send(self, text: str) -> str:
        self._sent += len(text)
        return text


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` goes on from."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True, slots=True)
class Finetune:
    """LocalAI's clean-up of an answer (core/backend/llm.go). It needs the whole text: a stream of it is one delta."""

    cutstrings: list[re.Pattern[str]] = field(default_factory=list)
    extract_regex: list[re.Pattern[str]] = field(default_factory=list)
    trimspace: list[str] = field(default_factory=list)
    trimsuffix: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.cutstrings or self.extract_regex or self.trimspace or self.trimsuffix)

    def __call__(self, text: str) -> str:
        for pattern in self.cutstrings:
            text = pattern.sub("", text)
        if self.extract_regex:
            text = "".join(match.group(0) for p in self.extract_regex for match in p.finditer(text)) or text
        for prefix in self.trimspace:
            text = text.removeprefix(prefix).strip()
        for suffix in self.trimsuffix:
            text = text.removesuffix(suffix).strip()
        return text
