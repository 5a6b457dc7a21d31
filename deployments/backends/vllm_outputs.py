"""From what vLLM's engine gives to token groups. Imports no vLLM."""

from collections.abc import Mapping
from typing import Any

from deployments.backends.base import FinishReason, Token, TokenGroup, TokenLogprob
from deployments.backends.hf_vocab import HfVocab
from deployments.errors import EngineError

FINISHES: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
"""vLLM's finish reasons that are not failures → ours."""


class GroupMaker:
    """Makes the token groups of one request, one of each RequestOutput, which holds what is new since the last."""

    def __init__(
        self, vocab: HfVocab, top_logprobs: int | None, *, has_media: bool, queue_seconds: float | None = None
    ) -> None:
        self._vocab = vocab
        self._top = top_logprobs
        self._queue_seconds = queue_seconds
        self._first = True
        self._has_media = has_media

    def group(self, output: Any) -> TokenGroup:
        """`output`: vLLM's RequestOutput of kind DELTA. Raises EngineError where the engine gave up."""
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        finish = completion.finish_reason
        if finish is not None and finish not in FINISHES:
            raise EngineError(f"vLLM ended the request: {finish}")
        if finish == "stop" and ids:
            ids.pop()  # the end-of-generation token
        group = TokenGroup(self._tokens(ids, completion.logprobs), FINISHES.get(finish or ""))
        if self._first:
            self._first = False
            group.queue_seconds = self._queue_seconds
            group.cached_tokens = output.num_cached_tokens or 0
            group.prompt_tokens = len(output.prompt_token_ids or []) if self._has_media else None
        return group

    def _tokens(self, ids: list[int], logprobs: Any) -> list[Token]:
        if self._top is None or not logprobs:
            return [Token(token, self._vocab.piece(token)) for token in ids]
        return [
            Token(token, self._vocab.piece(token), self._logprob(token, row))
            for token, row in zip(ids, logprobs, strict=False)
        ]

    def _logprob(self, token: int, row: Mapping[int, Any]) -> TokenLogprob:
        """`row`: the most likely tokens' and the chosen one's, by id."""
        ranked = sorted(row.items(), key=lambda item: item[1].rank)[: self._top]
        top = [TokenLogprob(one, self._vocab.name(one), entry.logprob) for one, entry in ranked]
        return TokenLogprob(token, self._vocab.name(token), row[token].logprob, top)
