"""Log probabilities in OpenAI's two shapes: a list of tokens for chat, parallel lists for completions."""

import codecs
from typing import Any

from deployments.backends.base import TokenLogprob


def chat_logprobs(tokens: list[TokenLogprob] | None) -> dict[str, Any] | None:
    """A token that is part of a character shows as U+FFFD; its `bytes` are exact."""
    if tokens is None:
        return None
    return {"content": [_entry(token) | {"top_logprobs": [_entry(top) for top in token.top]} for token in tokens]}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text.decode(errors="replace"), "logprob": token.logprob, "bytes": list(token.text)}


class LegacyLogprobs:
    """The parallel lists of one choice; offsets go on from chunk to chunk."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def take(self, tokens: list[TokenLogprob] | None) -> dict[str, Any] | None:
        """The lists for the next tokens. An offset is the number of whole characters before the token."""
        if tokens is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.text))
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_name(top): top.logprob for top in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _name(token: TokenLogprob) -> str:
    """The token as text, or as OpenAI writes one that is not valid UTF-8: `bytes:\\xe2\\x80`."""
    try:
        return token.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text)
