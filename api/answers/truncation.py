"""Inputs that were cut, said in the answer's headers: OpenAI's objects have no place for it."""

TRUNCATED = "X-Truncated-Inputs"


def truncation_headers(truncated: int) -> dict[str, str]:
    """`truncated`: how many inputs were cut."""
    return {TRUNCATED: str(truncated)} if truncated else {}
