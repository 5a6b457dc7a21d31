"""From a request to the arguments of vLLM's SamplingParams. Imports no vLLM."""

from typing import Any

from deployments.backends.base import Generate, Sampling
from deployments.errors import UnsupportedParameter

NEUTRAL = Sampling()
LOOKBACKS = (NEUTRAL.repeat_last_n, -1)
"""Values of `repeat_last_n` that stand for vLLM's own way: `repeat_penalty` looks back on the whole context, the other
two penalties on the whole answer."""


def sampling_arguments(request: Generate, *, room: int | None) -> dict[str, Any]:
    """Everything but the constraint. `room`: tokens that may still be generated; None: until the context is full.

    Raises UnsupportedParameter for what vLLM's sampler hasn't.
    """
    sampling = request.sampling
    _check(sampling)
    return {
        "temperature": sampling.temperature,
        "top_k": max(0, sampling.top_k),
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repeat_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "seed": sampling.seed,
        "logit_bias": dict(sampling.logit_bias) or None,
        "ignore_eos": sampling.ignore_eos,
        "max_tokens": room,
        "logprobs": request.top_logprobs,
        "detokenize": False,  # the bytes of tokens are ours (`hf_vocab`), and so are stop strings
        "skip_clone": True,
    }


def _check(sampling: Sampling) -> None:
    if sampling.mirostat:
        raise UnsupportedParameter("mirostat is not there in vLLM, this model's backend").at("mirostat")
    if sampling.typical_p != NEUTRAL.typical_p:
        raise UnsupportedParameter("typical_p is not there in vLLM, this model's backend").at("typical_p")
    penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if sampling.repeat_last_n not in LOOKBACKS and penalties != (1.0, 0.0, 0.0):
        raise UnsupportedParameter(
            f"repeat_last_n is {sampling.repeat_last_n}, but vLLM, this model's backend, looks back on everything: -1"
        ).at("repeat_last_n")
