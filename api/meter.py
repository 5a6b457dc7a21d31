"""What one HTTP request uses of its key's quotas, and what the metrics say of the key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from api.keys import REQUESTS, TOKENS, Key
from api.quota_leases import QuotaLeases
from deployments.backends.base import (
    ChatRequest,
    CompletionRequest,
    DeltaGroup,
    EditRequest,
    EmbedRequest,
    RerankRequest,
    Scores,
    TextRequest,
    TextResult,
    Vectors,
)
from deployments.metrics import KEY_REQUESTS, KEY_TOKENS

BYTES_PER_TOKEN = 4
"""Of English text, by most tokenizers."""
ANSWER_TOKENS = 256
"""Of an answer whose length nobody limits, until it is known."""


@dataclass(slots=True)
class Use:
    """One call of a model, and its tokens: estimated first, known in the end."""

    prompt: int
    completion: int = 0
    reserved: int = 0
    second: int = 0
    """For which the reservation counts."""
    known: bool = False
    """`prompt` is no estimate."""

    def count(self, item: object) -> None:
        """Take an answer, or a piece of one. What holds no tokens holds none to count."""
        if isinstance(item, DeltaGroup) and not item.usage:
            self.completion += sum(len(delta.token_ids) for delta in item.deltas)
        elif isinstance(item, (TextResult, DeltaGroup)) and item.usage:
            self.prompt, self.completion, self.known = item.usage.prompt_tokens, item.usage.completion_tokens, True
        elif isinstance(item, (Vectors, Scores)):
            self.prompt, self.known = item.prompt_tokens + (self.prompt if self.known else 0), True

    def fail(self) -> None:
        """The call failed by no fault of the client's. What it had made counts, its prompt does then."""
        if not self.known and not self.completion:
            self.prompt = 0


class Meter:
    """Counts one HTTP request: once, however many models it calls, and the tokens of each call."""

    __slots__ = ("_asked", "_leases", "_uses", "key")

    def __init__(self, key: Key, leases: QuotaLeases) -> None:
        self.key = key
        self._leases = leases
        self._uses: list[Use] = []
        self._asked = False

    async def admit(self, request: object) -> Use:
        """Before a model is called with `request`. Raises RateLimited; NotReady when the limits can't be looked up."""
        limits = self.key.limits
        prompt, completion = estimate(request) if TOKENS in limits else (0, 0)
        use = Use(prompt)
        first, self._asked = not self._asked, True
        need = {REQUESTS: int(first), TOKENS: prompt + completion}
        # A request that alone is over the limit waits for an empty minute: what it really uses will be less, mostly.
        need = {resource: min(amount, limits[resource]) for resource, amount in need.items() if resource in limits}
        if any(need.values()):
            use.second = await self._leases.take(self.key, need)
            use.reserved = need.get(TOKENS, 0)
        if first:
            KEY_REQUESTS.labels(self.key.name).inc()
        self._uses.append(use)
        return use

    def close(self) -> None:
        """The HTTP request has ended, however it did: give back what was reserved and not used."""
        for use in self._uses:
            if TOKENS in self.key.limits:
                self._leases.settle(self.key, TOKENS, use.second, use.reserved - use.prompt - use.completion)
            for kind, tokens in (("prompt", use.prompt), ("completion", use.completion)):
                if tokens:
                    KEY_TOKENS.labels(self.key.name, kind).inc(tokens)
        self._uses.clear()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's, of a request that was held against a limit."""
        if not self._asked or not self.key.limits:
            return []
        remaining = self._leases.remaining(self.key)
        return [
            (f"x-ratelimit-{what}-{resource}".encode(), str(max(0, amounts.get(resource, 0))).encode())
            for resource in self.key.limits
            for what, amounts in (("limit", self.key.limits), ("remaining", remaining))
        ]


HEADERS = tuple(f"x-ratelimit-{what}-{resource}" for what in ("limit", "remaining") for resource in (REQUESTS, TOKENS))
"""What `headers` may hold."""


# ---- estimates -------------------------------------------------------------------------------------------------------


def estimate(request: object) -> tuple[int, int]:
    """Tokens of prompt and answer that a request for a model may take; none where nothing counts them."""
    texts = _TEXTS.get(type(request))
    if texts is None:
        return 0, 0
    prompt = texts(request)
    if not isinstance(request, TextRequest):
        return prompt, 0
    return prompt, (ANSWER_TOKENS if request.max_tokens is None else request.max_tokens) * _answers(request)


def _answers(request: TextRequest) -> int:
    if isinstance(request, CompletionRequest):
        return request.n * len(request.prompts)
    return request.n * len(request.inputs) if isinstance(request, EditRequest) else request.n


def _tokens(value: Any) -> int:
    """Of all text in a JSON value, or of token ids."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN + 1
    if isinstance(value, bytes):  # int32 ids
        return len(value) // 4
    if isinstance(value, Mapping):
        return sum(map(_tokens, value.values()))
    if isinstance(value, list):
        return sum(map(_tokens, value))
    return int(isinstance(value, int))


_TEXTS: dict[type, Callable[[Any], int]] = {
    ChatRequest: lambda request: _tokens(request.messages) + _tokens(request.tools),
    CompletionRequest: lambda request: _tokens(request.prompts),
    EditRequest: lambda request: _tokens(request.inputs) + len(request.inputs) * _tokens(request.instruction),
    EmbedRequest: lambda request: _tokens(request.inputs),
    RerankRequest: lambda request: _tokens(request.documents) + len(request.documents) * _tokens(request.query),
}
"""Type of request → the tokens of its text, roughly."""
