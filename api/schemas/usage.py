"""Token counts of an answer."""

from pydantic import BaseModel


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class PromptUsage(BaseModel):
    """Of an answer that is no text."""

    prompt_tokens: int
    total_tokens: int
