"""From tokens to text: UTF-8 that spans tokens, stop strings that span tokens, LocalAI's clean-up of finished text."""

import codecs
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.backends.base import Token, TokenLogprob


class TextDecoder:
    """Turns one sequence's tokens into text that may be sent.

    Held back: bytes that don't end a UTF-8 character, and text that may be the start of a stop string. A stop
    string itself is never sent, nor are the logprobs of its tokens.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = [s for s in stop if s]
        self._held = ""
        self._sent = 0
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()  # where the token's text ends, in characters
        self.stopped = False
        """A stop string was found: what follows is not wanted."""

    def push(self, token: Token) -> str:
        """Text that this token makes ready; empty when all of it is held back."""
        self._held += self._utf8.decode(token.text)
        if token.logprob is not None:
            self._logprobs.append((self._sent + len(self._held), token.logprob))
        return self._release(self._ready())

    def flush(self) -> str:
        """What is held back, at the end of the sequence. A broken character becomes U+FFFD."""
        self._held += self._utf8.decode(b"", final=True)
        return self._release(len(self._held))

    def logprobs(self) -> list[TokenLogprob]:
        """Those of the tokens whose text has been released since the last call."""
        out = []
        while self._logprobs and self._logprobs[0][0] <= self._sent:
            out.append(self._logprobs.popleft()[1])
        return out

    def _ready(self) -> int:
        """How many of the held characters can be sent; cuts them at a stop string."""
        if not self._stop:
            return len(self._held)
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return len(self._held)
        return len(self._held) - max(_overlap(self._held, s) for s in self._stop)

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self._sent += count
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
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
