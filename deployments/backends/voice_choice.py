"""Which voice and language a client has asked for, among those that a speech model has."""

from collections.abc import Sequence

from deployments.errors import InvalidRequest

NAMED = 20
"""Names in an error at most: some models have hundreds of voices."""


def no_such_voice(voice: str, offered: Sequence[str]) -> InvalidRequest:
    """The error for a voice that isn't offered."""
    more = f" and {len(offered) - NAMED} more" if len(offered) > NAMED else ""
    return InvalidRequest(f'this model has no voice "{voice}"; it has: {", ".join(offered[:NAMED])}{more}').at("voice")


def choose_language(language: str | None, offered: Sequence[str]) -> str:
    """The one of the (non-empty) offered that is meant: "en", "en-US" and "en_us" mean each other where need be.

    None: English, else the first. Raises InvalidRequest that names those offered.
    """
    if language is None:
        return "en" if "en" in offered else offered[0]
    plain = {_plain(code): code for code in reversed(offered)}
    families = {_family(code): code for code in reversed(offered)}
    chosen = plain.get(_plain(language)) or families.get(_family(language))
    if chosen is None:
        raise InvalidRequest(f'this model doesn\'t speak "{language}"; it speaks: {", ".join(offered)}').at("language")
    return chosen


def _plain(language: str) -> str:
    return language.lower().replace("_", "-")


def _family(language: str) -> str:
    return _plain(language).partition("-")[0]
