"""What every text engine refuses, in the same words."""

from collections.abc import Iterable

from deployments.backends.base import Generate
from deployments.errors import ContextLengthExceeded, InvalidRequest


def check_length(tokens: int, context_size: int) -> None:
    """Raises ContextLengthExceeded for a prompt that leaves no room for an answer."""
    if tokens >= context_size:
        raise ContextLengthExceeded(
            f"the prompt has {tokens} tokens, and the model's context holds {context_size} together with the answer"
        )


def check_request_ids(request: Generate, size: int) -> None:
    """All that a client may name by token id. Raises as `check_ids`."""
    check_ids(request.tokens, size, "prompt")
    check_ids(request.resume, size, "resume")
    check_ids(request.sampling.logit_bias, size, "logit_bias")


def check_ids(ids: Iterable[int], size: int, param: str) -> None:
    """Raises InvalidRequest at `param` for an id that a vocabulary of this size hasn't."""
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise InvalidRequest(f"{wrong} is no token of this model: ids go from 0 to {size - 1}").at(param)
